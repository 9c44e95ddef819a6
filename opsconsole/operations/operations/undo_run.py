"""Put back what a run changed, row by row, where nobody has changed it since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from django import forms
from django.db import models
from django.db.models import Max, Min, QuerySet, Sum
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.display import figure
from opsconsole.operations import registry
from opsconsole.operations.base import Changed, Operation, Outcome, Risk, RowChange, Skip, Unfit
from opsconsole.operations.models import Batch, Run
from opsconsole.operations.runs import UnableToRun, run_called, store_of
from opsconsole.stores import rows
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key, Values
from opsconsole.stores.store import Store

REVERSED = {"insert": "delete", "delete": "insert", "update": "update"}
INDEX_BITS = 20  # a unit's key: batches counted from the last one, then the row's place in its batch


class ChangedRow(NamedTuple):
    """A row that the run wrote: as it was, as it was written, as it is now (None: no such row)."""

    pk: int
    table: str
    key: Key
    columns: tuple[str, ...]
    before: Values | None
    written: Values | None
    now: Values | None
    rowid_taken: bool = False  # SQLite: another row has the rowid that this one had


class UndoRun(Operation):
    title = _("Undo a run")
    description = _(
        "Gives every row that the run changed its values back, where it still holds what the run wrote. "
        "Rows that changed since are listed as conflicts and stay as they are."
    )
    model = Batch
    risk = Risk.CHANGE
    about_runs = True
    rejudges = False  # rows that the run wrote stay in its scope
    reasons = {
        "as_before": _("already as before the run"),
        "conflict": _("conflict: changed since the run"),
        "rowid_taken": _("conflict: another row has its rowid, which a full-text index refers to"),
    }
    figure_labels = {
        "in_scope": _("rows that the run wrote"),
        "as_written": _("still as the run wrote them"),
    }

    class Params(forms.Form):
        run = forms.IntegerField(min_value=1, label=_("run"), help_text=_("the run to undo"))

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        self.run = run_called(self.params["run"])
        cls = registry.operations().get(self.run.operation)
        if cls is not None and not cls.undoable:
            raise UnableToRun(
                gettext("Run %(run)d can't be undone: %(title)s keeps no before-images.")
                % {"run": self.run.pk, "title": cls.title}
            )
        if not self.run.undoable:
            raise UnableToRun(
                gettext("Run %(run)d left nothing to undo: it changed no row, or its before-images were pruned.")
                % {"run": self.run.pk}
            )
        self.writes = {table: tuple(columns) for table, columns in self.run.writes.items()}
        self._chosen: frozenset[Key] | None = None
        self._unpacked: tuple[int, list[tuple[Any, ...]]] = (-1, [])

    @classmethod
    def locate(cls, params: Mapping[str, Any]) -> Store:
        return store_of(run_called(params["run"]))

    def domain(self) -> QuerySet[Batch]:
        return self.run.batches.filter(rows__gt=0, image__isnull=False)

    def choose(self, units: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        self._chosen = frozenset(keys)
        return units

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {}  # the columns are those that the run wrote: its store had them

    def bound(self) -> Key | None:
        ends = self.domain().aggregate(first=Min("number"), last=Max("number"))
        if ends["last"] is None:
            return None
        return self._key(ends["first"], (1 << INDEX_BITS) - 1)

    def _key(self, number: int, index: int) -> int:
        # The last batch of a run is undone first. `batches_done` no longer moves: the run has ended.
        return (self.run.batches_done - number) << INDEX_BITS | index

    def fetch(self, units: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        start = 0 if after is None else int(after) + 1
        number = self.run.batches_done - (start >> INDEX_BITS)
        index = start & ((1 << INDEX_BITS) - 1)
        while True:
            batch = units.filter(number__lte=number).order_by("-number").first()
            if batch is None:
                return []
            offset = index if batch.number == number else 0
            written = self._rows(batch)[offset : offset + limit]
            found = self._current(self._key(batch.number, offset), written)
            if found:
                return found
            number, index = batch.number - 1, 0

    def _rows(self, batch: Batch) -> list[tuple[Any, ...]]:
        """(table, columns, key, before, written), last written first among tables."""
        if self._unpacked[0] != batch.number:
            flat = [
                (write.table, write.columns, *row) for write in reversed(batch.writes) for row in reversed(write.rows)
            ]
            self._unpacked = (batch.number, flat)
        return self._unpacked[1]

    def _current(self, first: int, written: list[tuple[Any, ...]]) -> list[ChangedRow]:
        """The rows with their values of now: one statement per table and set of columns."""
        groups: dict[tuple[str, tuple[str, ...]], list[Key]] = {}
        for table, columns, key, _before, _written in written:
            groups.setdefault((table, columns), []).append(key)
        now = {group: rows.read(self.at, *group, keys) for group, keys in groups.items()}
        units = []
        for place, (table, columns, key, before, after) in enumerate(written):
            current = now[table, columns].get(key)
            units.append(ChangedRow(first + place, table, key, columns, before, after, current))
        gone = [unit for unit in units if unit.now is None and unit.before is not None and self._rowid(unit)]
        taken = self._taken_rowids(gone)
        units = [
            unit._replace(rowid_taken=(unit.table, unit.before[0]) in taken) if unit in gone else unit  # type: ignore[index]
            for unit in units
        ]
        return [unit for unit in units if self._chosen is None or unit.pk in self._chosen]

    def _rowid(self, unit: ChangedRow) -> str:
        """The rowid that the image of a deleted row of SQLite begins with; empty where it has none."""
        table = self.at.tables.get(unit.table)
        return table.rowid if table is not None and unit.columns[0] == table.rowid else ""

    def _taken_rowids(self, gone: Sequence[ChangedRow]) -> set[tuple[str, Any]]:
        """Table and rowid of those that other rows have by now."""
        found: set[tuple[str, Any]] = set()
        for table in {unit.table for unit in gone}:
            rowids = [unit.before[0] for unit in gone if unit.table == table and unit.before]
            found |= {(table, rowid) for rowid in rows.known_rowids(self.at, table, rowids)}
        return found

    def change(self, unit: ChangedRow) -> Outcome:
        start = 1 if self._rowid(unit) else 0  # who made the row again could not choose its rowid
        if unit.now is not None and unit.before is not None:
            if unit.now[start:] == (self.at.raw(unit.before) or ())[start:]:
                return Skip("as_before")
        elif unit.now == unit.before:
            return Skip("as_before")
        if unit.now != self.at.raw(unit.written):
            return Unfit("conflict")
        if unit.rowid_taken and self.at.is_indexed_by_rowid(unit.table):
            return Unfit("rowid_taken")
        first = 1 if unit.rowid_taken else 0
        return Changed(
            (
                RowChange(
                    unit.table,
                    unit.key,
                    None if unit.written is None else dict(zip(unit.columns, unit.written, strict=True)),
                    None if unit.before is None else dict(list(zip(unit.columns, unit.before, strict=True))[first:]),
                ),
            )
        )

    def effective_risk(self) -> Risk:
        """Return what the undo would do: rows that the run inserted are deleted."""
        return Risk.DELETE if self._deletes else Risk.CHANGE

    @cached_property
    def _deletes(self) -> bool:
        if any(self._kind(self.run, table) == "insert" for table, columns in self.writes.items() if not columns):
            return True
        if not any(map(self.inserts, filter(self.writes.get, self.writes))):
            return False
        # Which rows of a table whose keys it writes a run has inserted, its images alone tell.
        batches = self.domain().order_by("-number").iterator(chunk_size=1)
        return any(write.kind == "insert" for batch in batches for write in batch.writes)

    def targets(self) -> list[Target]:
        """Rows that the run deleted are inserted again, those that it inserted go."""
        found = []
        for table, columns in self.writes.items():
            kind = REVERSED[self._kind(self.run, table)]
            if kind == "insert" and not columns:
                columns = self.at.tables[table].stored if table in self.at.tables else ()
            found.append(Target(kind, table, columns))
        return found

    def _kind(self, run: Run, table: str) -> str:
        """Return what a run does to a table: an undo does the opposite of its run, a retry the same."""
        if run.parent is not None and run.operation == self.name:
            return REVERSED[self._kind(run.parent, table)]
        if run.parent is not None:
            return self._kind(run.parent, table)
        if not run.writes[table]:
            return "delete"
        return "insert" if self.inserts(table) else "update"

    def read_columns(self) -> list[tuple[str, str]]:
        return []  # the targets name them

    def label(self, unit: ChangedRow) -> str:
        return f"{unit.table} {unit.key}"

    @property
    def key_name(self) -> str:
        return "row"

    def measure(self, narrow: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        written = sum(unit.now == self.at.raw(unit.written) and unit.before != unit.written for unit in self._all())
        total = self.domain().aggregate(rows=Sum("rows"))["rows"] or 0
        if self._chosen is not None:
            total = len(self._chosen)
        return {"in_scope": total, "as_written": written}

    def _all(self) -> Iterator[ChangedRow]:
        for batch in self.domain().order_by("-number").iterator(chunk_size=1):
            yield from self._current(self._key(batch.number, 0), self._rows(batch))

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        remaining = after["as_written"]
        if not remaining:
            return []
        return [
            ngettext(
                "%(count)d row still holds what the run wrote.",
                "%(count)d rows still hold what the run wrote.",
                remaining,
            )
            % {"count": remaining}
        ]

    def action_label(self, count: int) -> str:
        if self._deletes and {target.kind for target in self.targets()} == {"delete"}:
            return ngettext("Delete %(count)s row", "Delete %(count)s rows", count) % {"count": figure(count)}
        return ngettext("Restore %(count)s row", "Restore %(count)s rows", count) % {"count": figure(count)}
