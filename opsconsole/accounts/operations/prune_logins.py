"""Operation that deletes expired sessions, old logins and expired tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from axes.models import AccessAttempt, AccessLog
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from opsconsole.accounts.models import Session, Token
from opsconsole.engine.operation import Action, NamedItem, NamedItemsMixin, Risk, Schedule
from opsconsole.engine.outcomes import Done, Outcome, Skip

KEEP = timedelta(days=30)  # failed logins stay useful for investigations


class PruneLogins(NamedItemsMixin, Action):
    title = _("Prune logins")
    description = _(
        "Deletes expired sessions, and logins, failed logins and expired tokens older than 30 days. "
        "The worker deletes the results of finished jobs."
    )
    store_alias = "default"
    model = Session
    risk = Risk.CHANGE  # of the console's own tables
    done_label = _("Expired logins deleted")
    schedule = Schedule("25 4 * * *")
    reasons = {"none": _("nothing has expired")}

    def item_names(self) -> list[str]:
        return ["sessions", "failed logins", "logins", "tokens"]

    def process(self, row: NamedItem) -> Outcome:
        return Done() if self._expired(row).exists() else Skip("none")

    def perform(self, row: NamedItem) -> Outcome:
        removed, _by_model = self._expired(row).delete()
        return Done() if removed else Skip("none")

    def _expired(self, row: NamedItem) -> QuerySet[Any]:
        old = self.as_of - KEEP
        expired: dict[str, QuerySet[Any]] = {
            "sessions": Session.objects.filter(expire_date__lt=self.as_of),
            "failed logins": AccessAttempt.objects.filter(attempt_time__lt=old),
            "logins": AccessLog.objects.filter(attempt_time__lt=old),
            "tokens": Token.objects.filter(expires_at__lt=old),
        }
        return expired[row.name]
