"""The life cycle of a run: plan, confirm, approve, pause, cancel, resume, freeze."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

import opsconsole
from opsconsole.engine import checklist, environments, obstacles, registry, series, shards
from opsconsole.engine.audit_log import Actor, record
from opsconsole.engine.errors import PlanDrifted, RunRefused
from opsconsole.engine.leases import LEASE, is_stale, this_worker, worker_actor
from opsconsole.engine.locks import release, take_locks
from opsconsole.engine.models import (
    ENDED,
    RESUMABLE,
    TRANSITIONS,
    Freeze,
    Incident,
    Rejection,
    Request,
    Run,
    Status,
    Trigger,
)
from opsconsole.engine.obstacles import require_none
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, FAST_BATCH_SIZE, Operation, Risk
from opsconsole.engine.planner import Plan, count_outcomes, operation_on, pins_rows, plan
from opsconsole.engine.run_notifications import (
    notify_approved,
    notify_break_glass,
    notify_expired,
    notify_frozen,
    notify_rejected,
    notify_unfrozen,
    request_approval,
)
from opsconsole.engine.seals import serialised
from opsconsole.engine.selection import Selection
from opsconsole.engine.stored_plans import fingerprint, keep_pinned, operation_of, plan_of, store_plan
from opsconsole.jsontext import plain_json

PLAN_AGE = timedelta(days=1)  # an older plan is not renewed
NOT_WAITING: dict[str, Any] = {"waiting": "", "waiting_code": "", "waiting_since": None, "waits": 0}
MAX_NOTE = 10_000
MIN_EMERGENCY_REASON = 20  # characters


# --- confirming ---------------------------------------------------------------------------------------


def needs_typing(operation: Operation) -> bool:
    """Return whether the confirmation must be typed: irreversible changes, all rows, and deletes in production."""
    risk = operation.effective_risk()
    if risk in {Risk.READ, Risk.REPRODUCE}:
        return False
    return not operation.undoable or operation.requires_typing or (risk == Risk.DELETE and settings.PRODUCTION)


def needs_approval(operation: Operation) -> bool:
    """Return whether a second approver is required."""
    risky = operation.always_approved or operation.effective_risk() in {Risk.DELETE, Risk.EXTERNAL}
    return risky and settings.PRODUCTION


def asks_more(operation: Operation) -> bool:
    """Return whether a confirmation requires more than a click."""
    asked = needs_typing(operation) or needs_approval(operation) or operation.requires_note or operation.superusers_only
    return asked or bool(checklist.missing(operation, ()) or checklist.blocking_reason(operation))


def require_permitted(run: Run) -> None:
    """Raise RunRefused if this process may not write, or if the run is frozen."""
    require_none(obstacles.of_process(registry.operations().get(run.operation)))


def require_environment() -> None:
    """Raise RunRefused if the environment of this process is lower than the recorded one."""
    if sentence := environments.refusal():
        raise RunRefused(sentence)


def create_run(
    planned: Plan,
    actor: Actor,
    *,
    note: str = "",
    batch_size: int | None = None,
    fast: bool = False,
    shard_count: int | None = None,
    tick: str | None = None,
    changed_by: User | None = None,
    incident: Incident | None = None,
) -> Run:
    """Store a plan as a run, so that it has a page. Nothing is locked yet.

    `changed_by`: the account that last changed the schedule that starts it.
    """
    operation, note = planned.operation, note[:MAX_NOTE]
    require_none(obstacles.of_permission(operation, actor))
    store = operation.store
    run = Run(
        operation=operation.name,
        store=store.name,
        location=store.location,
        identity=store.identity(),
        attached_path=str(store.path) if store.path and not store.is_configured else "",
        params=plain_json(operation.params),
        selection=planned.selection.as_json(),
        fingerprint=fingerprint(operation, planned.selection),
        writes={table: list(columns) for table, columns in operation.writes.items()},
        parent_id=operation.params.get("run"),
        trigger=actor.trigger,
        tick=tick,
        user=actor.user,
        started_by=actor.name,
        changed_by=changed_by,
        incident=incident,
        note=note,
        code_version=opsconsole.__version__,
        batch_size=operation.batch_size or batch_size or (FAST_BATCH_SIZE if fast else DEFAULT_BATCH_SIZE),
        fast=fast,
        shard_count=shards.count_for(operation, planned.selection, planned.total, shard_count),
        waiting="",
    )
    if pins_rows(operation) and not planned.counted and planned.total <= obstacles.RECOUNTED_ROWS:
        count_outcomes(planned)
    with transaction.atomic():
        operation.freeze()
        store_plan(run, planned)
        run.save()
        keep_pinned(run, planned)
        record(run, "planned", actor, digest=run.digest, total=run.total, note=note)
    return run


def keep_plan(planned: Plan, actor: Actor, *, note: str = "", incident: Incident | None = None) -> Run:
    """Store a plan as a run. An identical plan that this account has not confirmed is renewed and keeps its address."""
    require_none(obstacles.of_permission(planned.operation, actor))
    with serialised("plans"):  # so that a double click makes one plan
        run = _identical_plan(planned, actor, incident)
        if run is None or not _renew(run, planned, note):
            return create_run(planned, actor, note=note, incident=incident)
        record(run, "planned", actor, digest=run.digest, total=run.total, note=run.note)
    return run


def _identical_plan(planned: Plan, actor: Actor, incident: Incident | None) -> Run | None:
    """Return the newest recent plan of the same command, account and incident that is not confirmed."""
    return Run.objects.filter(
        status=Status.PLANNED,
        fingerprint=fingerprint(planned.operation, planned.selection),
        user=actor.user,
        trigger=actor.trigger,
        incident=incident,
        created_at__gt=timezone.now() - PLAN_AGE,
    ).last()


def _renew(run: Run, planned: Plan, note: str) -> bool:
    """Replace the figures of a plan that is not confirmed. Return False if it has just been confirmed."""
    generation = run.generation
    planned.operation.freeze()
    store_plan(run, planned)
    run.generation, run.created_at = generation + 1, timezone.now()
    run.note, run.code_version = note[:MAX_NOTE] or run.note, opsconsole.__version__
    names = ("bound", "total", "before", "digest", "plan", "generation", "created_at", "note", "code_version")
    unconfirmed = Run.objects.filter(pk=run.pk, status=Status.PLANNED, generation=generation)
    if not unconfirmed.update(**{name: getattr(run, name) for name in names}):
        return False
    run.pinned.all().delete()
    keep_pinned(run, planned)
    return True


def confirm(
    run: Run, actor: Actor, *, background: bool, checked: Sequence[str] = (), part_of: Run | None = None
) -> Run:
    """Confirm a plan: queue it, or start it in this process.

    `checked` are the items of the checklist that the actor confirms. `part_of` is the run that starts this one: its
    approval covers both, and so does an emergency. Raises RunRefused if items are missing or another run has locked a
    target.
    """
    planned = plan_of(run)
    operation = planned.operation
    require_none(obstacles.of_confirmation(run, planned, actor))
    _require_answers(run, operation, actor, checked)
    approver, emergency = (part_of.approved_by, part_of.break_glass) if part_of is not None else (None, False)
    # A scheduled run that would change no row needs no approval.
    idle = run.trigger == Trigger.SCHEDULE and not any(run.plan["reasons"].get("changed", {}).values())
    approval = needs_approval(operation) and approver is None and not emergency and not idle
    status = Status.AWAITING_APPROVAL if approval else Status.QUEUED if background else Status.RUNNING
    with transaction.atomic():
        if status != Status.AWAITING_APPROVAL:
            take_locks(run)
        now = timezone.now()
        claim: dict[str, Any] = {}
        if status == Status.RUNNING:
            claim = {"worker": this_worker(), "generation": run.generation + 1, "started_at": now}
        move(
            run,
            status,
            in_background=background,
            lease_until=now + LEASE,
            confirmed_by=actor.user,
            confirmed_at=now,
            approved_by=approver,
            break_glass=emergency,
            **claim,
        )
        record(run, "confirmed", actor, digest=run.digest, background=background, checklist=list(checked))
        if approval:
            request_approval(run)
    return run


def _require_answers(run: Run, operation: Operation, actor: Actor, checked: Sequence[str]) -> None:
    """Raise RunRefused if the reason or an item of the checklist is missing."""
    if operation.requires_note and not run.note.strip():
        raise RunRefused(_("The note is empty. Say why this change is needed."))
    unchecked = checklist.missing(operation, checked) if actor.trigger != Trigger.SCHEDULE else []
    if unchecked:
        raise RunRefused(
            _("These items of the checklist are not confirmed: %(items)s. Confirm each of them.")
            % {"items": ", ".join(unchecked)}
        )


def approve(run: Run, actor: Actor) -> None:
    """Approve a run as its second approver. Raises RunRefused for accounts that planned, confirmed or changed it."""
    require_waiting(run)
    if refusal := refusal_to_approve(run, actor):
        raise RunRefused(refusal)
    require_none(obstacles.of_start(run, plan_of(run)))
    with transaction.atomic():
        move(run, Status.QUEUED, in_background=True, lease_until=timezone.now() + LEASE, approved_by=actor.user)
        record(run, "approved", actor, digest=run.digest)
        notify_approved(run, actor)


def break_glass(run: Run, actor: Actor, reason: str) -> None:
    """Start a run without the approval that it waits for, in an emergency, and notify all alert recipients.

    It bypasses the approval only: the rows are compared, and the backup is required.
    """
    require_waiting(run)
    if actor.user is None or not actor.user.has_perm("operations.break_glass"):
        raise RunRefused(
            _("Starting run %(run)d without approval needs a special permission. Ask an approver instead.")
            % {"run": run.pk}
        )
    planned = plan_of(run)
    if planned.operation.always_approved:
        raise RunRefused(_("A statement always needs a second approver, also in an emergency. Ask an approver."))
    reason = reason.strip()
    if len(" ".join(reason.split())) < MIN_EMERGENCY_REASON:
        raise RunRefused(
            _("The reason is too short. Say in at least %(count)d characters why no approver can be reached.")
            % {"count": MIN_EMERGENCY_REASON}
        )
    require_none(obstacles.of_start(run, planned))
    with transaction.atomic():
        move(run, Status.QUEUED, in_background=True, lease_until=timezone.now() + LEASE, break_glass=True)
        record(run, "break_glass", actor, digest=run.digest, reason=reason[:MAX_NOTE])
        notify_break_glass(run, actor, reason)


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
    with transaction.atomic():
        _reject(run, actor, rejection=reason.strip()[:MAX_NOTE])
        notify_rejected(run, actor)


def _reject(run: Run, actor: Actor, *, rejection: str = "", rejection_code: str = "") -> None:
    """Reject a run in the caller's transaction."""
    why = {"rejection": rejection, "rejection_code": rejection_code}
    move(run, Status.REJECTED, **why, finished_at=timezone.now(), generation=run.generation + 1)
    release(run)
    record(run, "rejected", actor, reason=rejection or rejection_code)


def expire_waiting() -> None:
    """Reject runs whose request for an approval has expired."""
    with transaction.atomic():
        # All rows are locked before the audit log, so that a person who decides at the same time is no deadlock.
        waiting = Run.objects.select_for_update().filter(status=Status.AWAITING_APPROVAL).order_by("pk")
        expired = [run for run in waiting.without_documents() if run.approval_expires_at <= timezone.now()]
        for run in expired:
            _reject(run, worker_actor(run), rejection_code=Rejection.EXPIRED.value)
        notify_expired(expired)


def replace_plan(run: Run, actor: Actor) -> NoReturn:
    """Stop a confirmed run whose rows have changed, and create a new plan for its planner. Raises PlanDrifted."""
    operation = operation_of(run)
    fresh = plan(operation_on(type(operation), operation.store, run.params), Selection(**run.selection))
    count_outcomes(fresh)
    planner = Actor(run.started_by, actor.origin, Trigger(run.trigger), run.user)
    with transaction.atomic():
        _reject(run, actor, rejection_code=Rejection.ROWS_CHANGED.value)
        notify_rejected(run, actor)
        new = create_run(
            fresh,
            planner,
            note=run.note,
            batch_size=run.batch_size,
            fast=run.fast,
            changed_by=run.changed_by,
            incident=run.incident,
        )
        Run.objects.filter(pk=new.pk).update(replaces=run)
    raise PlanDrifted(
        _(
            "The rows of run %(run)d have changed since it was confirmed. Nothing was written. Review the new plan "
            "%(new)d."
        )
        % {"run": run.pk, "new": new.pk}
    )


def require_waiting(run: Run) -> None:
    """Raise RunRefused if the run does not wait for approval."""
    if run.status != Status.AWAITING_APPROVAL:
        raise RunRefused(
            _("Run %(run)d does not wait for approval. Check its status with `runs show %(run)d`.") % {"run": run.pk}
        )


def refusal_to_approve(run: Run, actor: Actor) -> str:
    """Return why the account of this actor cannot approve the run, or an empty string."""
    account, values = actor.user, {"run": run.pk}
    if account is None:
        return _("Approving run %(run)d needs an account. Set OPSCONSOLE_TOKEN, or give --user on a terminal.") % values
    if not account.has_perm("operations.approve_run"):
        return _("%(name)s may not approve runs. Ask an account with that permission.") % {
            "name": account.get_username()
        }
    parts = {
        _("You planned run %(run)d. It needs another account as its second approver."): run.user_id == account.pk
        or run.started_by in {actor.name, actor.origin},
        _("You confirmed run %(run)d. It needs another account as its second approver."): run.confirmed_by_id
        == account.pk,
        _(
            "You last changed the schedule of run %(run)d. It needs another account as its second approver."
        ): run.changed_by_id == account.pk,
    }
    return next((sentence % values for sentence, applies in parts.items() if applies), "")


def awaiting(actor: Actor) -> list[Run]:
    """Return the runs that this actor may approve, newest first."""
    waiting = Run.objects.filter(status=Status.AWAITING_APPROVAL).select_related("confirmed_by")
    waiting = waiting.without_documents().order_by("-pk")
    return [run for run in waiting if not refusal_to_approve(run, actor)]


def require_transition(run: Run, status: Status) -> None:
    """Raise RunRefused if a run in its status cannot change to `status`."""
    if status not in TRANSITIONS[run.status]:
        raise RunRefused(
            _("Run %(run)d is %(status)s. This is not possible in that status.")
            % {"run": run.pk, "status": run.get_status_display()}
        )


def move(run: Run, status: Status, **fields: Any) -> None:
    """Change the status if no other process has changed it. Raises RunRefused."""
    require_transition(run, status)
    updated = Run.objects.filter(pk=run.pk, status=run.status, generation=run.generation).update(
        status=status, **fields
    )
    if not updated:
        raise RunRefused(_("Run %(run)d has just changed. Reload it and try again.") % {"run": run.pk})
    run.status = status
    for name, value in fields.items():
        setattr(run, name, value)


# --- control ----------------------------------------------------------------------------------------------


def pause(run: Run, actor: Actor) -> None:
    """Request a pause after the current batch. A run without a worker pauses at once."""
    _request(run, actor, Request.PAUSE, Status.PAUSED, Request.PAUSE.value)


def cancel(run: Run, actor: Actor) -> None:
    """Discard a plan, or request cancellation after the current batch. Changed rows can be undone."""
    verb = "discarded" if run.status == Status.PLANNED else Request.CANCEL.value
    _request(run, actor, Request.CANCEL, Status.CANCELLED, verb)


def replace(run: Run, new: Run, actor: Actor) -> None:
    """Cancel a plan or a waiting run because `new` replaces it. A run that has ended remains as it is."""
    with transaction.atomic():
        if not run.ended:
            move(run, Status.CANCELLED, generation=run.generation + 1, finished_at=timezone.now())
            release(run)
        new.replaces, new.incident = run, run.incident
        new.save(update_fields=("replaces", "incident"))
        series.replace(run, new)
        record(run, "replaced", actor, plan=new.pk)


def _request(run: Run, actor: Actor, request: Request, status: Status, verb: str) -> None:
    with transaction.atomic():
        if run.status == Status.RUNNING and ((run.worker and not is_stale(run)) or shards.is_worked_on(run)):
            Run.objects.filter(pk=run.pk, status=Status.RUNNING).update(request=request)
            run.request = request
        else:
            fields = shards.abandon(run) | {"request": Request.NONE, "generation": run.generation + 1}
            if status in ENDED:
                fields["finished_at"] = timezone.now()
            move(run, status, **fields)
            if status in ENDED:
                release(run)
        record(run, verb, actor)


def resume(run: Run, actor: Actor) -> None:
    """Queue a paused or interrupted run."""
    if run.status == Status.RUNNING and is_stale(run):
        move(run, Status.INTERRUPTED)
    if run.status not in RESUMABLE:
        raise RunRefused(
            _("Run %(run)d is %(status)s. Only a paused or interrupted run can be resumed.")
            % {"run": run.pk, "status": run.get_status_display()}
        )
    with transaction.atomic():
        move(
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
        raise RunRefused(_("The note is empty. Enter a text."))
    record(run, "note", actor, text=text.strip()[:MAX_NOTE])


def freeze_reason() -> str:
    """Return who froze all runs and why, or an empty string."""
    frozen = Freeze.objects.order_by("pk").first()
    return str(frozen) if frozen else ""


def freeze(actor: Actor, note: str) -> None:
    """Stop every run at its next batch and prevent new runs."""
    note = note[:MAX_NOTE]
    with transaction.atomic():
        frozen = Freeze.objects.create(who=actor.name, note=note)
        record(None, "freeze", actor, note=note)
        notify_frozen(frozen)


def unfreeze(actor: Actor) -> None:
    """End every freeze, so that runs resume."""
    with transaction.atomic():
        newest = Freeze.objects.order_by("-pk").first()
        Freeze.objects.all().delete()
        record(None, "unfreeze", actor)
        if newest is not None:
            notify_unfrozen(newest, actor)
