"""Debug pages and mails of errors, without secrets in every environment."""

from __future__ import annotations

import re
from typing import Any

from django.utils.safestring import SafeString, mark_safe
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from opsconsole.redaction import redact


class ReportFilter(SafeExceptionReporterFilter):
    """A filter that hides secret settings and variables."""

    hidden_settings = re.compile(
        r"API|AUTH|TOKEN|KEY|SECRET|PASS|PWD|SIGNATURE|COOKIE|CREDENTIAL|DSN|URL|CHANNELS|DATABASES|CACHES|LOCATION",
        re.IGNORECASE,
    )

    def is_active(self, request: Any) -> bool:
        return True


class Reporter(ExceptionReporter):
    """A report of an error without the secrets of the settings."""

    def get_traceback_html(self) -> SafeString:
        return mark_safe(redact(super().get_traceback_html()))  # noqa: S308  # Django's template escapes

    def get_traceback_text(self) -> SafeString:
        return mark_safe(redact(super().get_traceback_text()))  # noqa: S308  # plain text
