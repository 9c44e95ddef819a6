"""The life cycle of a run: plan, confirm, approve, control, claim and fail."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn

import orjson
from django.conf import settings
from django.contrib.auth.models import User
from django.db import (
    DatabaseError,
    InterfaceError,
    transaction,
)
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

import opsconsole
from opsconsole.engine import checklist, environments, findings, notifications, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import PlanDrifted, RunRefused, TargetLocked
from opsconsole.engine.leases import LEASE, host_name, is_stale, this_worker
from opsconsole.engine.locks import release, require_free, take_locks
from opsconsole.engine.models import (
    ENDED,
    RESUMABLE,
    TRANSITIONS,
    Event,
    Freeze,
    PinnedRows,
    Rejection,
    Request,
    Run,
    Status,
    Trigger,
)
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, Operation, Priority, Risk
from opsconsole.engine.planner import Plan, count_outcomes, drifted_rows, operation_on, plan
from opsconsole.engine.selection import Selection
from opsconsole.stores.preflight import require_privileges
from opsconsole.stores.store import Store, attach_file

logger = logging.getLogger(__name__)

RECOUNTED_ROWS = 20_000  # rows; a larger plan is counted in the background
COMPARED_ROWS = 200_000  # rows; a larger plan is compared batch by batch
MAX_WAITS = 100
NOT_WAITING: dict[str, Any] = {"waiting": "", "waiting_code": "", "waiting_since": None, "waits": 0}
WAIT_SECONDS = (1, 2, 5, 10, 20, 30)  # until a waiting run is tried again
MAX_ATTEMPTS = 5  # workers lost in a row without one batch
MAX_NOTE = 10_000


@dataclass(frozen=True)
class Actor:
    """A person or schedule that acts, and the place it acts from."""

    name: str
    origin: str
    trigger: Trigger
    user: User | None = None


def actor_of(request: HttpRequest) -> Actor:
    """Return the account of a request as an actor."""
    name = request.user.get_username()
    return Actor(name, request.META.get("REMOTE_ADDR", ""), Trigger.ADMIN, request.user)  # type: ignore[arg-type]


# --- confirming ---------------------------------------------------------------------------------------


def needs_typing(operation: Operation) -> bool:
    """Return whether the confirmation must be typed: irreversible changes, and deletes in production."""
    risk = operation.effective_risk()
    if risk in {Risk.READ, Risk.MAKE}:
        return False
    return not operation.undoable or (risk == Risk.DELETE and settings.PRODUCTION)


def needs_approval(operation: Operation) -> bool:
    """Return whether a second approver is required."""
    return operation.effective_risk() in {Risk.DELETE, Risk.OUTSIDE} and settings.PRODUCTION


def asks_more(operation: Operation) -> bool:
    """Return whether a confirmation asks for more than a click."""
    asked = needs_typing(operation) or needs_approval(operation) or operation.requires_note or operation.superusers_only
    return asked or bool(checklist.missing(operation, ()) or checklist.blocking_reason(operation))


def require_environment() -> None:
    """Refuse a process whose environment is lower than the recorded one. Raises RunRefused."""
    if sentence := environments.refusal():
        raise RunRefused(sentence)


def fingerprint(operation: Operation, selection: Selection) -> str:
    """Return a digest that is equal for the same operation, database, parameters and selection."""
    parts = [operation.name, operation.store.identity(), operation.params, selection.as_json()]
    return hashlib.sha256(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def create_run(
    planned: Plan,
    actor: Actor,
    *,
    note: str = "",
    batch_size: int | None = None,
    fast: bool = False,
    tick: str | None = None,
    changed_by: User | None = None,
) -> Run:
    """Store a plan as a run, so that it has a page. Nothing is locked yet.

    `changed_by`: the account that last changed the schedule that starts it.
    """
    operation = planned.operation
    store = operation.store
    run = Run(
        operation=operation.name,
        store=store.name,
        location=store.location,
        identity=store.identity(),
        attached_path=str(store.path) if store.path and store.alias != store.name else "",
        params=_plain(operation.params),
        selection=planned.selection.as_json(),
        fingerprint=fingerprint(operation, planned.selection),
        writes={table: list(columns) for table, columns in operation.writes.items()},
        parent_id=operation.params.get("run"),
        trigger=actor.trigger,
        tick=tick,
        user=actor.user,
        started_by=actor.name,
        changed_by=changed_by,
        note=note,
        code_version=opsconsole.__version__,
        batch_size=operation.batch_size or batch_size or DEFAULT_BATCH_SIZE,
        fast=fast,
        waiting="",
    )
    if operation.pins_rows and not planned.counted and planned.total <= RECOUNTED_ROWS:
        count_outcomes(planned)
    store_plan(run, planned)
    with transaction.atomic():
        run.save()
        keep_pinned(run, planned)
        record(run, "planned", actor, digest=run.digest, total=run.total, note=note)
    return run


def store_plan(run: Run, planned: Plan) -> None:
    """Copy the plan so far into `run` without saving it."""
    run.bound = planned.bound
    run.total = planned.total
    run.before = planned.before
    run.digest = planned.digest()
    run.plan = {
        "counted": planned.counted,
        "reasons": planned.reasons,
        "sample": planned.sample,
        "batches": planned.batches,
        "seconds": planned.seconds,
        "cursor": planned.cursor,
        "rows_digest": planned.rows_digest,
        "rows": planned.rows,
        "notes": planned.notes,
        "restorable": planned.restorable,
        "planned_at": timezone.now().isoformat(),
        "as_of": planned.operation.as_of.isoformat(),
    }


def plan_of(run: Run) -> Plan:
    """Return the stored plan, to count it further or to compare it."""
    kept = run.plan
    return Plan(
        operation_of(run),
        Selection(**run.selection),
        run.bound,
        run.before,
        reasons=kept["reasons"],
        sample=kept["sample"],
        batches=kept["batches"],
        seconds=kept["seconds"],
        cursor=kept["cursor"],
        counted=kept["counted"],
        rows_digest=kept["rows_digest"],
        rows=kept.get("rows", {}),
        notes=kept.get("notes", []),
        restorable=kept.get("restorable", True),
    )


def keep_pinned(run: Run, planned: Plan) -> None:
    """Save the rows that `planned` has pinned since the last call."""
    PinnedRows.keep(run, planned.pinned)
    planned.pinned.clear()


def check_drift(run: Run, limit: int = RECOUNTED_ROWS) -> None:
    """Compare the plan, and the rows of a plan that pins them, with the store. Raises PlanDrifted.

    For other operations, only parameters, store and bound are compared: counts change on a live store. New rows are
    not a difference, since the run does not touch them. Above `limit` rows, each row is compared in its batch.
    """
    kept = plan_of(run)
    if kept.digest() != run.digest:
        raise RunRefused(_("Run %(run)d is no longer what was planned. Plan it again.") % {"run": run.pk})
    if kept.operation.pins_rows and kept.counted and kept.total <= limit and drifted_rows(kept, PinnedRows.of(run)):
        raise PlanDrifted(_("The rows have changed since the plan was made. Nothing was written."))


def confirm(
    run: Run, actor: Actor, *, background: bool, checked: Sequence[str] = (), part_of: Run | None = None
) -> Run:
    """Confirm a plan: queue it, or start it in this process.

    `checked` are the items of the checklist that the actor confirms. `part_of` is the run that starts this one: its
    approval covers both. Raises RunRefused if items are missing or another run has locked a target.
    """
    require_environment()
    if is_frozen(registry.operations().get(run.operation)):
        raise RunRefused(_("All runs are frozen. Run `runs unfreeze` to resume them."))
    operation = operation_of(run)
    validate_confirmation(run, operation, actor, checked)
    check_drift(run)
    approver = part_of.approved_by if part_of is not None else None
    # Only rows that the plan would change are touched: a scheduled run without any needs no approval.
    idle = run.trigger == Trigger.SCHEDULE and not any(run.plan["reasons"].get("changed", {}).values())
    approval = needs_approval(operation) and approver is None and not idle
    status = Status.AWAITING_APPROVAL if approval else Status.QUEUED if background else Status.RUNNING
    with transaction.atomic():
        require_free(run)
        if status != Status.AWAITING_APPROVAL:
            take_locks(run)
        _move(
            run,
            status,
            in_background=background,
            lease_until=timezone.now() + LEASE,
            confirmed_by=actor.user,
            confirmed_at=timezone.now(),
            approved_by=approver,
        )
        if status == Status.RUNNING:
            run.worker = this_worker()
            run.generation += 1
            run.started_at = timezone.now()
            run.save(update_fields=("worker", "generation", "started_at"))
        record(run, "confirmed", actor, digest=run.digest, background=background, checklist=list(checked))
        if approval:
            ask_for_approval(run)
    return run


def validate_confirmation(run: Run, operation: Operation, actor: Actor, checked: Sequence[str]) -> None:
    """Raise RunRefused if the reason, an item of the checklist or a recent backup is missing."""
    if operation.superusers_only and not (actor.user and actor.user.is_superuser):
        raise RunRefused(_("This plan needs a superuser. Ask a superuser to confirm it."))
    if operation.requires_note and not run.note.strip():
        raise RunRefused(_("Say why: this needs a note."))
    if operation.pins_rows and not run.plan["counted"]:
        raise RunRefused(_("The outcomes are not counted yet."))
    unchecked = checklist.missing(operation, checked) if actor.trigger != Trigger.SCHEDULE else []
    if unchecked:
        raise RunRefused(_("Not confirmed of the checklist: %(items)s.") % {"items": ", ".join(unchecked)})
    if blocking_reason := checklist.blocking_reason(operation):
        raise RunRefused(blocking_reason)
    require_privileges(operation.store, operation.read_columns(), operation.targets())


def approve(run: Run, actor: Actor) -> None:
    """Approve a run as its second approver. Raises RunRefused for accounts that planned, confirmed or changed it."""
    require_environment()
    require_waiting(run)
    if refusal := refusal_to_approve(run, actor):
        raise RunRefused(refusal)
    if blocking_reason := checklist.blocking_reason(operation_of(run)):
        raise RunRefused(blocking_reason)
    check_drift(run)
    with transaction.atomic():
        _move(run, Status.QUEUED, in_background=True, lease_until=timezone.now() + LEASE, approved_by=actor.user)
        record(run, "approved", actor, digest=run.digest)


def reject(run: Run, actor: Actor, reason: str) -> None:
    """Reject a run that waits for approval, and notify its planner of the reason."""
    require_waiting(run)
    account = actor.user
    if account is None or not account.has_perm("operations.approve_run"):
        raise RunRefused(
            _("Rejecting run %(run)d needs an account that may approve it. Set OPSCONSOLE_TOKEN, or give --user.")
            % {"run": run.pk}
        )
    if not reason.strip():
        raise RunRefused(_("The reason is empty. Say why the run is rejected."))
    _reject(run, actor, reason.strip()[:MAX_NOTE])


def _reject(run: Run, actor: Actor, reason: str) -> None:
    with transaction.atomic():
        _move(run, Status.REJECTED, rejection=reason, finished_at=timezone.now(), generation=run.generation + 1)
        release(run)
        record(run, "rejected", actor, reason=reason)
        words = Rejection(reason).label if reason in Rejection.values else reason
        values = {"run": run.pk, "operation": run.operation, "store": run.store, "who": actor.name}
        notifications.create_alert(
            f"rejected/{run.pk}",
            _("Run %(run)d of %(operation)s on %(store)s was rejected") % values,
            _("By: %(who)s") % values + "\n" + _("Why: %(note)s") % {"note": words},
            to=addresses(run.user, run.confirmed_by, run.approved_by, actor.user),
        )


def expire_waiting() -> None:
    """Reject runs whose approval has expired."""
    since = timezone.now() - timedelta(hours=settings.RUN_APPROVAL_HOURS)
    for run in Run.objects.filter(status=Status.AWAITING_APPROVAL, confirmed_at__lt=since):
        try:
            _reject(run, worker_actor(run), "expired")
        except RunRefused:  # another process has approved or cancelled it
            continue


def ask_for_approval(run: Run) -> None:
    """Notify the possible approvers that a run waits for approval."""
    users = User.objects.with_perm("operations.approve_run", backend="django.contrib.auth.backends.ModelBackend")
    theirs = {run.user_id, run.confirmed_by_id, run.changed_by_id}
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "who": run.started_by}
    notifications.create_alert(
        f"approval/{run.pk}",
        _("Run %(run)d of %(operation)s on %(store)s waits for approval") % values,
        _("Planned by: %(who)s") % values + "\n" + _("Why: %(note)s") % {"note": run.note or "–"},
        to=addresses(*(user for user in users if user.pk not in theirs)),
    )


def addresses(*users: User | None) -> list[str]:
    """Return the mail addresses of the accounts that have one."""
    return sorted({user.email for user in users if user is not None and user.email})


def replace_plan(run: Run, actor: Actor) -> NoReturn:
    """Stop a confirmed run whose rows have changed, and create a new plan for its planner. Raises PlanDrifted."""
    operation = operation_of(run)
    fresh = plan(operation_on(type(operation), operation.store, run.params), Selection(**run.selection))
    count_outcomes(fresh)
    planner = Actor(run.started_by, actor.origin, Trigger(run.trigger), run.user)
    with transaction.atomic():
        _reject(run, actor, Rejection.ROWS_CHANGED.value)
        new = create_run(
            fresh, planner, note=run.note, batch_size=run.batch_size, fast=run.fast, changed_by=run.changed_by
        )
        Run.objects.filter(pk=new.pk).update(replaces=run)
    raise PlanDrifted(
        _("The rows of run %(run)d have changed since they were confirmed. Nothing was written: see plan %(new)d.")
        % {"run": run.pk, "new": new.pk}
    )


def require_waiting(run: Run) -> None:
    if run.status != Status.AWAITING_APPROVAL:
        raise RunRefused(_("Run %(run)d does not wait for approval.") % {"run": run.pk})


def refusal_to_approve(run: Run, actor: Actor) -> str:
    """Return why this account cannot approve the run, or an empty string."""
    account, values = actor.user, {"run": run.pk}
    if account is None:
        return _("Approving run %(run)d needs an account. Set OPSCONSOLE_TOKEN, or give --user on a terminal.") % values
    if not account.has_perm("operations.approve_run"):
        return _("%(name)s may not approve runs.") % {"name": account.get_username()}
    parts = {
        _("You planned run %(run)d. It needs another account as its second approver."): run.user_id == account.pk
        or run.started_by in {actor.name, actor.origin},
        _("You confirmed run %(run)d. It needs another account as its second approver."): run.confirmed_by_id
        == account.pk,
        _(
            "You last changed the schedule of run %(run)d. It needs another account as its second approver."
        ): run.changed_by_id == account.pk,
    }
    return next((sentence % values for sentence, is_theirs in parts.items() if is_theirs), "")


def awaiting(actor: Actor) -> list[Run]:
    """Return the runs that this account may approve, newest first."""
    waiting = Run.objects.filter(status=Status.AWAITING_APPROVAL).order_by("-pk")
    return [run for run in waiting if not refusal_to_approve(run, actor)]


def _plain(values: Mapping[str, Any]) -> Any:
    """Return cleaned form values as JSON types."""
    return orjson.loads(orjson.dumps(dict(values), default=str))


# --- audit log and status ----------------------------------------------------------------------------------


def record(run: Run | None, verb: str, actor: Actor, **detail: Any) -> None:
    """Append to the audit log."""
    Event.objects.create(run=run, verb=verb, who=actor.name, origin=actor.origin, detail=_plain(detail))


def _move(run: Run, status: Status, **fields: Any) -> None:
    """Change the status if no other process has changed it. Raises RunRefused."""
    if status not in TRANSITIONS[run.status]:
        raise RunRefused(
            _("Run %(run)d is %(status)s. This is not possible in that status.")
            % {"run": run.pk, "status": run.get_status_display()}
        )
    met = Run.objects.filter(pk=run.pk, status=run.status, generation=run.generation).update(status=status, **fields)
    if not met:
        raise RunRefused(_("Run %(run)d has just changed: look again.") % {"run": run.pk})
    run.status = status
    for name, value in fields.items():
        setattr(run, name, value)


# --- control ----------------------------------------------------------------------------------------------


def pause(run: Run, actor: Actor) -> None:
    """Request a pause after the current batch. A run without a worker pauses at once."""
    _ask(run, actor, Request.PAUSE, Status.PAUSED, Request.PAUSE.value)


def cancel(run: Run, actor: Actor) -> None:
    """Discard a plan, or request cancellation after the current batch. Changed rows can be undone."""
    verb = "discarded" if run.status == Status.PLANNED else Request.CANCEL.value
    _ask(run, actor, Request.CANCEL, Status.CANCELLED, verb)


def replace(run: Run, new: Run, actor: Actor) -> None:
    """Cancel a plan because `new` replaces it."""
    with transaction.atomic():
        _move(run, Status.CANCELLED, generation=run.generation + 1, finished_at=timezone.now())
        new.replaces = run
        new.save(update_fields=("replaces",))
        record(run, "replaced", actor, plan=new.pk)


def _ask(run: Run, actor: Actor, request: Request, status: Status, verb: str) -> None:
    with transaction.atomic():
        if run.status == Status.RUNNING and run.worker and not is_stale(run):
            Run.objects.filter(pk=run.pk, status=Status.RUNNING).update(request=request)
            run.request = request
        else:
            fields: dict[str, Any] = {"request": Request.NONE, "generation": run.generation + 1}
            if status in ENDED:
                fields["finished_at"] = timezone.now()
            _move(run, status, **fields)
            if status in ENDED:
                release(run)
        record(run, verb, actor)


def resume(run: Run, actor: Actor) -> None:
    """Queue a paused or interrupted run."""
    if run.status == Status.RUNNING and is_stale(run):
        _move(run, Status.INTERRUPTED)
    if run.status not in RESUMABLE:
        raise RunRefused(
            _("Run %(run)d is %(status)s: only a paused or interrupted run can be resumed.")
            % {"run": run.pk, "status": run.get_status_display()}
        )
    with transaction.atomic():
        _move(
            run,
            Status.QUEUED,
            in_background=True,
            request=Request.NONE,
            attempts=0,
            lease_until=timezone.now() + LEASE,
            **NOT_WAITING,
        )
        record(run, "resumed", actor)


def add_note(run: Run, actor: Actor, text: str) -> None:
    """Add a note to a run."""
    if not text.strip():
        raise RunRefused(_("The note is empty."))
    record(run, "note", actor, text=text.strip()[:MAX_NOTE])


def is_frozen(cls: type[Operation] | None) -> bool:
    """Return whether a freeze stops this operation. It does not stop operations that only read a store."""
    return (cls is None or cls.writes_store) and Freeze.objects.exists()


def freeze_reason() -> str:
    """Return who froze all runs and why; empty if runs are not frozen."""
    hold = Freeze.objects.order_by("pk").first()
    return str(hold) if hold else ""


def freeze(actor: Actor, note: str) -> None:
    """Stop every run at its next batch and prevent new runs."""
    with transaction.atomic():
        hold = Freeze.objects.create(who=actor.name, note=note)
        record(None, "freeze", actor, note=note)
        subject = _("All runs are frozen by %(who)s") % {"who": actor.name}
        notifications.create_alert(f"hold/{hold.pk}", subject, _("Why: %(note)s") % {"note": note})


def unfreeze(actor: Actor) -> None:
    with transaction.atomic():
        newest = Freeze.objects.order_by("-pk").first()
        Freeze.objects.all().delete()
        record(None, "unfreeze", actor)
        if newest is not None:
            text = _("They were frozen by %(who)s: %(note)s") % {"who": newest.who, "note": newest.note}
            notifications.create_alert(
                f"release/{newest.pk}", _("All runs resume: unfrozen by %(who)s") % {"who": actor.name}, text
            )


# --- workers -----------------------------------------------------------------------------------------------


def same_command(operation: Operation, selection: Selection) -> Run | None:
    """Return the unfinished run of the same command, or None."""
    unfinished = Run.objects.exclude(status__in=(*ENDED, Status.PLANNED))
    return unfinished.filter(fingerprint=fingerprint(operation, selection)).order_by("-pk").first()


def claim(run: Run, *, generation: int | None = None) -> Run:
    """Claim a run for this process. Raises RunRefused if another worker has it.

    `generation` is that of the queue message: an outdated message claims nothing.
    """
    if generation is not None and generation != run.generation:
        raise RunRefused(_("Run %(run)d went on elsewhere.") % {"run": run.pk})
    require_environment()
    if is_frozen(registry.operations().get(run.operation)):
        raise RunRefused(_("All runs are frozen. Run `runs unfreeze` to resume them."))
    handed_over = run.status == Status.RUNNING and not run.worker
    if run.status == Status.RUNNING and not handed_over and not is_stale(run):
        raise RunRefused(_("Run %(run)d is already running: see `runs show %(run)d`.") % {"run": run.pk})
    if run.status != Status.RUNNING and Status.RUNNING not in TRANSITIONS[run.status]:
        raise RunRefused(
            _("Run %(run)d is %(status)s. This is not possible in that status.")
            % {"run": run.pk, "status": run.get_status_display()}
        )
    died = run.status == Status.RUNNING and not handed_over
    if run.status == Status.QUEUED and run.started_at is None:
        begin(run)
    met = Run.objects.filter(pk=run.pk, generation=run.generation, status=run.status).update(
        status=Status.RUNNING,
        generation=run.generation + 1,
        worker=this_worker(),
        lease_until=timezone.now() + LEASE,
        attempts=run.attempts + (1 if died else 0),
        started_at=run.started_at or timezone.now(),
        request=Request.NONE if run.status in RESUMABLE else run.request,
    )
    if not met:
        raise RunRefused(_("Run %(run)d went on elsewhere.") % {"run": run.pk})
    run.refresh_from_db()
    return run


def begin(run: Run) -> None:
    """Lock the targets of a new run after its pinned rows are verified. Raises RunRefused."""
    try:
        check_drift(run, COMPARED_ROWS)
    except PlanDrifted:
        replace_plan(run, worker_actor(run))
    except RunRefused as error:  # the plan can no longer be executed
        fail_run(run, str(error))
        raise
    try:
        take_locks(run)
    except TargetLocked as held:  # it waits and is tried again in a minute
        Run.objects.filter(pk=run.pk, status=Status.QUEUED).update(
            waiting=str(held),
            waiting_code="target",
            waiting_since=run.waiting_since or timezone.now(),
            lease_until=timezone.now() + LEASE,
        )
        raise


def get_run(number: int) -> Run:
    """Return the run with this number. Raises RunRefused."""
    run = Run.objects.filter(pk=number).first()
    if run is None:
        raise RunRefused(_("There is no run %(run)d: `runs list` shows those there are.") % {"run": number})
    return run


def store_of(run: Run, *, ask_server: bool = True) -> Store:
    """Return the store of a run; an attached file is attached again. Refuses a different database.

    Pages pass `ask_server=False`: they show stored data and do not wait for the server.
    """
    if run.attached_path:
        cls = registry.operations().get(run.operation)
        store = attach_file(
            run.store,
            run.attached_path,
            read_only=cls is not None and (issubclass(cls, Check) or not cls.writes_store),
        )
    else:
        store = Store(run.store, run.store)
    if (ask_server or store.path is not None) and store.identity() != run.identity:
        raise RunRefused(
            _(
                "%(location)s is not the database that run %(run)d worked on: "
                "the file was replaced, or the store now points elsewhere."
            )
            % {"location": run.location, "run": run.pk}
        )
    return store


def operation_of(run: Run, *, ask_server: bool = True) -> Operation:
    cls = registry.operation(run.operation)
    operation = operation_on(cls, store_of(run, ask_server=ask_server), run.params)
    operation.as_of = datetime.fromisoformat(run.plan["as_of"])
    return operation


# --- waiting, interruption, failure --------------------------------------------------------------------------


def let_go(run: Run, code: str, reason: str) -> float:
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
    mine = Run.objects.filter(pk=run.pk, generation=run.generation, status=run.status)
    if not mine.update(**fields):
        raise RunRefused(_("Run %(run)d went on elsewhere.") % {"run": run.pk})
    for name, value in fields.items():
        setattr(run, name, value)
    logger.info("Run %s lets its worker go: %s", run.pk, reason)
    return seconds


def interrupt(run: Run, reason: str, code: str = "") -> None:
    """Mark a run as interrupted. Best effort: the console's database may be unavailable."""
    try:
        Run.objects.filter(pk=run.pk, generation=run.generation, status=Status.RUNNING).update(
            status=Status.INTERRUPTED,
            waiting=reason,
            waiting_code=code,
            waiting_since=timezone.now(),
            worker={},
        )
    except (DatabaseError, InterfaceError):
        logger.warning("The interruption could not be written down", exc_info=True)


def requeue_stale_runs() -> list[Run]:
    """Queue background runs whose worker is gone; mark foreground runs as interrupted.

    A run that loses its worker five times without completing a batch fails.
    """
    revived = []
    now = timezone.now()
    left = Run.objects.filter(
        Q(status=Status.RUNNING)
        | Q(status=Status.INTERRUPTED, in_background=True)
        | Q(status=Status.QUEUED, lease_until__lt=now)
    ).order_by("pk")
    for run in left:
        if run.status == Status.QUEUED:  # its message was lost, or arrived during a freeze
            Run.objects.filter(pk=run.pk, status=Status.QUEUED).update(lease_until=now + LEASE)
            revived.append(run)
            continue
        if run.status == Status.RUNNING and not is_stale(run):
            continue
        try:
            if run.attempts >= MAX_ATTEMPTS:
                error = _("Its worker was lost %(count)d times in a row without finishing a batch.")
                fail_run(run, error % {"count": run.attempts})
                continue
            if run.status == Status.RUNNING and not run.in_background:
                _move(run, Status.INTERRUPTED, worker={}, lease_until=None)
                continue
            attempts = run.attempts + (1 if run.worker else 0)  # waiting between two slices is normal
            lease = timezone.now() + LEASE
            _move(run, Status.QUEUED, attempts=attempts, worker={}, lease_until=lease)
        except RunRefused:  # another process has changed it
            continue
        revived.append(run)
    return revived


def fail_run(run: Run, error: str) -> None:
    """Fail a run that no worker can execute."""
    with transaction.atomic():
        _move(run, Status.FAILED, error=error, finished_at=timezone.now(), generation=run.generation + 1)
        release(run)
        record(run, "failed", worker_actor(run), error=error)
        notify(run)


def notify(run: Run) -> None:
    """Notify the alert list of a run that failed, needs attention or found something new."""
    facts = [
        _("Run %(run)d: %(operation)s") % {"run": run.pk, "operation": run.operation},
        _("Database: %(location)s") % {"location": run.location},
        _("Started by: %(who)s") % {"who": run.started_by},
        *filter(None, (run.note, run.error)),
        _("Look at it with `runs show %(run)d`, or on its page.") % {"run": run.pk},
    ]
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "status": run.get_status_display()}
    if run.status in {Status.FAILED, Status.NEEDS_ATTENTION}:
        subject = _("Run %(run)d of %(operation)s on %(store)s: %(status)s") % values
        notifications.create_alert(f"run/{run.pk}", subject, "\n".join(facts))
    if run.status == Status.FAILED or run.attached_path:  # a file attached for one call is not monitored
        return
    news = findings.news(run)
    new = sum(news.values())
    if new:
        subject = ngettext(
            "%(count)d new finding of %(operation)s in %(store)s",
            "%(count)d new findings of %(operation)s in %(store)s",
            new,
        ) % {**values, "count": new}
        kinds = [f"{code}: {count} ({Priority(priority).label})" for (code, priority), count in news.items()]
        notifications.create_alert(f"findings/{run.pk}", subject, "\n".join([*facts, "", *kinds]))


def worker_actor(run: Run) -> Actor:
    return Actor(f"worker@{host_name()}", f"{host_name()}:{os.getpid()}", Trigger(run.trigger))
