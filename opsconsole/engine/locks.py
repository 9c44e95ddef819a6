"""Locks on the targets of runs: tables of a store, or single keys in them."""

from __future__ import annotations

from django.db.models import Q
from django.utils.translation import gettext as _

from opsconsole.engine import registry
from opsconsole.engine.errors import TargetLocked
from opsconsole.engine.models import RESUMABLE, Lock, Run
from opsconsole.engine.seals import serialised


def _targets(run: Run) -> tuple[list[str], list[str]]:
    """Return the tables that a run locks, and the keys in them. Without keys it locks the whole tables."""
    cls = registry.operation(run.operation)
    keys = [str(key) for key in run.selection.get("keys", ())] if cls.locks_rows else []
    return [*run.writes, *cls.locks], keys


def require_free(run: Run) -> None:
    """Raise TargetLocked if another run has locked a target of `run`."""
    tables, keys = _targets(run)
    for table in tables:
        locks = Lock.objects.filter(identity=run.identity, table=table).exclude(run=run)
        if keys:
            locks = locks.filter(Q(key="") | Q(key__in=keys))
        lock = locks.select_related("run").first()
        if lock is not None:
            raise TargetLocked(_holder_message(lock.run, table), lock.run_id)


def take_locks(run: Run) -> None:
    """Lock the targets of a run, all of them or none."""
    with serialised("locks"):
        require_free(run)
        tables, keys = _targets(run)
        for table in tables:
            for key in keys or [""]:
                Lock.objects.get_or_create(run=run, identity=run.identity, table=table, key=key)


def _holder_message(run: Run, table: str) -> str:
    values = {"table": table, "location": run.location, "run": run.pk, "status": run.get_status_display()}
    if run.status in RESUMABLE:
        return (
            _(
                "%(table)s of %(location)s is locked by run %(run)d (%(status)s). Resume it with `runs resume "
                "%(run)d` or cancel it with `runs cancel %(run)d`."
            )
            % values
        )
    return (
        _(
            "%(table)s of %(location)s is locked by run %(run)d (%(status)s). Wait for it or cancel it with `runs "
            "cancel %(run)d`."
        )
        % values
    )


def release(run: Run) -> None:
    """Delete the locks and the pinned rows of a run that has ended."""
    run.locks.all().delete()
    run.pinned.all().delete()
