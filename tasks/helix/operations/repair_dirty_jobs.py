"""An operation that repairs dirty jobs instead of deleting them. See docs/platforms/helix.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.outcomes import Changes, Outcome, RowChange, Skip
from opsconsole.stores.rows import Key
from tasks.helix.dirty_data import (
    TYPE_LABELS,
    JobWithTasks,
    artifacts_of,
    dirty_jobs,
    jobs_with_all,
    orphaned_tasks,
)
from tasks.helix.job_operation import JobOperation
from tasks.helix.models import HelixJob, HelixTask

REPAIRED = ("A", "B", "C", "F")
OVER = ("FAILED", "CANCELLED")
CLEARED = ("output_data", "assigned_at", "started_at", "completed_at")
ERROR_MESSAGE = "OpsConsole: all {tasks} tasks of this job have failed."


class Orphans(NamedTuple):
    """The artifacts of a missing task. The key of such a row is the negative id of the task."""

    pk: int
    artifacts: tuple[Any, ...]


class RepairDirtyJobs(JobOperation):
    title = _("Repair dirty HELIX jobs")
    description = _(
        "Sets jobs in progress whose tasks have all failed to FAILED, and completed tasks without an artifact to "
        "PENDING. Deletes artifacts of failed, missing and unfinished tasks. No jobs or tasks are deleted."
    )
    writes = {"jobs": ("status", "error_message"), "tasks": ("status", *CLEARED), "artifacts": ()}
    action_label = ngettext_lazy("Repair %(count)s job", "Repair %(count)s jobs", "number")
    done_label = ngettext_lazy("%(count)s job repaired", "%(count)s jobs repaired", "number")
    reasons = TYPE_LABELS | {
        "no_finding": _("without a finding"),
        "to_decide": _("needs a decision: wait for retries, or clean the job"),
        "over": _("job has failed or was cancelled: its tasks must not run again"),
    }
    statistic_labels = {
        "in_scope": _("selected or to repair"),
        "to_repair": _("jobs with a finding that is repaired"),
        "vanished_tasks": _("missing tasks with artifacts"),
    }

    def queryset(self) -> QuerySet[HelixJob]:
        return self.population().filter(pk__in=dirty_jobs(REPAIRED))

    @classmethod
    def key_of_finding(cls, table: str, key: str, data: Mapping[str, Any]) -> str | None:
        if table != "artifacts":
            return super().key_of_finding(table, key, data)
        task = data.get("task_id") or next(iter(data.get("task_ids", ())), None)
        return None if task is None else str(-task)

    def _missing_tasks(self) -> list[int]:
        """Return the negative ids of missing tasks that still have artifacts."""
        if self.selection.keys is not None:
            return [int(key) for key in self.selection.keys if int(key) < 0]
        return [-task for task in orphaned_tasks(self.store)] if self.selection.is_everything else []

    def bound(self) -> Key | None:
        return super().bound() or 0  # artifacts may exist without any job

    def _list_keys(self, rows: QuerySet[Any]) -> list[int]:
        return [*self._missing_tasks(), *super()._list_keys(rows)]

    def _read(self, keys: list[int]) -> list[Any]:
        missing = [-key for key in keys if key < 0]
        existing = set(HelixTask.objects.using(self.store.alias).filter(pk__in=missing).values_list("pk", flat=True))
        artifacts = artifacts_of(self.store, [task for task in missing if task not in existing]) if missing else {}
        orphans = [Orphans(-task, tuple(artifacts[task])) for task in missing if task in artifacts]
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
        missing = self._missing_tasks()
        dirty = restrict(self.population()).filter(pk__in=dirty_jobs(REPAIRED)).count()
        still_missing = len({-key for key in missing} & set(orphaned_tasks(self.store))) if missing else 0
        return {"in_scope": jobs + len(missing), "to_repair": dirty, "vanished_tasks": still_missing}
