"""Runs of one operation on several stores of a platform: each starts when the run before it has succeeded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from django.utils.translation import gettext as _

from opsconsole.engine import audit_log, history
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import RESUMABLE, Event, Run, Status
from opsconsole.stores.platforms import store_title


def add(run: Run, before: Run | None) -> None:
    """Let a planned run follow another one."""
    run.follows = before
    run.save(update_fields=("follows",))


def runs_of(run: Run) -> list[Run]:
    """Return the runs of the series of a run, in their order. A run of no series is alone."""
    while run.follows is not None:
        run = run.follows
    found = [run]
    while (follower := Run.objects.filter(follows=found[-1]).first()) is not None:
        found.append(follower)
    return found


def replace(run: Run, new: Run) -> None:
    """Let the plan `new` take the place of `run`."""
    Run.objects.filter(follows=run).update(follows=new)
    add(new, run.follows)
    add(run, None)


def leave_out(runs: Sequence[Run], reasons: Mapping[str, str], actor: Actor) -> None:
    """Record the stores that have no run in a series, with the reasons."""
    for store, reason in reasons.items() if runs else ():
        audit_log.record(runs[0], "not_planned", actor, store=store, error=reason)


def left_out(runs: Iterable[Run]) -> dict[str, str]:
    """Return store → the reason why it has no run in the series."""
    numbers, planned = [], set()
    for run in runs:
        planned.add(run.store)
        numbers.append(run.pk)
        while run.replaces is not None:
            run = run.replaces
            numbers.append(run.pk)
    events = Event.objects.filter(run__in=numbers, verb="not_planned").order_by("pk")
    return {one.detail["store"]: one.detail["error"] for one in events if one.detail["store"] not in planned}


def not_started(runs: Iterable[Run]) -> list[tuple[Run, str]]:
    """Return the confirmed runs that wait for another one, with the reasons."""
    waiting = [run for run in runs if run.status in {Status.QUEUED, Status.AWAITING_APPROVAL}]
    return [(run, reason) for run in waiting if (reason := why_it_waits(run))]


def why_it_waits(run: Run) -> str:
    """Return why a run must not start yet: the run before it has not succeeded. Empty if it may start."""
    before = run.follows
    while before is not None and before.status == Status.CANCELLED and before.confirmed_at is None:
        before = before.follows  # a discarded plan is left out
    if before is None or before.status == Status.SUCCEEDED or history.settled([before]):
        return ""
    values = {"run": before.pk, "store": store_title(before.store)}
    if before.status in RESUMABLE:
        return _("Run %(run)d on %(store)s has stopped. Resume it, or cancel this run.") % values
    if before.ended:
        return (
            _(
                "Run %(run)d on %(store)s needs attention. This run starts when the operation has succeeded there. "
                "Run it again on that store, or cancel this run."
            )
            % values
        )
    return _("Run %(run)d on %(store)s has to succeed first.") % values
