"""Lockout after failed logins, per account and address, and per address for all accounts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

ADDRESS_FAILURE_LIMIT = 20


class LockoutHandler(AxesDatabaseHandler):  # type: ignore[misc]  # it has no types
    def get_failures(self, request: Any, credentials: dict[str, Any] | None = None) -> int:
        """Return the failures of the account from this address, or the limit if the address has reached its own."""
        since = timezone.now() - timedelta(hours=settings.AXES_COOLOFF_TIME)
        tried = AccessAttempt.objects.filter(ip_address=request.axes_ip_address, attempt_time__gte=since)
        if (tried.aggregate(sum=Sum("failures_since_start"))["sum"] or 0) >= ADDRESS_FAILURE_LIMIT:
            return int(settings.AXES_FAILURE_LIMIT)
        return int(super().get_failures(request, credentials))
