"""Retention: forget the before-images of runs that ended long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from opsconsole.display import figure
from opsconsole.operations.base import Changed, Operation, Outcome, Risk, RowChange, Schedule
from opsconsole.operations.models import ENDED, Batch

KEEP_DAYS = 90


class PruneRuns(Operation):
    title = _("Prune before-images")
    description = _(
        "Removes the before-images of runs that ended longer ago than the given days. "
        "These runs can't be undone any more; their figures and events stay."
    )
    store = "default"
    model = Batch
    writes = {"operations_batch": ("image",)}
    risk = Risk.CHANGE  # of what the console keeps, never of a store's rows
    undoable = False
    batch_size = 50  # images are large
    schedule = Schedule("15 4 * * *")

    class Params(forms.Form):
        days = forms.IntegerField(
            min_value=1,
            initial=KEEP_DAYS,
            required=False,
            label=_("days"),
            help_text=_("keep this many days"),
        )

    def scope(self) -> QuerySet[Batch]:
        ended = timezone.now() - timedelta(days=self.params.get("days") or KEEP_DAYS)
        return self.domain().filter(image__isnull=False, run__status__in=list(ENDED), run__finished_at__lt=ended)

    def change(self, unit: Any) -> Outcome:
        return Changed((RowChange("operations_batch", unit.pk, {"image": unit.image}, {"image": None}),))

    def action_label(self, count: int) -> str:
        return ngettext("Forget %(count)s image", "Forget %(count)s images", count) % {"count": figure(count)}
