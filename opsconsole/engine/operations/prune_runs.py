"""Delete the before-images of runs that ended long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, ngettext_lazy

from opsconsole.engine.models import ENDED, Batch, GivenRows, Run, Status
from opsconsole.engine.operation import Risk, Schedule
from opsconsole.engine.outcomes import Change, Outcome
from opsconsole.engine.retention import Retention, days_field
from opsconsole.formatting import format_number


class PruneRuns(Retention):
    title = _("Prune before-images")
    description = _(
        "Deletes the before-images of runs that ended before the given number of days, and the rows from forms and "
        "files that they wrote. These runs can no longer be undone; their figures and events remain. "
        "Only superusers may prune runs younger than UNDO_MIN_DAYS."
    )
    model = Batch
    writes = {"operations_batch": ("before_image",)}
    action_label = ngettext_lazy("Delete %(count)s before-image", "Delete %(count)s before-images", "number")
    done_label = ngettext_lazy("%(count)s before-image deleted", "%(count)s before-images deleted", "number")
    batch_size = 50  # before-images are large
    schedule = Schedule("15 4 * * *")

    class Params(forms.Form):
        days = days_field(90)

    @property
    def _days(self) -> int:
        return self.params.get("days") or max(super()._days, settings.UNDO_MIN_DAYS)

    def queryset(self) -> QuerySet[Batch]:
        return self.population().filter(
            before_image__isnull=False, run__status__in=list(ENDED), run__finished_at__lt=self._kept_since
        )

    def process(self, row: Any) -> Outcome:
        return Change(row, before_image=None)

    def on_finish(self) -> None:
        """Delete the given rows and the evaluated rows of old runs and plans."""
        kept = Run.objects.exclude(
            Q(status__in=list(ENDED), finished_at__lt=self._kept_since)
            | Q(status=Status.PLANNED, created_at__lt=self._kept_since)
        )
        needed = kept.filter(params__has_key="rows")
        digests = set(needed.values_list("params__rows", flat=True))
        for parts in kept.filter(plan__frozen__has_key="parts").values_list("plan__frozen__parts", flat=True):
            digests.update(parts)
        GivenRows.objects.filter(at__lt=self._kept_since).exclude(digest__in=digests).delete()

    @property
    def superusers_only(self) -> bool:
        return self._days < settings.UNDO_MIN_DAYS

    def effective_risk(self) -> Risk:
        """Return DELETE for a plan that ends the undo of recent runs."""
        return Risk.DELETE if self.superusers_only else self.risk

    def plan_notes(self, total: int) -> list[str]:
        recent = self.queryset().filter(run__finished_at__gte=self.as_of - timedelta(days=settings.UNDO_MIN_DAYS))
        count = recent.values("run").distinct().count()
        if not count:
            return []
        sentence = ngettext(
            "%(count)s run younger than %(days)d days can no longer be undone.",
            "%(count)s runs younger than %(days)d days can no longer be undone.",
            count,
        )
        return [sentence % {"count": format_number(count), "days": settings.UNDO_MIN_DAYS}]
