"""Model fields of the console's own tables."""

from __future__ import annotations

from typing import Any

from django.db import models

from opsconsole.redaction import redact


class RedactedText(models.TextField):  # type: ignore[type-arg]
    """A text that may contain secrets, such as an error message. Secrets are removed before it is saved."""

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return redact(value) if isinstance(value, str) else value

    def deconstruct(self) -> Any:
        """Return the field as a plain text field: the column is the same."""
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs
