"""The later history of runs: undone, or settled by another run of the same command."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Max, QuerySet

from opsconsole.engine.models import Run, Status

UNDO = "operations.undo_run"
_COLUMNS = ("parent_id", "started_by", "finished_at")


def undone_by(runs: Iterable[Run]) -> dict[int, Run]:
    """Return run → the run that undid it completely and is not itself undone."""
    keys = [run.pk for run in runs]
    undone = {run.parent_id: run for run in _undos(keys) if run.parent_id is not None}
    redone = {run.parent_id for run in _undos([run.pk for run in undone.values()])} if undone else set()
    return {parent: run for parent, run in undone.items() if run.pk not in redone}


def _undos(parents: list[int]) -> Iterable[Run]:
    found = Run.objects.filter(operation=UNDO, parent_id__in=parents, status=Status.SUCCEEDED, selection={})
    return found.only(*_COLUMNS).order_by("pk")


def in_force(runs: QuerySet[Run]) -> QuerySet[Run]:
    """Return the runs of `runs` whose changes still count: no undo, and not undone."""
    undos = Run.objects.filter(operation=UNDO, status=Status.SUCCEEDED, selection={}, parent__isnull=False)
    undone = undos.exclude(pk__in=undos.values("parent")).values("parent")
    return runs.exclude(operation=UNDO).exclude(pk__in=undone)


def settled(runs: Iterable[Run]) -> set[int]:
    """Return the runs whose command has succeeded in a later run."""
    runs = list(runs)
    newest = dict(
        Run.objects.filter(fingerprint__in={run.fingerprint for run in runs}, status=Status.SUCCEEDED)
        .order_by()
        .values_list("fingerprint")
        .annotate(newest=Max("pk"))
    )
    return {run.pk for run in runs if newest.get(run.fingerprint, 0) > run.pk}
