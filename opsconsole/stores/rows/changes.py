"""Changes to rows, and the errors that keep a row from being changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import chain
from typing import Any

from opsconsole.stores.sqlite import UndecodableText

Key = int | str
Values = tuple[Any, ...]
RowKey = tuple[str, Key]  # table and key


@dataclass(frozen=True)
class Write:
    """Changes of one kind to one table.

    `rows` are `[key, old values, new values]`, in the order of `columns`. An insert has no old values, a
    delete has no new ones.
    """

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Key, Values | None, Values | None]]

    @cached_property
    def types(self) -> frozenset[type]:
        """The types of all old and new values, which a batch needs several times."""
        values = chain.from_iterable(values for row in self.rows for values in row[1:] if values is not None)
        return frozenset(map(type, values))

    @property
    def kind(self) -> str:
        _, old, new = self.rows[0]
        return "insert" if old is None else "delete" if new is None else "update"

    def reversed(self) -> Write:
        return Write(self.table, self.columns, [(key, new, old) for key, old, new in self.rows])


class WriteIgnored(Exception):
    """The database did not change a row, and reported no error."""


class ValueAltered(Exception):
    """The database stored another value than it was given."""


class DuplicateKey(Exception):
    """Several rows have the same key."""


class UnrecordedDelete(Exception):
    """A trigger deletes rows without a before-image."""


class StillReferenced(Exception):
    """A row that the run does not delete refers to a row that the run would delete."""


class RowsChanged(Exception):
    """Rows that a batch could not write. The batch is rolled back.

    `unmet` rows no longer hold the values that were read. If such a row is read again unchanged, its error in
    `unmet` is the reason. `held` are their values now, if known. `refused` rows cannot be written at all.
    """

    def __init__(
        self,
        unmet: Mapping[RowKey, Exception | None] | None = None,
        refused: Mapping[RowKey, Exception] | None = None,
        held: Mapping[RowKey, Values | None] | None = None,
    ) -> None:
        super().__init__()
        self.unmet, self.refused, self.held = dict(unmet or {}), dict(refused or {}), dict(held or {})


def is_bigint(number: int) -> bool:
    """Return whether an integer column can hold `number`: both engines have at most 64 bits."""
    return -(2**63) <= number < 2**63


def plain_key(key: Any) -> Key:
    """Return a key in the form of before-images. The driver of PostgreSQL also returns UUIDs and decimals."""
    if type(key) is UndecodableText:
        return key.as_key()
    if isinstance(key, int | str):
        return key
    if isinstance(key, Decimal) and key.is_finite() and key == key.to_integral_value() and is_bigint(int(key)):
        return int(key)
    return str(key)


def composite_key(values: Iterable[Any]) -> str:
    """Return the key of a row that several columns identify: a JSON array."""
    return json.dumps([plain_key(value) for value in values], ensure_ascii=False, separators=(",", ":"))


def key_of(values: Sequence[Any]) -> Key:
    """Return the key of a row from the values of its key columns."""
    return plain_key(values[0]) if len(values) == 1 else composite_key(values)


def key_values(key: Key, count: int) -> list[Key]:
    """Return the values of `count` key columns."""
    return [key] if count == 1 else key_parts(key)


def key_parts(key: Key) -> list[Key]:
    """Return the values of a composite key. Raise ValueError for another text."""
    parts = json.loads(str(key))
    if not isinstance(parts, list) or not all(isinstance(part, int | str) for part in parts):
        raise ValueError(key)
    return parts
