"""What both engines share: the statements they need, and the errors of single rows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from django.utils.translation import gettext as _

from opsconsole.stores.catalog import quote
from opsconsole.stores.rows.changes import Key, ValueAltered, Values, Write, WriteIgnored
from opsconsole.stores.rows.references import is_own_parent
from opsconsole.stores.store import Store

MARK = re.compile("(?<!%)%s")  # a parameter; `%` in a name is doubled


class EngineRows(ABC):
    """Statements that read and write rows of a store on one engine."""

    explain: ClassVar[str] = "EXPLAIN"

    def __init__(self, store: Store) -> None:
        self.store = store

    def key(self, table: str) -> str:
        return quote(self.store.key_column(table))

    def statement(self, change: Write) -> str:
        """Return the statement of a change, without its values."""
        builders = {"insert": self.insert_sql, "update": self.update_sql, "delete": self.delete_sql}
        return builders[change.kind](change)

    def apply(self, change: Write) -> int:
        """Execute a change. Return the number of rows it wrote."""
        return {"insert": self.insert, "update": self.update, "delete": self.delete}[change.kind](change)

    def may_alter(self, change: Write) -> bool:
        """Return whether a column or a trigger may store another value than it is given."""
        if change.kind == "insert" or self.store.triggers(change.table, change.kind.upper()):
            return True
        return change.kind == "update" and self.column_may_alter(change)

    def is_own_parent(self, table: str) -> bool:
        """Return whether rows of `table` may refer to each other, even in a circle.

        Such rows are inserted by one statement: foreign keys are checked at its end.
        """
        return is_own_parent(self.store, table)

    def young(self, table: str, keys: Sequence[Key]) -> Collection[Key]:
        """Return the keys whose rows may have changed since the mark."""
        return ()

    @abstractmethod
    def portions(self, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        """Yield the keys in portions that fit into one statement."""

    @abstractmethod
    def key_condition(self, table: str, alias: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """Return the condition that a row has one of `keys`, and its parameters."""

    @abstractmethod
    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]: ...

    @abstractmethod
    def normalized(self, change: Write) -> Write: ...

    @abstractmethod
    def column_may_alter(self, change: Write) -> bool: ...

    @abstractmethod
    def mark(self) -> int: ...

    @abstractmethod
    def new_keys(self, table: str, count: int, taken: Collection[Key]) -> list[Key]: ...

    @abstractmethod
    def deleted(self, table: str) -> int: ...

    @abstractmethod
    def insert_sql(self, change: Write) -> str: ...

    @abstractmethod
    def update_sql(self, change: Write) -> str: ...

    @abstractmethod
    def delete_sql(self, change: Write) -> str: ...

    @abstractmethod
    def insert(self, change: Write) -> int: ...

    @abstractmethod
    def update(self, change: Write) -> int: ...

    @abstractmethod
    def delete(self, change: Write) -> int: ...


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
