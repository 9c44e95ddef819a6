"""Labels of codes: outcomes, reasons, statuses and verbs."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from opsconsole.engine import registry
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Operation, Risk
from opsconsole.formatting import format_number

OUTCOME_LABELS = {
    "changed": _("Changed"),
    "skipped": _("Skipped"),
    "invalid": _("Invalid"),
    "failed": _("Failed"),
}
# Reasons of the engine. An operation has its own in `reasons`.
REASON_LABELS = {
    "no_longer_in_scope": _("no longer in scope"),
    "changed_concurrently": _("changed by another client during the run"),
    "changed_since_plan": _("changed since the plan"),
    "unreadable": _("a value cannot be read"),
    "UnnamedKey": _("its key is not UTF-8"),
    "WriteIgnored": _("the database ignored the write"),
    "ValueAltered": _("the database stored another value"),
    "DuplicateKey": _("another row has the same key"),
    "StillReferenced": _("other rows still refer to it"),
    "evaluated": _("evaluated"),
}


def action_label(operation: Operation, count: int) -> str:
    """Return the text of the button that runs `operation` on `count` rows."""
    values = {"number": count, "count": format_number(count), "store": operation.store.alias}
    return str(operation.action_label % values)


def only_deletes(operation: Operation | type[Operation] | None) -> bool:
    """Return whether every change of the operation is the deletion of a row."""
    if operation is None or operation.risk != Risk.DELETE or operation.creates_backup:  # a restore writes rows, too
        return False
    return not any(operation.writes.values())


def outcome_label(outcome: str, operation: Operation | type[Operation] | None = None) -> str:
    if outcome == "changed" and only_deletes(operation):
        return str(_("Deleted"))
    return str(OUTCOME_LABELS[outcome])


def reason_label(operation: Any, reason: str) -> str:
    """Return the label of a reason, which may name several codes: "D, E".

    `operation` is an instance, a class, or None if its code was removed.
    """
    own = operation.reasons if operation is not None else {}
    return ", ".join(str(own.get(code) or REASON_LABELS.get(code) or code) for code in reason.split(", "))


# The theme's label variant of each status. Pages also show the status as text.
STATUS_VARIANTS = {
    Status.PLANNED.value: "default",
    Status.AWAITING_APPROVAL.value: "warning",
    Status.QUEUED.value: "info",
    Status.RUNNING.value: "info",
    Status.PAUSED.value: "warning",
    Status.INTERRUPTED.value: "warning",
    Status.SUCCEEDED.value: "success",
    Status.NEEDS_ATTENTION.value: "warning",
    Status.FAILED.value: "danger",
    Status.CANCELLED.value: "default",
    Status.REJECTED.value: "danger",
}
VERB_LABELS = {
    "planned": _("planned"),
    "confirmed": _("confirmed"),
    "approved": _("approved"),
    "break_glass": _("started without approval"),
    "pause": _("requested a pause"),
    "cancel": _("requested the cancellation"),
    "resumed": _("resumed"),
    "discarded": _("discarded the plan"),
    "replaced": _("replaced by a newer plan"),
    "note": _("added a note"),
    "freeze": _("froze all runs"),
    "unfreeze": _("unfroze all runs"),
    "account_linked": _("linked a system user to an account"),
    "account_unlinked": _("unlinked a system user"),
    "account_added": _("added an account"),
    "account_changed": _("changed an account"),
    "group_added": _("added a group"),
    "group_changed": _("changed a group"),
    "token_added": _("created a token"),
    "token_revoked": _("revoked a token"),
    "session_revoked": _("revoked a session"),
    "view_saved": _("saved a view of a list"),
    "view_deleted": _("deleted a view of a list"),
    "schedule": _("changed the schedule"),
    "schedule_refused": _("could not start as scheduled"),
    "not_planned": _("could not be planned on a store"),
    **{status.value: status.label for status in Status if status not in {Status.PLANNED, Status.QUEUED}},
}

# Events of an incident.
INCIDENT_LABELS = {
    "opened": _("found"),
    "grew": _("grew"),
    "shrank": _("became smaller"),
    "resolved": _("resolved: a scan no longer finds it"),
    "resolved_by_hand": _("marked as resolved"),
    "replaced": _("resolved: the store now uses another database"),
    "came_back": _("reopened: a scan found it again"),
    "reopened": _("reopened: the repair was undone"),
    "incident_assigned": _("assigned it"),
    "incident_acknowledged": _("acknowledged it"),
    "incident_snoozed": _("snoozed it"),
    "incident_ignored": _("ignored it until it grows"),
    "incident_commented": _("commented"),
    "incident_linked": _("linked a ticket"),
    "incident_resolved": _("marked it as resolved"),
    "incident_reopened": _("reopened it"),
}
VERB_LABELS |= {verb: label for verb, label in INCIDENT_LABELS.items() if verb.startswith("incident_")}
VERB_LABELS["recheck_failed"] = _("could not update the incidents")
VERB_LABELS["settle_failed"] = _("could not find out which batches are written")


# Values of an event.
DETAIL_LABELS = {
    "account": _("account"),
    "address": _("address"),
    "after": _("after"),
    "background": _("in the background"),
    "before": _("before"),
    "checklist": _("checklist"),
    "cron": _("time"),
    "digest": _("plan"),
    "error": _("error"),
    "group": _("group"),
    "link": _("ticket"),
    "list": _("list"),
    "message": _("change"),
    "name": _("name"),
    "note": _("reason"),
    "on": _("turned on"),
    "operation": _("operation"),
    "owner": _("owner"),
    "plan": _("new plan"),
    "query": _("filters"),
    "reason": _("reason"),
    "shared": _("shared"),
    "store": _("store"),
    "system_user": _("system user"),
    "text": _("text"),
    "token": _("token"),
    "total": _("rows in scope"),
    "until": _("until"),
    "until_grows": _("until it grows by, in per cent"),
}


def verb_label(verb: str) -> str:
    return str(VERB_LABELS.get(verb, verb))


def result_label(run: Run) -> str:
    """Return what a run has done, with its figure: "27 concepts synced"."""
    cls = registry.operations().get(run.operation)
    if cls is None or cls.done_label is None or not run.changed:
        return operation_title(run.operation)
    count = run.amount or run.changed
    return str(cls.done_label % {"number": count, "count": format_number(count), "store": run.store})


def operation_title(name: str) -> str:
    """Return the title of an operation, or its name if its code was removed."""
    cls = registry.operations().get(name)
    return str(cls.title) if cls is not None else name


def finding_label(check: Any, code: str) -> str:
    """Return the title of a kind of finding: the reason of its code, unless it needs values to be filled in."""
    words = str(check.titles.get(code) or check.reasons.get(code) or "")
    return words if words and "%(" not in words else code.replace("_", " ")
