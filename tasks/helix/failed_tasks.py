"""Jobs in progress with failed tasks: what the operations that decide about them share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import keyset
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import STILL_WORKING
from opsconsole.stores.rows import Key
from opsconsole.timestamps import parse_timestamp
from tasks.helix.dirty_data import NEEDS, JobWithTasks, among, dirty_jobs, jobs_with_all
from tasks.helix.models import HelixJob

AT_WORK = timedelta(minutes=10)  # a job that changed since then is still being worked on
DECIDED = ("C", "D", "E")  # types of dirty data that a person decides about


class FailedTasksOperation(Operation):
    """An operation on jobs in progress that have failed tasks, each job with its tasks and artifacts."""

    store_alias = "helix"
    model = HelixJob
    reads = NEEDS
    risk = Risk.CHANGE
    batch_size = 1
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "no_failed_task": _("no failed task, or no longer in progress"),
        STILL_WORKING: _("the platform changed this job in the last 10 minutes and may still work on it"),
    }
    _of_job: ClassVar[tuple[str, ...]] = ()
    _of_task: ClassVar[tuple[str, ...]] = ()

    def queryset(self) -> QuerySet[HelixJob]:
        return self.population().filter(pk__in=dirty_jobs(DECIDED))

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        return self.population().filter(pk__in=among(self.store, keys))

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        keys = keyset.between(rows, after, bound).values_list("pk", flat=True)[:limit]
        return jobs_with_all(self.store, list(keys), of_job=self._of_job, of_task=self._of_task)

    def _refusal(self, job: JobWithTasks) -> str:
        """Return the reason why nothing is decided about this job now, or an empty string."""
        if job.row.status != "IN_PROGRESS" or not failed_tasks(job):
            return "no_failed_task"
        return STILL_WORKING if is_at_work(job, self.as_of) else ""


def failed_tasks(job: JobWithTasks) -> list[Any]:
    return [task for task in job.tasks if task.row.status == "FAILED"]


def is_at_work(job: JobWithTasks, now: datetime) -> bool:
    """Return whether the job or one of its tasks changed a short time ago."""
    times = (parse_timestamp(str(row.updated_at)) for row in (job.row, *(task.row for task in job.tasks)))
    return any(at is not None and now - at < AT_WORK for at in times)
