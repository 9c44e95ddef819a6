"""The operation that adds missing documented columns and indexes. No other code changes the schema of a store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from django import forms
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.backups import dump, pg_client
from opsconsole.backups.folders import folder_of
from opsconsole.backups.params import StoreParams
from opsconsole.engine import registry
from opsconsole.engine.operation import LONG_CLUSTER, Action, NamedItem, NamedItemsMixin, Risk
from opsconsole.engine.outcomes import Done, Outcome, Skip
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.registry import needed_columns
from opsconsole.formatting import format_number
from opsconsole.stores import schema
from opsconsole.stores.identify import platform_of
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store


class UpgradeStore(NamedItemsMixin, Action):
    title = _("Upgrade a store's schema")
    description = _(
        "Adds missing documented columns and indexes to a store, after a backup. An attached store only "
        "gets columns that operations need. The operation creates no tables and changes nothing that "
        "exists. It does not add columns that the platform's own migrations will add."
    )
    model = Backup
    risk = Risk.CHANGE
    cluster = LONG_CLUSTER
    done_label = _("Schema of %(store)s upgraded")
    statistic_labels = {"missing": _("missing columns and indexes")}
    reasons = {
        "complete": _("the store has all documented columns and indexes"),
        "nothing_to_add": _("no missing column or index can be added"),
    }

    class Params(StoreParams):
        needed_by = forms.CharField(
            required=False,
            label=_("needed by"),
            help_text=_("The name of an operation. Only the columns and indexes that it needs are added."),
        )

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        known = schema.documented(store.platform, store.vendor).tables
        self.writes = {table: () for table in known if table in store.tables}

    def check_prerequisites(self) -> None:
        """Refuse a store of another platform, and a store to which nothing can be added."""
        if not self.store.platform:
            raise PlanRefused(
                gettext("%(store)s has no platform, so no table or column is documented for it. Declare its platform.")
                % {"store": self.store.name}
            )
        platform = platform_of(self.store.tables)
        if platform not in {None, self.store.platform}:
            raise PlanRefused(
                gettext("%(location)s contains the tables of %(platform)s, not of %(store)s. Check the address.")
                % {"location": self.store.location, "platform": platform, "store": self.store.name}
            )
        name = self.params.get("needed_by", "")
        if name and not needed_columns(self.store, name):
            raise PlanRefused(
                gettext("%(store)s has no operation %(name)s. Choose one of: %(names)s.")
                % {
                    "store": self.store.name,
                    "name": name,
                    "names": ", ".join(
                        other
                        for other, cls in registry.operations().items()
                        if getattr(cls, "store_alias", None) == self.store.platform
                    ),
                }
            )
        missing = self._missing()
        in_the_way = [one.statement for one in missing if one.kind in {"shape", "migration"}]
        if in_the_way and (name or not any(one.kind in schema.ADDED for one in missing)):
            raise PlanRefused(
                " ".join(
                    [gettext("Nothing was added to %(location)s.") % {"location": self.store.location}, *in_the_way]
                )
            )
        if self.store.vendor == "postgresql" and self._to_add():
            pg_client.environment(self.store)  # refuses a pooler

    def item_names(self) -> list[str]:
        return [self.store.alias]

    def _missing(self) -> list[schema.Missing]:
        """Return the missing parts, from a new reading of the catalog."""
        fresh, name = Store(self.store.alias, self.store.platform), self.params.get("needed_by", "")
        needed = None if fresh.managed and not name else needed_columns(fresh, name)
        found = schema.missing(fresh, needed)
        if name and needed is not None:
            return [one for one in found if one.table in needed and one.columns <= needed[one.table]]
        return found

    def _to_add(self) -> list[schema.Missing]:
        return [one for one in self._missing() if one.kind in schema.ADDED]

    def process(self, row: NamedItem) -> Outcome:
        statements = [f"{one.statement};" for one in self._to_add()]
        return Done("", "\n".join(statements)) if statements else self._skip()

    def _skip(self) -> Skip:
        return Skip("nothing_to_add" if schema.missing(Store(self.store.alias, self.store.platform)) else "complete")

    def perform(self, row: NamedItem) -> Outcome:
        missing = self._to_add()
        if not missing:
            return self._skip()
        if not any(backup.is_there for backup in Backup.objects.filter(run=self.run_id)):
            dump.write(self.store, folder_of(""), plain=False, at=self.as_of, run_id=self.run_id)
        columns = [one for one in missing if one.kind == "column"]
        indexes = [one for one in missing if one.kind != "column"]
        with transaction.atomic(using=self.store.alias):
            self._execute(columns)
            if self.store.vendor == "sqlite":
                self._execute(indexes)
        if self.store.vendor == "postgresql":
            self._create_concurrently(indexes)
        return Done()

    def _execute(self, additions: Iterable[schema.Missing]) -> None:
        with self.store.connection.cursor() as cursor:
            for one in additions:
                cursor.execute(one.statement)

    def _create_concurrently(self, indexes: Iterable[schema.Missing]) -> None:
        """Create indexes without blocking the writers of the platform."""
        with self.store.connection.cursor() as cursor:
            for one in indexes:
                cursor.execute(re.sub(r"^(CREATE (?:UNIQUE )?INDEX) ", r"\1 CONCURRENTLY ", one.statement))

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return {**super().statistics(restrict), "missing": len(self._to_add())}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        missing = [one.name for one in self._to_add()]
        return [gettext("Still missing: %(names)s.") % {"names": ", ".join(missing)}] if missing else []

    @classmethod
    def result_details(cls, run_id: int) -> dict[str, Any]:
        before = Backup.objects.filter(run=run_id).first()
        return {} if before is None else {"state_before": before.path}

    def plan_notes(self, total: int) -> list[str]:
        missing = self._missing()
        sentences = [one.statement for one in missing if one.kind in {"shape", "migration"}]
        if tables := [one.name for one in missing if one.kind == "table"]:
            sentences.append(
                gettext("This operation does not create missing tables: %(tables)s.") % {"tables": ", ".join(tables)}
            )
        return [*sentences, *self._behind(missing)]

    def _behind(self, missing: Iterable[schema.Missing]) -> Iterator[str]:
        """Yield a note for each migration of the platform that also adds one of the missing columns."""
        models = {model._meta.db_table: model for model in self.store.models()}
        found: dict[Any, list[str]] = {}
        for one in missing:
            for column in one.columns if one.kind == "column" else ():
                migration = getattr(models[one.table], "added_by", {}).get(column)
                found.setdefault(migration, []).append(one.name)
        found.pop(None, None)
        for migration, names in found.items():
            yield gettext("The migration %(migration)s of %(platform)s also adds %(columns)s.") % {
                "platform": self.store.title,
                "columns": ", ".join(names),
                "migration": f"v{migration}" if isinstance(migration, int) else migration,
            }

    @property
    def action_label(self) -> str:
        additions = len(self._to_add())
        return ngettext("Add %(count)s column or index", "Add %(count)s columns and indexes", additions) % {
            "count": format_number(additions)
        }
