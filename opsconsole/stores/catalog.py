"""Tables, keys, foreign keys and triggers of a store, from the catalog of the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from opsconsole.stores.store import Store


def identifier(name: str) -> str:
    """Return `name` as an SQL identifier for a statement without parameters. Quotes are doubled."""
    return '"' + name.replace('"', '""') + '"'


def quote(name: str) -> str:
    """Return `name` as an SQL identifier for a statement with parameters. `%` is doubled too."""
    return escape(identifier(name))


def escape(sql: str) -> str:
    """Return quoted SQL, such as `regclass::text`, for a statement with parameters."""
    return sql.replace("%", "%%")


NAME = r'("(?:[^"]|"")+"|\w+)'  # regular expression of a name in SQL


def unquoted(name: str) -> str:
    """Return the name that SQL writes as `name`, with quotes or without."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


@dataclass(frozen=True)
class Column:
    """A column as the database declares it. `type` is the engine's name of its type."""

    type: str
    primary_key: bool
    base: str = ""  # PostgreSQL: the type without length and precision, of a domain its base type
    limited: bool = False  # by a length or precision: an assignment may round or cut a value
    nullable: bool = True
    generated: bool = False
    identity: str = ""  # PostgreSQL: `a` always, `d` by default
    category: str = ""  # PostgreSQL: the category of the type, such as D for dates and times
    type_schema: str = ""  # PostgreSQL: the schema of `type`
    base_schema: str = ""  # PostgreSQL: the schema of `base`

    @property
    def is_whole_number(self) -> bool:
        """Return whether the column has an integer type of PostgreSQL."""
        return self.base in {"smallint", "integer", "bigint"}

    @property
    def is_timestamp(self) -> bool:
        """Return whether the column is a PostgreSQL timestamp, with or without a zone."""
        return self.base in {"timestamp without time zone", "timestamp with time zone"}


@dataclass(frozen=True)
class Table(Mapping[str, Column]):
    """A table: a mapping from column name to declaration."""

    name: str
    schema: str = ""
    oid: int = 0
    kind: str = "table"  # table or partitioned table
    has_rowid: bool = False  # SQLite: its rows have a rowid that no column shows
    row_security: bool = False  # row-level security is in force for this role
    family: frozenset[int] = frozenset()  # PostgreSQL: the table, its partitions and the tables that inherit from it
    children: bool = False  # other tables inherit from it
    foreign_parts: bool = False  # some of its partitions are foreign tables
    columns: dict[str, Column] = field(default_factory=dict)
    unique: list[tuple[str, ...]] = field(default_factory=list)  # columns of unique indexes

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    __hash__ = object.__hash__

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(name for name, column in self.columns.items() if column.primary_key)

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that identify a row: the primary key, else the shortest unique key without NULL, else none."""
        if self.children:
            return ()
        keys = [key for key in self.unique if not any(self[name].nullable for name in key)]
        return self.key or min(keys, key=lambda key: (len(key), key), default=())

    @property
    def rowid(self) -> str:
        """The name of SQLite's rowid. Empty if the table has none, or if columns hide all its names."""
        taken = {name.lower() for name in self.columns}
        return next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "") if self.has_rowid else ""

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns of a before-image of a whole row: SQLite's rowid, and all columns except generated ones."""
        return (*([self.rowid] if self.rowid else []), *self.writable)

    @property
    def sql(self) -> str:
        """The quoted name, with the schema on PostgreSQL."""
        return f"{quote(self.schema)}.{quote(self.name)}" if self.schema else quote(self.name)

    def is_unique(self, columns: Iterable[str]) -> bool:
        """Return whether the database keeps `columns` unique."""
        given = set(columns)
        return not self.children and any(set(key) <= given for key in self.unique)

    @property
    def writable(self) -> list[str]:
        """The columns that an INSERT may name: all except generated ones."""
        return [name for name, column in self.columns.items() if not column.generated]


class ForeignKey(NamedTuple):
    """A foreign key. On PostgreSQL its tables may be in any schema."""

    name: str
    child: str  # the name of the referring table that users see
    child_sql: str
    child_oid: int
    columns: tuple[str, ...]
    parent: str
    parent_oid: int
    referred: tuple[str, ...]
    operators: tuple[str, ...]  # SQL operators that compare a column of the parent with one of the child
    collations: tuple[str, ...]  # SQL after a column of the child, which applies the collation of the parent
    on_delete: str  # CASCADE, SET NULL or SET DEFAULT; empty if the delete is refused
    on_update: str

    @property
    def matches(self) -> str:
        """The SQL condition that row `c` of the child refers to row `p` of the parent."""
        return " AND ".join(
            f"p.{quote(other)} {operator} c.{quote(one)}{collation}"
            for one, other, operator, collation in zip(
                self.columns, self.referred, self.operators, self.collations, strict=True
            )
        )

    @property
    def schemas(self) -> set[str]:
        """The schemas of PostgreSQL that a query of the referring rows names."""
        named = (re.search(rf"{NAME}\.", sql) for sql in (self.child_sql, *self.operators, *self.collations))
        return {unquoted(match[1]).replace("%%", "%") for match in named if match}

    @property
    def cascades(self) -> bool:
        return self.on_delete == "CASCADE"

    @property
    def empties(self) -> bool:
        return self.on_delete in {"SET NULL", "SET DEFAULT"}


class TriggerInfo(NamedTuple):
    """A trigger or rule that is active in this session."""

    name: str
    table: str
    events: frozenset[str]  # INSERT, UPDATE, DELETE
    before: bool  # it fires before the row is written, and can change or discard it
    source: str
    rule: bool = False
    instead: bool = False


def read_tables(store: Store) -> dict[str, Table]:
    """Return name → table of the visible tables of the store."""
    tables = _sqlite_tables(store) if store.vendor == "sqlite" else _pg_tables(store)
    return {name: table for name, table in tables.items() if table.columns}


def _sqlite_tables(store: Store) -> dict[str, Table]:
    columns: dict[str, dict[str, Column]] = {}
    spell = _speller(store)
    for table, name, type_, key, hidden, not_null in store.query(_SQLITE_COLUMNS):
        declared = Column(type_, bool(key), nullable=not not_null, generated=hidden in (2, 3))
        columns.setdefault(spell(table), {})[spell(table, name)] = declared
    indexes: dict[tuple[str, str], list[tuple[str, int, str | None]]] = {}
    for table, index, origin, number, name in store.query(_SQLITE_INDEXES):
        indexes.setdefault((spell(table), index), []).append((origin, number, name and spell(table, name)))
    unique: dict[str, list[tuple[str, ...]]] = {}
    by_index, without_rowid = set(), set()
    for (table, _index), parts in indexes.items():
        if parts[0][0] == "pk":
            by_index.add(table)
            if all(number != -1 for _origin, number, _name in parts):  # each entry of a table with a rowid ends with it
                without_rowid.add(table)
        key = [name for _origin, number, name in parts if number != -1]
        if None not in key:  # an expression
            unique.setdefault(table, []).append(tuple(map(str, key)))
    tables = {}
    for table, declarations in columns.items():
        key = tuple(name for name, column in declarations.items() if column.primary_key)
        is_rowid = bool(key) and table not in by_index  # INTEGER PRIMARY KEY
        if is_rowid:
            unique.setdefault(table, []).append(key)
        if is_rowid or table in without_rowid:
            declarations |= {name: replace(declarations[name], nullable=False) for name in key}
        has_rowid = not is_rowid and table not in without_rowid
        tables[table] = Table(table, has_rowid=has_rowid, columns=declarations, unique=unique.get(table, []))
    return tables


def _family(oid: int, heirs: Mapping[int, Iterable[int]]) -> frozenset[int]:
    found = {oid}
    for heir in heirs.get(oid, ()):
        found |= _family(heir, heirs)
    return frozenset(found)


def _speller(store: Store) -> Callable[..., str]:
    """Return a function that spells a name like the models: SQLite ignores the case of names."""
    known: dict[str, set[str]] = {}
    for model in store.models():
        known.setdefault(model._meta.db_table, set()).update(str(f.column) for f in model._meta.concrete_fields)

    def spell(table: str, column: str | None = None) -> str:
        folded = table.lower()
        if column is None:
            return folded if folded in known else table
        return column.lower() if column.lower() in known.get(folded, ()) else column

    return spell


def _pg_tables(store: Store) -> dict[str, Table]:
    tables = {
        name: Table(
            name,
            schema,
            oid,
            _KINDS[kind],
            row_security=secured,
            children=children and kind == "r",
            foreign_parts=foreign and kind == "p",
        )
        for oid, schema, name, kind, secured, children, foreign in store.query(_PG_TABLES)
    }
    heirs: dict[int, list[int]] = {}
    for heir, parent in store.query("SELECT inhrelid::bigint, inhparent::bigint FROM pg_inherits"):
        heirs.setdefault(parent, []).append(heir)
    tables = {name: replace(table, family=_family(table.oid, heirs)) for name, table in tables.items()}
    names = {table.oid: name for name, table in tables.items()}
    for oid, column, *facts in store.query(_PG_COLUMNS, [list(names)]):
        tables[names[oid]].columns[column] = Column(*facts)
    for oid, columns in store.query(_PG_UNIQUE, [list(names)]):
        if None not in columns:  # an expression
            tables[names[oid]].unique.append(tuple(columns))
    return tables


def other_relations(store: Store) -> dict[str, str]:
    """Return name → kind of the relations that are not tables, such as views and foreign tables."""
    if store.vendor == "sqlite":
        rows = store.query("SELECT name, 'view' FROM sqlite_master WHERE type = 'view'")
        return dict(rows) | dict.fromkeys(store.virtual_tables(), "virtual table")
    return {name: _KINDS[kind] for name, kind in store.query(_PG_OTHERS)}


def shadow_tables(store: Store) -> set[str]:
    """Return the tables of SQLite in which virtual tables keep their content."""
    if store.vendor != "sqlite":
        return set()
    return {name for (name,) in store.query("SELECT name FROM pragma_table_list WHERE type = 'shadow'")}


def foreign_keys(store: Store) -> list[ForeignKey]:
    """Return every foreign key of the database by one query."""
    if store.vendor == "postgresql":
        return [
            ForeignKey(
                name,
                child,
                f"{quote(schema)}.{quote(table)}",
                child_oid,
                tuple(columns),
                parent,
                parent_oid,
                tuple(referred),
                tuple(operators),
                tuple(collations),
                _ACTIONS.get(deleted, ""),
                _ACTIONS.get(updated, ""),
            )
            for (
                name,
                schema,
                table,
                child,
                child_oid,
                columns,
                parent,
                parent_oid,
                referred,
                operators,
                collations,
                deleted,
                updated,
            ) in store.query(_PG_FOREIGN_KEYS)
        ]
    spell = _speller(store)
    names = {name.lower(): name for name in store.tables}
    grouped: dict[tuple[str, int], list[Any]] = {}
    for child, number, column, parent, referred, deleted, updated in store.query(_SQLITE_FOREIGN_KEYS):
        parent = names.get(parent.lower(), parent)
        child = spell(child)
        part = (_spelt(store, child, column), parent, referred and _spelt(store, parent, referred), deleted, updated)
        grouped.setdefault((child, number), []).append(part)
    found = []
    for (child, number), parts in grouped.items():
        parent = parts[0][1]
        key = store.tables[parent].key if parent in store.tables else ()
        referred = tuple(part[2] for part in parts) if parts[0][2] else key
        actions = [action if action in _ACTIONS.values() else "" for action in parts[0][3:5]]
        columns = tuple(part[0] for part in parts)
        operators, collations = (
            ("=",) * len(columns),
            ("",) * len(columns),
        )  # SQLite uses the collation of the left operand: the parent's
        found.append(
            ForeignKey(
                f"{child}.{number}",
                child,
                quote(child),
                0,
                columns,
                parent,
                0,
                referred,
                operators,
                collations,
                *actions,
            )
        )
    return found


def _spelt(store: Store, table: str, column: str) -> str:
    """Return a column as its table spells it: SQLite ignores the case."""
    names = {name.lower(): name for name in store.tables.get(table, ())}
    return names.get(column.lower(), column)


def triggers(store: Store, table: Table) -> list[TriggerInfo]:
    """Return the active triggers and rules of a table, its partitions and the tables that inherit from it."""
    if store.vendor == "postgresql":
        found = [
            TriggerInfo(name, table.name, frozenset(events), before, source)
            for name, events, before, source in store.query(_PG_TRIGGERS, [table.oid])
        ]
        rules = store.query(_PG_RULES, [table.oid])
        return found + [TriggerInfo(n, table.name, frozenset([e]), True, "", True, i) for n, e, i in rules]
    found = []
    for name, sql in store.query(_SQLITE_TRIGGERS, [table.name]):
        bare = _QUOTED.sub(" ", sql).upper()  # a name may contain BEGIN, or be the name of an event
        head, body = [*re.split(r"\bBEGIN\b", bare, maxsplit=1), ""][:2]
        words = head.split()
        events = frozenset(word for word in words if word in {"INSERT", "UPDATE", "DELETE"})
        found.append(TriggerInfo(name, table.name, events, "BEFORE" in words or "RAISE" in body, sql))
    return found


# Quoted text and comments.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\[[^]]*\]|`[^`]*`|--[^\n]*|/\*.*?\*/""", re.DOTALL)
_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}
_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}

_SQLITE_COLUMNS = """
    SELECT m.name, c.name, c.type, c.pk, c.hidden, c."notnull"
    FROM sqlite_master AS m JOIN pragma_table_xinfo(m.name) AS c
    WHERE m.type = 'table' AND m.rootpage > 0 AND m.name NOT LIKE 'sqlite\\_%%' ESCAPE '\\'
    ORDER BY m.name, c.cid
"""
_SQLITE_INDEXES = """
    SELECT m.name, l.name, l.origin, x.cid, x.name
    FROM sqlite_master AS m JOIN pragma_index_list(m.name) AS l JOIN pragma_index_xinfo(l.name) AS x
    WHERE m.type = 'table' AND m.rootpage > 0 AND l."unique" AND NOT l.partial AND (x.key OR x.cid = -1)
    ORDER BY m.name, l.seq, x.seqno
"""
_SQLITE_FOREIGN_KEYS = """
    SELECT m.name, f.id, f."from", f."table", f."to", f.on_delete, f.on_update
    FROM sqlite_master AS m JOIN pragma_foreign_key_list(m.name) AS f
    WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY m.name, f.id, f.seq
"""
_SQLITE_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s COLLATE NOCASE"

# A connection of a pooler may contain temporary tables of another client.
_PG_VISIBLE = """
    pg_table_is_visible(t.oid) AND t.relpersistence <> 't'
    AND t.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""
_PG_TABLES = f"""
    SELECT t.oid::bigint, n.nspname, t.relname, t.relkind::text, row_security_active(t.oid),
        EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = t.oid),
        t.relkind = 'p' AND EXISTS (
            SELECT FROM pg_partition_tree(t.oid) AS p JOIN pg_class AS c ON c.oid = p.relid WHERE c.relkind = 'f')
    FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace
    WHERE t.relkind IN ('r', 'p') AND {_PG_VISIBLE} ORDER BY t.relname
"""  # noqa: S608  # constants
_PG_OTHERS = (
    f"SELECT t.relname, t.relkind::text FROM pg_class AS t WHERE t.relkind IN ('v', 'm', 'f') AND {_PG_VISIBLE}"  # noqa: S608
)
# A domain is resolved to its base type. format_type(…, -1) is the type without length: `bpchar`, because `character`
# means character(1).
_PG_COLUMNS = """
    WITH RECURSIVE domain(oid, below, modifier) AS (
        SELECT oid, typbasetype, typtypmod FROM pg_type WHERE typtype = 'd'
        UNION ALL
        SELECT d.oid, t.typbasetype, GREATEST(d.modifier, t.typtypmod)
        FROM domain AS d JOIN pg_type AS t ON t.oid = d.below AND t.typtype = 'd'
    ), root AS (
        SELECT d.oid, d.below, d.modifier FROM domain AS d JOIN pg_type AS t ON t.oid = d.below AND t.typtype <> 'd'
    )
    SELECT a.attrelid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), COALESCE(i.indisprimary, false),
        format_type(COALESCE(r.below, a.atttypid), -1), a.atttypmod <> -1 OR COALESCE(r.modifier, -1) <> -1,
        NOT a.attnotnull, a.attgenerated <> '', a.attidentity::text, t.typcategory::text, n.nspname, bn.nspname
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid JOIN pg_namespace AS n ON n.oid = t.typnamespace
    LEFT JOIN root AS r ON r.oid = a.atttypid
    JOIN pg_type AS b ON b.oid = COALESCE(r.below, a.atttypid) JOIN pg_namespace AS bn ON bn.oid = b.typnamespace
    LEFT JOIN pg_index AS i ON i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)
    WHERE a.attrelid = ANY (%s::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""
_PG_UNIQUE = """
    SELECT i.indrelid::bigint, array(
        SELECT a.attname::text FROM generate_series(0, i.indnkeyatts - 1) AS k(place)
        LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.place] AND a.attnum > 0
        ORDER BY k.place)
    FROM pg_index AS i
    WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indrelid = ANY (%s::bigint[]::oid[])
"""
# The copies of a key on partitions (conparentid) are left out.
_PG_FOREIGN_KEYS = """
    SELECT c.conname, n.nspname, child.relname, c.conrelid::regclass::text, c.conrelid::bigint,
        array(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k(number, place)
            JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.place),
        c.confrelid::regclass::text, c.confrelid::bigint,
        array(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS k(number, place)
            JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.number ORDER BY k.place),
        array(SELECT 'OPERATOR(' || quote_ident(s.nspname) || '.' || o.oprname || ')'
            FROM unnest(c.conpfeqop) WITH ORDINALITY AS k(operator, place)
            JOIN pg_operator AS o ON o.oid = k.operator JOIN pg_namespace AS s ON s.oid = o.oprnamespace
            ORDER BY k.place),
        array(SELECT COALESCE(' COLLATE ' || quote_ident(s.nspname) || '.' || quote_ident(l.collname), '')
            FROM unnest(c.confkey) WITH ORDINALITY AS k(number, place)
            JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.number
            LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
            LEFT JOIN pg_namespace AS s ON s.oid = l.collnamespace ORDER BY k.place),
        c.confdeltype::text, c.confupdtype::text
    FROM pg_constraint AS c JOIN pg_class AS child ON child.oid = c.conrelid
    JOIN pg_namespace AS n ON n.oid = child.relnamespace
    WHERE c.contype = 'f' AND c.conparentid = 0
"""
_PG_TRIGGERS = """
    WITH RECURSIVE family(oid) AS (
        SELECT %s::bigint::oid UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN family AS f ON f.oid = i.inhparent
    )
    SELECT DISTINCT t.tgname, array_remove(ARRAY[
            CASE WHEN t.tgtype & 4 > 0 THEN 'INSERT' END, CASE WHEN t.tgtype & 8 > 0 THEN 'DELETE' END,
            CASE WHEN t.tgtype & 16 > 0 THEN 'UPDATE' END], NULL),
        t.tgtype & 3 = 3, p.prosrc
    FROM pg_trigger AS t JOIN family AS f ON f.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') ORDER BY t.tgname
"""
_PG_RULES = """
    SELECT rulename, CASE ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END, is_instead
    FROM pg_rewrite WHERE ev_class = %s::bigint::oid AND ev_type <> '1' AND ev_enabled IN ('O', 'A')
"""
