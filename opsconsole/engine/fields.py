"""Columns of the console's own tables that hold text from elsewhere."""

from __future__ import annotations

from typing import Any

from django.db import models

from opsconsole.redaction import redact


class RedactedText(models.TextField):  # type: ignore[type-arg]
    """A text, such as an error, that is kept without secrets, whatever writes it."""

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return redact(value) if isinstance(value, str) else value

    def deconstruct(self) -> Any:
        """As a plain text: what is kept differs, the column does not."""
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs
