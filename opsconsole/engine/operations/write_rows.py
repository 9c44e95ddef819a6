"""Write the rows of a form or a file into a managed store: changed rows and new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.given_rows import GivenRowsMixin
from opsconsole.engine.models import GivenRows
from opsconsole.engine.operation import Risk
from opsconsole.engine.operations.delete_rows import MAX_ROWS
from opsconsole.engine.outcomes import Changes, Invalid, Outcome, RowChange, Skip
from opsconsole.engine.planner import PlanRefused
from opsconsole.formatting import format_number
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key, Values
from opsconsole.stores.store import Store


class GivenRow(NamedTuple):
    """A row from a form or a file, with its current values.

    `now` is None if the row does not exist. A new row has no `old`.
    """

    pk: int  # its place in the form or file, from 1
    key: Key
    columns: tuple[str, ...]
    old: Values | None
    new: Values
    now: Values | None


class WriteRows(GivenRowsMixin):
    title = _("Write rows")
    description = _(
        "Writes the rows of a form or a file into a managed store. Only the columns that differ are written. "
        "A row that has changed since is a conflict and is not written."
    )
    risk = Risk.CHANGE
    action_label = ngettext_lazy("Write %(count)s row", "Write %(count)s rows", "number")
    done_label = ngettext_lazy("%(count)s row written", "%(count)s rows written", "number")
    reasons = {
        "new": _("new row"),
        "updated": _("changed row"),
        "as_given": _("already has these values"),
        "conflict": _("conflict: changed since it was given"),
        "exists": _("conflict: another row has this key"),
        "deleted": _("conflict: deleted since it was given"),
    }
    statistic_labels = {"in_scope": _("given rows"), "to_write": _("rows still to write")}

    class Params(forms.Form):
        store = forms.CharField(
            label=_("store"), help_text=_("a managed store"), required=False, widget=forms.HiddenInput
        )
        table = forms.CharField(
            label=_("table"), help_text=_("the table of the rows"), required=False, widget=forms.HiddenInput
        )
        rows = forms.CharField(
            label=_("rows"), help_text=_("the digest of the given rows"), required=False, widget=forms.HiddenInput
        )

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        table = self.params["table"]
        known = {model._meta.db_table: model for model in store.models()}
        if store.name == "default" or not store.managed or table not in known:
            raise PlanRefused(
                gettext("%(table)s is not a table of a managed store. Change its rows with an operation.")
                % {"table": f"{store.alias}.{table}"}
            )
        given = GivenRows.objects.defer("content").filter(digest=self.params["rows"]).first()
        if given is None:
            raise PlanRefused(gettext("The given rows have been deleted. Edit the row or import the file again."))
        if given.count > MAX_ROWS:
            raise PlanRefused(
                gettext("At most %(count)s rows can be written at once. Give fewer rows.")
                % {"count": format_number(MAX_ROWS)}
            )
        self.given = given
        self.model = known[table]  # type: ignore[misc]  # of this plan
        self.writes = {table: tuple(dict.fromkeys((*given.inserts, *given.updates)))}
        self._table = table

    # --- given rows -----------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> list[GivenRow]:
        try:
            writes = self.given.writes
        except ValueError:
            raise PlanRefused(
                gettext("The given rows differ from the plan. Edit the row or import the file again.")
            ) from None
        flat = [(write.columns, *row) for write in writes for row in write.rows]
        return [
            GivenRow(place, key, columns, old, new or (), None)
            for place, (columns, key, old, new) in enumerate(flat, 1)
        ]

    def bound(self) -> Key | None:
        return self.given.count or None

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        behind = self._rows[int(after or 0) :]
        if self.selection.keys is not None:
            keys = set(self.selection.keys)
            behind = [row for row in behind if row.pk in keys]
        return self._current(behind[:limit])

    def _current(self, given: list[GivenRow]) -> list[GivenRow]:
        """Return the rows with their current values, read with one statement per set of columns."""
        groups: dict[tuple[str, ...], list[Key]] = {}
        for row in given:
            groups.setdefault(row.columns, []).append(row.key)
        now = {columns: stored_rows.read(self.store, self._table, columns, keys) for columns, keys in groups.items()}
        return [row._replace(now=now[row.columns].get(row.key)) for row in given]

    # --- outcomes and figures ---------------------------------------------------------------------------------

    def process(self, row: GivenRow) -> Outcome:
        new, old = self.store.normalize(row.new), self.store.normalize(row.old)
        if row.now == new:
            return Skip("as_given")
        if row.now != old:
            return Invalid("exists" if old is None else "deleted" if row.now is None else "conflict")
        before = None if row.old is None else dict(zip(row.columns, row.old, strict=True))
        after = dict(zip(row.columns, row.new, strict=True))
        return Changes((RowChange(self._table, row.key, before, after),), "new" if old is None else "updated")

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        found = list(self._all())
        return {"in_scope": len(found), "to_write": sum(isinstance(self.process(row), Changes) for row in found)}

    def _unwritten(self, count: int) -> str:
        text = ngettext(
            "%(count)d row no longer has the written values.",
            "%(count)d rows no longer have the written values.",
            count,
        )
        return text % {"count": count}

    # --- writes -----------------------------------------------------------------------------------

    def targets(self) -> list[Target]:
        found = []
        if self.given.inserts:
            found.append(Target("insert", self._table, tuple(self.given.inserts)))
        if self.given.updates:
            found.append(Target("update", self._table, tuple(self.given.updates)))
        return found
