"""Runs of one operation on several stores of a platform: each starts when the run before it has succeeded."""

from __future__ import annotations

from django.utils.translation import gettext as _

from opsconsole.engine import history
from opsconsole.engine.models import RESUMABLE, Run, Status
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


def why_it_waits(run: Run) -> str:
    """Return why a run must not start yet: the run before it has not succeeded. Empty if it may start."""
    before = run.follows
    while before is not None and before.status == Status.CANCELLED and before.confirmed_at is None:
        before = before.follows  # a discarded plan is left out
    if before is None or before.status == Status.SUCCEEDED or history.settled([before]):
        return ""
    values = {"run": before.pk, "store": store_title(before.store)}
    if before.ended or before.status in RESUMABLE:
        return _("Run %(run)d on %(store)s needs attention. Resolve it, or cancel this run.") % values
    return _("Run %(run)d on %(store)s has to succeed first.") % values
