"""Keyset reading: the rows of a table in the order of their keys, up to a fixed last key."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from django.db import models
from django.db.models import QuerySet
from django.db.models.functions import Cast

from opsconsole.stores.rows import Key, plain_key
from opsconsole.stores.sqlite import RAW_KEY


def as_stored(key: Key) -> Any:
    """Return a key for a filter. A text is compared as text, even if the model expects a number."""
    if isinstance(key, str) and key.startswith(RAW_KEY):  # a text of SQLite that is not UTF-8
        raw = bytes.fromhex(key.removeprefix(RAW_KEY))
        return Cast(models.Value(raw, models.BinaryField()), models.TextField())
    return models.Value(key) if isinstance(key, str) else key


def last_key(rows: QuerySet[Any]) -> Key | None:
    """Return the highest key of `rows`, or None if there are no rows."""
    # PostgreSQL has no MAX() for UUIDs before version 18.
    last = rows.order_by("-pk").values_list("pk", flat=True).first()
    return None if last is None else plain_key(last)


def with_keys(rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
    """Return the rows of `rows` that have one of `keys`."""
    if rows.model._meta.pk.is_relation:  # Django takes an expression in a list of such keys for a text
        return rows.filter(pk__in=list(keys))
    return rows.filter(pk__in=list(map(as_stored, keys)))


def up_to(rows: QuerySet[Any], bound: Key) -> QuerySet[Any]:
    """Return the rows of `rows` up to and including the key `bound`."""
    return rows.filter(pk__lte=as_stored(bound))


def between(rows: QuerySet[Any], after: Key | None, bound: Key) -> QuerySet[Any]:
    """Return the rows of `rows` behind the key `after` and up to `bound`, in the order of their keys."""
    covered = up_to(rows, bound).order_by("pk")
    return covered if after is None else covered.filter(pk__gt=as_stored(after))


def next_key(rows: QuerySet[Any], after: Key | None, bound: Key) -> Key | None:
    """Return the first key of `rows` behind `after`, without reading the row."""
    key = between(rows, after, bound).values_list("pk", flat=True).first()
    return None if key is None else plain_key(key)


@lru_cache
def _row_factory(names: tuple[str, ...]) -> Callable[[tuple[Any, ...]], Any]:
    # The hot path: Django's own named tuples take twice as long.
    return partial(tuple.__new__, namedtuple("Row", names))


def load(rows: QuerySet[Any], columns: Sequence[str]) -> list[Any]:
    """Return `rows` as named tuples of `pk` and `columns`."""
    found = list(map(_row_factory(("pk", *columns)), rows.values_list("pk", *columns)))
    if found and not isinstance(found[0].pk, int | str):
        return [row._replace(pk=plain_key(row.pk)) for row in found]
    return found
