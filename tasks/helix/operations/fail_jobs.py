"""The operation that marks jobs in progress with failed tasks as FAILED, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.outcomes import Changes, Outcome, RowChange, Skip
from tasks.helix.dirty_data import OPEN_STATUSES, JobWithTasks
from tasks.helix.failed_tasks import FailedTasksOperation, failed_tasks

ERROR_MESSAGE = "OpsConsole: {failed} of {tasks} tasks of this job have failed."


class FailJobs(FailedTasksOperation):
    title = _("Mark HELIX jobs as failed")
    description = _(
        "Sets jobs in progress that have failed tasks to FAILED and writes the reason into error_message. A job whose "
        "other tasks are still to be worked on is skipped: agents would work on them. It does not change tasks and "
        "artifacts."
    )
    writes = {"jobs": ("status", "error_message")}
    action_label = ngettext_lazy("Mark %(count)s job as failed", "Mark %(count)s jobs as failed", "number")
    done_label = ngettext_lazy("%(count)s job marked as failed", "%(count)s jobs marked as failed", "number")
    _of_job = ("error_message",)
    reasons = {
        **FailedTasksOperation.reasons,
        "open_tasks": _("other tasks of the job are still to be worked on"),
        "marked": _("marked as failed"),
    }
    statistic_labels = {
        "in_scope": _("selected, or in progress with failed tasks"),
        "in_progress": _("jobs in progress"),
        "failed": _("failed jobs"),
    }

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        statuses = restrict(self.population()).aggregate(
            in_progress=Count("pk", filter=Q(status="IN_PROGRESS")), failed=Count("pk", filter=Q(status="FAILED"))
        )
        return {"in_scope": restrict(self.queryset()).count(), **statuses}

    def process(self, row: JobWithTasks) -> Outcome:
        if refusal := self._refusal(row):
            return Skip(refusal)
        if any(task.row.status in OPEN_STATUSES for task in row.tasks):
            return Skip("open_tasks")
        message = ERROR_MESSAGE.format(failed=len(failed_tasks(row)), tasks=len(row.tasks))
        return Changes([RowChange.update("jobs", row.row, status="FAILED", error_message=message)], "marked")
