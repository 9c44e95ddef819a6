"""Reclaim the space of deleted rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import LONG_CLUSTER, Action, NamedItem, NamedItemsMixin, Risk
from opsconsole.engine.outcomes import Done, Outcome, Skip
from opsconsole.engine.planner import PlanRefused
from opsconsole.formatting import format_number
from opsconsole.monitoring import space
from opsconsole.monitoring.models import Measurement
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store


class ReclaimSpace(NamedItemsMixin, Action):
    title = _("Reclaim the space of deleted rows")
    description = _(
        "PostgreSQL: runs VACUUM (ANALYZE, TRUNCATE false) on a table. Reads and writes continue. "
        "SQLite: runs VACUUM on a managed store. Writes wait until it ends. It is tested on a copy first."
    )
    model = Measurement
    risk = Risk.CHANGE
    action_label: Any = _("Reclaim space in %(store)s")
    done_label = _("space reclaimed in %(store)s")
    cluster = LONG_CLUSTER
    reasons = {"none": _("nothing to reclaim")}
    locks = ("the space of the store",)

    class Params(forms.Form):
        store = forms.CharField(label=_("store"), help_text=_("the alias of a store"))
        table = forms.CharField(label=_("table"), help_text=_("of PostgreSQL: the table"), required=False)

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        if store.alias == DEFAULT:
            raise PlanRefused(gettext("This operation does not work on the console's database. Name a store."))

    @property
    def _table(self) -> str:
        return str(self.params.get("table") or "")

    def effective_risk(self) -> Risk:
        """Return the risk on this engine: only VACUUM of SQLite makes writers wait, and must be confirmed by typing."""
        return Risk.CHANGE if self.store.vendor == "sqlite" else Risk.REPRODUCE

    def check_prerequisites(self) -> None:
        if self.store.vendor == "postgresql" and not self._table:
            raise PlanRefused(gettext("The table is missing. Name the table whose space is reclaimed."))
        if self.store.vendor == "sqlite" and self._table:
            raise PlanRefused(gettext("VACUUM works on the whole SQLite file. Omit the table."))
        space.require_reclaimable(self.store, self._table)

    def item_names(self) -> list[str]:
        return [self._table if self.store.vendor == "postgresql" else self.store.alias]

    def process(self, row: NamedItem) -> Outcome:
        found = space.unreclaimed(self.store, [self._table])
        if not found:
            return Skip("none")
        if self.store.vendor == "sqlite":
            return Done("", gettext("%(free)s free of %(size)s") % _sizes(found[0]))
        values = {"dead": format_number(found[0].dead_rows), "size": _sizes(found[0])["size"]}
        return Done("", gettext("%(dead)s dead rows, %(size)s") % values)

    def perform(self, row: NamedItem) -> Outcome:
        if self.store.vendor == "sqlite":
            space.vacuum_file(self.store)
        else:
            space.vacuum_table(self.store, self._table)
        return Done()

    def plan_notes(self, total: int) -> list[str]:
        if self.store.vendor == "sqlite":
            return [gettext("Writes to %(store)s wait while VACUUM runs.") % {"store": self.store.alias}]
        return [gettext("The space becomes free for new rows of the table. Its file does not become smaller.")]


def _sizes(found: space.Unreclaimed) -> dict[str, str]:
    return {"free": filesizeformat(found.free), "size": filesizeformat(found.size)}
