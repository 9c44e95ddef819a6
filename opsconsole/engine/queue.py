"""The queue adapter, the only importer of django_q. The queue only wakes the executor.

A message carries the id and generation of a run. Lost, duplicate or late messages are harmless: an outdated
generation claims nothing, and `heartbeat` queues abandoned runs every minute.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from croniter import croniter
from django.db import DatabaseError, IntegrityError, InterfaceError, transaction
from django.db.models import Max, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django_q.brokers.orm import ORM
from django_q.models import Failure, Schedule, Success
from django_q.tasks import async_task

from opsconsole.engine import (
    audit_log,
    lifecycle,
    messages,
    notifications,
    obstacles,
    planner,
    recovery,
    registry,
    series,
    shards,
    stored_plans,
    workers,
)
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import PlanDrifted, RunRefused, TargetLocked
from opsconsole.engine.labels import operation_title
from opsconsole.engine.leases import LostOwnership
from opsconsole.engine.messages import Message
from opsconsole.engine.models import (
    ENDED,
    Event,
    Freeze,
    Heartbeat,
    Incident,
    Run,
    ScheduleSetting,
    Shard,
    Status,
    Trigger,
)
from opsconsole.engine.operation import LONG_CLUSTER, Operation
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.registry import UnknownOperation
from opsconsole.engine.selection import Selection
from opsconsole.engine.shard_executor import ShardExecutor, executor_of
from opsconsole.stores.errors import ErrorKind, classify, first_line, trouble_code
from opsconsole.stores.locks import brief_lock_waits, why_it_waits
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import use
from opsconsole.stores.store import Store, StoreUnavailable

logger = logging.getLogger(__name__)

SLICE_SECONDS = 20.0
PATIENCE_SECONDS = 0.9  # less than the wait for a lock, so that a waiting run releases its worker
LOCKED_SECONDS = (0.1, 0.2, 0.4)  # between the attempts of a small run whose target is locked
TICK_RETRIES, TICK_RETRY_SECONDS = 30, 60.0  # for a scheduled run whose store is unavailable
WORKER_SEEN = timedelta(minutes=2)
STARTING = "(starting)"  # in place of a host, of workers that have not reported yet
KEEP_RESULTS = timedelta(days=7)
OVERDUE = timedelta(minutes=15)  # a scheduled run that has not started by then is overdue

HEARTBEAT = "opsconsole: heartbeat"
OPERATION_PREFIX = "operation: "


# --- starting runs --------------------------------------------------------------------------------------


def plan(
    operation: Operation,
    selection: Selection,
    actor: Actor,
    *,
    note: str = "",
    incident: Incident | None = None,
    separate: bool = False,
) -> Run:
    """Plan an operation for a page. A large plan is counted in the background.

    An identical plan of the same account is renewed, unless the caller needs a `separate` one.
    """
    planned = planner.plan(operation, selection)
    if planned.total <= obstacles.RECOUNTED_ROWS:
        planner.count_outcomes(planned)
    keep = lifecycle.create_run if separate else lifecycle.keep_plan
    run = keep(planned, actor, note=note, incident=incident)
    if not planned.counted:
        plan_in_background(run)
    return run


def confirm(run: Run, actor: Actor, checked: Sequence[str] = (), part_of: Run | None = None) -> Run:
    """Confirm a plan and queue its run, in one transaction."""
    with transaction.atomic():
        lifecycle.confirm(run, actor, background=True, checked=checked, part_of=part_of)
        if run.status == Status.QUEUED:
            enqueue(run)
    return run


def run_now(run: Run, actor: Actor) -> Run:
    """Confirm a small plan and execute it in this process for one slice. If it must wait, workers continue it.

    A plan that cannot be confirmed is deleted. Raises RunRefused.
    """
    for seconds in (*LOCKED_SECONDS, None):
        try:
            lifecycle.confirm(run, actor, background=True)
            break
        except RunRefused as reason:
            if isinstance(reason, TargetLocked) and seconds is not None:
                time.sleep(seconds)
                continue
            run.refresh_from_db()
            lifecycle.cancel(run, actor)
            raise
    run_slice(run.pk, run.generation)
    run.refresh_from_db()
    return run


def resume(run: Run, actor: Actor) -> None:
    """Queue a paused or interrupted run. Raises RunRefused."""
    with transaction.atomic():
        lifecycle.resume(run, actor)
        enqueue(run)


def cancel(run: Run, actor: Actor) -> None:
    """Discard a plan or stop a run. If its worker is gone, count the batches that the store has committed."""
    lifecycle.cancel(run, actor)
    if run.status == Status.CANCELLED:
        try:
            recovery.settle(run)
        except Exception as error:  # the run is cancelled, also if the store is out of reach
            logger.exception("Could not find out which batches of run %s are written", run.pk)
            audit_log.record(run, "settle_failed", actor, error=first_line(error))


def approve(run: Run, actor: Actor) -> None:
    """Approve a run and queue it. If its rows have changed, it is planned again. Raises PlanDrifted."""
    _decide(run, actor, lifecycle.approve)


def break_glass(run: Run, actor: Actor, reason: str) -> None:
    """Start a run without approval and queue it. If its rows have changed, it is planned again. Raises PlanDrifted."""
    _decide(run, actor, partial(lifecycle.break_glass, reason=reason))


def _decide(run: Run, actor: Actor, start: Callable[[Run, Actor], None]) -> None:
    try:
        with transaction.atomic():
            start(run, actor)
            enqueue(run)
    except PlanDrifted:
        lifecycle.replace_plan(run, actor)


def plan_in_background(run: Run) -> None:
    """Count the outcomes of a large plan in a job, which sets `run.plan["counted"]`."""
    with transaction.atomic():
        _enqueue_job(count_plan, run)


def enqueue(part: Run | Shard, seconds: float = 0.0) -> None:
    """Enqueue a message for a run or shard in the caller's transaction, to be delivered after `seconds`."""
    _enqueue_job(run_shard if isinstance(part, Shard) else run_slice, part, seconds)


def _enqueue_job(job: Callable[..., Any], part: Run | Shard, seconds: float = 0.0) -> None:
    cls = registry.operations().get(part.whole.operation)
    cluster = cls.cluster if cls is not None and job is not count_plan else ""
    _send(job, part.pk, part.generation, cluster=cluster, seconds=seconds)


def _send(job: Callable[..., Any], *args: Any, cluster: str = "", seconds: float = 0.0) -> None:
    broker = _Later(cluster or None, seconds) if seconds else None
    async_task(f"{__name__}.{job.__name__}", *args, cluster=cluster or None, broker=broker)


class _Later(ORM):  # type: ignore[misc]
    """A broker that delivers its message after a delay."""

    def __init__(self, list_key: str | None, seconds: float) -> None:
        super().__init__(list_key)
        self.delay = timedelta(seconds=seconds)

    def enqueue(self, task: str) -> int:
        message = self.get_connection().create(key=self.list_key, payload=task, lock=timezone.now() + self.delay)
        return int(message.pk)


# --- jobs ---------------------------------------------------------------------------------------------------


_START_ERRORS = (PlanRefused, UnknownOperation, StoreUnavailable, DatabaseError, InterfaceError)


def run_slice(run_id: int, generation: int) -> str:
    """Execute a run for one slice. Its successor is queued in the transaction that ends the slice."""
    run = Run.objects.filter(pk=run_id).first()
    return "gone" if run is None else _work(run, generation)


def run_shard(shard_id: int, generation: int) -> str:
    """Execute a shard for one slice, like a run."""
    shard = Shard.objects.select_related("run").filter(pk=shard_id).first()
    return "gone" if shard is None else _work(shard, generation)


def _work(part: Run | Shard, generation: int) -> str:
    run = part.whole
    mine = part.generation == generation and not part.worker
    with ExitStack() as stack:
        if mine and part.waits:  # a locked store releases the worker at once
            with suppress(RunRefused, StoreUnavailable, DatabaseError, InterfaceError):
                stack.enter_context(brief_lock_waits(stored_plans.store_of(run)))
        try:
            if mine and obstacles.is_frozen(registry.operations().get(run.operation)):
                return _release_worker(part, "freeze", lifecycle.freeze_reason())
            if mine and (reason_to_wait := series.why_it_waits(run)):
                return _release_worker(part, "series", reason_to_wait)
            claim: Callable[..., Run | Shard] = shards.claim if isinstance(part, Shard) else workers.claim
            part = claim(part, generation=generation)
        except RunRefused as reason:
            return str(reason)
        except _START_ERRORS as error:
            return _wait_or_fail(part, error)
        try:
            worker = ShardExecutor(part) if isinstance(part, Shard) else executor_of(part, enqueue)
        except (RunRefused, *_START_ERRORS) as error:
            return _wait_or_fail(part, error)
        deadline = time.monotonic() + SLICE_SECONDS
        patience = 0.0 if part.waits else PATIENCE_SECONDS
        try:
            worker.work(until=lambda: time.monotonic() > deadline, hand_over=enqueue, patience=patience)
        except (LostOwnership, RunRefused) as reason:
            return str(reason)
        except (DatabaseError, InterfaceError):
            # The run records why it is interrupted; `heartbeat` queues it again.
            logger.warning("Run %s was interrupted", part, exc_info=True)
    return part.status


def _wait_or_fail(part: Run | Shard, error: Exception) -> str:
    """Let a run that could not start its slice wait after a temporary error. After any other error, fail it."""
    run, temporary = part.whole, _temporary_error(error)
    if temporary is not None:
        return _release_worker(part, trouble_code(temporary), why_it_waits(Store.called(run.store), temporary))
    workers.fail_run(run, first_line(error))
    return run.status


def _release_worker(part: Run | Shard, code: str, reason: str) -> str:
    with transaction.atomic():
        enqueue(part, workers.release_worker(part, code, reason))
    return reason


def _temporary_error(error: Exception) -> Exception | None:
    """Return the database error if it is temporary, else None."""
    cause = error.error if isinstance(error, StoreUnavailable) else error
    is_temporary = isinstance(cause, DatabaseError | InterfaceError) and classify(cause) == ErrorKind.TRANSIENT
    return cause if is_temporary else None


def count_plan(run_id: int, generation: int) -> str:
    """Count the outcomes of a plan for one slice. An unavailable store is tried again later."""
    try:
        return _count_slice(run_id, generation)
    except (StoreUnavailable, DatabaseError, InterfaceError) as error:
        if _temporary_error(error) is None:
            raise
        _send(count_plan, run_id, generation, seconds=workers.WAIT_SECONDS[-1])
        return first_line(error)


def _count_slice(run_id: int, generation: int) -> str:
    run = Run.objects.filter(pk=run_id, status=Status.PLANNED, generation=generation).first()
    if run is None:
        return "gone"
    deadline = time.monotonic() + SLICE_SECONDS
    planned = stored_plans.plan_of(run)

    def keep(planned: planner.Plan) -> bool:
        stored_plans.store_plan(run, planned)
        with transaction.atomic():
            mine = Run.objects.filter(pk=run_id, status=Status.PLANNED, generation=generation)
            updated = bool(mine.update(plan=run.plan, digest=run.digest))
            if updated:
                stored_plans.keep_pinned(run, planned)
        return updated

    shown = time.monotonic()

    def show(planned: planner.Plan) -> None:
        nonlocal shown
        if time.monotonic() - shown > 1:
            shown = time.monotonic()
            keep(planned)

    planner.count_outcomes(planned, until=lambda: time.monotonic() > deadline, on_progress=show)
    with transaction.atomic():
        if keep(planned) and not planned.counted:
            run.generation += 1
            Run.objects.filter(pk=run_id).update(generation=run.generation)
            _enqueue_job(count_plan, run)
    return "counted" if planned.counted else "continues"


def run_schedule(operation: str, due: str, tries: int = 1) -> str:
    """Plan and queue the runs of a schedule, once for each due time.

    If a store is unavailable, it is tried again every minute for half an hour.
    """
    cls = registry.operation(operation)
    answers, again = [], False
    switch = ScheduleSetting.objects.filter(operation=operation).first()
    for alias, values in _runs_of_tick(cls, switch):
        try:
            with use(alias):
                answers.append(
                    _plan_scheduled(cls, registry.clean(cls, values), f"{operation} {due}", last=tries > TICK_RETRIES)
                )
        except _TryAgain as reason:
            answers.append(str(reason))
            again = True
    if again:
        _send(run_schedule, operation, due, tries + 1, seconds=TICK_RETRY_SECONDS)
    return "; ".join(answers)


def _runs_of_tick(cls: type[Operation], switch: ScheduleSetting | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the store and the parameters of each run of a schedule. A person may have chosen one store."""
    only = switch.store if switch is not None else ""
    return [(alias, values) for alias, values in registry.scheduled_runs(cls) if alias == only or not only]


class _TryAgain(Exception):
    """The store of a scheduled run is unavailable."""


def _plan_scheduled(cls: type[Operation], params: dict[str, Any], due: str, *, last: bool) -> str:
    operation, own = cls.name, getattr(cls, "store_alias", None)
    actor = Actor("schedule", socket.gethostname(), Trigger.SCHEDULE)
    store = stored_plans.store_for(cls, params)
    try:
        planned = planner.plan(planner.operation_on(cls, store, params))
    except (StoreUnavailable, PlanRefused, DatabaseError, InterfaceError) as error:
        reason = str(store.unusable(error) if isinstance(error, DatabaseError | InterfaceError) else error)
        if _temporary_error(error) is not None and not last:
            raise _TryAgain(reason) from error
        audit_log.record(None, "schedule_refused", actor, operation=operation, store=store.alias, error=reason)
        return reason
    unfinished = stored_plans.same_command(planned.operation, planned.selection)
    if unfinished is None and planner.pins_rows(planned.operation):
        planner.count_outcomes(planned)
    if unfinished is not None:
        return f"run {unfinished.pk} of the same command is not finished"
    try:
        with transaction.atomic():
            tick = due if store.alias == own else f"{due} {store.alias}"
            setting = ScheduleSetting.objects.filter(operation=operation).select_related("changed_by").first()
            run = lifecycle.create_run(planned, actor, tick=tick, changed_by=setting.changed_by if setting else None)
            confirm(run, actor)
    except IntegrityError:
        return "this tick has its run already"
    except RunRefused as reason:  # frozen, or a recent backup is missing
        audit_log.record(None, "schedule_refused", actor, operation=operation, store=store.alias, error=str(reason))
        return str(reason)
    return f"run {run.pk}"


def heartbeat(cluster: str = "") -> None:
    """Do the work of every minute, and record that a worker of this cluster lives.

    Queue runs that lost their worker or message, report overdue schedules, deliver alerts, and prune old results.
    """
    Heartbeat.objects.update_or_create(
        host=heartbeat_name(socket.gethostname(), cluster), defaults={"at": timezone.now()}
    )
    if cluster:
        return
    if not Freeze.objects.exists():
        for run in requeue_stale_runs():
            logger.info("Resumed run %s", run)
        report_overdue()
    lifecycle.expire_waiting()
    notifications.deliver()
    old = timezone.now() - KEEP_RESULTS
    Success.objects.filter(stopped__lt=old).delete()
    Failure.objects.filter(stopped__lt=old).delete()


def requeue_stale_runs() -> list[Run | Shard]:
    """Queue every background run and every shard without a worker or a message."""
    with transaction.atomic():
        requeued = [*workers.requeue_stale_runs(), *workers.requeue_stale_shards()]
        for part in requeued:
            enqueue(part)
    return requeued


# --- schedules --------------------------------------------------------------------------------------------------


def report_overdue() -> None:
    """Report the schedules that are overdue, and those that no longer are."""
    messages.report("schedules", _overdue)


def _overdue() -> list[Message]:
    now = timezone.localtime()
    found = []
    for switch in ScheduleSetting.objects.filter(on=True).order_by("pk"):
        due: datetime = croniter(switch.cron, now - OVERDUE).get_prev(datetime)
        set_at = Event.objects.filter(verb="schedule", detail__operation=switch.operation).order_by("-pk").first()
        if set_at is not None and set_at.at > due:
            continue
        found += [
            _overdue_message(switch, due, run)
            for run in _last_runs(switch)
            if run is None or run.created_at < due or run.status == Status.QUEUED
        ]
    return found


def _last_runs(switch: ScheduleSetting) -> list[Run | None]:
    """Return the last run of a schedule on each of its stores; None if it never ran.

    A store without a run is left out if other stores have one: its first tick may be still to come.
    """
    cls = registry.operations().get(switch.operation)
    aliases = {alias for alias, _values in _runs_of_tick(cls, switch)} if cls is not None else set()
    runs = Run.objects.filter(trigger=Trigger.SCHEDULE, operation=switch.operation, store__in=aliases)
    newest = runs.order_by().values("store").annotate(last=Max("pk")).values("last")
    return list(Run.objects.filter(pk__in=newest).without_documents().order_by("store")) or [None]


def _overdue_message(switch: ScheduleSetting, due: datetime, run: Run | None) -> Message:
    title, key = operation_title(switch.operation), switch.operation
    if run is None:
        text, page = _("It has not run yet."), reverse("operations")
    else:
        state = {"run": run.pk, "status": run.get_status_display()}
        text = (
            _("Its last run %(run)d is %(status)s.") if run.status in ENDED else _("Run %(run)d is still %(status)s.")
        ) % state
        page = reverse("run", args=[run.pk])
        title, key = f"{title}, {store_title(run.store)}", f"{key} {run.store}"
    values = {"operation": title, "due": messages.time_text(due)}
    return Message(messages.KINDS["schedule_overdue"], key, values, page, since=due, facts=[text])


class ScheduleState(NamedTuple):
    """The schedule of an operation, for display."""

    operation: type[Operation]
    switch: ScheduleSetting
    next_run: datetime | None
    last_run: Run | None


def schedules() -> list[ScheduleState]:
    """Return the schedule of every operation that has one, enabled or not."""
    switches = ScheduleSetting.objects.in_bulk()
    next_runs = dict(Schedule.objects.filter(name__startswith=OPERATION_PREFIX).values_list("name", "next_run"))
    newest = Run.objects.filter(trigger=Trigger.SCHEDULE).order_by().values("operation").annotate(last=Max("pk"))
    last_runs = {
        run.operation: run for run in Run.objects.filter(pk__in=newest.values("last")).defer("plan", "selection")
    }
    return [
        ScheduleState(
            cls,
            switches.get(name) or ScheduleSetting(operation=name, cron=cls.schedule.cron),
            next_runs.get(OPERATION_PREFIX + name),
            last_runs.get(name),
        )
        for name, cls in registry.operations().items()
        if cls.schedule is not None
    ]


def switch(operation: str, *, on: bool, cron: str, actor: Actor, store: str = "") -> None:
    """Enable, disable or change the schedule of an operation, for one store or for all. Raises RunRefused."""
    if registry.operation(operation).schedule is None:
        raise RunRefused(_("%(operation)s cannot be scheduled. Run it by hand.") % {"operation": operation})
    stores = [alias for alias, _values in registry.scheduled_runs(registry.operation(operation))]
    if store and on and store not in stores:
        raise RunRefused(
            _("%(store)s is not a store of this schedule. Choose from: %(names)s.")
            % {"store": store, "names": ", ".join(stores)}
        )
    if not croniter.is_valid(cron):
        raise RunRefused(
            _("%(cron)s is not a cron rule. Enter five fields, such as 30 2 * * *.") % {"cron": repr(cron)}
        )
    with transaction.atomic():
        ScheduleSetting.objects.update_or_create(
            operation=operation, defaults={"on": on, "cron": cron, "store": store, "changed_by": actor.user}
        )
        sync_schedules()
        chosen: dict[str, Any] = {"store": store} if store else {}
        audit_log.record(None, "schedule", actor, operation=operation, on=on, cron=cron, **chosen)


def sync_schedules() -> None:
    """Create, update and delete the schedules of the queue as declared and enabled. Safe to repeat."""
    wanted: dict[str, dict[str, Any]] = {
        name: {
            "func": f"{__name__}.heartbeat",
            "schedule_type": Schedule.MINUTES,
            "minutes": 1,
            "cron": None,
            "kwargs": repr({"cluster": cluster}) if cluster else None,
            "intended_date_kwarg": None,
            "cluster": cluster,
        }
        for name, cluster in ((HEARTBEAT, None), (f"{HEARTBEAT} {LONG_CLUSTER}", LONG_CLUSTER))
    }
    on = ScheduleSetting.objects.filter(on=True)
    for setting in on:
        cls = registry.operations().get(setting.operation)
        if cls is not None and cls.schedule is not None:
            wanted[OPERATION_PREFIX + setting.operation] = {
                "func": f"{__name__}.run_schedule",
                "schedule_type": Schedule.CRON,
                "minutes": None,
                "cron": setting.cron,
                "kwargs": repr({"operation": setting.operation}),
                "intended_date_kwarg": "due",
                "cluster": None,
            }
    with transaction.atomic():
        present = {
            schedule.name: schedule
            for schedule in Schedule.objects.select_for_update().filter(
                Q(name__startswith=OPERATION_PREFIX) | Q(name__startswith=HEARTBEAT)
            )
        }
        for name in set(present) - set(wanted):
            Schedule.objects.filter(name=name).delete()
        for name, fields in wanted.items():
            schedule = present.get(name)
            if schedule is None:
                schedule = Schedule(name=name, repeats=-1)
            elif all(getattr(schedule, field) == value for field, value in fields.items()):
                continue
            for field, value in fields.items():
                setattr(schedule, field, value)
            # django-q keeps the old due time of a changed rule, so it is calculated here.
            schedule.next_run = _next_run(fields)
            schedule.save()


def _next_run(fields: dict[str, Any]) -> datetime:
    now = timezone.localtime()
    if fields["cron"]:
        due: datetime = croniter(fields["cron"], now).get_next(datetime)
        return due
    return now + timedelta(seconds=5)


def heartbeat_name(host: str, cluster: str = "") -> str:
    return f"{cluster}@{host}"


def announce_workers(*clusters: str) -> None:
    """Record that workers of these clusters are being started, until they report."""
    for cluster in clusters:
        host = heartbeat_name(STARTING, cluster)
        Heartbeat.objects.update_or_create(host=host, defaults={"at": timezone.now()})


def worker_starts(cluster: str = "") -> bool:
    """Return whether a worker of this cluster was started a short time ago."""
    host = heartbeat_name(STARTING, cluster)
    return Heartbeat.objects.filter(host=host, at__gt=timezone.now() - WORKER_SEEN).exists()


def worker_seen(cluster: str = "") -> datetime | None:
    """Return when a worker of this cluster was last seen alive, on any host."""
    seen = Heartbeat.objects.filter(host__startswith=f"{cluster}@").exclude(host=heartbeat_name(STARTING, cluster))
    newest = seen.order_by("-at").first()
    return newest.at if newest else None
