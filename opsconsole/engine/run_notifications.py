"""The messages about runs: approval, rejection, end, freeze."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine.audit_log import Actor
from opsconsole.engine.labels import operation_title
from opsconsole.engine.messages import (
    KINDS,
    Message,
    addresses,
    by,
    language_of_messages,
    send,
    send_all,
    time_text,
)
from opsconsole.engine.models import Freeze, Run, Status
from opsconsole.stores.platforms import store_title


@language_of_messages()
def request_approval(run: Run) -> None:
    """Ask the possible approvers to approve a run."""
    excluded = {run.user_id, run.confirmed_by_id, run.changed_by_id}
    expires = time_text(run.approval_expires_at)
    to = addresses(*(user for user in _approvers() if user.pk not in excluded))
    _send("approval", run, _request(run), to, since=run.confirmed_at, expires=expires)


@language_of_messages()
def notify_rejected(run: Run, actor: Actor) -> None:
    """Notify the accounts of a run that it is rejected, and why."""
    to = addresses(run.user, run.confirmed_by, run.approved_by, actor.user)
    _send("rejected", run, [by(actor.name), _why(run.rejection_words)], to)


@language_of_messages()
def notify_expired(runs: Sequence[Run]) -> None:
    """Notify the accounts of runs that nobody has decided about them in time."""
    send_all([_message("expired", run, _request(run), addresses(run.user, run.confirmed_by)) for run in runs])


@language_of_messages()
def notify_approved(run: Run, actor: Actor) -> None:
    """Notify the accounts of a run that it is approved."""
    _send("approved", run, [by(actor.name)], addresses(run.user, run.confirmed_by, actor.user))


@language_of_messages()
def notify_break_glass(run: Run, actor: Actor, reason: str) -> None:
    """Notify the alert list and the approvers that a run starts without approval."""
    to = addresses(run.user, run.confirmed_by, *_approvers())
    _send("break_glass", run, [by(actor.name), _why(reason)], to)


@language_of_messages()
def notify(run: Run) -> None:
    """Notify the alert list and the accounts of a run that it failed or needs attention."""
    if run.status not in {Status.FAILED, Status.NEEDS_ATTENTION}:
        return
    facts = [
        _("Database: %(location)s") % {"location": run.location},
        _("Started by: %(who)s") % {"who": run.started_by},
        *filter(None, (run.note, run.error)),
    ]
    to = addresses(run.user, run.confirmed_by)
    _send(f"run_{run.status}", run, facts, to, since=run.finished_at)


@language_of_messages()
def notify_frozen(frozen: Freeze) -> None:
    """Notify the alert list of a freeze."""
    values, page = {"who": frozen.who}, reverse("freeze")
    send(Message(KINDS["frozen"], str(frozen.pk), values, page, since=frozen.at, facts=[_why(frozen.note)]))


@language_of_messages()
def notify_unfrozen(frozen: Freeze, actor: Actor) -> None:
    """Notify the alert list that runs resume after a freeze."""
    text = _("They were frozen by %(who)s: %(note)s") % {"who": frozen.who, "note": frozen.note}
    send(Message(KINDS["unfrozen"], str(frozen.pk), {"who": actor.name}, reverse("freeze"), facts=[text]))


def _send(
    kind: str,
    run: Run,
    facts: Sequence[str],
    to: Collection[str],
    **values: Any,
) -> None:
    send(_message(kind, run, facts, to, **values))


def _message(
    kind: str,
    run: Run,
    facts: Sequence[str],
    to: Collection[str],
    *,
    since: datetime | None = None,
    **values: Any,
) -> Message:
    values |= {"run": run.pk, "operation": operation_title(run.operation), "store": store_title(run.store)}
    page = reverse("run", args=[run.pk])
    return Message(KINDS[kind], str(run.pk), values, page, since=since or timezone.now(), facts=facts, to=to)


def _approvers() -> Collection[User]:
    return User.objects.with_perm("operations.approve_run", backend="django.contrib.auth.backends.ModelBackend")


def _request(run: Run) -> list[str]:
    """Return who asks for the approval of a run, and why."""
    return [_("Planned by: %(who)s") % {"who": run.started_by}, _why(run.note)]


def _why(note: str) -> str:
    return _("Why: %(note)s") % {"note": note or "–"}
