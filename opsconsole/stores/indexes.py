"""Indexes of a store, and names for new ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opsconsole.stores.store import Store


class Index(NamedTuple):
    """An index of a table. A column is None for an expression. `where` is the normalized condition."""

    table: str
    columns: tuple[str | None, ...]
    unique: bool = False
    where: str = ""
    valid: bool = True
    ordered: bool = True  # only a B-tree keeps an order
    included: tuple[str, ...] = ()  # columns that are stored in the index and are not part of its key

    def finds(self, column: str) -> bool:
        """Return whether an equality of this column alone is answered by the index."""
        return self.valid and self.columns[:1] == (column,) and self.where in {"", f"{column} is not null".lower()}

    def serves(self, wanted: Index) -> bool:
        """Return whether this index does everything that `wanted` would do. Its condition may exclude NULLs."""
        filled = {f"{column} is not null" for column in self.columns}
        return (
            self.ordered
            and (self.table, self.columns) == (wanted.table, wanted.columns)
            and self.unique >= wanted.unique
            and (self.where in {"", wanted.where} or set(self.where.split(" and ")) <= filled)
        )


def condition(sql: str) -> str:
    """Return the normalized condition of a partial index."""
    found = re.search(r"\)\s*WHERE\b(.*)", sql, re.IGNORECASE | re.DOTALL)
    return _normalized(found[1]) if found else ""


def _normalized(text: str) -> str:
    return " ".join(re.sub(r'[()"]', " ", text).lower().split())


def indexes(store: Store, *, conditions: bool = True) -> dict[str, Index]:
    """Return name → index of all tables of the store.

    PostgreSQL locks a table to print the condition of its index: without `conditions`, none is read.
    """
    found: dict[str, Index] = {}
    if store.vendor == "sqlite":
        # SQLite ignores the case of names.
        spelled = {one.lower(): one for table, columns in store.tables.items() for one in (table, *columns)}
        for name, table, column, unique, sql in store.query(_SQLITE):
            columns = found[name].columns if name in found else ()
            column = column and spelled.get(column.lower(), column)
            table = spelled.get(table.lower(), table)
            found[name] = Index(table, (*columns, column), bool(unique), condition(sql or ""))
    else:
        for name, table, columns, included, unique, where, valid, ordered in store.query(
            _POSTGRESQL % ("pg_get_expr(i.indpred, i.indrelid)" if conditions else "NULL")
        ):
            found[name] = Index(
                table, tuple(columns), unique, _normalized(where or ""), valid, ordered, tuple(included)
            )
    return found


def indexes_on(store: Store, table: str, columns: Iterable[str]) -> list[str]:
    """Return the names of the indexes of `table` that contain one of `columns`. Waits for no lock on the table."""
    wanted = set(columns)
    return sorted(
        name
        for name, index in indexes(store, conditions=False).items()
        if index.table == table and wanted & {*index.columns, *index.included}
    )


def names_taken(store: Store) -> set[str]:
    """Return the names that a new index cannot have: those of tables, views, sequences and indexes."""
    return {name for (name,) in store.query(_NAMES[store.vendor])}


def free_name(name: str, taken: set[str]) -> str:
    """Return `name`, with a number if it is taken. Add the result to `taken`."""
    numbered = (f"{name}_{number}" for number in count(2))
    free = next(one for one in chain([name], numbered) if one not in taken)
    taken.add(free)
    return free


_SQLITE = """
    SELECT l.name, m.name, i.name, l."unique", d.sql FROM sqlite_master AS m
    JOIN pragma_index_list(m.name) AS l JOIN pragma_index_info(l.name) AS i
    LEFT JOIN sqlite_master AS d ON d.type = 'index' AND d.name = l.name
    WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY l.name, i.seqno
"""
_POSTGRESQL = """
    SELECT c.relname, t.relname,
        array_agg(a.attname::text ORDER BY k.place) FILTER (WHERE k.place <= i.indnkeyatts),
        COALESCE(array_agg(a.attname::text) FILTER (WHERE k.place > i.indnkeyatts), '{}'),
        i.indisunique, %s, i.indisvalid, m.amname = 'btree'
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid
    JOIN pg_am AS m ON m.oid = c.relam
    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)
    LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
    WHERE pg_table_is_visible(t.oid)
      AND t.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    GROUP BY c.relname, t.relname, i.indexrelid, i.indrelid, i.indisunique, i.indpred, i.indisvalid, m.amname
    ORDER BY 1
"""
_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master",
    "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace",
}
