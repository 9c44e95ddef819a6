"""Obstacles to the confirmation of a plan and to the start of a run that waits for approval.

Pages show the obstacles before a user acts. The refusal of an action is the first of them, so both always agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine import checklist, environments, registry
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import PlanDrifted, RunRefused, TargetLocked
from opsconsole.engine.locks import require_free
from opsconsole.engine.models import Freeze, PinnedRows, Run
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import Plan, drifted_rows, pins_rows
from opsconsole.engine.requirements import readable_columns
from opsconsole.engine.stored_plans import plan_of
from opsconsole.stores.preflight import require_privileges
from opsconsole.stores.store import StoreUnavailable

RECOUNTED_ROWS = 20_000  # rows; a larger plan is counted in the background
COMPARED_ROWS = 200_000  # rows; a larger plan is compared batch by batch


class Remedy(StrEnum):
    """The action that removes an obstacle. A page offers it as a button."""

    BACKUP = "backup"
    PLAN_AGAIN = "plan_again"
    STORE = "store"
    UNFREEZE = "unfreeze"


class Obstacle(NamedTuple):
    """A refusal that an action would raise now, and its remedy if a page offers one.

    The error of a locked target names the run that holds the lock, which a page links.
    """

    error: Exception
    remedy: Remedy | None = None


def require_none(obstacles: Iterable[Obstacle]) -> None:
    """Raise the error of the first obstacle."""
    for obstacle in obstacles:
        raise obstacle.error


def of_error(error: Exception) -> Obstacle:
    """Return the obstacle of an operation that cannot be loaded: its store, its database or its code is missing."""
    if isinstance(error, StoreUnavailable):
        return Obstacle(error, Remedy.STORE)
    return Obstacle(error, Remedy.PLAN_AGAIN if isinstance(error, RunRefused) else None)


def of_process(cls: type[Operation] | None) -> Iterator[Obstacle]:
    """Yield why this process may not run the operation `cls`: its environment, or a freeze."""
    yield from _of_environment()
    yield from of_freeze(cls)


def of_permission(operation: Operation, actor: Actor) -> Iterator[Obstacle]:
    """Yield the additional permission that the operation requires if the account does not have it."""
    permission = operation.permission
    if permission and actor.user is not None and not actor.user.has_perm(permission):
        values = {"name": actor.user.get_username(), "permission": permission}
        yield Obstacle(
            RunRefused(
                _("%(name)s may not use this operation. Ask a superuser for the permission %(permission)s.") % values
            )
        )


def of_freeze(cls: type[Operation] | None) -> Iterator[Obstacle]:
    """Yield the freeze that stops the operation `cls`."""
    if is_frozen(cls):
        yield Obstacle(RunRefused(_("All runs are frozen. Run `runs unfreeze` to resume them.")), Remedy.UNFREEZE)


def of_confirmation(run: Run, planned: Plan, actor: Actor, *, limit: int = RECOUNTED_ROWS) -> Iterator[Obstacle]:
    """Yield why `actor` cannot confirm a plan, apart from the answers that the confirmation itself requires.

    Above `limit` rows, the plan is not compared with the store.
    """
    operation = planned.operation
    yield from of_process(registry.operations().get(run.operation))
    yield from of_permission(operation, actor)
    if operation.superusers_only and not (actor.user and actor.user.is_superuser):
        yield Obstacle(RunRefused(_("This plan needs a superuser. Ask a superuser to confirm it.")))
    if pins_rows(operation) and not run.plan["counted"]:
        yield Obstacle(RunRefused(_("The outcomes are not counted yet. Wait until the plan is complete.")))
    yield from _of_backup(operation)
    try:
        require_privileges(operation.store, readable_columns(operation), operation.targets())
    except StoreUnavailable as error:
        yield Obstacle(error, Remedy.STORE)
    yield from _of_drift(run, planned, limit)
    try:
        require_free(run)
    except TargetLocked as error:
        yield Obstacle(error)


def of_start(run: Run, planned: Plan) -> Iterator[Obstacle]:
    """Yield why a run that waits for approval cannot start, whoever decides about it."""
    yield from _of_environment()
    if run.approval_expires_at <= timezone.now():  # also while no worker runs
        yield Obstacle(
            RunRefused(_("The request for an approval of run %(run)d has expired. Plan it again.") % {"run": run.pk}),
            Remedy.PLAN_AGAIN,
        )
    yield from _of_planner(run, planned.operation)
    yield from _of_backup(planned.operation)
    yield from _of_drift(run, planned, RECOUNTED_ROWS)


def _of_planner(run: Run, operation: Operation) -> Iterator[Obstacle]:
    """Yield that the account which asks for the run has lost its permissions since."""
    account = run.confirmed_by
    if account is None:
        return
    if not account.has_perms(["operations.operate_run", *filter(None, [operation.permission])]):
        values = {"name": account.get_username(), "run": run.pk}
        text = _(
            "%(name)s confirmed run %(run)d and may no longer run it. Reject it, and plan it with another account."
        )
        yield Obstacle(RunRefused(text % values))


def _of_environment() -> Iterator[Obstacle]:
    if sentence := environments.refusal():
        yield Obstacle(RunRefused(sentence))


def _of_backup(operation: Operation) -> Iterator[Obstacle]:
    if blocking_reason := checklist.blocking_reason(operation):
        yield Obstacle(RunRefused(blocking_reason), Remedy.BACKUP)


def _of_drift(run: Run, planned: Plan, limit: int) -> Iterator[Obstacle]:
    try:
        check_drift(run, planned, limit=limit)
    except RunRefused as error:
        yield Obstacle(error, Remedy.PLAN_AGAIN)


def check_drift(run: Run, planned: Plan | None = None, *, limit: int = RECOUNTED_ROWS) -> None:
    """Compare the plan, and the rows of a plan that pins them, with the store. Raises PlanDrifted.

    Otherwise only parameters, store and bound are compared, because counts change on a live store. The run does not
    touch new rows, so they are not a difference. Above `limit` rows, each row is compared in its batch.
    """
    kept = planned or plan_of(run)
    if kept.digest() != run.digest:
        raise RunRefused(_("Run %(run)d no longer matches its plan. Plan it again.") % {"run": run.pk})
    if compares_rows(kept, limit) and drifted_rows(kept, PinnedRows.of(run)):
        raise PlanDrifted(_("The rows have changed since the plan was made. Nothing was written. Plan again."))


def compares_rows(planned: Plan, limit: int) -> bool:
    """Return whether `check_drift` with this limit compares each row of the plan with the store."""
    return pins_rows(planned.operation) and planned.counted and planned.total <= limit


def is_frozen(cls: type[Operation] | None) -> bool:
    """Return whether a freeze stops this operation. Operations that only read a store continue."""
    return (cls is None or cls.writes_store) and Freeze.objects.exists()
