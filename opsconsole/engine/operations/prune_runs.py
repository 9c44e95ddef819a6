"""Retention: forget the before-images of runs that ended long ago."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, ngettext_lazy

from opsconsole.engine.models import ENDED, Batch, GivenRows, Run, Status
from opsconsole.engine.operation import Operation, Risk, Schedule
from opsconsole.engine.outcomes import Change, Outcome
from opsconsole.formatting import format_number

KEEP_DAYS = 90


class PruneRuns(Operation):
    title = _("Prune before-images")
    description = _(
        "Removes the before-images of runs that ended longer ago than the given days, and the rows given to them. "
        "These runs can't be undone any more; their figures and events stay. "
        "Only superusers may prune runs younger than UNDO_MIN_DAYS."
    )
    store_alias = "default"
    model = Batch
    writes = {"operations_batch": ("before_image",)}
    risk = Risk.CHANGE  # of what the console keeps, never of a store's rows
    action_label = ngettext_lazy("Forget %(count)s image", "Forget %(count)s images", "number")
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

    def queryset(self) -> QuerySet[Batch]:
        return self.population().filter(
            before_image__isnull=False, run__status__in=list(ENDED), run__finished_at__lt=self._kept_since
        )

    @property
    def _kept_since(self) -> datetime:
        return self.as_of - timedelta(days=self._days)

    def on_finish(self) -> None:
        """Forget the rows that were given to runs which need them no more, and those of old plans."""
        needed = Run.objects.filter(params__has_key="rows").exclude(
            Q(status__in=list(ENDED), finished_at__lt=self._kept_since)
            | Q(status=Status.PLANNED, created_at__lt=self._kept_since)
        )
        digests = set(needed.values_list("params__rows", flat=True))
        GivenRows.objects.filter(at__lt=self._kept_since).exclude(digest__in=digests).delete()

    def effective_risk(self) -> Risk:
        """Return DELETE for a plan that ends the undo of recent runs."""
        return Risk.DELETE if self.superusers_only else self.risk

    @property
    def superusers_only(self) -> bool:
        return self._days < settings.UNDO_MIN_DAYS

    def plan_notes(self, total: int) -> list[str]:
        recent = self.queryset().filter(run__finished_at__gte=self.as_of - timedelta(days=settings.UNDO_MIN_DAYS))
        count = recent.values("run").distinct().count()
        if not count:
            return []
        sentence = ngettext(
            "%(count)s run younger than %(days)d days can't be undone any more.",
            "%(count)s runs younger than %(days)d days can't be undone any more.",
            count,
        )
        return [sentence % {"count": format_number(count), "days": settings.UNDO_MIN_DAYS}]

    @property
    def _days(self) -> int:
        return self.params.get("days") or max(KEEP_DAYS, settings.UNDO_MIN_DAYS)

    def process(self, row: Any) -> Outcome:
        return Change(row, before_image=None)
