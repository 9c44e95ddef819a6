"""Change or delete the rows of an SQL statement, in a database that needs no models."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any, NamedTuple

from django import forms
from django.db import DataError
from django.db.models import QuerySet
from django.utils.functional import lazy
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.given_rows import GivenRowsMixin
from opsconsole.engine.models import GivenRows
from opsconsole.engine.operation import Risk
from opsconsole.engine.outcomes import Changes, Invalid, Outcome, RowChange, Skip
from opsconsole.engine.planner import PlanRefused
from opsconsole.formatting import format_number, truncate
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.catalog import ForeignKey
from opsconsole.stores.errors import first_line
from opsconsole.stores.evaluation import CHUNK, Evaluation
from opsconsole.stores.preflight import Target, require_privileges
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.rows import Key, Values, Write
from opsconsole.stores.statement import MAX_CHARACTERS, StatementRefused
from opsconsole.stores.store import Store, all_stores, unknown_store

MAX_KEYS = 100_000
_LINE_END = re.compile("\r\n|\r|\n")
_WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,20}\s*")
SHOWN_KEYS, SHOWN_CHARACTERS = 5, 80


class PlannedRow(NamedTuple):
    """A row of the plan, with its current values. `columns` are those of `old` and `now`."""

    pk: int  # its place in the plan, from 1
    key: Key
    columns: tuple[str, ...]
    old: Values
    new: Values | None  # of the columns that SET assigns; None: the row is deleted
    now: Values | None
    referenced: bool = False  # other rows refer to it


class ChangeRows(GivenRowsMixin):
    title = _("Change rows by a statement")
    description = _(
        "Changes the rows of one UPDATE or DELETE statement. The database evaluates the statement once, for the plan: "
        "the run writes exactly the planned values, and only to rows that have not changed since. "
        "A row that other rows refer to is not deleted."
    )
    model = GivenRows
    risk = Risk.CHANGE
    permission = "operations.change_by_statement"
    always_approved = True
    reasons = {
        "as_planned": _("already has these values"),
        "referenced": _("other rows refer to it"),
    }
    done_label = ngettext_lazy("statement applied to %(count)s row", "statement applied to %(count)s rows", "number")
    statistic_labels = {"in_scope": _("rows of the statement"), "to_write": _("rows that still hold their old values")}

    class Params(forms.Form):
        store = forms.ChoiceField(
            label=_("store"),
            help_text=_("the alias of a store"),
            choices=lambda: [(one.alias, one.title) for one in all_stores() if one.alias != DEFAULT],
            error_messages={"invalid_choice": lazy(unknown_store, str)("%(value)s", own=False)},
        )
        statement = forms.CharField(
            label=_("statement"),
            help_text=_("UPDATE … SET … WHERE …, or DELETE FROM … WHERE …"),
            max_length=MAX_CHARACTERS,
            widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false"}),
        )
        key_list = forms.CharField(
            label=_("keys"),
            help_text=_("Only the rows with these keys: one per line, or as CSV if several columns are the key."),
            required=False,
            strip=False,
            widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        )

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        from opsconsole.stores.statement_parser import parse  # its library takes 0.1 s to load

        if store.alias == DEFAULT:
            raise PlanRefused(gettext("A statement cannot change the database of the console. Name another store."))
        with _plan_refused():
            statement = parse(self.params["statement"], store.vendor)
            self._evaluation = Evaluation(store, statement)
            columns = tuple(one.column for one in statement.assignments)
            # SQLite ignores the case of names. The catalog of a server is not read for a page that shows a run.
            if store.vendor == "sqlite" and self._table in store.tables:
                columns = self._evaluation.assigned
            self.writes = {self._table: columns}
        if statement.kind == "delete":
            self.risk = Risk.DELETE  # type: ignore[misc]  # of this plan
        self._parts: list[GivenRows] | None = None  # of the plan that this object has made
        self._unpacked: tuple[int, list[PlannedRow]] = (-1, [])

    @property
    def _table(self) -> str:
        return self._evaluation.table

    @property
    def _deletes(self) -> bool:
        return self.risk == Risk.DELETE

    @property
    def action_label(self) -> Any:
        if self._deletes:
            return ngettext_lazy("Delete %(count)s row", "Delete %(count)s rows", "number")
        return ngettext_lazy("Change %(count)s row", "Change %(count)s rows", "number")

    # --- the plan ---------------------------------------------------------------------------------------------

    def targets(self) -> list[Target]:
        with _plan_refused():
            self._evaluation.require_names()
        return [Target(self._evaluation.statement.kind, table, columns) for table, columns in self.writes.items()]

    def check_prerequisites(self) -> None:
        """Evaluate the statement in the store, and keep the rows."""
        columns = dict.fromkeys((*self.store.key_columns(self._table), *self._evaluation.guarded))
        require_privileges(self.store, [(self._table, name) for name in columns], [], self._evaluation.type_schemas)
        if self.frozen:  # a retry writes the values of the first plan
            return
        with _plan_refused():
            self._evaluation.check()
            keys = self._keys()
            self._parts = self._evaluation.read(self._part, keys)
            count = sum(part.count for part in self._parts)
            every_row = bool(count) and self._evaluation.matches_every_row(keys)
        self.frozen = {"parts": [part.digest for part in self._parts], "count": count, "every_row": every_row}

    def _part(self, rows: list[tuple[Key, Values, Values | None]]) -> GivenRows:
        return GivenRows.of([Write(self._table, self._evaluation.guarded, rows)])  # type: ignore[arg-type]

    def freeze(self) -> None:
        GivenRows.objects.bulk_create(
            self._parts or (), 50, update_conflicts=True, unique_fields=["digest"], update_fields=["at"]
        )

    @property
    def requires_typing(self) -> bool:
        return bool(self.frozen.get("every_row"))

    def plan_notes(self, total: int) -> list[str]:
        notes = []
        if self.requires_typing:
            notes.append(gettext("The statement leaves out no row of %(table)s.") % {"table": self._table})
        if self._deletes and (tables := sorted({reference.child for reference in self._referring})):
            notes.append(
                gettext("A row that rows of another table refer to (%(tables)s) is not deleted. Delete these first.")
                % {"tables": ", ".join(tables)}
            )
        if self._evaluation.statement.has_subselect:
            notes.append(
                gettext("The sub-selects are evaluated for the plan only. Later changes there have no effect.")
            )
        return notes

    # --- keys -------------------------------------------------------------------------------------------------

    def _keys(self) -> list[Key] | None:
        """Return the given keys, None if there are none. Refuse a key that no row has."""
        text = self.params.get("key_list") or ""
        if not text.strip():
            return None
        names = self.store.key_columns(self._table)
        try:
            given = (
                [[line] for line in _LINE_END.split(text)]
                if len(names) == 1
                else list(csv.reader(StringIO(text, newline="")))
            )
        except csv.Error as error:
            raise PlanRefused(gettext("The keys are not CSV: %(reason)s. Correct them.") % {"reason": error}) from None
        if [name.strip() for name in given[0]] == list(names):
            given = given[1:]
        keys = list(dict.fromkeys(self._key(names, values) for values in given if any(map(str.strip, values))))
        if len(keys) > MAX_KEYS:
            raise PlanRefused(
                gettext("At most %(count)s keys can be given. Give fewer keys.") % {"count": format_number(MAX_KEYS)}
            )
        try:
            found = stored_rows.existing(self.store, self._table, keys)
        except DataError as error:
            raise PlanRefused(
                gettext("A key does not have the type of %(columns)s: %(reason)s. Correct the keys.")
                % {"columns": ", ".join(names), "reason": truncate(first_line(error), 2 * SHOWN_CHARACTERS)}
            ) from None
        if len(found) < len(keys):
            unknown = [truncate(str(key), SHOWN_CHARACTERS) for key in keys if key not in found][:SHOWN_KEYS]
            raise PlanRefused(
                gettext("%(table)s of %(location)s has no row with the key %(keys)s. Correct the keys.")
                % {"table": self._table, "location": self.store.location, "keys": ", ".join(unknown)}
            )
        return keys

    def _key(self, names: Sequence[str], values: Sequence[str]) -> Key:
        if len(values) != len(names) or not all(map(self.store.can_store, values)):
            raise PlanRefused(
                gettext("%(key)s is not a key of %(table)s, which consists of %(columns)s. Correct the keys.")
                % {
                    "key": truncate(repr(",".join(values)), SHOWN_CHARACTERS),
                    "table": self._table,
                    "columns": ", ".join(names),
                }
            )
        return stored_rows.key_of([self._key_value(name, value) for name, value in zip(names, values, strict=True)])

    def _key_value(self, name: str, text: str) -> Key:
        if not stored_rows.is_whole_number(self.store, self._table, name):
            return text
        number = int(text) if _WHOLE_NUMBER.fullmatch(text) else None
        if number is None or not stored_rows.is_bigint(number):
            raise PlanRefused(
                gettext("%(key)s is not a whole number, as %(table)s.%(column)s requires. Correct the keys.")
                % {"key": truncate(repr(text), SHOWN_CHARACTERS), "table": self._table, "column": name}
            )
        return number

    # --- rows -------------------------------------------------------------------------------------------------

    def bound(self) -> Key | None:
        return self.frozen["count"] or None

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        keys = None if self.selection.keys is None else set(self.selection.keys)
        found: list[PlannedRow] = []
        place = int(after or 0)
        while len(found) < limit and place < int(bound):
            behind = self._rows(place // CHUNK)[place % CHUNK :]
            place += len(behind)
            found += [row for row in behind if keys is None or row.pk in keys]
        return self._current(found[:limit])

    def _rows(self, number: int) -> list[PlannedRow]:
        """Return the rows of a part. Refuse a part that differs from the plan."""
        if self._unpacked[0] != number:
            digest = self.frozen["parts"][number]
            part = self._parts[number] if self._parts else GivenRows.objects.filter(digest=digest).first()
            try:
                writes = part.writes if part is not None and part.digest == digest else []
            except ValueError:
                writes = []
            if not writes:
                raise PlanRefused(gettext("The rows of this plan were pruned or altered. Plan the statement again."))
            self._unpacked = (
                number,
                [
                    PlannedRow(number * CHUNK + place, key, write.columns, old or (), new, None)
                    for write in writes
                    for place, (key, old, new) in enumerate(write.rows, 1)
                ],
            )
        return self._unpacked[1]

    def _current(self, planned: list[PlannedRow]) -> list[PlannedRow]:
        """Return the rows with their current values. The object that has evaluated them does not read them again."""
        if not planned:
            return []
        keys = [row.key for row in planned]
        if self._parts is not None:
            found = [row._replace(now=row.old) for row in planned]
        else:
            now = stored_rows.read(self.store, self._table, planned[0].columns, keys)
            found = [row._replace(now=now.get(row.key)) for row in planned]
        if not self._deletes:
            return found
        referenced = self._referenced(keys)
        return [row._replace(referenced=row.key in referenced) for row in found]

    def _referenced(self, keys: Sequence[Key]) -> set[Key]:
        found: set[Key] = set()
        for reference in self._referring:
            found |= stored_rows.references(self.store, reference, self._table, keys).keys()
        return found

    @property
    def _referring(self) -> list[ForeignKey]:
        return [one for one in self.store.foreign_keys if self.store.is_parent(one, self._table)]

    # --- outcomes and figures ---------------------------------------------------------------------------------

    def process(self, row: PlannedRow) -> Outcome:
        if row.now is None:
            return Skip("no_longer_in_scope")
        old = dict(zip(row.columns, row.old, strict=True))
        if row.new is None:
            if not _same(row.now, row.old):
                return Skip("changed_since_plan")
            if row.referenced:
                return Invalid("referenced")
            return Changes([RowChange(self._table, row.key, old, None)])
        columns = self.writes[self._table]
        now = dict(zip(row.columns, row.now, strict=True))
        if _same([now[name] for name in columns], row.new):
            return Skip("as_planned")
        if not _same(row.now, row.old):
            return Skip("changed_since_plan")
        new = dict(zip(columns, row.new, strict=True))
        return Changes([RowChange(self._table, row.key, {name: old[name] for name in columns}, new)])

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        restrict(self.population())  # sets the selected rows
        outcomes = [isinstance(self.process(row), Changes) for row in self._all()]
        return {"in_scope": len(outcomes), "to_write": sum(outcomes)}

    def _unwritten(self, count: int) -> str:
        text = ngettext(
            "%(count)d row still has its old values. Run the statement again.",
            "%(count)d rows still have their old values. Run the statement again.",
            count,
        )
        return text % {"count": count}


@contextmanager
def _plan_refused() -> Iterator[None]:
    try:
        yield
    except StatementRefused as error:
        raise PlanRefused(str(error)) from None


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether values are equal and of one type: 5, 5.0 and '5' differ in SQLite."""
    return tuple(one) == tuple(other) and list(map(type, one)) == list(map(type, other))
