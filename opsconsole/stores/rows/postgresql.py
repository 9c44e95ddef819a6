"""Rows of PostgreSQL stores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from opsconsole.stores.catalog import quote
from opsconsole.stores.rows.changes import Key, RowKey, RowsChanged, Values, Write, key_of, key_values, plain_key
from opsconsole.stores.rows.references import is_own_parent
from opsconsole.stores.rows.refusals import altered
from opsconsole.stores.store import Store, text_of

# If a batch's average row has more characters, one array for each column is far slower than a prepared
# statement for each row.
DOCUMENT_CHARACTERS = 2_000
# Types that return the text they were given. The text of all other types may differ.
_PLAIN = frozenset({"text", "character varying", "json", "integer", "bigint", "smallint", "boolean"})


class PostgreSQLRows:
    """Statements for PostgreSQL. A raw value is the text of the value.

    A value is cast to the type without its length or precision: an explicit cast would cut the value, while the
    column refuses it. Rows that may have changed after the transaction `since` are not written.
    """

    explain = "EXPLAIN"

    def __init__(self, store: Store, since: int | None = None) -> None:
        self.store, self.since = store, since

    def key(self, table: str, alias: str) -> str:
        """Return the key as a list of expressions: of several columns, each as a whole number or as text."""
        names = self.store.key_columns(table)
        if len(names) == 1:
            return f"{alias}.{quote(names[0])}"
        columns = self.store.tables[table]
        return ", ".join(f"{alias}.{quote(name)}{'' if columns[name].is_whole_number else '::text'}" for name in names)

    def key_of(self, table: str, row: Values) -> tuple[Key, Values]:
        """Return the key that a row of a query begins with, and the rest of the row."""
        count = len(self.store.key_columns(table))
        return key_of(row[:count]), tuple(row[count:])

    def _key_texts(self, table: str, keys: Sequence[Key]) -> list[list[str]]:
        """Return the texts of each key column."""
        count = len(self.store.key_columns(table))
        if count == 1:
            return [list(map(str, keys))]
        return [list(map(str, column)) for column in zip(*(key_values(key, count) for key in keys), strict=True)]

    @property
    def _is_old(self) -> str:
        return "" if self.since is None else f" AND {self.is_old('t')}"

    def is_old(self, alias: str) -> str:
        """Return the condition that a row has not changed since the mark. It compares ages, because ids wrap around."""
        return f"age({alias}.xmin) > age('{int(self.since or 0)}'::xid)"

    def young(self, table: str, keys: Sequence[Key]) -> set[Key]:
        """Return the keys whose rows may have changed since the mark."""
        if self.since is None:
            return set()
        condition, values = self.key_condition(table, "t", keys)
        sql = f"SELECT {self.key(table, 't')} FROM {self.store.tables[table].sql} AS t WHERE {condition}"
        old = {key_of(row) for row in self.store.query(sql + self._is_old, values)}
        return set(keys) - old

    def portions(self, table: str, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        yield keys

    def key_condition(self, table: str, alias: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        names = self.store.key_columns(table)
        if len(names) == 1:
            type_ = self._type(table, names[0])
            return f"{alias}.{quote(names[0])} = ANY (%s::text[]::{type_}[])", [[str(key) for key in keys]]
        columns = ", ".join(f"{alias}.{quote(name)}" for name in names)
        casts = ", ".join(f"k.k{place}::{self._type(table, name)}" for place, name in enumerate(names))
        marks, given = ", ".join(["%s::text[]"] * len(names)), ", ".join(f"k{place}" for place in range(len(names)))
        sql = f"({columns}) IN (SELECT {casts} FROM unnest({marks}) AS k({given}))"
        return sql, self._key_texts(table, keys) or [[] for _name in names]

    def _type(self, table: str, column: str) -> str:
        return self.store.tables[table][column].base.replace("%", "%%")

    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]:
        raw = ", ".join(f"t.{quote(column)}::text" for column in columns)
        condition, values = self.key_condition(table, "t", keys)
        sql = f"SELECT {self.key(table, 't')}, {raw} FROM {self.store.tables[table].sql} AS t WHERE {condition}"
        return dict(self.key_of(table, row) for row in self.store.query(sql, values))

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
                    refused[change.table, key] = altered(self.store, change, [(name, given, value)])
                values[place] = value
            normal.append((key, old, tuple(values)))
        if refused:
            raise RowsChanged(refused=refused)
        return Write(change.table, change.columns, normal)

    def _kept(self, change: Write, place: int, name: str) -> str:
        """Return the condition that a type keeps a value: `date` drops the time, `name` cuts a long text."""
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

    def column_may_alter(self, change: Write) -> bool:
        table = self.store.tables[change.table]
        return any(table[name].limited for name in change.columns)

    def mark(self) -> int:
        return int(self.store.query("SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text")[0][0])

    def new_keys(self, table: str, count: int, taken: Collection[Key]) -> list[Key]:
        found: list[Key] = []
        (name,) = self.store.key_columns(table)
        key = [name, self.store.tables[table].oid]
        sql = self.store.query(_NEW_KEY, key)[0][0].replace("%", "%%")
        while len(found) < count:
            drawn = self.store.query(f"SELECT {sql} FROM generate_series(1, %s)", [count - len(found)])
            found += [plain_key(key) for (key,) in drawn if plain_key(key) not in taken]
        return found

    def deleted(self, table: str) -> int:
        sql = "SELECT COALESCE(SUM(pg_stat_get_xact_tuples_deleted(t::oid)), 0) FROM unnest(%s::bigint[]) AS t"
        return int(self.store.query(sql, [list(self.store.tables[table].family)])[0][0])

    def lock(self, change: Write) -> None:
        condition, keys = self.key_condition(change.table, "t", [row[0] for row in change.rows])
        table = self.store.tables[change.table].sql
        self.store.query(
            f"SELECT 1 FROM {table} AS t WHERE {condition} ORDER BY {self.key(change.table, 't')} FOR UPDATE", keys
        )

    def _are_documents(self, columns: Sequence[Sequence[str | None]]) -> bool:
        characters = sum(sum(map(len, filter(None, column))) for column in columns)
        return characters > DOCUMENT_CHARACTERS * len(columns[0])

    def _columns(self, change: Write) -> Sequence[Sequence[str | None]]:
        """Return the rows as columns of texts: the key, the new values and the old values."""
        new = [new for _key, _old, new in change.rows if new is not None]  # empty for a delete
        old = [old for _key, old, _new in change.rows if old is not None]
        places = range(len(change.columns))
        return [
            *self._key_texts(change.table, [row[0] for row in change.rows]),
            *(_texts(map(itemgetter(place), values)) for values in (new, old) if values for place in places),
        ]

    def _is_key(self, table: str, value: str) -> list[str]:
        """Return the conditions that a row has a key. `value` is the value of a column of it, `{}` the number."""
        return [
            f"t.{quote(name)} = {value.format(place)}::{self._type(table, name)}"
            for place, name in enumerate(self.store.key_columns(table))
        ]

    def _each(self, change: Write) -> str:
        """Return the condition that a row has its key and its old values, with a parameter for each."""
        same = [f't.{quote(column)}::text COLLATE "C" IS NOT DISTINCT FROM %s::text' for column in change.columns]
        return " AND ".join([*self._is_key(change.table, "%s::text"), *same]) + self._is_old

    def _key_names(self, change: Write) -> list[str]:
        return [f"k{place}" for place in range(len(self.store.key_columns(change.table)))]

    def _joined(self, change: Write, names: list[str]) -> str:
        """Return the arrays of a batch as a table `v`, and the condition that joins it to the table `t`."""
        same = [
            f't.{quote(column)}::text COLLATE "C" IS NOT DISTINCT FROM v.o{place}'
            for place, column in enumerate(change.columns)
        ]
        return (
            f"unnest({', '.join(['%s::text[]'] * len(names))}) AS v({', '.join(names)}) "
            f"WHERE {' AND '.join([*self._is_key(change.table, 'v.k{}'), *same])}{self._is_old}"
        )

    def update_sql(self, change: Write) -> str:
        count = len(change.columns)
        names = [*self._key_names(change), *(f"n{place}" for place in range(count))]
        names += [f"o{place}" for place in range(count)]
        assigned = ", ".join(
            f"{quote(column)} = v.n{place}::{self._type(change.table, column)}"
            for place, column in enumerate(change.columns)
        )
        table = self.store.tables[change.table].sql
        return f"UPDATE {table} AS t SET {assigned} FROM {self._joined(change, names)}"

    def update(self, change: Write) -> int:
        columns = self._columns(change)
        if self._are_documents(columns):
            assigned = ", ".join(
                f"{quote(column)} = %s::text::{self._type(change.table, column)}" for column in change.columns
            )
            sql = f"UPDATE {self.store.tables[change.table].sql} AS t SET {assigned} WHERE {self._each(change)}"
            keys = len(self.store.key_columns(change.table))
            new = keys + len(change.columns)
            rows = zip(*columns[keys:new], *columns[:keys], *columns[new:], strict=True)
            return self.store.execute_many(sql, list(rows))
        return self.store.execute(self.update_sql(change), columns)

    def insert_sql(self, change: Write) -> str:
        columns = ", ".join(quote(column) for column in change.columns)
        marks = ", ".join(f"%s::text::{self._type(change.table, column)}" for column in change.columns)
        table = self.store.tables[change.table].sql
        return f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({marks})"

    def insert(self, change: Write) -> int:
        rows = [tuple(map(text_of, new)) for _, _, new in change.rows if new is not None]
        if not is_own_parent(self.store, change.table):
            return self.store.execute_many(self.insert_sql(change), rows)
        names = [f"n{place}" for place in range(len(change.columns))]
        types = [self._type(change.table, column) for column in change.columns]
        casts = ", ".join(f"v.{name}::{type_}" for name, type_ in zip(names, types, strict=True))
        start = self.insert_sql(change).partition(" VALUES ")[0]
        source = f"unnest({', '.join(['%s::text[]'] * len(names))}) AS v({', '.join(names)})"
        values = [list(column) for column in zip(*rows, strict=True)]
        return self.store.execute(f"{start} SELECT {casts} FROM {source}", values)

    def delete_sql(self, change: Write) -> str:
        names = [*self._key_names(change), *(f"o{place}" for place in range(len(change.columns)))]
        return f"DELETE FROM {self.store.tables[change.table].sql} AS t USING {self._joined(change, names)}"

    def delete(self, change: Write) -> int:
        columns = self._columns(change)
        if self._are_documents(columns):
            sql = f"DELETE FROM {self.store.tables[change.table].sql} AS t WHERE {self._each(change)}"
            return self.store.execute_many(sql, list(zip(*columns, strict=True)))
        return self.store.execute(self.delete_sql(change), columns)


def _texts(values: Iterable[Any]) -> list[str | None]:
    """Return values as PostgreSQL's texts."""
    column = list(values)
    return column if _TEXTS.issuperset(map(type, column)) else list(map(text_of, column))


_TEXTS = frozenset({str, type(None)})


_NEW_KEY = """
    SELECT CASE WHEN a.attidentity = '' THEN pg_get_expr(d.adbin, d.adrelid)
        ELSE format('nextval(%%L)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname)) END
    FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attname = %s AND a.attrelid = %s::bigint::oid
"""
