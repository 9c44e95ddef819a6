"""Delete selected rows of a managed store, with the rows that refer to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Invalid, Outcome, RowChange, Skip
from opsconsole.engine.planner import PlanRefused
from opsconsole.formatting import format_number
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.cascade import cascade, delete_order, references
from opsconsole.stores.rows import Key, RowKey, Values
from opsconsole.stores.store import Store

MAX_ROWS = 10_000  # deleted or written by hand at once


class Doomed(NamedTuple):
    """A selected row, and the rows that are deleted with it, in the order of deletion."""

    pk: Key
    rows: Sequence[tuple[str, Key, Mapping[str, Any]]]
    kept: bool = False  # a row outside the cascade refers to it
    along: bool = False  # it is deleted with another selected row


class DeleteRows(Operation):
    title = _("Delete rows")
    description = _(
        "Deletes the selected rows of a managed store, and the rows that its foreign keys delete with them. "
        "Each row is saved before it is deleted. A row that other rows refer to is not deleted."
    )
    risk = Risk.DELETE
    action_label = ngettext_lazy("Delete %(count)s row", "Delete %(count)s rows", "number")
    done_label = ngettext_lazy("%(count)s row deleted", "%(count)s rows deleted", "number")
    allow_out_of_scope = True
    reasons = {
        "referenced": _("other rows refer to it"),
        "along": _("deleted with another selected row"),
    }
    statistic_labels = {"in_scope": _("selected rows")}

    class Params(forms.Form):
        store = forms.CharField(label=_("store"), help_text=_("a managed store"))
        table = forms.CharField(label=_("table"), help_text=_("the table of the rows"))

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        table = self.params["table"]
        known = {model._meta.db_table: model for model in store.models()}
        if store.name == "default" or not store.managed:
            raise PlanRefused(
                gettext("%(store)s is not a managed store. Change its rows with an operation.") % {"store": store.alias}
            )
        if table not in known:
            raise PlanRefused(
                gettext("The table %(table)s of %(store)s is unknown. Choose one of: %(tables)s.")
                % {"store": store.alias, "table": table, "tables": ", ".join(sorted(known))}
            )
        self.model = known[table]  # type: ignore[misc]  # of this plan
        self._referring = references(store)
        self.writes = dict.fromkeys(delete_order(table, self._referring), ())

    # --- selected rows -----------------------------------------------------------------------------------------

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        found = super().fetch(rows, after=after, bound=bound, limit=limit)
        # All of them: a batch that is read again has a lower bound, but its rows fall with those of later batches.
        chosen = rows.order_by("pk").values_list("pk", flat=True)
        return self._doomed([row.pk for row in found], map(stored_rows.plain_key, chosen)) if found else []

    def statistics(self, restrict: Any) -> dict[str, Any]:
        selected = restrict(self.queryset())
        if self.selection.is_everything:
            raise PlanRefused(gettext("No rows are selected. Select them in the list, or pass --keys."))
        if len(self.selection.keys or ()) > MAX_ROWS or (count := selected.count()) > MAX_ROWS:
            raise PlanRefused(
                gettext("At most %(count)s rows can be deleted at once. Select fewer rows.")
                % {"count": format_number(MAX_ROWS)}
            )
        return {"in_scope": count}

    # --- rows deleted with them ----------------------------------------------------------------------------------

    def _doomed(self, keys: Sequence[Key], chosen: Iterable[Key]) -> list[Doomed]:
        """Return the rows with those that each deletes. A row that several delete belongs to the first of them."""
        table = self.model._meta.db_table
        found = cascade(self.store, table, chosen, self._referring)
        going: dict[Key, list[tuple[str, Key, Mapping[str, Any]]]] = {key: [] for key in keys}
        mine = [row for row, owner in found.owners.items() if owner in going]
        values = self._values(mine)
        order = {name: place for place, name in enumerate(self.writes)}
        for row in sorted(mine, key=lambda row: order[row[0]]):
            if row in values:
                going[found.owners[row]].append((*row, values[row]))
        return [
            Doomed(key, going[key], key in found.kept_by, found.owners.get((table, key), key) != key) for key in keys
        ]

    def _values(self, owner: Iterable[RowKey]) -> dict[RowKey, Mapping[str, Any]]:
        by_table: dict[str, list[Key]] = {}
        for table, key in owner:
            by_table.setdefault(table, []).append(key)
        found: dict[RowKey, Mapping[str, Any]] = {}
        for table, keys in by_table.items():
            columns = self.store.tables[table].stored
            read: Mapping[Key, Values] = stored_rows.read(self.store, table, columns, keys)
            found |= {(table, key): dict(zip(columns, row, strict=True)) for key, row in read.items()}
        return found

    def process(self, row: Doomed) -> Outcome:
        if row.kept:
            return Invalid("referenced")
        if row.along:
            return Skip("along")
        if not row.rows:
            return Skip("no_longer_in_scope")
        return Changes([RowChange(table, key, old, None) for table, key, old in row.rows])

    def checklist_facts(self, rows: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        """Count the rows that are deleted too and the rows that prevent a delete, by the foreign keys of the store."""
        keys = list(rows.values_list("pk", flat=True)[:MAX_ROWS])
        found = cascade(self.store, self.model._meta.db_table, map(stored_rows.plain_key, keys), self._referring)
        return {"dependencies": [*_going(found.along), *_staying(found.staying)]}


def _going(counts: Mapping[str, int]) -> list[str]:
    return [
        gettext("%(table)s: %(count)s rows are deleted with them.") % {"table": table, "count": format_number(count)}
        for table, count in sorted(counts.items())
    ]


def _staying(counts: Mapping[tuple[str, bool], int]) -> list[str]:
    known = gettext("%(table)s: %(count)s rows refer to the selected rows. Delete them first.")
    unknown = gettext("%(table)s: %(count)s rows of an unknown table refer to the selected rows.")
    return [
        (known if has_model else unknown) % {"table": table, "count": format_number(count)}
        for (table, has_model), count in sorted(counts.items())
    ]
