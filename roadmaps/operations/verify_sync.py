"""Document 004: what a sync left: references complete, statuses justified by rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Check, FindingData
from roadmaps.consistency import SETTLED, TASK_COLUMNS, State, sentence, states
from roadmaps.content import NEEDS
from roadmaps.models import RoadmapTask

CODES = (
    "framework_behind_content",
    "framework_ahead_of_content",
    "reference_missing",
    "reference_dangling",
    "status_mismatch",
    "roadmap_missing",
)


class VerifySync(Check):
    title = _("Verify synced frameworks")
    description = _(
        "Looks at tasks that are completed or failed in part: whether each status in the framework is justified by a "
        "row, and each completed part refers to one."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
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

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {RoadmapTask: TASK_COLUMNS, **NEEDS}

    def states(self) -> Iterator[State]:
        """Of every settled task, or of those that somebody named, whatever their status."""
        tasks = RoadmapTask.objects.using(self.store.alias)
        chosen = Q(status__in=SETTLED) if self.chosen is None else Q(pk__in=list(self.chosen))
        return states(self.store, self.as_of, tasks.filter(chosen))

    def run_rule(self, question: str) -> Iterator[FindingData]:
        for state in self.states():
            for problem in state.problems:
                if problem.code in CODES:
                    data = {
                        "roadmap_id": state.task.roadmap_id,
                        "count": problem.places,
                        "names": list(problem.names),
                    }
                    yield FindingData(problem.code, state.task.task_id, data)

    def sentence(self, found: FindingData) -> str:
        return sentence(found.code, int(found.data.get("count", 0)), found.data.get("names", ()))
