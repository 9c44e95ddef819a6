"""A check of synced tasks: all references are complete, and rows justify all statuses.

See docs/platforms/roadmaps.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import FindingData
from roadmaps.causes import CAUSES
from roadmaps.consistency import SETTLED, SYNC_REASONS, TaskCheck, TaskReport
from roadmaps.models import RoadmapTask


class VerifySync(TaskCheck):
    title = _("Verify synced frameworks")
    description = _(
        "Checks tasks that are completed or partially failed: each status in the framework is justified by a row, and "
        "each completed part refers to one."
    )
    rules = ("settled tasks",)
    reasons = SYNC_REASONS
    causes = {code: CAUSES[code] for code in SYNC_REASONS}

    def tasks(self) -> QuerySet[RoadmapTask]:
        return super().tasks().filter(status__in=SETTLED) if self.chosen is None else super().tasks()

    def findings_of(self, report: TaskReport) -> Iterator[FindingData]:
        if report.task.status in SETTLED:
            yield from super().findings_of(report)
