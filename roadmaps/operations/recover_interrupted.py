"""The scheduled start of recoveries, one background run per interrupted task. See docs/platforms/roadmaps.md."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, cast

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine import lifecycle, planner, queue, stored_plans
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Run, Trigger
from opsconsole.engine.operation import Schedule
from opsconsole.engine.outcomes import Changes, Done, Outcome, Skip
from opsconsole.engine.selection import Selection
from roadmaps.operations.recover_tasks import RecoverTasks


class RecoverInterrupted(RecoverTasks):
    title = _("Start the recovery of interrupted tasks")
    description = _(
        "Starts one background recovery for each interrupted creation task, oldest first. "
        "TASK_RECOVERY_MAX_CONCURRENT limits how many run at the same time, and TASK_RECOVERY_DELAY_SECONDS is the "
        "delay between two starts."
    )
    selectable = False
    cluster = ""
    locks = ()
    locks_rows = False
    schedule = Schedule("*/5 * * * *", lambda: [{}] if settings.ENABLE_TASK_RECOVERY else [])
    action_label = ngettext_lazy("Start %(count)s recovery", "Start %(count)s recoveries", "number")
    done_label = ngettext_lazy("%(count)s recovery started", "%(count)s recoveries started", "number")
    reasons = {
        **RecoverTasks.reasons,
        "started": _("recovery started"),
        "under_way": _("recovery already running"),
    }

    def perform(self, row: Any) -> Outcome:
        outcome = self.process(row)
        if not isinstance(outcome, Changes):
            return outcome
        recovery = RecoverTasks(self.store)
        selection = Selection([row.pk])
        if stored_plans.same_command(recovery, selection) is not None:
            return Skip("under_way")
        actor = Actor("schedule", socket.gethostname(), Trigger.SCHEDULE)
        this_run = Run.objects.get(pk=cast(int, self.run_id))
        run = lifecycle.create_run(planner.plan(recovery, selection), actor, changed_by=this_run.changed_by)
        try:
            queue.confirm(run, actor, part_of=this_run)
        except RunRefused:  # another process has just started it
            lifecycle.cancel(run, actor)
            return Skip("under_way")
        return Done("started")

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Verify nothing: the started runs report their own results."""
        return []
