"""The workers of runs: claim a run, wait, interrupt, requeue and fail."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine import shards
from opsconsole.engine.audit_log import record
from opsconsole.engine.errors import PlanDrifted, RunRefused, TargetLocked
from opsconsole.engine.leases import LEASE, is_stale, this_worker, worker_actor
from opsconsole.engine.lifecycle import move, replace_plan, require_permitted, require_transition
from opsconsole.engine.locks import release, take_locks
from opsconsole.engine.models import RESUMABLE, Request, Run, Shard, Status
from opsconsole.engine.obstacles import COMPARED_ROWS, check_drift
from opsconsole.engine.run_notifications import notify

logger = logging.getLogger(__name__)

MAX_WAITS = 100
WAIT_SECONDS = (1, 2, 5, 10, 20, 30)  # until a waiting run is tried again
MAX_ATTEMPTS = 5  # workers lost in a row without one batch


def claim(run: Run, *, generation: int | None = None) -> Run:
    """Claim a run for this process. Raises RunRefused if another worker has it.

    `generation` is the one in the queue message. An outdated message claims nothing, and no message continues a run
    that a person has stopped.
    """
    if generation is not None and (generation != run.generation or run.status in RESUMABLE):
        raise RunRefused(_("Another worker has taken over run %(run)d.") % {"run": run.pk})
    require_permitted(run)
    handed_over = run.status == Status.RUNNING and not run.worker
    if run.status == Status.RUNNING and not handed_over and not is_stale(run):
        raise RunRefused(_("Run %(run)d is already running. See `runs show %(run)d`.") % {"run": run.pk})
    if run.status != Status.RUNNING:
        require_transition(run, Status.RUNNING)
    died = run.status == Status.RUNNING and not handed_over
    if run.status in {Status.QUEUED, Status.PAUSED} and run.started_at is None:
        begin(run)
    updated = Run.objects.filter(pk=run.pk, generation=run.generation, status=run.status).update(
        status=Status.RUNNING,
        generation=run.generation + 1,
        worker=this_worker(),
        lease_until=timezone.now() + LEASE,
        attempts=run.attempts + (1 if died else 0),
        started_at=run.started_at or timezone.now(),
        request=Request.NONE if run.status in RESUMABLE else run.request,
    )
    if not updated:
        raise RunRefused(_("Another worker has taken over run %(run)d.") % {"run": run.pk})
    run.refresh_from_db()
    return run


def begin(run: Run) -> None:
    """Compare the pinned rows of a new run, then lock its targets. Raises RunRefused."""
    try:
        check_drift(run, limit=COMPARED_ROWS)
    except PlanDrifted:
        replace_plan(run, worker_actor(run))
    except RunRefused as error:
        fail_run(run, str(error))
        raise
    try:
        take_locks(run)
    except TargetLocked as locked:  # `heartbeat` tries again
        Run.objects.filter(pk=run.pk, status=Status.QUEUED).update(
            waiting=str(locked),
            waiting_code="target",
            waiting_since=run.waiting_since or timezone.now(),
            lease_until=timezone.now() + LEASE,
        )
        raise


def requeue_stale_runs() -> list[Run]:
    """Queue background runs whose worker is gone; mark foreground runs as interrupted.

    A run that loses its worker five times without completing a batch fails.
    """
    requeued = []
    now = timezone.now()
    left = Run.objects.filter(
        Q(status=Status.RUNNING)
        | Q(status=Status.INTERRUPTED, in_background=True)
        | Q(status=Status.QUEUED, lease_until__lt=now)
    ).order_by("pk")
    for run in left:
        if run.status == Status.QUEUED:  # its message was lost, or was delivered during a freeze
            Run.objects.filter(pk=run.pk, status=Status.QUEUED).update(lease_until=now + LEASE)
            requeued.append(run)
            continue
        if run.status == Status.RUNNING and not is_stale(run):
            continue
        try:
            if run.attempts >= MAX_ATTEMPTS:
                _fail_abandoned(run)
                continue
            if run.status == Status.RUNNING and not run.in_background:
                move(run, Status.INTERRUPTED, worker={}, lease_until=None)
                continue
            attempts = run.attempts + (1 if run.worker else 0)  # waiting between two slices is normal
            lease = timezone.now() + LEASE
            move(run, Status.QUEUED, attempts=attempts, worker={}, lease_until=lease)
        except RunRefused:  # another process has changed it
            continue
        requeued.append(run)
    return requeued


def requeue_stale_shards() -> list[Run | Shard]:
    """Queue shards whose worker is gone, and the run of a shard that was its last one."""
    requeued: list[Run | Shard] = []
    for shard in shards.left_alone():
        run, lease = shard.run, timezone.now() + LEASE
        if shard.status == Status.RUNNING and not is_stale(shard):
            continue
        mine = Shard.objects.filter(pk=shard.pk, generation=shard.generation, status=shard.status)
        if run.request:
            if mine.update(status=Status.INTERRUPTED, worker={}) and shards.have_stopped(run):
                requeued.append(run)
        elif shard.attempts >= MAX_ATTEMPTS:
            with suppress(RunRefused):  # another process has changed it
                _fail_abandoned(shard)
        elif mine.update(
            status=Status.QUEUED, worker={}, lease_until=lease, attempts=shard.attempts + bool(shard.worker)
        ):
            requeued.append(shard)
    return requeued


def release_worker(run: Run | Shard, code: str, reason: str) -> float:
    """Release the worker of a waiting run. Return the seconds until its next try.

    Raises RunRefused if another worker has the run, or if it has ended.
    """
    seconds = WAIT_SECONDS[min(run.waits, len(WAIT_SECONDS) - 1)]
    now = timezone.now()
    since = run.waiting_since if run.waiting_code == code and run.waiting_since else now
    fields = {
        "worker": {},
        "lease_until": now + timedelta(seconds=seconds) + LEASE,
        "waiting": reason,
        "waiting_code": code,
        "waiting_since": since,
        "waits": min(run.waits + 1, MAX_WAITS),
    }
    mine = type(run)._default_manager.filter(pk=run.pk, generation=run.generation, status=run.status)
    if not mine.update(**fields):
        raise RunRefused(_("Another worker has taken over run %(run)d.") % {"run": run.whole.pk})
    for name, value in fields.items():
        setattr(run, name, value)
    logger.info("Run %s releases its worker: %s", run, reason)
    return seconds


def interrupt(run: Run | Shard, reason: str, code: str = "") -> None:
    """Mark a run as interrupted. Best effort: the console's database may be unavailable."""
    try:
        owned = {"pk": run.pk, "generation": run.generation, "status": Status.RUNNING}
        type(run)._default_manager.filter(**owned).update(
            status=Status.INTERRUPTED,
            waiting=reason,
            waiting_code=code,
            waiting_since=timezone.now(),
            worker={},
        )
    except (DatabaseError, InterfaceError):
        logger.warning("Could not save the interruption", exc_info=True)


def _fail_abandoned(part: Run | Shard) -> None:
    """Fail the run of a part whose workers end before they complete a batch."""
    text = _("The run lost its worker %(count)d times in a row without completing a batch.")
    fail_run(part.whole, text % {"count": part.attempts})


def fail_run(run: Run, error: str) -> None:
    """Fail a run that no worker can execute."""
    with transaction.atomic():
        totals = shards.abandon(run)
        fields = totals | {"error": error, "finished_at": timezone.now(), "generation": run.generation + 1}
        move(run, Status.FAILED, **fields)
        release(run)
        record(run, "failed", worker_actor(run), error=error)
        notify(run)
