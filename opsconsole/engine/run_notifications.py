"""The notifications about runs: approval, rejection, end, freeze."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import Freeze, Rejection, Run, Status
from opsconsole.engine.notifications import create_alert


def request_approval(run: Run) -> None:
    """Ask the possible approvers to approve a run."""
    users = User.objects.with_perm("operations.approve_run", backend="django.contrib.auth.backends.ModelBackend")
    excluded = {run.user_id, run.confirmed_by_id, run.changed_by_id}
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "who": run.started_by}
    create_alert(
        f"approval/{run.pk}",
        _("Run %(run)d of %(operation)s on %(store)s waits for approval") % values,
        _("Planned by: %(who)s") % values + "\n" + _("Why: %(note)s") % {"note": run.note or "–"},
        to=_addresses(*(user for user in users if user.pk not in excluded)),
    )


def notify_rejected(run: Run, actor: Actor, reason: str) -> None:
    """Notify the accounts of a run that it is rejected, and why."""
    label = Rejection(reason).label if reason in Rejection.values else reason
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "who": actor.name}
    create_alert(
        f"rejected/{run.pk}",
        _("Run %(run)d of %(operation)s on %(store)s was rejected") % values,
        _("By: %(who)s") % values + "\n" + _("Why: %(note)s") % {"note": label},
        to=_addresses(run.user, run.confirmed_by, run.approved_by, actor.user),
    )


def notify_approved(run: Run, actor: Actor) -> None:
    """Notify the accounts of a run that it is approved."""
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "who": actor.name}
    create_alert(
        f"approved/{run.pk}",
        _("Run %(run)d of %(operation)s on %(store)s was approved") % values,
        _("By: %(who)s") % values,
        to=_addresses(run.user, run.confirmed_by, actor.user),
    )


def notify_break_glass(run: Run, actor: Actor, reason: str) -> None:
    """Notify the alert list and the approvers that a run starts without approval."""
    users = User.objects.with_perm("operations.approve_run", backend="django.contrib.auth.backends.ModelBackend")
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "who": actor.name}
    create_alert(
        f"break-glass/{run.pk}",
        _("Run %(run)d of %(operation)s on %(store)s starts without approval") % values,
        _("By: %(who)s") % values + "\n" + _("Why: %(note)s") % {"note": reason},
        to=_addresses(run.user, run.confirmed_by, *users),
    )


def _addresses(*users: User | None) -> list[str]:
    """Return the mail addresses of the accounts that have one."""
    return sorted({user.email for user in users if user is not None and user.email})


def notify(run: Run) -> None:
    """Notify the alert list of a run that failed or needs attention."""
    facts = [
        _("Run %(run)d: %(operation)s") % {"run": run.pk, "operation": run.operation},
        _("Database: %(location)s") % {"location": run.location},
        _("Started by: %(who)s") % {"who": run.started_by},
        *filter(None, (run.note, run.error)),
        _("See `runs show %(run)d` or its page.") % {"run": run.pk},
    ]
    values = {"run": run.pk, "operation": run.operation, "store": run.store, "status": run.get_status_display()}
    if run.status in {Status.FAILED, Status.NEEDS_ATTENTION}:
        subject = _("Run %(run)d of %(operation)s on %(store)s: %(status)s") % values
        create_alert(f"run/{run.pk}", subject, "\n".join(facts))


def notify_frozen(frozen: Freeze) -> None:
    """Notify the alert list of a freeze."""
    subject = _("All runs are frozen by %(who)s") % {"who": frozen.who}
    create_alert(f"hold/{frozen.pk}", subject, _("Why: %(note)s") % {"note": frozen.note})


def notify_unfrozen(frozen: Freeze, actor: Actor) -> None:
    """Notify the alert list that runs resume after a freeze."""
    text = _("They were frozen by %(who)s: %(note)s") % {"who": frozen.who, "note": frozen.note}
    create_alert(f"release/{frozen.pk}", _("All runs resume: unfrozen by %(who)s") % {"who": actor.name}, text)
