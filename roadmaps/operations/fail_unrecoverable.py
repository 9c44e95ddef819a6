"""An operation that fails stuck tasks without a checkpoint. See docs/platforms/roadmaps.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Change, Outcome, Skip
from opsconsole.stores.rows import Key
from opsconsole.timestamps import format_timestamp
from roadmaps import checkpoint_tables, langgraph
from roadmaps.content import NEEDS
from roadmaps.models import RoadmapTask
from roadmaps.task_scope import TASK_LABELS, of_existing_roadmap, stuck, task_figures
from roadmaps.times import is_recent, last_changed

# Stored in the platform's table, so it is not translated.
REASON = "No checkpoint: the workflow was interrupted before its first one, or its checkpoints were removed."


class Unrecoverable(NamedTuple):
    """A task, and whether it has a checkpoint."""

    pk: str
    task: Any
    resumable: bool


class FailUnrecoverable(Operation):
    title = _("Fail tasks that cannot be recovered")
    description = _(
        "Sets stuck creation tasks without a checkpoint to failed, with the step recovery_failed and the reason. "
        "Generated content stays, and can still be synced."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = {RoadmapTask: ("task_type", "created_at"), **NEEDS}
    writes = {"roadmap_tasks": ("status", "current_step", "error_message", "updated_at")}
    risk = Risk.CHANGE
    action_label = ngettext_lazy("Mark %(count)s task as failed", "Mark %(count)s tasks as failed", "number")
    done_label = ngettext_lazy("%(count)s task marked as failed", "%(count)s tasks marked as failed", "number")
    locks_rows = True
    reasons = {
        "no_checkpoint": _("no checkpoint to resume from"),
        "has_checkpoint": _("has a checkpoint: recover it instead"),
        "not_processing": _("not processing"),
        "went_on": _("active, or changed since the plan"),
    }
    statistic_labels = {"in_scope": _("stuck creation tasks"), **TASK_LABELS}

    def queryset(self) -> QuerySet[RoadmapTask]:
        return self.population().filter(stuck(self) & of_existing_roadmap(self), task_type=RoadmapTask.Type.CREATION)

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        tasks = super().fetch(rows, after=after, bound=bound, limit=limit)
        resumable = langgraph.threads_with_checkpoint(self.store, (task.pk for task in tasks))
        return [Unrecoverable(task.pk, task, task.pk in resumable) for task in tasks]

    def check_prerequisites(self) -> None:
        checkpoint_tables.require_tables(self.store)

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return {"in_scope": restrict(self.queryset()).count(), **task_figures(self, restrict)}

    def process(self, row: Unrecoverable) -> Outcome:
        task = row.task
        if task.status != RoadmapTask.Status.PROCESSING:
            return Skip("not_processing")
        if is_recent(last_changed(task), self.as_of):
            return Skip("went_on")
        if row.resumable:
            return Skip("has_checkpoint")
        return Change(
            task,
            "no_checkpoint",
            status=RoadmapTask.Status.FAILED.value,
            current_step="recovery_failed",
            error_message=REASON,
            updated_at=format_timestamp(self.as_of, settings.ROADMAPS_TIME_ZONE),
        )
