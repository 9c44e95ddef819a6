"""The checklist before rows are deleted: facts that the console measures, and statements that a user confirms.

Every operation that deletes has it, except in development.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import DatabaseError
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.planner import Plan
from opsconsole.formatting import duration, environment_label, format_number
from opsconsole.stores.backups import newest_verified
from opsconsole.stores.store import Store, StoreUnavailable


class ChecklistItem(NamedTuple):
    """An item of the checklist: its title, and the statement that a user confirms."""

    title: Any
    question: Any


ITEMS = {
    "ownership": ChecklistItem(
        gettext_lazy("Ownership"), gettext_lazy("I know which rows are deleted, and we are allowed to delete them")
    ),
    "dependencies": ChecklistItem(
        gettext_lazy("Dependencies"), gettext_lazy("no user or process needs these rows any more")
    ),
    "backup": ChecklistItem(gettext_lazy("Backup"), gettext_lazy("the backup named here can be restored if necessary")),
    "scope": ChecklistItem(gettext_lazy("Scope"), gettext_lazy("the affected users know about it")),
    "rollback": ChecklistItem(gettext_lazy("Undo plan"), gettext_lazy("I know how to undo this, and who can do it")),
}


class ChecklistLine(NamedTuple):
    """An item for display, with the facts that the console knows."""

    code: str
    title: str
    question: str
    facts: list[str]


def has_checklist(operation: Operation) -> bool:
    return operation.effective_risk() == Risk.DELETE


def is_asked(operation: Operation) -> bool:
    """Return whether a user must confirm the checklist: everywhere except in development."""
    return has_checklist(operation) and settings.ENVIRONMENT != "development"


def missing(operation: Operation, checked: Sequence[str]) -> list[str]:
    """Return the items that a user has not confirmed yet."""
    return [code for code in ITEMS if code not in checked] if is_asked(operation) else []


def blocking_reason(operation: Operation) -> str:
    """Return why the plan cannot be confirmed now: in production a recent backup is required."""
    if not (has_checklist(operation) and settings.PRODUCTION) or operation.creates_backup:
        return ""
    store = operation.store
    backup = newest_verified(store)
    limit = timedelta(hours=settings.BACKUP_MAX_AGE_HOURS)
    if backup is not None and timezone.now() - backup.at <= limit:
        return ""
    values = {"store": store.alias, "limit": duration(limit.total_seconds())}
    if backup is None:
        text = _("%(store)s has no verified backup. Run `backup_store %(store)s` first.")
        return text % values
    age = duration((timezone.now() - backup.at).total_seconds())
    return _(
        "The newest verified backup of %(store)s is %(age)s old; the limit is %(limit)s. "
        "Run `backup_store %(store)s` first."
    ) % {**values, "age": age}


def lines(planned: Plan) -> list[ChecklistLine]:
    """Return the checklist of a plan, empty if its operation has none."""
    operation = planned.operation
    if not has_checklist(operation):
        return []
    own = _own_facts(planned)
    facts: dict[str, list[str]] = {
        "ownership": _rows(planned),
        "dependencies": [],
        "backup": [backup_words(operation.store)],
        "scope": [
            _("The store is %(location)s, in %(environment)s.")
            % {"location": operation.store.location, "environment": environment_label()}
        ],
        "rollback": [
            _("Each row is saved in the database of the console before it is deleted. The run can be undone.")
            if operation.undoable
            else _("This run cannot be undone.")
        ],
    }
    return [
        ChecklistLine(code, str(item.title), str(item.question), [*facts[code], *own.get(code, ())])
        for code, item in ITEMS.items()
    ]


def _own_facts(planned: Plan) -> Mapping[str, Sequence[str]]:
    try:
        return planned.operation.checklist_facts(planned.queryset)
    except (DatabaseError, StoreUnavailable) as error:
        return {"scope": [str(error)]}


def _rows(planned: Plan) -> list[str]:
    if not planned.counted:
        return [_("Rows in scope: %(count)s.") % {"count": format_number(planned.total)}]
    tables = ", ".join(f"{table} {format_number(count)}" for table, count in planned.rows.items()) or _("none")
    return [_("Rows: %(tables)s.") % {"tables": tables}]


def backup_words(store: Store) -> str:
    """Return a sentence about the newest verified backup of a store."""
    try:
        backup = newest_verified(store)
    except StoreUnavailable as error:
        return str(error)
    if backup is None:
        return _("%(store)s has no verified backup.") % {"store": store.alias}
    return _("Newest verified backup: %(age)s old, %(size)s, %(path)s.") % {
        "age": duration((timezone.now() - backup.at).total_seconds()),
        "size": filesizeformat(backup.size),
        "path": backup.path,
    }
