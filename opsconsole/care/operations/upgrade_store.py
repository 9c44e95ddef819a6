"""Documents 000 to 004: bring an older store to the documented columns and indexes. Nothing else changes a schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.care import dumps, schema
from opsconsole.care.models import Backup
from opsconsole.care.params import OnNamedStore, StoreParams
from opsconsole.care.systems import system_of
from opsconsole.display import figure
from opsconsole.operations.base import LONG_CLUSTER, Act, Changed, Item, Listed, Outcome, Risk, Skip
from opsconsole.operations.planning import UnableToPlan
from opsconsole.stores.store import Store


class UpgradeStore(OnNamedStore, Listed, Act):
    title = _("Upgrade a store's schema")
    description = _(
        "Adds the documented columns and indexes that the store lacks, after a backup. No table is made, nothing is "
        "renamed, and nothing that is there is changed."
    )
    model = Backup
    risk = Risk.CHANGE
    backs_up = True
    cluster = LONG_CLUSTER
    Params = StoreParams
    reasons = {"complete": _("it has all documented columns and indexes")}

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        known = schema.documented(store.name, store.vendor).tables
        self.writes = {table: () for table in known if table in store.tables}

    def items(self) -> list[str]:
        system = system_of(self.at.tables)
        if system not in {None, self.at.name}:
            raise UnableToPlan(
                gettext("%(location)s holds the tables of %(system)s, not of %(store)s.")
                % {"location": self.at.location, "system": system, "store": self.at.name}
            )
        return [self.at.alias]

    def _missing(self) -> list[schema.Missing]:
        """As the store is now: what was read of it before is forgotten."""
        fresh = Store(self.at.alias, self.at.name)
        return [one for one in schema.missing(fresh) if one.kind != "table"]

    def change(self, unit: Item) -> Outcome:
        statements = [f"{one.statement};" for one in self._missing()]
        return Changed((), "", "\n".join(statements)) if statements else Skip("complete")

    def act(self, unit: Item) -> Outcome:
        missing = self._missing()
        if not missing:
            return Skip("complete")
        if not any(backup.is_there for backup in Backup.objects.filter(run=self.run_id)):
            dumps.write(self.at, dumps.folder_of(""), plain=False, at=self.as_of, run_id=self.run_id)
        columns = [one for one in missing if one.kind == "column"]
        indexes = [one for one in missing if one.kind == "index"]
        with transaction.atomic(using=self.at.alias):
            self._execute(columns)
            if self.at.vendor == "sqlite":
                self._execute(indexes)
        if self.at.vendor == "postgresql":
            self._make_concurrently(indexes)
        return Changed(())

    def _execute(self, additions: Iterable[schema.Missing]) -> None:
        with self.at.connection.cursor() as cursor:
            for one in additions:
                cursor.execute(one.statement)

    def _make_concurrently(self, indexes: Iterable[schema.Missing]) -> None:
        """So that the platform goes on writing. What an attempt before left half made is dropped first."""
        with self.at.connection.cursor() as cursor:
            for one in indexes:
                cursor.execute(f"DROP INDEX IF EXISTS {self.at.connection.ops.quote_name(one.name)}")
                cursor.execute(one.statement.replace(" INDEX ", " INDEX CONCURRENTLY ", 1))

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        lacking = [one.name for one in self._missing()]
        return [gettext("Still missing: %(names)s.") % {"names": ", ".join(lacking)}] if lacking else []

    @classmethod
    def made(cls, run_id: int) -> dict[str, Any]:
        before = Backup.objects.filter(run=run_id).first()
        return {} if before is None else {"state_before": before.path}

    def advice(self, total: int) -> list[str]:
        tables = [one.name for one in schema.missing(self.at) if one.kind == "table"]
        if not tables:
            return []
        return [
            gettext("It lacks whole tables, too, which this does not make: %(tables)s.") % {"tables": ", ".join(tables)}
        ]

    def action_label(self, count: int) -> str:
        additions = len(self._missing())
        return ngettext("Add %(count)s column or index", "Add %(count)s columns and indexes", additions) % {
            "count": figure(additions)
        }
