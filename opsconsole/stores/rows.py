"""Raw rows by key: read as the database holds them, written under the precondition that they have not changed.

On SQLite a raw value is what the driver stores (`+column` keeps its converters away). On PostgreSQL it
is the value's text. It is written through the type without its length or precision, so that the column itself
refuses what does not fit: an explicit cast would cut it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django.utils.translation import gettext as _

from opsconsole.stores.catalog import ForeignKey, quote
from opsconsole.stores.sqlite import RawText, UndecodableText
from opsconsole.stores.store import Store, text_of

Key = int | str
Values = tuple[Any, ...]
RowKey = tuple[str, Key]  # table and key

# Above this many characters in a batch's average row, one array per column is far slower than a
# prepared statement per row.
DOCUMENT_CHARACTERS = 2_000
_MARK = re.compile("(?<!%)%s")  # of a parameter: in names, `%` is doubled
PARAMETERS = 30_000  # SQLite takes 32,766 in a statement
# Types whose text is written as it is read. The text of all others may differ from what was given.
_PLAIN = frozenset({"text", "character varying", "json", "integer", "bigint", "smallint", "boolean"})


class Write(NamedTuple):
    """Changes of one kind to one table: `rows` are `[key, old values, new values]`, in the order of
    `columns`. An insert has no old values, a delete no new ones.
    """

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Key, Values | None, Values | None]]

    @property
    def kind(self) -> str:
        _, old, new = self.rows[0]
        return "insert" if old is None else "delete" if new is None else "update"

    def reversed(self) -> Write:
        return Write(self.table, self.columns, [(key, new, old) for key, old, new in self.rows])


class WriteIgnored(Exception):
    """The database left a row as it was, without an error."""


class ValueAltered(Exception):
    """The database stored another value than the one it was given."""


class DuplicateKey(Exception):
    """Several rows have the same key, so that one of them can't be told from the other."""


class UnrecordedDelete(Exception):
    """A trigger deletes rows of which there is no before-image."""


class StillReferenced(Exception):
    """Rows that the run does not delete refer to a row that it would delete."""


class RowsChanged(Exception):
    """Rows were not written as asked: the batch is rolled back.

    `unmet` no longer hold the values that were read; where a reason is given, it is that one if they are read
    unchanged once more. `held` is what they hold instead, where that is known. `refused` can't be written at all.
    """

    def __init__(
        self,
        unmet: Mapping[RowKey, Exception | None] | None = None,
        refused: Mapping[RowKey, Exception] | None = None,
        held: Mapping[RowKey, Values | None] | None = None,
    ) -> None:
        super().__init__()
        self.unmet, self.refused, self.held = dict(unmet or {}), dict(refused or {}), dict(held or {})


def is_bigint(number: int) -> bool:
    """Return whether an integer column can hold it: no engine's has more than 64 bits."""
    return -(2**63) <= number < 2**63


def is_numbered(store: Store, table: str) -> bool:
    """Return whether the key of `table` is a whole number, as the models expect where they say so."""
    if table not in store.tables:
        return True
    column = store.tables[table][store.key_column(table)]
    if store.vendor == "postgresql":
        return column.base in {"smallint", "integer", "bigint"}
    return _affinity(column.type) == "INTEGER"


def may_be_real(declared: str) -> bool:
    """Return whether a SQLite column of this type may hold a fraction as a number."""
    return _affinity(declared) in {"REAL", "NUMERIC", "BLOB"}


def plain_key(key: Any) -> Key:
    """Return a key as before-images keep it: PostgreSQL's driver also gives UUIDs and decimals."""
    if type(key) is UndecodableText:
        return key.as_key()
    if isinstance(key, int | str):
        return key
    if isinstance(key, Decimal) and key == key.to_integral_value():
        return int(key)
    return str(key)


def mark(store: Store) -> int:
    """Return how far other clients' writing has come, to be asked before rows are read.

    SQLite: a number that is another one as soon as another connection has committed. PostgreSQL: the oldest
    transaction that may still write; a row whose version is older has not changed since.
    """
    if store.vendor == "sqlite":
        return int(store.query("PRAGMA data_version")[0][0])
    return int(store.query("SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text")[0][0])


def has_versions(store: Store, tables: Iterable[str]) -> bool:
    """Return whether the role may see the versions of the rows of `tables`, which PostgreSQL keeps in a column."""
    oids = [store.tables[name].oid for name in tables if name in store.tables]
    sql = (
        "SELECT COALESCE(bool_and(has_column_privilege(t::oid, 'xmin', 'SELECT')), true) FROM unnest(%s::bigint[]) AS t"
    )
    return bool(store.query(sql, [oids])[0][0])


def write(store: Store, change: Write, *, since: int | None = None) -> int:
    """Apply `change` and return how many rows it wrote: all of them. Raises RowsChanged otherwise.

    `since`: PostgreSQL's mark from before the rows were read, so that rows that may have changed are left alone.
    None: the caller has locked them and knows that they have not.
    """
    sql = _statements(store, since)
    if not store.tables[change.table].is_unique([store.key_column(change.table)]):
        _require_single(store, change)
    met = int(getattr(sql, change.kind)(change))
    if met != len(change.rows):
        _require_met(store, change, met, since)
    return len(change.rows)


def verify(store: Store, change: Write) -> None:
    """Compare what the rows hold with what was written, where a column or a trigger may have altered it.

    Raises RowsChanged. Deferred triggers must have fired.
    """
    if _statements(store).may_alter(change):
        _require_written(store, change)


def read(store: Store, table: str, columns: Sequence[str], keys: Iterable[Key]) -> dict[Key, Values]:
    """Key → raw values of `columns`, for the rows that exist: one statement."""
    return _statements(store).read(table, columns, list(keys))


def new_keys(store: Store, table: str, count: int, taken: Collection[Key] = ()) -> list[Key]:
    """Return `count` keys for new rows, as the database itself would make them; none of those `taken`.

    A sequence of PostgreSQL gives each key once. SQLite reserves nothing: another client may be faster.
    """
    name = store.key_column(table)
    if not count:
        return []
    if store.vendor == "sqlite":
        first = store.query(f"SELECT COALESCE(MAX({quote(name)}), 0) FROM {quote(table)}")[0][0]
        if store.query("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"):  # AUTOINCREMENT gives none twice
            first = max([first, *(seq for (seq,) in store.query(_SQLITE_SEQUENCE, [table]))])
        first = max([first, *(key for key in taken if isinstance(key, int))])
        return [first + place for place in range(1, count + 1)]
    found: list[Key] = []
    sql = store.query(_PG_NEW_KEY, [name, store.tables[table].oid])[0][0].replace("%", "%%")
    while len(found) < count:
        drawn = store.query(f"SELECT {sql} FROM generate_series(1, %s)", [count - len(found)])
        found += [plain_key(key) for (key,) in drawn if plain_key(key) not in taken]
    return found


_SQLITE_SEQUENCE = "SELECT seq FROM sqlite_sequence WHERE name = %s COLLATE NOCASE"
_PG_NEW_KEY = """
    SELECT CASE WHEN a.attidentity = '' THEN pg_get_expr(d.adbin, d.adrelid)
        ELSE format('nextval(%%L)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)) END
    FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attname = %s AND a.attrelid = %s::bigint::oid
"""


def known_rowids(store: Store, table: str, rowids: Sequence[int]) -> set[int]:
    """Return those of `rowids` that rows of a SQLite table have."""
    name = quote(store.tables[table].rowid)
    sql = f"SELECT {name} FROM {quote(table)} WHERE {name} IN (SELECT value FROM json_each(%s))"
    return {rowid for (rowid,) in store.query(sql, [json.dumps(list(rowids))])}


def highest_rowid(store: Store, table: str) -> int:
    """Return the highest rowid of a SQLite table, 0 where it has no rows."""
    return store.query(f"SELECT MAX({quote(store.tables[table].rowid)}) FROM {quote(table)}")[0][0] or 0


def normalized(store: Store, change: Write) -> Write:
    """Return `change` with its new values as the database writes them: a time or a number has many texts."""
    return change if change.kind == "delete" else _statements(store).normalized(change)


def lock(store: Store, change: Write) -> None:
    """Lock the rows that `change` writes, so that no other row can begin to refer to them. SQLite has one lock."""
    if store.vendor == "postgresql":
        key, keys = _PostgreSQL(store).key_condition(change.table, "t", [row[0] for row in change.rows])
        table = store.tables[change.table].sql
        store.query(f"SELECT 1 FROM {table} AS t WHERE {key} ORDER BY t.{_key(store, change.table)} FOR UPDATE", keys)


def deleted(store: Store, table: str) -> int:
    """Return a number that has grown by the rows of `table` that this transaction, with its triggers, has deleted."""
    if store.vendor == "sqlite":
        return -int(store.query(f"SELECT COUNT(*) FROM {quote(table)}")[0][0])
    sql = "SELECT COALESCE(SUM(pg_stat_get_xact_tuples_deleted(t::oid)), 0) FROM unnest(%s::bigint[]) AS t"
    return int(store.query(sql, [list(store.tables[table].family)])[0][0])


def check_deferred(store: Store) -> None:
    """Let deferred constraints and triggers speak now: at COMMIT their error would belong to no statement."""
    if store.vendor == "postgresql":
        store.execute("SET CONSTRAINTS ALL IMMEDIATE")


def explain(store: Store, kind: str, table: str, columns: Sequence[str]) -> None:
    """Let the database compile a statement that a run will need, without executing it. Raises what it raises."""
    values: Values = (None,) * len(columns)
    old, new = None if kind == "insert" else values, None if kind == "delete" else values
    change = Write(table, tuple(columns), [(0, old, new)])
    sql = _statements(store)
    statement = getattr(sql, f"{kind}_sql")(change)
    word = "EXPLAIN QUERY PLAN" if store.vendor == "sqlite" else "EXPLAIN"
    store.query(f"{word} {statement}", [None] * len(_MARK.findall(statement)))


def _statements(store: Store, since: int | None = None) -> _SQLite | _PostgreSQL:
    return _SQLite(store) if store.vendor == "sqlite" else _PostgreSQL(store, since)


def _key(store: Store, table: str) -> str:
    return quote(store.key_column(table))


def _require_met(store: Store, change: Write, met: int, since: int | None) -> None:
    """Find the rows that a statement did not write: others have changed them, or the database ignored the write."""
    keys = [row[0] for row in change.rows]
    if twice := {key for key, count in Counter(keys).items() if count > 1}:
        reason = DuplicateKey(_("%(table)s is to hold two values in one row.") % {"table": change.table})
        raise RowsChanged(refused={(change.table, key): reason for key in twice})
    found = read(store, change.table, change.columns, keys)
    young = _PostgreSQL(store, since).young(change.table, keys) if since is not None else frozenset()
    fired = any(one.before for one in store.triggers(change.table, change.kind.upper()))
    unmet: dict[RowKey, Exception | None] = {}
    refused: dict[RowKey, Exception] = {}
    as_asked = [key for key, _old, new in change.rows if found.get(key) == store.normalize(new)]
    # More of them than were written: another client has written some of them the same way. Not where the rows are
    # locked, and known to be as judged: then a cascade or a trigger of this transaction has had them before their turn.
    ours = set(as_asked) if fired or since is None or len(as_asked) == met else set()
    for key, old, _new in change.rows:
        now = found.get(key)
        if key in ours:
            continue
        if now is not None and now == store.normalize(old) and key in young:
            unmet[change.table, key] = None
        elif now == store.normalize(old):
            refused[change.table, key] = _ignored(store, change)
        else:
            # A trigger may have changed it and kept it: if it is read unchanged again, no other client did.
            unmet[change.table, key] = _ignored(store, change) if fired else None
    if unmet or refused:
        raise RowsChanged(unmet, refused)


def _ignored(store: Store, change: Write) -> WriteIgnored:
    names = [one.name for one in store.triggers(change.table, change.kind.upper()) if one.before]
    if names:
        return WriteIgnored(
            _("The database ignored the write: trigger %(names)s on %(table)s.")
            % {"names": ", ".join(names), "table": change.table}
        )
    if store.vendor == "sqlite":
        return WriteIgnored(_("A row of %(table)s can't be matched by its values.") % {"table": change.table})
    return WriteIgnored(_("%(table)s ignored the write, without an error.") % {"table": change.table})


def _altered(store: Store, change: Write, values: Iterable[tuple[str, Any, Any]]) -> ValueAltered:
    names = "; ".join(f"{name}: {_short(given)} → {_short(held)}" for name, given, held in values)
    return ValueAltered(
        _(
            "%(table)s stored another value than it was given (%(names)s). "
            "Nothing was changed in this row. Cause: %(cause)s."
        )
        % {"table": change.table, "names": names, "cause": _cause(store, change)}
    )


def _cause(store: Store, change: Write) -> str:
    names = [one.name for one in store.triggers(change.table, change.kind.upper())]
    if names:
        return _("trigger %(names)s on %(table)s") % {"names": ", ".join(names), "table": change.table}
    return _("the type of the column")


def _require_written(store: Store, change: Write) -> None:
    """Compare what the rows hold now with what was written: a column, a trigger may have altered it."""
    found = read(store, change.table, change.columns, [row[0] for row in change.rows])
    refused: dict[RowKey, Exception] = {}
    for key, old, new in change.rows:
        now = found.get(key)
        if _same(now, store.normalize(new)):
            continue
        if now is None or new is None or now == store.normalize(old):
            refused[change.table, key] = _ignored(store, change)
            continue
        differing = [
            (name, given, held)
            for name, given, held in zip(change.columns, store.normalize(new) or (), now, strict=True)
            if not _same((given,), (held,))
        ]
        refused[change.table, key] = _altered(store, change, differing)
    if refused:
        raise RowsChanged(refused=refused)


def _same(one: Values | None, other: Values | None) -> bool:
    """Whether values are equal and of one type: SQLite's 5, 5.0 and '5' are three."""
    return one == other and (one is None or list(map(type, one)) == list(map(type, other or ())))


def _short(value: Any) -> str:
    text = "NULL" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _require_single(store: Store, change: Write) -> None:
    """Refuse rows whose key another row has too, where the database does not keep the key unique itself."""
    if change.kind == "insert":
        return
    sql, key = _statements(store), _key(store, change.table)
    refused: dict[RowKey, Exception] = {}
    for part in sql.portions([row[0] for row in change.rows]):
        condition, values = sql.key_condition(change.table, "t", part)
        table = store.tables[change.table].sql
        found = store.query(
            f"SELECT t.{key}, COUNT(*) FROM {table} AS t WHERE {condition} GROUP BY t.{key} HAVING COUNT(*) > 1", values
        )
        for duplicate, count in found:
            refused[change.table, plain_key(duplicate)] = DuplicateKey(
                _("%(count)d rows of %(table)s have this key. Nothing was changed in them.")
                % {"count": count, "table": change.table}
            )
    if refused:
        raise RowsChanged(refused=refused)


class _SQLite:
    def __init__(self, store: Store) -> None:
        self.store = store

    @staticmethod
    def portions(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        """Keys that fit into one statement: JSON carries them all at once, unless it would change one."""
        if all(isinstance(key, int) or (isinstance(key, str) and "\0" not in key) for key in keys):
            yield keys
        else:
            yield from (keys[start : start + PARAMETERS] for start in range(0, len(keys), PARAMETERS))

    def key_condition(self, table: str, alias: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        name = f"{alias}.{_key(self.store, table)}"
        if all(isinstance(key, int) or (isinstance(key, str) and "\0" not in key) for key in keys):
            return f"{name} IN (SELECT value FROM json_each(%s))", [json.dumps(list(keys))]
        return f"{name} IN ({', '.join(['%s'] * len(keys))})", list(keys)

    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]:
        # An alias of ours: the driver converts what a column's name seems to ask for, as in "at [timestamp]".
        raw = ", ".join(f"+t.{quote(column)} AS c{place}" for place, column in enumerate(columns))
        found: dict[Key, Values] = {}
        for part in self.portions(keys):
            condition, values = self.key_condition(table, "t", part)
            sql = f"SELECT t.{_key(self.store, table)}, {raw} FROM {quote(table)} AS t WHERE {condition}"
            with self.store.exact_text():
                found |= {plain_key(row[0]): tuple(row[1:]) for row in self.store.query(sql, values)}
        return found

    def _each(self, sql: str, rows: Sequence[Values]) -> int:
        """Execute a statement for each row. A text that is not UTF-8 is handed over as bytes, and cast to text."""
        plain = [row for row in rows if RawText not in map(type, row)]
        met = self.store.execute_many(sql, plain) if plain else 0
        for row in rows if len(plain) < len(rows) else ():
            if RawText in map(type, row):
                parts = _MARK.split(sql)
                marks = ["CAST(%s AS TEXT)" if type(value) is RawText else "%s" for value in row]
                cast = "".join(f"{part}{mark}" for part, mark in zip(parts, [*marks, ""], strict=True))
                met += self.store.execute(cast, [bytes(v) if type(v) is RawText else v for v in row])
        return met

    def normalized(self, change: Write) -> Write:
        return change

    def may_alter(self, change: Write) -> bool:
        """Whether a value may be stored differently: by the affinity of its column, or by a trigger."""
        if change.kind == "insert" or self.store.triggers(change.table, change.kind.upper()):
            return True
        if change.kind == "delete":
            return False
        table = self.store.tables[change.table]
        for place, name in enumerate(change.columns):
            exact = _EXACT[_affinity(table[name].type)]
            if not all(type(row[2][place]) in exact for row in change.rows if row[2] is not None):
                return True
        return False

    # OR ABORT: a UNIQUE … ON CONFLICT REPLACE of the schema would delete another row.

    def update_sql(self, change: Write) -> str:
        columns = [quote(column) for column in change.columns]
        return (
            f"UPDATE OR ABORT {quote(change.table)} SET {', '.join(f'{c} = %s' for c in columns)} "
            f"WHERE {_key(self.store, change.table)} = %s AND {_unchanged(columns)}"
        )

    def update(self, change: Write) -> int:
        rows = [(*new, key, *old) for key, old, new in change.rows]  # type: ignore[misc]
        return self._each(self.update_sql(change), rows)

    def insert_sql(self, change: Write) -> str:
        columns = ", ".join(quote(column) for column in change.columns)
        marks = ", ".join(["%s"] * len(change.columns))
        return f"INSERT OR ABORT INTO {quote(change.table)} ({columns}) VALUES ({marks})"

    def insert(self, change: Write) -> int:
        rows = [new for _, _, new in change.rows if new is not None]
        if not _refers_to_itself(self.store, change.table):
            return self._each(self.insert_sql(change), rows)
        met, count = 0, max(1, PARAMETERS // len(change.columns))
        start = self.insert_sql(change).partition(" VALUES ")[0]
        for part in (rows[first : first + count] for first in range(0, len(rows), count)):
            marks = [", ".join("CAST(%s AS TEXT)" if type(v) is RawText else "%s" for v in row) for row in part]
            values = [bytes(v) if type(v) is RawText else v for row in part for v in row]
            met += self.store.execute(f"{start} VALUES ({'), ('.join(marks)})", values)
        return met

    def delete_sql(self, change: Write) -> str:
        columns = [quote(column) for column in change.columns]
        return (
            f"DELETE FROM {quote(change.table)} WHERE {_key(self.store, change.table)} = %s AND {_unchanged(columns)}"
        )

    def delete(self, change: Write) -> int:
        rows = [(key, *old) for key, old, _ in change.rows if old is not None]
        return self._each(self.delete_sql(change), rows)


def _unchanged(columns: Sequence[str]) -> str:
    """SQLite's condition that columns hold the values given: byte for byte, whatever collation they declare."""
    return " AND ".join(f"+{column} COLLATE BINARY IS %s" for column in columns)


# Python types that a column of an affinity stores without changing them.
_NONE = type(None)
_EXACT: dict[str, frozenset[type]] = {
    "TEXT": frozenset({str, bytes, _NONE}),
    "BLOB": frozenset({str, bytes, int, float, _NONE}),
    "INTEGER": frozenset({int, bytes, _NONE}),
    "NUMERIC": frozenset({int, bytes, _NONE}),
    "REAL": frozenset({float, bytes, _NONE}),
}


def _affinity(declared: str) -> str:
    """SQLite's rules for the affinity of a declared type, in their order."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(part in upper for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(part in upper for part in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"


class _PostgreSQL:
    def __init__(self, store: Store, since: int | None = None) -> None:
        self.store = store
        self.since = since  # rows that may have changed after this transaction are left alone

    @property
    def _is_old(self) -> str:
        """The condition that a row has not changed since. Ages are compared: the numbers begin again after 2^32."""
        return "" if self.since is None else f" AND age(t.xmin) > age('{int(self.since)}'::xid)"

    def young(self, table: str, keys: Sequence[Key]) -> set[Key]:
        """Return those of `keys` whose rows may have changed since."""
        condition, values = self.key_condition(table, "t", keys)
        sql = f"SELECT t.{_key(self.store, table)} FROM {self.store.tables[table].sql} AS t WHERE {condition}"
        old = {plain_key(key) for (key,) in self.store.query(sql + self._is_old, values)}
        return set(keys) - old

    @staticmethod
    def portions(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        yield keys

    def key_condition(self, table: str, alias: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        name = self.store.key_column(table)
        return f"{alias}.{quote(name)} = ANY (%s::text[]::{self._type(table, name)}[])", [[str(key) for key in keys]]

    def _type(self, table: str, column: str) -> str:
        return self.store.tables[table][column].base.replace("%", "%%")

    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]:
        raw = ", ".join(f"t.{quote(column)}::text" for column in columns)
        condition, values = self.key_condition(table, "t", keys)
        sql = f"SELECT t.{_key(self.store, table)}, {raw} FROM {self.store.tables[table].sql} AS t WHERE {condition}"
        return {plain_key(row[0]): tuple(row[1:]) for row in self.store.query(sql, values)}

    def normalized(self, change: Write) -> Write:
        types = [self._type(change.table, name) for name in change.columns]
        places = [place for place, type_ in enumerate(types) if type_ not in _PLAIN]
        rows = [(key, old, self.store.normalize(new)) for key, old, new in change.rows]
        if not places:
            return change
        arrays = [[row[2][place] for row in rows if row[2] is not None] for place in places]
        names = [f"c{place}" for place in places]
        casts = [f"(v.{name}::{types[place]})::text" for name, place in zip(names, places, strict=True)]
        kept = [self._kept(change, place, name) for name, place in zip(names, places, strict=True)]
        texts = self.store.query(
            f"SELECT {', '.join([*casts, *kept])} FROM unnest({', '.join(['%s::text[]'] * len(names))}) "
            f"WITH ORDINALITY AS v({', '.join(names)}, place) ORDER BY v.place",
            arrays,
        )
        normal: list[tuple[Key, Values | None, Values | None]] = []
        refused: dict[RowKey, Exception] = {}
        for (key, old, new), text in zip(rows, texts, strict=True):
            values = list(new or ())
            for place, value, same in zip(places, text[: len(places)], text[len(places) :], strict=True):
                if not same:
                    name, given = change.columns[place], values[place]
                    refused[change.table, key] = _altered(self.store, change, [(name, given, value)])
                values[place] = value
            normal.append((key, old, tuple(values)))
        if refused:
            raise RowsChanged(refused=refused)
        return Write(change.table, change.columns, normal)

    def _kept(self, change: Write, place: int, name: str) -> str:
        """The condition that a type keeps all of a value's text: a date drops the time, a name what is too long."""
        column = self.store.tables[change.table][change.columns[place]]
        cast = f"v.{name}::{self._type(change.table, change.columns[place])}"
        if column.base in {"timestamp without time zone", "timestamp with time zone", "date"}:
            return f"({cast})::timestamptz IS NOT DISTINCT FROM v.{name}::timestamptz"
        if column.base in {"numeric", "real", "double precision"}:
            return f"({cast})::text::numeric IS NOT DISTINCT FROM v.{name}::numeric"
        if column.base == "bpchar":
            return f"({cast})::text IS NOT DISTINCT FROM rtrim(v.{name})"
        if column.category in {"S", "D", "Z"}:
            return f"({cast})::text IS NOT DISTINCT FROM v.{name}"
        return "true"

    def may_alter(self, change: Write) -> bool:
        """Whether a value may be stored differently: a length or precision rounds it, a trigger replaces it."""
        if change.kind == "insert" or self.store.triggers(change.table, change.kind.upper()):
            return True
        table = self.store.tables[change.table]
        return change.kind == "update" and any(table[name].limited for name in change.columns)

    def _documents(self, rows: list[Values]) -> bool:
        return sum(len(value or "") for row in rows for value in row) > DOCUMENT_CHARACTERS * len(rows)

    def _texts(self, change: Write) -> list[Values]:
        """Each row as texts: its key, its new values, its old values."""
        return [(str(key), *map(text_of, new or ()), *map(text_of, old or ())) for key, old, new in change.rows]

    def _each(self, change: Write) -> str:
        """The condition that a row is the one meant and unchanged, with a parameter for each value."""
        key = self._type(change.table, self.store.key_column(change.table))
        same = [f't.{quote(column)}::text COLLATE "C" IS NOT DISTINCT FROM %s::text' for column in change.columns]
        return " AND ".join([f"t.{_key(self.store, change.table)} = %s::text::{key}", *same]) + self._is_old

    def _joined(self, change: Write, names: list[str]) -> str:
        """The arrays of a batch as a table `v`, and the condition that joins it to the table `t`."""
        key = self._type(change.table, self.store.key_column(change.table))
        same = [
            f't.{quote(column)}::text COLLATE "C" IS NOT DISTINCT FROM v.o{place}'
            for place, column in enumerate(change.columns)
        ]
        return (
            f"unnest({', '.join(['%s::text[]'] * len(names))}) AS v({', '.join(names)}) "
            f"WHERE {' AND '.join([f't.{_key(self.store, change.table)} = v.k::{key}', *same])}{self._is_old}"
        )

    def update_sql(self, change: Write) -> str:
        count = len(change.columns)
        names = ["k", *(f"n{place}" for place in range(count)), *(f"o{place}" for place in range(count))]
        assigned = ", ".join(
            f"{quote(column)} = v.n{place}::{self._type(change.table, column)}"
            for place, column in enumerate(change.columns)
        )
        table = self.store.tables[change.table].sql
        return f"UPDATE {table} AS t SET {assigned} FROM {self._joined(change, names)}"

    def update(self, change: Write) -> int:
        rows = self._texts(change)
        if self._documents(rows):
            assigned = ", ".join(
                f"{quote(column)} = %s::text::{self._type(change.table, column)}" for column in change.columns
            )
            sql = f"UPDATE {self.store.tables[change.table].sql} AS t SET {assigned} WHERE {self._each(change)}"
            wide = len(change.columns)
            return self.store.execute_many(sql, [(*row[1 : wide + 1], row[0], *row[wide + 1 :]) for row in rows])
        return self.store.execute(self.update_sql(change), [list(column) for column in zip(*rows, strict=True)])

    def insert_sql(self, change: Write) -> str:
        columns = ", ".join(quote(column) for column in change.columns)
        marks = ", ".join(f"%s::text::{self._type(change.table, column)}" for column in change.columns)
        table = self.store.tables[change.table].sql
        return f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({marks})"

    def insert(self, change: Write) -> int:
        rows = [tuple(map(text_of, new)) for _, _, new in change.rows if new is not None]
        if not _refers_to_itself(self.store, change.table):
            return self.store.execute_many(self.insert_sql(change), rows)
        names = [f"n{place}" for place in range(len(change.columns))]
        types = [self._type(change.table, column) for column in change.columns]
        casts = ", ".join(f"v.{name}::{type_}" for name, type_ in zip(names, types, strict=True))
        start = self.insert_sql(change).partition(" VALUES ")[0]
        source = f"unnest({', '.join(['%s::text[]'] * len(names))}) AS v({', '.join(names)})"
        values = [list(column) for column in zip(*rows, strict=True)]
        return self.store.execute(f"{start} SELECT {casts} FROM {source}", values)

    def delete_sql(self, change: Write) -> str:
        names = ["k", *(f"o{place}" for place in range(len(change.columns)))]
        return f"DELETE FROM {self.store.tables[change.table].sql} AS t USING {self._joined(change, names)}"

    def delete(self, change: Write) -> int:
        rows = self._texts(change)
        if self._documents(rows):
            sql = f"DELETE FROM {self.store.tables[change.table].sql} AS t WHERE {self._each(change)}"
            return self.store.execute_many(sql, rows)
        return self.store.execute(self.delete_sql(change), [list(column) for column in zip(*rows, strict=True)])


def references(
    store: Store, reference: ForeignKey, table: str, keys: Sequence[Key], *, but: Sequence[Key] = ()
) -> dict[Key, list[Any]]:
    """Key of `table` → the rows that refer to it by `reference`, but for the rows `but` of the referring table.

    A referring row is its key, or None where the store does not know its table by one.
    """
    sql = _statements(store)
    key, child = _key(store, table), known_table(store, reference)
    shown = f"c.{_key(store, child)}" if child else "NULL"
    on = " AND ".join(
        f"p.{quote(other)} {operator} c.{quote(one)}{collation}"
        for one, other, operator, collation in zip(
            reference.columns, reference.referred, reference.operators, reference.collations, strict=True
        )
    )
    found: dict[Key, list[Any]] = {}
    for part in sql.portions(keys):
        condition, values = sql.key_condition(table, "p", part)
        rows = store.query(
            f"SELECT p.{key}, {shown} FROM {store.tables[table].sql} AS p "
            f"JOIN {reference.child_sql} AS c ON {on} WHERE {condition}",
            values,
        )
        excluded = set(but)
        for parent, row in rows:
            if child is None or plain_key(row) not in excluded:
                found.setdefault(plain_key(parent), []).append(row)
    return found


def known_table(store: Store, reference: ForeignKey) -> str | None:
    """The name by which the store knows the referring table, None where that is another one."""
    for name, table in store.tables.items():
        same = table.oid == reference.child_oid if store.vendor == "postgresql" else name == reference.child
        if same:
            return name if store.has_key(name) else None
    return None


def _refers_to_itself(store: Store, table: str) -> bool:
    """Whether rows of `table` may refer to each other, even in a circle: a foreign key is checked after a statement,
    so that one that inserts all of them puts a circle back.
    """
    return any(known_table(store, one) == table and store.is_parent(one, table) for one in store.foreign_keys)


def children_first(store: Store, change: Write) -> Write:
    """Order the rows that a delete removes so that a row comes before the row of the same table it refers to."""
    own = [
        one
        for one in store.foreign_keys
        if known_table(store, one) == change.table and store.is_parent(one, change.table)
    ]
    if not own or len(change.rows) < 2:
        return change
    places = {name: place for place, name in enumerate(change.columns)}
    own = [one for one in own if places.keys() >= {*one.columns, *one.referred}]
    rows = {row[0]: row for row in change.rows}
    parents: dict[Key, set[Key]] = {}
    for one in own:
        by_value = {tuple((row[1] or ())[places[name]] for name in one.referred): key for key, row in rows.items()}
        for key, row in rows.items():
            parent = by_value.get(tuple((row[1] or ())[places[name]] for name in one.columns))
            if parent is not None and parent != key:
                parents.setdefault(key, set()).add(parent)
    ordered: list[Key] = []
    left = dict.fromkeys(rows)
    while left:
        referred = {parent for key in left for parent in parents.get(key, ()) if parent in left}
        free = [key for key in left if key not in referred] or list(left)  # a circle: any order
        ordered += free
        for key in free:
            del left[key]
    return Write(change.table, change.columns, [rows[key] for key in ordered])
