"""The parts of a schema that a store is missing, with SQL statements that add them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from django.db.models import Model
from django.utils.translation import gettext as _
from django.utils.translation import pgettext_lazy

from opsconsole.stores.catalog import identifier, other_relations, quote
from opsconsole.stores.indexes import free_name, names_taken

if TYPE_CHECKING:
    from opsconsole.stores.store import Store

Needs = Mapping[type[Model], Iterable[str]]


@dataclass
class MissingParts:
    """Missing tables and columns: their names, statements that add them, and reasons why some cannot be added."""

    names: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    pending: bool = False  # the platform's own migrations will add some of them


def find_missing(store: Store, needs: Needs) -> MissingParts:
    """Return the needed tables and columns that the store is missing."""
    found = MissingParts()
    for model, columns in needs.items():
        table = model._meta.db_table
        if table not in store.tables:
            found.names.append(table)
            kind = other_relations(store).get(table)
            if kind:
                found.reasons.append(kind_sentence(table, kind))
                continue
            app = model._meta.app_config.name.replace(".", "/")
            found.statements.append(f"-- {table}: see {app}/schema/{store.vendor}.sql")
        elif other_shape(store, model):
            found.names.append(f"{table}.{key_of(model)}")
            found.reasons.append(shape_sentence(store, model))
        else:
            missing = [name for name in columns if name not in store.tables[table]]
            found.names += [f"{table}.{name}" for name in missing]
            later = pending_migrations(store, model, missing)
            found.reasons += [migration_sentence(store, table, names, at) for at, names in later.items()]
            found.pending |= bool(later)
            found.statements += _statements(store, model, missing)
    return found


def sentence(store: Store, found: MissingParts) -> str:
    """Return a text that names the missing parts and the remedy."""
    parts = [
        _("%(location)s is missing %(missing)s. Nothing was written.")
        % {"location": store.location, "missing": ", ".join(found.names)},
        *found.reasons,
    ]
    if found.statements:
        advice = (
            _("Only if %(platform)s no longer migrates this store, back it up and add the missing parts with:")
            if found.pending
            else _("Back up the store and add the missing parts with:")
        )
        parts.append("\n".join([advice % {"platform": store.title}, *found.statements]))
    return " ".join(parts)


def _statements(store: Store, model: type[Model], missing: list[str]) -> Iterator[str]:
    """Yield the statements that add columns and their indexes."""
    table = model._meta.db_table
    fields = {str(one.column): one for one in model._meta.concrete_fields}
    taken = names_taken(store) if missing and model._meta.indexes else set()
    for name in missing:
        type_ = (fields[name].db_type(store.connection) or "text").upper()
        yield f"ALTER TABLE {table} ADD COLUMN {name} {type_};"
        for index in model._meta.indexes:
            columns = {
                str(getattr(model._meta.get_field(one), "column", one)): order for one, order in index.fields_orders
            }
            if name in columns:
                listed = ", ".join(f"{column} {order}".strip() for column, order in columns.items())
                yield f"CREATE INDEX {free_name(index.name, taken)} ON {table} ({listed});"


def closed_schema(store: Store) -> str:
    """Return a sentence about a schema of the search path that the role must not use. Empty for none."""
    if store.vendor != "postgresql":
        return ""
    closed = store.query(
        """
        SELECT n.nspname, current_user FROM unnest(string_to_array(current_setting('search_path'), ',')) AS p(name)
        JOIN pg_namespace AS n ON n.nspname = btrim(p.name, ' "')
        WHERE NOT has_schema_privilege(n.oid, 'USAGE')
        """
    )
    if not closed:
        return ""
    schema, role = closed[0]
    grant = f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(role)};".replace("%%", "%")
    return _(
        "%(location)s: the role %(role)s is missing USAGE on the schema %(schema)s. Nothing was written. "
        "The owner grants it with:\n%(grant)s"
    ) % {"location": store.location, "role": role, "schema": schema, "grant": grant}


def missing_table(store: Store, name: str) -> str:
    """Return a sentence about a table that is missing, with the tables that the user may mean."""
    schemas = (
        store.query(
            """
            SELECT n.nspname FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace
            WHERE t.relname = %s AND t.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
              AND n.nspname <> 'information_schema' ORDER BY 1
            """,
            [name],
        )
        if store.vendor == "postgresql"
        else []
    )
    if schemas:
        return _(
            "The table %(table)s is missing. The schema %(schema)s contains one: add it to search_path in the URL."
        ) % {"table": name, "schema": schemas[0][0]}
    lower = {one.lower(): one for one in store.tables}
    if similar := [lower[one] for one in get_close_matches(name.lower(), lower)]:
        names = ", ".join(one if one == one.lower() and one.isidentifier() else identifier(one) for one in similar)
        return _("The table %(table)s is missing. Similar names: %(names)s.") % {"table": name, "names": names}
    return _("The table %(table)s is missing.") % {"table": name}


KIND_LABELS = {
    "table": pgettext_lazy("kind of table", "table"),
    "partitioned table": pgettext_lazy("kind of table", "partitioned table"),
    "view": pgettext_lazy("kind of table", "view"),
    "materialized view": pgettext_lazy("kind of table", "materialized view"),
    "foreign table": pgettext_lazy("kind of table", "foreign table"),
    "virtual table": pgettext_lazy("kind of table", "virtual table"),
}


def kind_sentence(table: str, kind: str) -> str:
    """Return a sentence about a name that is not a table."""
    return _("%(table)s is a %(kind)s, whose rows cannot be locked. Use the database of its tables.") % {
        "table": table,
        "kind": KIND_LABELS[kind],
    }


# --- tables of another platform or version --------------------------------------------------


def key_of(model: type[Model]) -> str:
    assert model._meta.pk is not None  # noqa: S101  # every concrete model has a key
    return str(model._meta.pk.column)


def other_shape(store: Store, model: type[Model]) -> bool:
    """Return whether the table exists without the key column of the model: it is another table."""
    columns = store.tables.get(model._meta.db_table)
    return columns is not None and key_of(model) not in columns


def shape_sentence(store: Store, model: type[Model]) -> str:
    table = model._meta.db_table
    key = [name for name, column in store.tables[table].items() if column.primary_key]
    values = {"table": table, "key": ", ".join(key), "documented": key_of(model)}
    if key:
        return (
            _(
                "The table %(table)s has another shape: its key is %(key)s, and the expected key is "
                "%(documented)s. Use a console version that supports this version of the platform."
            )
            % values
        )
    return (
        _(
            "The table %(table)s has another shape: it has no key, and the expected key is %(documented)s. "
            "Use a console version that supports this version of the platform."
        )
        % values
    )


def pending_migrations(store: Store, model: type[Model], missing: Iterable[str]) -> dict[int | str, list[str]]:
    """Return the platform's own migrations that will add these columns. They fail if a column already exists.

    A numbered migration is pending if the store has an older version. A revision is pending if its column is missing.
    """
    found: dict[int | str, list[str]] = {}
    added_by: Mapping[str, int | str] = getattr(model, "added_by", {})
    missing = [column for column in missing if column in added_by]
    version = platform_version(store) if missing else None
    for column in missing:
        migration = added_by[column]
        if isinstance(migration, int):
            pending = version is not None and version < migration
        else:
            pending = "alembic_version" in store.tables
        if pending:
            found.setdefault(migration, []).append(column)
    return found


def migration_sentence(store: Store, table: str, columns: Iterable[str], migration: int | str) -> str:
    values = {
        "platform": store.title,
        "columns": ", ".join(f"{table}.{name}" for name in columns),
        "migration": f"v{migration}" if isinstance(migration, int) else migration,
    }
    sentence = _(
        "The migration %(migration)s of %(platform)s adds %(columns)s. It would fail if the column "
        "already existed. Run the migrations of %(platform)s."
    )
    if not isinstance(migration, int):
        return sentence % values
    reached = _("This store is at v%(version)s of %(platform)s.") % {
        "version": platform_version(store),
        "platform": store.title,
    }
    return f"{reached} {sentence % values}"


def platform_version(store: Store) -> int | None:
    """Return the newest applied migration, as the platform's migrator reads `0.21.0` and `v66`.

    None if the platform keeps no versions in this store.
    """
    texts = store.versions()
    numbers = [int(found[1] or found[2]) for text in texts if (found := _VERSION.search(text))]
    return max(numbers, default=0) if texts else None


_VERSION = re.compile(r"0\.(\d+)\.|v(\d+)$")
