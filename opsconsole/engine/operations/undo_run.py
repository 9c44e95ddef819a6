"""Restore the rows that a run changed, unless they have changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, NamedTuple

from django import forms
from django.db.models import Max, Min, QuerySet, Sum
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import registry
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Batch, Run
from opsconsole.engine.operation import Operation, Risk, inserts
from opsconsole.engine.outcomes import Changes, Invalid, Outcome, RowChange, Skip
from opsconsole.engine.recovery import settle
from opsconsole.engine.stored_plans import get_run
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.catalog import ForeignKey
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key, RowKey, Values, Write, is_bigint
from opsconsole.stores.store import Store, text_of

KEPT_BATCHES = 4  # that stay decoded in memory
REVERSED = {"insert": "delete", "delete": "insert", "update": "update"}
NAMED_BATCHES = 500  # in one statement
INDEX_BITS = 20  # a row's key: batches counted from the last one, then the row's place in its batch


class Written(NamedTuple):
    """A row that the run wrote. `before` is None for an inserted row, `written` for a deleted row."""

    table: str
    columns: tuple[str, ...]
    key: Key
    before: Values | None
    written: Values | None


class ChangedRow(NamedTuple):
    """A row that the run wrote, with its current values. `now` is None if the row does not exist."""

    pk: int
    table: str
    key: Key
    columns: tuple[str, ...]
    before: Values | None
    written: Values | None
    now: Values | None
    adrift: bool = False  # it refers to a deleted row that is not restored
    homeless: bool = False  # SQLite: another row has its rowid, which a full-text index refers to


# Table and columns → values as compared → the rows that had them, each with its exact values.
Index = dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]]


class UndoRun(Operation):
    title = _("Undo a run")
    done_label = ngettext_lazy("%(count)s row change undone", "%(count)s row changes undone", "number")
    description = _(
        "Restores the previous values of every row that still has the values that the run wrote. "
        "A row that has changed since is listed as a conflict and is not changed."
    )
    model = Batch
    risk = Risk.CHANGE
    selectable = False
    reasons = {
        "as_before": _("already restored"),
        "conflict": _("conflict: changed since the run"),
        "parent": _("conflict: the run deleted a row that it refers to, which is not restored"),
        "rowid_taken": _("conflict: another row has its rowid, which a full-text index refers to"),
    }
    statistic_labels = {
        "in_scope": _("rows that the run wrote"),
        "as_written": _("unchanged since the run, can be undone"),
    }

    class Params(forms.Form):
        run = forms.IntegerField(min_value=1, label=_("run"), help_text=_("the run to undo"))

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        self.run = get_run(self.params["run"])
        if self.run.ended:
            settle(self.run)
        cls = registry.operations().get(self.run.operation)
        if cls is not None and not cls.undoable:
            raise RunRefused(
                gettext("Run %(run)d cannot be undone. %(title)s keeps no before-images.")
                % {"run": self.run.pk, "title": cls.title}
            )
        if not self.run.undoable:
            raise RunRefused(
                gettext("Run %(run)d cannot be undone. It changed no rows, or its before-images were pruned.")
                % {"run": self.run.pk}
            )
        if (repeated := self._repeated(self.run)) is not None:
            self.permission, self.always_approved = repeated.permission, repeated.always_approved
        self.writes = {table: tuple(columns) for table, columns in self.run.writes.items()}
        self._chosen: frozenset[Key] | None = None
        self._unpacked: dict[int, list[Written]] = {}
        self._indexed: tuple[int, Index] = (-1, {})
        self._restored: set[RowKey] = set()
        self._restored_up_to = 0

    def _repeated(self, run: Run) -> type[Operation] | None:
        """Return the operation whose values the undo of `run` writes again: the undo of an undo repeats the run."""
        undone = True
        while run.parent is not None:
            undone, run = undone != (run.operation == self.name), run.parent
        return None if undone else registry.operations().get(run.operation)

    def population(self) -> QuerySet[Batch]:
        return self.run.batches.filter(rows__gt=0, before_image__isnull=False)

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        self._chosen = frozenset(keys)
        return rows.filter(number__in=self._chosen_batches) if self._chosen_batches else rows

    @property
    def _chosen_batches(self) -> set[int]:
        """The batches of the chosen rows; empty if there are too many to name, or if all rows are chosen."""
        numbers = {self.run.last_batch - (int(key) >> INDEX_BITS) for key in self._chosen or ()}
        return numbers if len(numbers) <= NAMED_BATCHES else set()

    def bound(self) -> Key | None:
        ends = self.population().aggregate(first=Min("number"), last=Max("number"))
        if ends["last"] is None:
            return None
        return self._key(ends["first"], (1 << INDEX_BITS) - 1)

    def _key(self, number: int, index: int) -> int:
        # The last batch of a run is undone first. `last_batch` no longer moves: the run has ended.
        return key_of(self.run, number, index)

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        start = 0 if after is None else int(after) + 1
        number = self.run.last_batch - (start >> INDEX_BITS)
        index = start & ((1 << INDEX_BITS) - 1)
        while True:
            batch = rows.filter(number__lte=number).order_by("-number").first()
            if batch is None:
                return []
            offset = index if batch.number == number else 0
            found = self._current(self._key(batch.number, offset), self._rows(batch)[offset : offset + limit])
            if found:
                return found
            number, index = batch.number - 1, 0

    def _rows(self, batch: Batch) -> list[Written]:
        """Return the rows of a batch in the order of the undo: last written first."""
        if batch.number not in self._unpacked:
            while len(self._unpacked) >= KEPT_BATCHES:
                del self._unpacked[next(iter(self._unpacked))]
            self._unpacked[batch.number] = [
                Written(write.table, write.columns, *row)
                for write in reversed(batch.writes)
                for row in reversed(write.rows)
            ]
        return self._unpacked[batch.number]

    def _current(self, first: int, written: list[Written]) -> list[ChangedRow]:
        """Return the rows with their current values and with what prevents the undo."""
        rows = self._with_rowids(self._read({first + place: row for place, row in enumerate(written)}))
        if self._references:
            rows = self._mark_adrift(first, rows)
        return [row for row in rows if self._is_chosen(row.pk)]

    def _read(self, written: Mapping[int, Written]) -> list[ChangedRow]:
        """Read the current values, with one statement per table and set of columns."""
        groups: dict[tuple[str, tuple[str, ...]], list[Key]] = {}
        for row in written.values():
            groups.setdefault((row.table, row.columns), []).append(row.key)
        now = {group: stored_rows.read(self.store, *group, keys) for group, keys in groups.items()}
        return [
            ChangedRow(
                pk, row.table, row.key, row.columns, row.before, row.written, now[row.table, row.columns].get(row.key)
            )
            for pk, row in written.items()
        ]

    def _is_chosen(self, pk: int) -> bool:
        return self._chosen is None or pk in self._chosen

    # --- rows that refer to others ----------------------------------------------------------------------------

    @cached_property
    def _references(self) -> Mapping[str, Sequence[tuple[ForeignKey, str]]]:
        """Return table → its foreign keys to tables that the run wrote."""
        found: dict[str, list[tuple[ForeignKey, str]]] = {}
        for reference in self.store.foreign_keys:
            child = stored_rows.known_table(self.store, reference)
            for parent in self.writes.keys() & self.store.tables.keys():
                if child is not None and self.store.is_parent(reference, parent):
                    found.setdefault(child, []).append((reference, parent))
        return found

    def _mark_adrift(self, first: int, rows: list[ChangedRow]) -> list[ChangedRow]:
        """Mark the rows whose parents are not restored. Another row may have the key of a parent by now."""
        known = {row.pk: row for row in rows}
        parents: dict[int, list[int]] = {}
        waiting = rows
        while waiting:
            for row in waiting:
                parents[row.pk] = self._parents(row)
            missing = {pk for row in waiting for pk in parents[row.pk]} - known.keys()
            waiting = self._with_rowids(self._read({pk: self._image(pk) for pk in sorted(missing)}))
            known |= {row.pk: row for row in waiting}
        back: dict[int, bool] = {}

        def is_back(pk: int) -> bool:
            row = known[pk]
            if row.now is not None:
                return self._is_as_before(row) or (row.table, row.key) in self._rows_restored()
            had_its_turn = pk < first and self.run_id is not None
            return self._is_chosen(pk) and not had_its_turn and not row.homeless and has_parents(pk)

        def has_parents(pk: int) -> bool:
            for parent in parents[pk]:
                if parent not in back and (parent < pk or known[parent].now is not None):  # else a circle
                    back[parent] = is_back(parent)
            return all(back.get(parent, True) for parent in parents[pk])

        return [row._replace(adrift=not has_parents(row.pk)) for row in rows]

    def _parents(self, row: ChangedRow) -> list[int]:
        """Return the deleted rows that the row referred to. They are restored before it."""
        found: list[int] = []
        before = dict(zip(row.columns, row.before or (), strict=False))
        for reference, parent in self._references.get(row.table, ()):
            values = tuple(map(before.get, reference.columns))
            if None in values:
                continue
            group, (text, alike) = (parent, reference.referred), _texts(values)
            candidates = self._deleted_with(row.pk)[group].get(alike) or self._deleted[group].get(alike, [])
            exact = [pk for pk, one in candidates if one == text]
            found += [pk for pk in exact or [pk for pk, _text in candidates] if pk != row.pk]
        return found

    def _deleted_with(self, pk: int) -> Index:
        """Return the index of the rows deleted in the same batch, which holds nearly every parent."""
        number = self.run.last_batch - (pk >> INDEX_BITS)
        if self._indexed[0] != number:
            self._indexed = number, self._index(self.population().filter(number=number))
        return self._indexed[1]

    @cached_property
    def _deleted(self) -> Index:
        """Return the index of all rows that the run deleted."""
        return self._index(self.population())

    def _index(self, batches: QuerySet[Batch]) -> Index:
        """Return table and referred columns → values → the deleted rows that had them."""
        groups = {(parent, one.referred) for found in self._references.values() for one, parent in found}
        index: Index = {group: {} for group in groups}
        for batch in batches.iterator(chunk_size=1):
            for place, row in enumerate(self._rows(batch)):
                if row.before is None or row.written is not None:
                    continue
                values = dict(zip(row.columns, row.before, strict=True))
                for group in groups:
                    if group[0] == row.table:
                        text, alike = _texts([values.get(name) for name in group[1]])
                        index[group].setdefault(alike, []).append((self._key(batch.number, place), text))
        return index

    def _image(self, pk: int) -> Written:
        number = self.run.last_batch - (pk >> INDEX_BITS)
        if number not in self._unpacked:
            self._rows(self.population().get(number=number))
        return self._unpacked[number][pk & ((1 << INDEX_BITS) - 1)]

    def _rows_restored(self) -> set[RowKey]:
        """Return the rows that this undo has inserted. A trigger may have changed them since."""
        batches = Batch.objects.filter(run=self.run_id, number__gt=self._restored_up_to).order_by("number")
        for batch in batches.iterator(chunk_size=1):
            self._restored |= {(one.table, row[0]) for one in batch.writes if one.kind == "insert" for row in one.rows}
            self._restored_up_to = batch.number
        return self._restored

    # --- rowids -----------------------------------------------------------------------------------------------

    def _with_rowids(self, rows: list[ChangedRow]) -> list[ChangedRow]:
        """Give a new rowid to the rows whose rowid another row has. No row has it, and no row of the run had it."""
        if self.store.vendor != "sqlite":
            return rows
        gone: dict[str, list[ChangedRow]] = {}
        for row in rows:
            if row.now is None and row.before is not None and self._rowid(row):
                gone.setdefault(row.table, []).append(row)
        moved: dict[int, ChangedRow] = {}
        for table, rows_gone in gone.items():
            taken = stored_rows.known_rowids(self.store, table, [row.before[0] for row in rows_gone if row.before])
            homeless = bool(taken) and self.store.is_indexed_by_rowid(table)
            free = max(stored_rows.highest_rowid(self.store, table), self._highest_rowids[table]) if taken else 0
            for row in rows_gone:
                if row.before is not None and row.before[0] in taken:
                    free += 1
                    moved[row.pk] = row._replace(homeless=homeless, **_with_rowid(row, free))
        return [moved.get(row.pk, row) for row in rows]

    def _rowid(self, row: ChangedRow | Write) -> str:
        """Return the name of the rowid that a before-image of SQLite starts with, or an empty text."""
        table = self.store.tables.get(row.table)
        return table.rowid if table is not None and row.columns[0] == table.rowid else ""

    @cached_property
    def _highest_rowids(self) -> Mapping[str, int]:
        """Return table → the highest rowid of the rows that the run deleted."""
        found: dict[str, int] = {}
        for batch in self.population().iterator(chunk_size=1):
            for write in batch.writes:
                if write.kind == "delete" and self._rowid(write):
                    rowids = [row[1][0] for row in write.rows if row[1] is not None]
                    found[write.table] = max([*rowids, found.get(write.table, 0)])
        return found

    # --- outcomes and figures -----------------------------------------------------------------------------------

    def _is_as_before(self, row: ChangedRow) -> bool:
        """Return whether the row has its values from before the run. The rowid of SQLite is not compared."""
        if row.now is None or row.before is None:
            return row.now == row.before
        start = 1 if self._rowid(row) else 0
        return row.now[start:] == (self.store.normalize(row.before) or ())[start:]

    def process(self, row: ChangedRow) -> Outcome:
        if self._is_as_before(row):
            return Skip("as_before")
        if row.now != self.store.normalize(row.written):
            return Invalid("conflict")
        if row.adrift:
            return Invalid("parent")
        if row.homeless:
            return Invalid("rowid_taken")
        old = None if row.written is None else dict(zip(row.columns, row.written, strict=True))
        new = None if row.before is None else dict(zip(row.columns, row.before, strict=True))
        return Changes((RowChange(row.table, row.key, old, new),))

    def effective_risk(self) -> Risk:
        """Return the risk of this undo: it deletes the rows that the run inserted."""
        return Risk.DELETE if self._deletes else Risk.CHANGE

    @cached_property
    def _deletes(self) -> bool:
        if any(self._kind(self.run, table) == "insert" for table, columns in self.writes.items() if not columns):
            return True
        if not any(inserts(self.store, table, columns) for table, columns in self.writes.items() if columns):
            return False
        # Only the before-images show which rows a run has inserted into a table whose keys it writes.
        batches = self.population().order_by("-number").iterator(chunk_size=1)
        return any(write.kind == "insert" for batch in batches for write in batch.writes)

    @cached_property
    def _only_deletes(self) -> bool:
        """Return whether the run only inserted into the tables whose keys it wrote."""
        batches = self.population().iterator(chunk_size=1)
        return all(
            write.kind == "insert" or not inserts(self.store, write.table, self.writes[write.table])
            for batch in batches
            for write in batch.writes
        )

    def targets(self) -> list[Target]:
        """Return the targets: deleted rows are inserted, inserted rows are deleted, all others are updated."""
        found = []
        for table, columns in self.writes.items():
            kind = REVERSED[self._kind(self.run, table)]
            if kind == "insert" and not columns:
                columns = self.store.tables[table].stored if table in self.store.tables else ()
            found.append(Target(kind, table, columns))
            if kind == "delete" and columns and not self._only_deletes:
                key = self.store.key_columns(table)
                found.append(Target("update", table, tuple(name for name in columns if name not in key)))
        return found

    def _kind(self, run: Run, table: str) -> str:
        """Return what a run does to a table: an undo does the opposite of its run, a retry the same."""
        if run.parent is not None and run.operation == self.name:
            return REVERSED[self._kind(run.parent, table)]
        if run.parent is not None:
            return self._kind(run.parent, table)
        if not run.writes[table]:
            return "delete"
        return "insert" if inserts(self.store, table, self.writes[table]) else "update"

    def label(self, row: ChangedRow) -> str:
        return f"{row.table} {row.key}"

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        restrict(self.population())  # sets the chosen rows; the bound is not a key of batches
        written = sum(isinstance(self.process(row), Changes) for row in self._all())
        total = self.population().aggregate(rows=Sum("rows"))["rows"] or 0
        if self._chosen is not None:
            total = len(self._chosen)
        return {"in_scope": total, "as_written": written}

    def _all(self) -> Iterator[ChangedRow]:
        rows = self.population() if self._chosen is None else self.select(self.population(), list(self._chosen))
        for batch in rows.order_by("-number").iterator(chunk_size=1):
            yield from self._current(self._key(batch.number, 0), self._rows(batch))

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        remaining = after["as_written"]
        if not remaining:
            return []
        return [
            ngettext(
                "%(count)d row still has the values of the run.",
                "%(count)d rows still have the values of the run.",
                remaining,
            )
            % {"count": remaining}
        ]

    @property
    def action_label(self) -> Any:
        if self._deletes and {target.kind for target in self.targets()} == {"delete"}:
            return ngettext_lazy("Delete %(count)s row", "Delete %(count)s rows", "number")
        return ngettext_lazy("Restore %(count)s row", "Restore %(count)s rows", "number")


def key_of(run: Run, batch: int, place: int) -> int:
    """Return the key by which an undo selects a written row: `place` counts from the last row of the batch."""
    return (run.last_batch - batch) << INDEX_BITS | place


def _with_rowid(row: ChangedRow, rowid: int) -> dict[str, Any]:
    """Return the row with another rowid. Above the highest possible rowid, SQLite chooses one."""
    rest = (row.before or ())[1:]
    return {"before": (rowid, *rest)} if is_bigint(rowid) else {"before": rest, "columns": row.columns[1:]}


def _texts(values: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the values of a key as texts, and in a form in which case, spaces and zeros do not count."""
    texts = tuple(str(text_of(value)) for value in values)
    return texts, tuple(map(_alike, texts))


def _alike(text: str) -> str:
    try:
        return str(Decimal(text).normalize())
    except InvalidOperation:
        return text.rstrip().casefold()
