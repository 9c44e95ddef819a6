"""Delete chosen rows of a managed store by hand, with everything that goes with them, so that it can be undone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django import forms
from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.display import figure
from opsconsole.operations.base import Changed, Operation, Outcome, Risk, RowChange, Unfit
from opsconsole.operations.planning import UnableToPlan
from opsconsole.stores import rows
from opsconsole.stores.cascade import cascade
from opsconsole.stores.catalog import ForeignKey
from opsconsole.stores.rows import Key, Values
from opsconsole.stores.store import Store, all_stores

MAX_ROWS = 10_000

Row = tuple[str, Key]


class Doomed(NamedTuple):
    """A chosen row, the rows that go with it in the order in which they go, and what keeps it."""

    pk: Key
    rows: Sequence[tuple[str, Key, Mapping[str, Any]]]
    kept_by: str = ""


class DeleteRows(Operation):
    title = _("Delete rows")
    description = _(
        "Deletes the chosen rows of a managed store, and the rows that go with them by the store's own foreign keys. "
        "Every row is kept before it goes. A row that others refer to stays."
    )
    risk = Risk.DELETE
    takes_chosen = True
    reasons = {"referenced": _("other rows refer to it: delete those first")}
    figure_labels = {"in_scope": _("chosen rows")}

    class Params(forms.Form):
        store = forms.CharField(label=_("store"), help_text=_("a managed store"))
        table = forms.CharField(label=_("table"), help_text=_("the table whose rows are chosen"))

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        table = self.params["table"]
        known = {model._meta.db_table: model for model in store.models()}
        if store.name == "default" or not store.managed:
            raise UnableToPlan(
                gettext("%(store)s is not a managed store. Its rows are changed by its own operations only.")
                % {"store": store.alias}
            )
        if table not in known:
            raise UnableToPlan(
                gettext("%(store)s has no table %(table)s that the console knows. There are: %(tables)s.")
                % {"store": store.alias, "table": table, "tables": ", ".join(sorted(known))}
            )
        self.model = known[table]  # type: ignore[misc]  # of this plan
        self.writes = dict.fromkeys(self._order(table), ())

    @classmethod
    def locate(cls, params: Mapping[str, Any]) -> Store:
        name = params["store"]
        if name not in {store.alias for store in all_stores()}:
            raise UnableToPlan(gettext("No store is called %(name)s.") % {"name": name})
        return Store(name, name)

    # --- which rows -----------------------------------------------------------------------------------------

    def choose(self, units: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        if len(keys) > MAX_ROWS:
            self._refuse()
        return super().choose(units, keys)

    def fetch(self, units: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        found = super().fetch(units, after=after, bound=bound, limit=limit)
        return self._doomed([unit.pk for unit in found])

    def measure(self, narrow: Any) -> dict[str, Any]:
        count = narrow(self.scope()).count()
        if not self.selected:
            raise UnableToPlan(gettext("No rows are chosen. Choose them in the list, or name them by --keys."))
        if count > MAX_ROWS:
            self._refuse()
        return {"in_scope": count}

    def _refuse(self) -> None:
        raise UnableToPlan(
            gettext("At most %(count)s rows are deleted by hand. Choose fewer.") % {"count": figure(MAX_ROWS)}
        )

    # --- what goes with them ----------------------------------------------------------------------------------

    def _children(self, table: str) -> Iterable[tuple[ForeignKey, str | None]]:
        for reference in self.at.foreign_keys:
            if self.at.is_parent(reference, table):
                child = rows.known_table(self.at, reference)
                known = {model._meta.db_table for model in self.at.models()}
                yield reference, child if child in known else None

    def _order(self, table: str) -> list[str]:
        """Return the tables that lose rows, children before parents."""
        found: list[str] = []

        def follow(parent: str, path: tuple[str, ...]) -> None:
            for reference, child in self._children(parent) if parent in self.at.tables else ():
                if reference.cascades and child is not None and child not in path:
                    follow(child, (*path, child))
            if parent in found:
                found.remove(parent)
            found.append(parent)

        follow(table, (table,))
        return found

    def _doomed(self, keys: Sequence[Key]) -> list[Doomed]:
        """Return the rows with all that goes with each; a row that goes with several is the first one's."""
        table = self.model._meta.db_table
        owner: dict[Row, Key] = {(table, key): key for key in keys}
        kept_by: dict[Key, str] = {}
        level = list(owner)
        while level:
            parents: dict[str, list[Key]] = {}
            for name, key in level:
                parents.setdefault(name, []).append(key)
            level = []
            for parent, parent_keys in parents.items():
                for reference, child in self._children(parent):
                    for key, found in rows.references(self.at, reference, parent, parent_keys).items():
                        root = owner[parent, key]
                        for one in found:
                            row = (child or "", rows.plain_key(one))
                            if child is None or (not reference.cascades and row not in owner):
                                kept_by.setdefault(root, reference.child)
                            elif row not in owner:
                                owner[row] = root
                                level.append(row)
        values = self._values(owner)
        order = {name: place for place, name in enumerate(self.writes)}
        going: dict[Key, list[tuple[str, Key, Mapping[str, Any]]]] = {key: [] for key in keys}
        for row in sorted(owner, key=lambda row: order.get(row[0], 0)):
            if row in values:
                going[owner[row]].append((*row, values[row]))
        return [Doomed(key, going[key], kept_by.get(key, "")) for key in keys]

    def _values(self, owner: Iterable[Row]) -> dict[Row, Mapping[str, Any]]:
        by_table: dict[str, list[Key]] = {}
        for table, key in owner:
            by_table.setdefault(table, []).append(key)
        found: dict[Row, Mapping[str, Any]] = {}
        for table, keys in by_table.items():
            columns = self.at.tables[table].stored
            read: Mapping[Key, Values] = rows.read(self.at, table, columns, keys)
            found |= {(table, key): dict(zip(columns, row, strict=True)) for key, row in read.items()}
        return found

    def change(self, unit: Doomed) -> Outcome:
        if unit.kept_by:
            return Unfit("referenced")
        return Changed([RowChange(table, key, old, None) for table, key, old in unit.rows])

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {self.model: (str(self.model._meta.pk.column),)}

    def facts(self, units: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        """What goes along, and what keeps rows: counted by the store's own foreign keys."""
        keys = list(units.values_list("pk", flat=True)[:MAX_ROWS])
        found = cascade(self.at, self.model._meta.db_table, keys)
        along = [
            gettext("%(table)s: %(count)s rows go with them.") % {"table": table, "count": figure(count)}
            for table, count in sorted(found.deleted.items())
        ]
        return {"dependencies": [*along, *found.refusals]}

    def action_label(self, count: int) -> str:
        return ngettext("Delete %(count)s row", "Delete %(count)s rows", count) % {"count": figure(count)}
