"""Document 004: tasks that are stuck, and frameworks that do not say what the content tables hold."""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import FindingData
from opsconsole.engine.operation import Priority, Schedule
from roadmaps.consistency import PARTIAL, SHOWN_CONCEPTS, STATUS, TaskCheck


class CheckRecovery(TaskCheck):
    title = _("Check tasks and frameworks")
    description = _(
        "Compares each task, its framework and the content tables: tasks that are stuck, statuses that the rows "
        "do not justify, references that are missing or dangling, and partial results that nobody has accepted."
    )
    schedule = Schedule("*/10 * * * *")
    rules = ("tasks",)
    reasons = {
        "stuck": _("stuck"),
        "framework_behind_content": _("the framework is behind the content tables"),
        "framework_ahead_of_content": _("the framework says completed without a row"),
        "reference_missing": _("a completed part has no reference"),
        "reference_dangling": _("a reference names no row"),
        "status_mismatch": _("the task's status is not justified"),
        "roadmap_missing": _("the roadmap is missing or unreadable"),
        "no_checkpoint": _("no checkpoint to go on from"),
        "checkpoint_unreadable": _("the checkpoint can't be read"),
        "waits_for_a_person": _("the workflow waits for a person"),
        PARTIAL: _("a partial result that nobody has accepted"),
    }
    repairs = {
        **dict.fromkeys(
            (
                "stuck",
                "framework_behind_content",
                "framework_ahead_of_content",
                "reference_missing",
                "reference_dangling",
                "status_mismatch",
            ),
            "roadmaps.sync_results",
        ),
        "no_checkpoint": "roadmaps.fail_unrecoverable",
        PARTIAL: "roadmaps.retry_failed_concepts",
    }

    def run_rule(self, question: str) -> Iterator[FindingData]:
        for state in self.task_reports():
            for problem in state.problems:
                data = {
                    "roadmap_id": state.task.roadmap_id,
                    "status": state.task.status,
                    "count": problem.places,
                    "names": list(problem.names),
                }
                urgent = problem.code in {"stuck", "no_checkpoint", "checkpoint_unreadable", "waits_for_a_person"}
                yield FindingData(
                    problem.code,
                    state.task.task_id,
                    data,
                    (Priority.IMMEDIATE if urgent else Priority.PLANNED).value,
                )
            if state.task.status == STATUS.PARTIAL_FAILURE and state.comparison.failed and not state.accepted:
                failed = state.comparison.failed
                data = {"roadmap_id": state.task.roadmap_id, "count": len(failed), "names": failed[:SHOWN_CONCEPTS]}
                yield FindingData(PARTIAL, state.task.task_id, data, Priority.PERIODIC.value)
