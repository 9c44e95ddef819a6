"""Document 004: what a sync left: references complete, statuses justified by rows."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import FindingData
from roadmaps.consistency import SETTLED, TaskCheck
from roadmaps.models import RoadmapTask

CODES = (
    "framework_behind_content",
    "framework_ahead_of_content",
    "reference_missing",
    "reference_dangling",
    "status_mismatch",
    "roadmap_missing",
)


class VerifySync(TaskCheck):
    title = _("Verify synced frameworks")
    description = _(
        "Looks at tasks that are completed or failed in part: whether each status in the framework is justified by a "
        "row, and each completed part refers to one."
    )
    rules = ("settled tasks",)
    reasons = {
        "framework_behind_content": _("the framework is behind the content tables"),
        "framework_ahead_of_content": _("the framework says completed without a row"),
        "reference_missing": _("a completed part has no reference"),
        "reference_dangling": _("a reference names no row"),
        "status_mismatch": _("the task's status is not justified"),
        "roadmap_missing": _("the roadmap is missing or unreadable"),
    }
    repairs = dict.fromkeys(CODES[:-1], "roadmaps.sync_results")

    def tasks(self) -> QuerySet[RoadmapTask]:
        return super().tasks().filter(status__in=SETTLED) if self.chosen is None else super().tasks()

    def run_rule(self, question: str) -> Iterator[FindingData]:
        for state in self.task_reports():
            for problem in state.problems:
                if problem.code in CODES:
                    data = {
                        "roadmap_id": state.task.roadmap_id,
                        "count": problem.places,
                        "names": list(problem.names),
                    }
                    yield FindingData(problem.code, state.task.task_id, data)
