"""Document 004: tasks that were interrupted are recovered by themselves, on a schedule."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from django.conf import settings
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from opsconsole.engine import lifecycle, planner, queue
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.lifecycle import Actor
from opsconsole.engine.models import Run, Trigger
from opsconsole.engine.operation import Schedule
from opsconsole.engine.outcomes import Changes, Done, Outcome, Skip
from opsconsole.engine.selection import Selection
from opsconsole.formatting import format_number
from roadmaps.operations.recover_tasks import RecoverTasks


class RecoverInterrupted(RecoverTasks):
    title = _("Start the recovery of interrupted tasks")
    description = _(
        "Starts one background run of the recovery for each interrupted creation task, oldest first. How many go on "
        "at once, and how long after each other they start, is set by TASK_RECOVERY_MAX_CONCURRENT and _DELAY_SECONDS."
    )
    selectable = False  # to recover chosen tasks is the other operation
    cluster = ""
    locks = ()
    locks_rows = False
    schedule = Schedule("*/5 * * * *")
    reasons = {
        **RecoverTasks.reasons,
        "started": _("its recovery was started"),
        "under_way": _("its recovery is under way"),
    }

    @classmethod
    def schedule_params(cls) -> Iterable[Mapping[str, Any]]:
        return [{}] if settings.ENABLE_TASK_RECOVERY else []

    def perform(self, row: Any) -> Outcome:
        outcome = self.process(row)
        if not isinstance(outcome, Changes):
            return outcome
        recovery = RecoverTasks(self.store)
        selection = Selection([row.pk])
        if lifecycle.same_command(recovery, selection) is not None:
            return Skip("under_way")
        actor = Actor("schedule", socket.gethostname(), Trigger.SCHEDULE)
        mine = Run.objects.get(pk=cast(int, self.run_id))
        run = lifecycle.create_run(planner.plan(recovery, selection), actor, changed_by=mine.changed_by)
        try:
            queue.confirm(run, actor, part_of=mine)
        except RunRefused:  # somebody has just begun it
            lifecycle.cancel(run, actor)
            return Skip("under_way")
        return Done("started")

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        return {"in_scope": restrict(self.queryset()).count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """The runs that it started say how they ended."""
        return []

    def action_label(self, count: int) -> str:
        return ngettext("Start %(count)s recovery", "Start %(count)s recoveries", count) % {
            "count": format_number(count)
        }
