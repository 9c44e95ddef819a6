"""The shards of a run: ranges of keys that several workers execute at the same time.

A run is divided when its first worker starts. Each shard is claimed, fenced, resumed and taken over like a run. The run
itself keeps its status, requests and totals. The last shard to stop wakes the run, which then ends or pauses.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import F, Q, QuerySet, Window
from django.db.models.functions import RowNumber
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine import keyset
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.leases import LEASE, is_stale, this_worker
from opsconsole.engine.models import Heartbeat, Run, Shard, Status
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import OUTCOMES, merge, pins_rows
from opsconsole.engine.selection import Selection
from opsconsole.stores.rows import Key, plain_key

MAX_SHARDS = 64
SHARD_ROWS = 250_000  # of the smallest shard that a run is divided into without being asked
WORKERS_SEEN = timedelta(minutes=10)  # hosts take turns with the heartbeat
ACTIVE = (Status.QUEUED, Status.RUNNING)
UNFINISHED = (*ACTIVE, Status.INTERRUPTED)


def refusal(operation: Operation, selection: Selection) -> str:
    """Return why a run cannot be divided into shards, or an empty string."""
    if operation.store.vendor != "postgresql":
        return _("%(location)s has one writer at a time. Omit --shards.") % {"location": operation.store.location}
    # Two shards could write the same row of another table, and the undo would not know which one was the last.
    divides = operation.selectable and set(operation.writes) == {operation.model._meta.db_table}
    if not divides or operation.perform is not None or pins_rows(operation):
        return _("A run of %(operation)s cannot be divided. Omit --shards.") % {"operation": operation.name}
    if selection.keys is not None:
        return _("Selected rows cannot be divided. Omit --shards or --keys.")
    return ""


def count_for(operation: Operation, selection: Selection, total: int, wanted: int | None = None) -> int:
    """Return the number of shards of a run. By default it follows from the rows and the workers that were seen."""
    if reason := "" if wanted == 1 else refusal(operation, selection):
        if wanted is not None:
            raise RunRefused(reason)
        return 1
    return wanted or max(1, min(total // SHARD_ROWS, _workers_seen(), MAX_SHARDS))


def _workers_seen() -> int:
    hosts = Heartbeat.objects.filter(host__startswith="@", at__gt=timezone.now() - WORKERS_SEEN)
    return hosts.exclude(host__endswith=")").count() * int(settings.Q_CLUSTER["workers"])


def ranges(run: Run, rows: QuerySet[Any]) -> list[tuple[Key | None, Key]]:
    """Return start and end of the shards, with about the same number of rows in scope. The last ends at the bound."""
    bound: Key = run.bound  # type: ignore[assignment]
    places = {run.total * place // run.shard_count for place in range(1, run.shard_count)}
    numbered = keyset.up_to(rows, bound).annotate(shard_place=Window(RowNumber(), order_by="pk"))
    found = numbered.filter(shard_place__in=places).order_by("pk").values_list("pk", flat=True)
    ends = [plain_key(key) for key in found]
    return list(zip([None, *ends], [*ends, bound], strict=True))


def create(run: Run, parts: Iterable[tuple[Key | None, Key]]) -> list[Shard]:
    """Create the shards of a run. The caller enqueues them."""
    until = timezone.now() + LEASE
    return Shard.objects.bulk_create(
        Shard(run=run, number=number, start=start, cursor=start, bound=bound, lease_until=until)
        for number, (start, bound) in enumerate(parts, 1)
    )


def claim(shard: Shard, *, generation: int | None = None) -> Shard:
    """Claim a shard for this process. Raises RunRefused if another worker has it, or if its run has stopped."""
    died = bool(shard.worker) and is_stale(shard)
    is_free = shard.status == Status.RUNNING and (died or not shard.worker)
    mine = Shard.objects.filter(pk=shard.pk, generation=shard.generation, status=shard.status)
    if (
        generation not in (None, shard.generation)
        or not (is_free or shard.status in {Status.QUEUED, Status.INTERRUPTED})
        or not mine.filter(run__status__in=ACTIVE).update(
            status=Status.RUNNING,
            generation=shard.generation + 1,
            worker=this_worker(),
            lease_until=timezone.now() + LEASE,
            attempts=shard.attempts + died,
        )
    ):
        raise RunRefused(_("Another worker has taken over run %(run)d.") % {"run": shard.run_id})
    return Shard.objects.select_related("run").get(pk=shard.pk)


def next_free(run: Run, *, stops: bool = False) -> Shard | None:
    """Return a shard that no worker executes. If the run `stops`, return one that has not stopped."""
    unfinished = run.shards.filter(status__in=ACTIVE if stops else UNFINISHED).order_by("number")
    return next((one for one in unfinished if not one.worker or is_stale(one)), None)


def is_worked_on(run: Run) -> bool:
    """Return whether a worker executes a shard of the run at this moment."""
    return any(one.worker and not is_stale(one) for one in run.shards.filter(status=Status.RUNNING))


def restart(run: Run) -> list[Shard]:
    """Continue the shards that stopped with their run, unless `heartbeat` does. The caller enqueues them."""
    fields = {"status": Status.QUEUED, "worker": {}, "attempts": 0, "lease_until": timezone.now() + LEASE}
    stopped = list(run.shards.filter(status=Status.INTERRUPTED).order_by("number"))
    unchanged = [Shard.objects.filter(pk=one.pk, generation=one.generation, status=one.status) for one in stopped]
    return [shard for shard, mine in zip(stopped, unchanged, strict=True) if mine.update(**fields)]


def abandon(run: Run) -> dict[str, Any]:
    """Stop the shards of a run without waiting for their workers, which can no longer write. Return their totals."""
    stopped = {"status": Status.INTERRUPTED, "worker": {}, "generation": F("generation") + 1}
    run.shards.filter(status__in=ACTIVE).update(**stopped)
    return total_up(run) | {"lease_until": None} if run.shards.exists() else {}


def have_stopped(run: Run) -> bool:
    """Return whether no worker executes a shard or will soon. The caller has a transaction."""
    Run.objects.select_for_update().get(pk=run.pk)  # the shards that stop last come one after the other
    return not run.shards.filter(status__in=ACTIVE).exists()


def total_up(run: Run) -> dict[str, Any]:
    """Return the totals of the shards, as fields of the run."""
    parts = list(run.shards.all())
    reasons: dict[str, dict[str, int]] = {name: {} for name in OUTCOMES}
    for part in parts:
        merge(reasons, part.reasons)
    active = [part for part in parts if part.status in ACTIVE]
    started = [part for part in active if part.waiting or part.status == Status.RUNNING]
    waits = started[0] if started and all(part.waiting for part in started) else None
    leases = [part.lease_until for part in active if part.lease_until is not None]
    return {
        **{name: sum(getattr(part, name) for part in parts) for name in (*OUTCOMES, "amount", "batches_done")},
        "reasons": reasons,
        "elapsed_seconds": (timezone.now() - (run.started_at or timezone.now())).total_seconds(),
        "waiting": waits.waiting if waits else "",
        "waiting_code": waits.waiting_code if waits else "",
        "waiting_since": waits.waiting_since if waits else None,
        "lease_until": max(leases, default=timezone.now() + LEASE),
    }


def left_alone() -> QuerySet[Shard]:
    """Return the shards of running runs that may have lost their worker or their message."""
    lost = Q(status__in=(Status.RUNNING, Status.INTERRUPTED)) | Q(status=Status.QUEUED, lease_until__lt=timezone.now())
    return Shard.objects.filter(lost, run__status__in=ACTIVE).select_related("run").order_by("pk")
