"""Errors of rows that the database did not write exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _

from opsconsole.stores.rows.changes import ValueAltered, Write, WriteIgnored
from opsconsole.stores.store import Store


def ignored(store: Store, change: Write) -> WriteIgnored:
    """Return the error of a row that the database did not change."""
    names = [one.name for one in store.triggers(change.table, change.kind.upper()) if one.before]
    if names:
        return WriteIgnored(
            _("The database ignored the write: trigger %(names)s on %(table)s.")
            % {"names": ", ".join(names), "table": change.table}
        )
    if store.vendor == "sqlite":
        return WriteIgnored(_("A row of %(table)s cannot be matched by its values.") % {"table": change.table})
    return WriteIgnored(_("%(table)s ignored the write, without an error.") % {"table": change.table})


def altered(store: Store, change: Write, values: Iterable[tuple[str, Any, Any]]) -> ValueAltered:
    """Return the error of a row that holds other values: `values` are column, given and held value."""
    names = "; ".join(f"{name}: {_short(given)} → {_short(held)}" for name, given, held in values)
    triggers = [one.name for one in store.triggers(change.table, change.kind.upper())]
    cause = _("the type of the column")
    if triggers:
        cause = _("trigger %(names)s on %(table)s") % {"names": ", ".join(triggers), "table": change.table}
    return ValueAltered(
        _(
            "%(table)s stored another value than it was given (%(names)s). "
            "Nothing was changed in this row. Cause: %(cause)s."
        )
        % {"table": change.table, "names": names, "cause": cause}
    )


def _short(value: Any) -> str:
    text = "NULL" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
