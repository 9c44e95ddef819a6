"""Delete findings that were resolved long ago."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.models import Finding
from opsconsole.engine.operation import Schedule
from opsconsole.engine.outcomes import Delete, Outcome
from opsconsole.engine.retention import Retention, days_field


class PruneFindings(Retention):
    title = _("Prune resolved findings")
    description = _("Deletes findings that were resolved before the given number of days. Open findings remain.")
    model = Finding
    writes = {"operations_finding": ()}
    schedule = Schedule("20 4 * * *")
    action_label = ngettext_lazy("Delete %(count)s finding", "Delete %(count)s findings", "number")
    done_label = ngettext_lazy("%(count)s finding deleted", "%(count)s findings deleted", "number")

    class Params(forms.Form):
        days = days_field(180)

    def queryset(self) -> QuerySet[Finding]:
        return self.population().filter(resolved_at__lt=self._kept_since)

    def process(self, row: Any) -> Outcome:
        return Delete(row)
