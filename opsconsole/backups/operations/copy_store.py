"""The operation that copies a store into an empty database, between SQLite and PostgreSQL too."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django import forms
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.backups import copying
from opsconsole.backups.endpoints import endpoint
from opsconsole.backups.models import TableCopy
from opsconsole.backups.params import StoreField
from opsconsole.engine.operation import LONG_CLUSTER, Action, NamedItem, NamedItemsMixin, Risk
from opsconsole.engine.outcomes import Done, Invalid, Outcome
from opsconsole.engine.planner import PlanRefused
from opsconsole.env import Environment, database_url, text
from opsconsole.formatting import format_number
from opsconsole.stores import remedies, schema
from opsconsole.stores.catalog import other_relations
from opsconsole.stores.config import database
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, all_stores


class CopyStore(NamedItemsMixin, Action):
    title = _("Copy a store")
    description = _(
        "Copies the documented tables of a store into an empty database, on the same engine or the "
        "other, and compares the contents of all rows. The result lists what was not copied: unknown "
        "tables and columns, and rows that the target cannot store. The source is only read."
    )
    model = TableCopy
    risk = Risk.REPRODUCE
    action_label = ngettext_lazy("Copy %(count)s table", "Copy %(count)s tables", "number")
    done_label = ngettext_lazy("%(count)s table copied", "%(count)s tables copied", "number")
    writes_store = False
    cluster = LONG_CLUSTER
    reasons = {
        "unknown_table": _("the console does not know the table"),
        "no_table": _("the target does not have the table"),
        "no_key": _("the table has no key that identifies its rows"),
        "other_key": _("the target does not have the key of the table"),
    }

    class Params(forms.Form):
        store = StoreField()
        to = forms.RegexField(
            r"^[a-z][a-z0-9_]{0,40}$",
            label=_("target"),
            help_text=_("The alias of the target. The variable <ALIAS>_DATABASE_URL contains its address."),
        )

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        self.target = target_store(store, self.params["to"])

    def check_prerequisites(self) -> None:
        """Refuse a target that contains rows, and a target that is the source."""
        self.store.require_file()
        if self.store.name == DEFAULT:
            raise PlanRefused(
                gettext("The console's own database cannot be copied. Back it up and restore the backup instead.")
            )
        self._require_tables()
        if self.target.location == self.store.location:
            raise PlanRefused(
                gettext("%(to)s is the source itself. Choose another database.") % {"to": self.params["to"]}
            )
        if self.target.path is not None and not self.target.path.parent.is_dir():
            raise PlanRefused(
                gettext("%(path)s is not a directory. Create it or choose another one.")
                % {"path": self.target.path.parent}
            )
        try:
            filled = self._filled()
        except DatabaseError as error:
            raise self.target.unusable(error) from error
        if filled:
            raise PlanRefused(
                gettext("%(location)s already contains rows (%(tables)s). Choose an empty database.")
                % {"location": self.target.location, "tables": ", ".join(sorted(filled)[:5])}
            )

    def _require_tables(self) -> None:
        """Refuse a store whose documented tables the role cannot see, or whose documented names are views."""
        known = {model._meta.db_table for model in self.store.models()}
        if not known & set(self.store.tables) and (sentence := remedies.closed_schema(self.store)):
            raise PlanRefused(sentence)
        for table, kind in sorted(other_relations(self.store).items()):
            if table in known:
                raise PlanRefused(remedies.kind_sentence(table, kind))

    def _filled(self) -> list[str]:
        if not self._target_tables():
            return []
        with endpoint(Store(self.target.alias, self.target.platform)) as target:
            return [table for table in copying.source_tables(target.store) if target.count(table)]

    def _target_tables(self) -> Mapping[str, Collection[str]]:
        path = self.target.path
        if path is not None and not (path.exists() and path.stat().st_size):  # opening it would create it
            return {}
        return Store(self.target.alias, self.target.platform).tables

    def item_names(self) -> list[str]:
        """Return the tables of the source, parents first."""
        return copying.source_tables(self.store)

    def process(self, row: NamedItem) -> Outcome:
        columns = self._target_columns(row.name)
        obstacle = copying.obstacle(self.store, row.name, columns)
        if obstacle or columns is None:
            return Invalid(obstacle)
        left = [name for name in self.store.tables[row.name] if name not in columns]
        detail = gettext("The target does not have the columns %(names)s.") % {"names": ", ".join(left)} if left else ""
        return Done("", detail)

    def _target_columns(self, table: str) -> Collection[str] | None:
        """Return the columns that the target has, or will have after its documented tables are created."""
        tables = self._target_tables()
        documented = schema.documented(self.store.platform, self.target.vendor)
        if table == "schema_version" and not set(documented.tables) & set(tables):
            return ("version", "applied_at")
        if set(documented.tables) & set(tables):
            return tables.get(table)
        return documented.columns.get(table)

    def perform(self, row: NamedItem) -> Outcome:
        if not set(schema.documented(self.store.platform, self.target.vendor).tables) & set(self._target_tables()):
            copying.make_tables(self.target)
        fresh = Store(self.target.alias, self.target.platform)
        record, _made = TableCopy.objects.get_or_create(run_id=int(self.run_id or 0), table=row.name)
        record.obstacle = copying.obstacle(self.store, row.name, fresh.tables.get(row.name))
        with endpoint(self.store) as source:
            record.source_rows = source.count(row.name)
            if record.obstacle:
                record.save()
                return Invalid(record.obstacle)
            with endpoint(fresh) as target:
                table = copying.TableCopyJob(source, target, row.name)
                table.run()
                record.agrees = table.matches()
                record.source_rows, record.target_rows = source.count(row.name), target.count(row.name)
            names = [name for name in self.store.tables[row.name] if name not in table.columns]
            record.columns_left = {name: source.count_values(row.name, name) for name in names}
        record.left_rows = len(table.left) + table.without_key
        record.left = [
            [", ".join(map(str, key)) if len(key) > 1 or not isinstance(key[0], int) else key[0], reason]
            for key, reason in list(table.left.items())[: copying.LISTED_FAILURES]
        ]
        if table.without_key:
            record.left.append(["NULL", gettext("the row has no key")])
        record.save()
        return Done()

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        records = list(TableCopy.objects.filter(run=self.run_id).order_by("pk"))
        sentences = []
        for record in records:
            if record.left_rows:
                sentences.append(
                    ngettext(
                        "%(count)s row of %(table)s could not be copied, first: %(first)s.",
                        "%(count)s rows of %(table)s could not be copied, first: %(first)s.",
                        record.left_rows,
                    )
                    % {
                        "count": format_number(record.left_rows),
                        "table": record.table,
                        "first": ": ".join(map(str, record.left[0])),
                    }
                )
            if record.agrees is False:
                sentences.append(gettext("%(table)s differs from its source.") % {"table": record.table})
        behind = [f"{record.table} ({_rows(record.source_rows)})" for record in records if record.obstacle]
        behind += [
            f"{record.table}.{name} ({_rows(count)})"
            for record in records
            for name, count in record.columns_left.items()
        ]
        if behind:
            sentences.append(gettext("Not copied: %(names)s.") % {"names": ", ".join(behind)})
        return sentences

    @classmethod
    def result_details(cls, run_id: int) -> dict[str, Any]:
        records = list(TableCopy.objects.filter(run=run_id).order_by("pk"))
        return {
            "tables": {
                record.table: {
                    "source_rows": record.source_rows,
                    "target_rows": record.target_rows,
                    "failed": record.left_rows,
                    "agrees": record.agrees,
                }
                for record in records
                if not record.obstacle
            },
            "stays_behind": {
                "tables": {record.table: record.source_rows for record in records if record.obstacle},
                "columns": {
                    f"{record.table}.{name}": count for record in records for name, count in record.columns_left.items()
                },
            },
        }

    def plan_notes(self, total: int) -> list[str]:
        return [
            gettext(
                "The target is %(location)s (%(engine)s). Stop the platform first: rows written during the copy "
                "may be missing from the target."
            )
            % {"location": self.target.location, "engine": self.target.vendor}
        ]


def _rows(count: int) -> str:
    return ngettext("%(count)s row", "%(count)s rows", count) % {"count": format_number(count)}


def target_store(store: Store, alias: str) -> Store:
    """Return the database that `<ALIAS>_DATABASE_URL` names, as a store of this process. Raise PlanRefused."""
    if alias in {known.alias for known in all_stores()}:
        raise PlanRefused(
            gettext("%(alias)s is already the alias of a store. Choose another alias, such as %(example)s.")
            % {"alias": alias, "example": f"{store.name}_new"}
        )
    variable = f"{alias.upper()}_DATABASE_URL"
    env = Environment()
    if not env.values.get(variable):
        raise PlanRefused(
            gettext("%(variable)s is not set. Set it to the address of the target.") % {"variable": variable}
        )
    if alias not in connections.settings:
        try:
            password = env(f"{alias.upper()}_DATABASE_PASSWORD", text, "", secret=True)
            url: dict[str, Any] = env(variable, database_url, {}, secret=True)
            config = database(url, password=password, attached=False, pool=False)
        except ImproperlyConfigured as error:
            raise PlanRefused(str(error)) from None
        connections.settings[alias] = config
        connections.configure_settings(connections.settings)
    return Store(alias, store.platform)
