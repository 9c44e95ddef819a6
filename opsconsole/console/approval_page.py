"""The page of a run that waits for approval, and the list of such runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.console.obstacle_list import ShownObstacle
from opsconsole.console.page_parts import alert_channels
from opsconsole.console.plan_page import PlanPage
from opsconsole.engine import incidents, lifecycle, obstacles, repairs
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import Incident, Run, Status, Trigger
from opsconsole.engine.obstacles import Obstacle, Remedy
from opsconsole.engine.operation import Risk
from opsconsole.formatting import duration

SHOWN_INCIDENTS = 3
SHOWN_SAMPLE = 20


class Alternative(NamedTuple):
    """A less destructive repair of the same incident."""

    incident: Incident
    label: str
    deletes: bool


class ApprovalPage(PlanPage):
    """A run that waits for approval, as the approver decides about it."""

    @property
    def question(self) -> str:
        return _("Approve: %(action)s?") % {"action": self.action[:1].lower() + self.action[1:]}

    @property
    def deletes(self) -> bool:
        # Without its store, the operation cannot tell its effective risk.
        risk = getattr(self.cls, "risk", None) if self.problem else self.operation.effective_risk()
        return bool(risk == Risk.DELETE)

    @property
    def asked_by(self) -> str:
        return self.run.confirmed_by.get_username() if self.run.confirmed_by else self.run.started_by

    @property
    def expires_in(self) -> str:
        left = self.run.approval_expires_at - timezone.now()
        return duration(max(left.total_seconds(), 0))

    def _obstacles(self) -> Iterable[Obstacle]:
        return obstacles.of_start(self.run, self.planned)

    @property
    def waits(self) -> list[ShownObstacle]:
        return [*map(self._shown, obstacles.of_freeze(self.cls)), *super().waits]

    @cached_property
    def compares_rows(self) -> bool:
        """True if this page has compared each row with the store."""
        return self.error is None and obstacles.compares_rows(self.planned, obstacles.RECOUNTED_ROWS)

    @property
    def is_unchanged(self) -> bool:
        """True if the rows are unchanged since the plan. An expired request is not compared."""
        return self.compares_rows and all(one.remedy != Remedy.PLAN_AGAIN for one in self._found)

    @property
    def may_plan(self) -> bool:
        return self.may_withdraw

    @property
    def checked_at(self) -> datetime:
        return timezone.now()

    @cached_property
    def confirmed_items(self) -> frozenset[str]:
        """The items of the checklist that the planner has confirmed."""
        event = self.run.events.filter(verb="confirmed").order_by("-pk").first()
        return frozenset(event.detail.get("checklist", ())) if event is not None else frozenset()

    @cached_property
    def alternatives(self) -> list[Alternative]:
        """Less destructive repairs that are possible now, of the incidents that this operation repairs."""
        found = []
        for incident in self._incidents():
            for repair in repairs.repairs_of(incident):
                if repair.operation.name == self.run.operation:
                    break
                if repair.possible:
                    found.append(Alternative(incident, repair.label, repair.deletes))
        return found

    def _incidents(self) -> list[Incident]:
        if self.run.incident is not None:
            return [] if self.run.incident.resolved_at else [self.run.incident]
        active = Incident.objects.active().filter(identity=self.run.identity).worst_first()
        causes = ((one, incidents.cause_of(one)) for one in active[:50])
        return [one for one, cause in causes if cause is not None and self.run.operation in cause.repairs][
            :SHOWN_INCIDENTS
        ]

    # --- the decision

    @cached_property
    def refusal(self) -> str:
        """The reason why this user cannot approve the run, or an empty string."""
        actor = Actor(self.user.get_username(), "", Trigger.ADMIN, self.user)
        return lifecycle.refusal_to_approve(self.run, actor)

    @property
    def may_reject(self) -> bool:
        """True if the user may reject the run. The account that asked for it withdraws it instead."""
        return bool(self.user.has_perm("operations.approve_run")) and not self.may_withdraw

    @property
    def may_break_glass(self) -> bool:
        always = self.cls is not None and (self.cls if self.problem else self.operation).always_approved
        return bool(self.user.has_perm("operations.break_glass")) and not always

    @property
    def may_withdraw(self) -> bool:
        """True if the user asked for the run. Other users reject it and give a reason."""
        asked_by = self.run.confirmed_by_id or self.run.user_id
        return asked_by == self.user.pk and bool(self.user.has_perm("operations.operate_run"))

    @property
    def alerts(self) -> str:
        """The channels that report an emergency."""
        return alert_channels()

    @property
    def min_reason(self) -> int:
        return lifecycle.MIN_EMERGENCY_REASON


def waiting_runs() -> list[Run]:
    """Return the runs that wait for approval, oldest first."""
    runs = Run.objects.filter(status=Status.AWAITING_APPROVAL).select_related("user", "confirmed_by", "incident")
    return list(runs.defer("selection", "reasons").order_by("confirmed_at", "pk"))
