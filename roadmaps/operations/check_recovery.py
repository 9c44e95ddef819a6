"""A check for stuck tasks, and for frameworks and statuses that do not match the content.

See docs/platforms/roadmaps.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import FindingData
from opsconsole.engine.operation import Priority, Schedule
from roadmaps.causes import CAUSES
from roadmaps.consistency import (
    PARTIAL,
    SHOWN_CONCEPTS,
    STATUS,
    SYNC_REASONS,
    Problem,
    TaskCheck,
    TaskReport,
    finding,
)


class CheckRecovery(TaskCheck):
    title = _("Check tasks and frameworks")
    description = _(
        "Compares each task, its framework and the content tables. Reports stuck tasks, statuses that no row "
        "justifies, missing and dangling references, and partial results that are not accepted."
    )
    schedule = Schedule("*/10 * * * *")
    rules = ("tasks",)
    reasons = {
        "stuck": _("stuck"),
        **SYNC_REASONS,
        "no_checkpoint": _("no checkpoint to resume from"),
        "checkpoint_unreadable": _("unreadable checkpoint"),
        "waits_for_a_person": _("workflow waits for a person"),
        PARTIAL: _("partial result that is not accepted"),
    }
    causes = CAUSES

    def findings_of(self, report: TaskReport) -> Iterator[FindingData]:
        yield from super().findings_of(report)
        failed = report.comparison.failed
        if report.task.status == STATUS.PARTIAL_FAILURE and failed and not report.accepted:
            partial = Problem(PARTIAL, len(failed), tuple(failed[:SHOWN_CONCEPTS]))
            yield finding(report, partial, Priority.PERIODIC)
