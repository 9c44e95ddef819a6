"""The operation that sets failed tasks of jobs in progress back to PENDING, so that agents try them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.outcomes import Changes, Outcome, RowChange, Skip
from tasks.helix.dirty_data import JobWithTasks, among
from tasks.helix.failed_tasks import FailedTasksOperation, failed_tasks
from tasks.helix.models import HelixTask

CLEARED = ("output_data", "assigned_at", "started_at", "completed_at")


class RetryFailedTasks(FailedTasksOperation):
    title = _("Retry failed HELIX tasks")
    description = _(
        "Sets the failed tasks of jobs in progress back to PENDING and their retry counter to 0. The platform's agents "
        "try them again. It does not change jobs, other tasks and artifacts."
    )
    writes = {"tasks": ("status", "retry_count", *CLEARED)}
    action_label = ngettext_lazy("Retry %(count)s failed task", "Retry %(count)s failed tasks", "number")
    done_label = ngettext_lazy("%(count)s failed task retried", "%(count)s failed tasks retried", "number")
    _of_task = CLEARED
    reasons = {
        **FailedTasksOperation.reasons,
        "retried": _("retried"),
        "has_artifacts": _("a failed task has artifacts with which its next attempt would collide; repair them first"),
    }
    statistic_labels = {"in_scope": _("selected, or with failed tasks"), "failed_tasks": _("failed tasks")}

    def process(self, row: JobWithTasks) -> Outcome:
        if refusal := self._refusal(row):
            return Skip(refusal)
        failed = failed_tasks(row)
        if any(task.artifacts for task in failed):
            return Skip("has_artifacts")
        pending = {"status": "PENDING", "retry_count": 0, **dict.fromkeys(CLEARED)}
        changes = [RowChange.update("tasks", task.row, **pending) for task in failed]
        return Changes(changes, "retried", amount=len(changes))

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        jobs = list(restrict(self.queryset()).values_list("pk", flat=True))
        tasks = HelixTask.objects.using(self.store.alias).filter(job_id__in=among(self.store, jobs))
        return {"in_scope": len(jobs), "failed_tasks": tasks.filter(status="FAILED").count()}
