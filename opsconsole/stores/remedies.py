"""The parts of a schema that a store is missing, with SQL statements that add them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models import Model
from django.utils.translation import gettext as _

from opsconsole.stores.catalog import other_relations, quote

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
            _("Only if %(platform)s no longer migrates this store, add what is missing, after a backup, with:")
            if found.pending
            else _("Add what is missing, after a backup, with:")
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
    """Return a sentence about a schema of the search path that the role must not use. Empty if there is none."""
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


def kind_sentence(table: str, kind: str) -> str:
    """Return a sentence about a name that is not a table."""
    return _("%(table)s is a %(kind)s. Its rows cannot be locked and told apart. Name the database of its tables.") % {
        "table": table,
        "kind": kind,
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
                "The table %(table)s has another shape: its key is %(key)s, and the console knows %(documented)s. "
                "Use a console that knows this version of the platform."
            )
            % values
        )
    return (
        _(
            "The table %(table)s has another shape: it has no key, and the console knows %(documented)s. "
            "Use a console that knows this version of the platform."
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
        "%(platform)s adds %(columns)s by its own migration %(migration)s, which fails where the column exists. "
        "Run the migrations of %(platform)s."
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
    if "version" not in store.tables.get("schema_version", {}):
        return None
    with store.connection.cursor() as cursor:
        cursor.execute("SELECT version FROM schema_version")
        texts = [str(row[0]) for row in cursor.fetchall()]
    numbers = [int(found[1] or found[2]) for text in texts if (found := _VERSION.search(text))]
    return max(numbers, default=0) if texts else None


_VERSION = re.compile(r"0\.(\d+)\.|v(\d+)$")

# --- indexes ------------------------------------------------------------------------------------------------


class Index(NamedTuple):
    """An index of a table. A column is None for an expression. `where` is the normalized condition."""

    table: str
    columns: tuple[str | None, ...]
    unique: bool = False
    where: str = ""
    valid: bool = True

    def serves(self, wanted: Index) -> bool:
        """Return whether this index does everything that `wanted` would do. Its condition may exclude NULLs."""
        filled = {f"{column} is not null" for column in self.columns}
        return (
            (self.table, self.columns) == (wanted.table, wanted.columns)
            and self.unique >= wanted.unique
            and (self.where in {"", wanted.where} or set(self.where.split(" and ")) <= filled)
        )


def condition(sql: str) -> str:
    """Return the normalized condition of a partial index."""
    found = re.search(r"\)\s*WHERE\b(.*)", sql, re.IGNORECASE | re.DOTALL)
    return _plain(found[1]) if found else ""


def _plain(text: str) -> str:
    return " ".join(re.sub(r'[()"]', " ", text).lower().split())


def indexes(store: Store) -> dict[str, Index]:
    """Return name → index of all tables of the store."""
    with store.connection.cursor() as cursor:
        cursor.execute(_INDEXES[store.vendor])
        rows: Sequence[Any] = cursor.fetchall()
    found: dict[str, Index] = {}
    called = {one.lower(): one for table, columns in store.tables.items() for one in (table, *columns)}
    for name, table, column, unique, sql, valid in rows:
        if store.vendor == "sqlite":  # which ignores the case of names
            table, column = called.get(table.lower(), table), column and called.get(column.lower(), column)
        columns = (*(found[name].columns if name in found else ()), column)
        where = condition(sql or "") if store.vendor == "sqlite" else _plain(sql or "")
        found[name] = Index(table, columns, bool(unique), where, bool(valid))
    return found


def names_taken(store: Store) -> set[str]:
    """Return the names that a new index cannot have: those of tables, views, sequences and indexes."""
    with store.connection.cursor() as cursor:
        cursor.execute(_NAMES[store.vendor])
        return {row[0] for row in cursor.fetchall()}


def free_name(name: str, taken: set[str]) -> str:
    """Return `name`, with a number if it is taken. Add the result to `taken`."""
    numbered = (f"{name}_{number}" for number in count(2))
    free = next(one for one in chain([name], numbered) if one not in taken)
    taken.add(free)
    return free


_INDEXES = {
    "sqlite": """
        SELECT l.name, m.name, i.name, l."unique", d.sql, 1 FROM sqlite_master AS m
        JOIN pragma_index_list(m.name) AS l JOIN pragma_index_info(l.name) AS i
        LEFT JOIN sqlite_master AS d ON d.type = 'index' AND d.name = l.name
        WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY l.name, i.seqno
    """,
    # Only B-trees keep an order.
    "postgresql": """
        SELECT c.relname, t.relname, CASE WHEN m.amname = 'btree' THEN a.attname END, i.indisunique,
            pg_get_expr(i.indpred, i.indrelid), i.indisvalid
        FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid
        JOIN pg_am AS m ON m.oid = c.relam
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)
        LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
        WHERE pg_table_is_visible(t.oid)
          AND t.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          AND k.place <= i.indnkeyatts
        ORDER BY 1, k.place
    """,
}
_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master",
    "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace",
}
