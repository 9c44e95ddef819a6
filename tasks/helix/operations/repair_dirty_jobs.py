"""Document 003: set right what can be set right, for those who do not want to delete jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Outcome, RowChange, Skip
from opsconsole.stores.rows import Key
from tasks.helix.dirty_data import (
    NEEDS,
    JobWithTasks,
    among,
    artifacts_of,
    dirty_jobs,
    jobs_with_all,
    orphaned_tasks,
)
from tasks.helix.models import HelixJob, HelixTask

REPAIRED = ("A", "B", "C", "F")
OVER = ("FAILED", "CANCELLED")
CLEARED = ("output_data", "assigned_at", "started_at", "completed_at")
ERROR_MESSAGE = "OpsConsole: all {tasks} tasks of this job have failed."


class Orphans(NamedTuple):
    """The artifacts of a task that is gone; as a row, its key is the task's, negated."""

    pk: int
    artifacts: tuple[Any, ...]


class RepairDirtyJobs(Operation):
    title = _("Repair dirty HELIX jobs")
    description = _(
        "Sets a job in progress whose tasks have all failed to FAILED, a completed task without artifact back to "
        "PENDING, and removes artifacts that failed, vanished or unfinished tasks have left. Jobs and tasks stay."
    )
    store_alias = "helix"
    model = HelixJob
    reads = NEEDS
    writes = {"jobs": ("status", "error_message"), "tasks": ("status", *CLEARED), "artifacts": ()}
    risk = Risk.DELETE  # of artifacts
    action_label = ngettext_lazy("Repair %(count)s job", "Repair %(count)s jobs", "number")
    batch_size = 1
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "no_finding": _("without a finding"),
        "to_decide": _("its failed tasks may still be retried, or the job be cleaned: that is for a person to decide"),
        "over": _("its job has failed or was cancelled: no agent shall work on it again"),
    }
    statistic_labels = {"in_scope": _("jobs to repair"), "vanished_tasks": _("vanished tasks with artifacts")}

    _listed: tuple[QuerySet[Any], list[int]] | None = None

    def queryset(self) -> QuerySet[HelixJob]:
        return self.population().filter(pk__in=dirty_jobs(REPAIRED))

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        return self.population().filter(pk__in=among(self.store, keys))

    def _vanished(self) -> list[int]:
        """Return the negated keys of tasks that are gone and have left artifacts."""
        if self.selection.keys is not None:
            return [int(key) for key in self.selection.keys if int(key) < 0]
        return [-task for task in orphaned_tasks(self.store)] if self.selection.is_everything else []

    def bound(self) -> Key | None:
        return super().bound() or 0  # without any job there may still be artifacts

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        # The questions are asked once, not for every job: `change` judges each anew.
        if self._listed is None or self._listed[0] is not rows:
            self._listed = rows, sorted([*self._vanished(), *rows.values_list("pk", flat=True)])
        keys = [key for key in self._listed[1] if (after is None or key > int(after)) and key <= int(bound)]
        for start in range(0, len(keys), limit):
            if found := self._aggregates(keys[start : start + limit]):
                return found
        return []

    def _aggregates(self, keys: list[int]) -> list[Any]:
        vanished = [-key for key in keys if key < 0]
        back = set(HelixTask.objects.using(self.store.alias).filter(pk__in=vanished).values_list("pk", flat=True))
        artifacts = artifacts_of(self.store, [task for task in vanished if task not in back]) if vanished else {}
        orphans = [Orphans(-task, tuple(artifacts[task])) for task in vanished if task in artifacts]
        jobs = [key for key in keys if key >= 0]
        of_job, of_task = ("error_message",), CLEARED
        return [*orphans, *(jobs_with_all(self.store, jobs, of_job=of_job, of_task=of_task) if jobs else ())]

    def process(self, row: JobWithTasks | Orphans) -> Outcome:
        if isinstance(row, Orphans):
            return Changes([RowChange.delete("artifacts", one) for one in row.artifacts], "B")
        problems = row.problems()
        rows: list[RowChange] = []
        reasons = []
        for code in ("B", "F"):
            for task in problems.get(code, ()):
                rows.extend(RowChange.delete("artifacts", one) for one in task.artifacts)
                reasons.append(code)
        if "A" in problems and row.row.status not in OVER:
            pending = {"status": "PENDING", **dict.fromkeys(CLEARED)}
            rows.extend(RowChange.update("tasks", task.row, **pending) for task in problems["A"])
            reasons.append("A")
        if "C" in problems:
            message = ERROR_MESSAGE.format(tasks=len(row.tasks))
            rows.append(RowChange.update("jobs", row.row, status="FAILED", error_message=message))
            reasons.append("C")
        if rows:
            return Changes(rows, ", ".join(sorted(set(reasons))))
        return Skip("over" if "A" in problems else "to_decide" if problems else "no_finding")

    def label(self, row: JobWithTasks | Orphans) -> str:
        return f"task {-row.pk}" if isinstance(row, Orphans) else str(row.pk)

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        jobs = restrict(self.queryset()).count()
        vanished = len(self._vanished())
        return {"in_scope": jobs + vanished, "vanished_tasks": vanished}
