"""Retention: forget findings that were resolved long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.models import Finding
from opsconsole.engine.operation import Operation, Risk, Schedule
from opsconsole.engine.outcomes import Delete, Outcome

KEEP_DAYS = 180


class PruneFindings(Operation):
    title = _("Prune resolved findings")
    description = _("Forgets findings that were resolved longer ago than the given days. Open findings stay.")
    store_alias = "default"
    model = Finding
    writes = {"operations_finding": ()}
    risk = Risk.CHANGE  # of what the console keeps, never of a store's rows
    action_label = ngettext_lazy("Forget %(count)s finding", "Forget %(count)s findings", "number")
    undoable = False
    schedule = Schedule("20 4 * * *")

    class Params(forms.Form):
        days = forms.IntegerField(
            min_value=1,
            initial=KEEP_DAYS,
            required=False,
            label=_("days"),
            help_text=_("keep this many days"),
        )

    def queryset(self) -> QuerySet[Finding]:
        before = self.as_of - timedelta(days=self.params.get("days") or KEEP_DAYS)
        return self.population().filter(resolved_at__lt=before)

    def process(self, row: Any) -> Outcome:
        return Delete(row)
