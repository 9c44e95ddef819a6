"""The outcomes that an operation returns for a row, and the row changes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Self

from opsconsole.stores.rows import Key

# The reason of a row on which the platform still works. No repair of it is recommended.
STILL_WORKING = "still_working"


class RowChange(NamedTuple):
    """A change of one row of one table. `old` and `new` map the same columns to raw values.

    An insert has no `old`. A delete has no `new`: its `old` holds the values that the decision depends on, and the
    engine saves the whole row.
    """

    table: str  # empty: the table of the operation's `model`
    key: Key
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None

    @classmethod
    def update(cls, table: str, row: Any, /, **new: Any) -> Self:
        """Return the change of `row` to the values in `new`. The row holds its key in `pk`, and the old values."""
        return cls(table, row.pk, {name: getattr(row, name) for name in new}, new)

    @classmethod
    def delete(cls, table: str, row: Any, /) -> Self:
        """Return the deletion of `row`, which depends on every value that the row holds."""
        old: dict[str, Any] = row._asdict()
        return cls(table, old.pop("pk"), old, None)


class Changes(NamedTuple):
    """Changes of several rows, in the order of writing. Each reason is counted separately.

    `detail` is shown in the plan. `amount` is what the change comes to in the figure of the operation's button. With
    the amount 0 the change is only a side effect, and the operation is not offered as a repair of the row.
    """

    rows: Sequence[RowChange]
    reason: str = ""
    detail: str = ""
    amount: int = 1


class Change(Changes):
    """New values of one row: `Change(row, status="archived")`. The old values come from the row."""

    __slots__ = ()

    def __new__(cls, row: Any, reason: str = "", /, **new: Any) -> Self:
        # The hot path: a run creates one per row. It calls no other function of Python, and `rows` is made on demand.
        return tuple.__new__(cls, (row, reason, "", 1, new))

    def __repr__(self) -> str:
        given = [repr(self.row), repr(self.reason), *(f"{name}={value!r}" for name, value in self.new.items())]
        return f"{type(self).__name__}({', '.join(given)})"

    row = property(itemgetter(0))
    new = property(itemgetter(4))

    @property
    def rows(self) -> Sequence[RowChange]:
        return (RowChange.update("", self.row, **self.new),)


class Delete(Changes):
    """The deletion of one row."""

    __slots__ = ()

    def __new__(cls, row: Any, reason: str = "", /) -> Self:
        return super().__new__(cls, (RowChange.delete("", row),), reason)


class Done(Changes):
    """The outcome of an action: it has no row changes."""

    __slots__ = ()

    def __new__(cls, reason: str = "", detail: str = "", amount: int = 1) -> Self:
        return super().__new__(cls, (), reason, detail, amount)


class Skip(NamedTuple):
    """The row needs no change."""

    reason: str


class Invalid(NamedTuple):
    """The operation cannot change this row and expected such rows. The row is counted and listed."""

    reason: str


Outcome = Changes | Skip | Invalid
