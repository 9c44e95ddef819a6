"""The runs that wrote a row, found in their before-images with bounded work."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.db.models import QuerySet
from django.db.models.functions import Length

from opsconsole.engine import registry
from opsconsole.engine.models import Batch, Run, Status
from opsconsole.stores.rows import Key, Values

SEARCHED_RUNS = 20  # the newest that wrote the table
SEARCHED_DELETIONS = 1_000  # runs whose tables are compared
SEARCHED_BATCHES = 20_000  # whose last keys are compared
SEARCHED_BYTES = 4_000_000  # of compressed before-images


class WrittenRow(NamedTuple):
    """What a run wrote to a row. `before` is None for an inserted row, `after` for a deleted row."""

    run: Run
    batch: int
    place: int  # among the rows of the batch, counted from the last one, as an undo reads them
    columns: tuple[str, ...]
    before: Values | None
    after: Values | None


class History(NamedTuple):
    """The runs that wrote a row, newest first."""

    rows: list[WrittenRow]
    is_complete: bool  # whether every run that may have written the row was searched


class _Place(NamedTuple):
    """A batch without its before-image."""

    pk: int
    run: int
    cursor: Any
    size: int


def of_row(identity: str, table: str, key: Key) -> History:
    """Return what runs wrote to a row, in four statements however many runs there are."""
    runs = Run.objects.filter(identity=identity, attached_path="", changed__gt=0, writes__has_key=table)
    newest = list(runs.exclude(status=Status.PLANNED).order_by("-pk").without_documents()[: SEARCHED_RUNS + 1])
    found, complete = _search(newest[:SEARCHED_RUNS], table, key)
    return History(found, complete and len(newest) <= SEARCHED_RUNS)


def deletions(keys: Iterable[tuple[str, str, Key]]) -> list[WrittenRow]:
    """Return what deleted each of these rows (identity, table and key), if a row was deleted by its newest run."""
    keys = list(keys)
    runs = Run.objects.filter(identity__in={identity for identity, _table, _key in keys}, changed__gt=0)
    newest = runs.order_by("-pk").values_list("identity", "writes")[:SEARCHED_DELETIONS]
    written = {(identity, table) for identity, writes in newest for table in writes}
    histories = (of_row(*key).rows for key in keys if key[:2] in written)
    return [rows[0] for rows in histories if rows and rows[0].after is None]


def _search(runs: Sequence[Run], table: str, key: Key) -> tuple[list[WrittenRow], bool]:
    places = _places(runs)
    likely, others = _candidates(runs, places, table, key)
    complete = len(places) < SEARCHED_BATCHES
    by_pk = {run.pk: run for run in runs}
    found: list[WrittenRow] = []
    for group in (likely, others):
        done = {row.run.pk for row in found}
        affordable: list[_Place] = []
        size = 0
        for place in group:
            if place.run not in done:
                size += place.size
                if affordable and size > SEARCHED_BYTES:
                    complete = False
                    break
                affordable.append(place)
        found += _read(by_pk, affordable, table, key)
    return sorted(found, key=lambda row: (-row.run.pk, row.batch)), complete


def _places(runs: Sequence[Run]) -> list[_Place]:
    batches = _batches().filter(run__in=runs).order_by("-run", "number")
    values = batches.annotate(size=Length("before_image")).values_list("pk", "run_id", "cursor", "size")
    return [_Place(*row) for row in values[:SEARCHED_BATCHES]] if runs else []


def _batches() -> QuerySet[Batch]:
    return Batch.objects.filter(rows__gt=0, committed=True, before_image__isnull=False)


def _candidates(
    runs: Sequence[Run], places: Sequence[_Place], table: str, key: Key
) -> tuple[list[_Place], list[_Place]]:
    """Return the batch of each run whose keys include this one, and the batches that may contain it otherwise.

    The keys of a batch belong to the table of the operation. Texts may have another order in the store, so only a
    number is certain to be in its batch or in none.
    """
    by_run: dict[int, list[_Place]] = defaultdict(list)
    for place in places:
        by_run[place.run].append(place)
    likely, others = [], []
    for run in runs:
        own = by_run[run.pk]
        cls = registry.operations().get(run.operation)
        is_keyed = cls is not None and cls.selectable and cls.model._meta.db_table == table
        here = _covering(own, key) if is_keyed else []
        likely += here
        if not (is_keyed and own and isinstance(key, int) and isinstance(own[0].cursor, int)):
            others += [place for place in own if place not in here]
    return likely, others


def _covering(places: Sequence[_Place], key: Key) -> list[_Place]:
    try:
        start = bisect.bisect_left([place.cursor for place in places], key)
    except TypeError:  # numbers and texts
        return []
    return list(places[start : start + 1])


def _read(runs: dict[int, Run], places: Sequence[_Place], table: str, key: Key) -> Iterator[WrittenRow]:
    if not places:
        return
    batches = _batches().filter(pk__in=[place.pk for place in places])
    for batch in batches.only("run_id", "number", "before_image").iterator(chunk_size=1):
        writes = batch.writes
        place = sum(len(write.rows) for write in writes)
        for write in writes:
            for written, before, after in write.rows:
                place -= 1
                if write.table == table and str(written) == str(key):
                    yield WrittenRow(runs[batch.run_id], batch.number, place, write.columns, before, after)
