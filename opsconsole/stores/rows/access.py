"""Raw rows by key: read as the database holds them, and written only if they have not changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.db.models import BooleanField
from django.db.models.expressions import RawSQL
from django.utils.translation import gettext as _

from opsconsole.stores.catalog import ForeignKey, quote
from opsconsole.stores.rows.changes import DuplicateKey, Key, RowKey, RowsChanged, Values, Write, key_of
from opsconsole.stores.rows.postgresql import PostgreSQLRows
from opsconsole.stores.rows.references import known_table
from opsconsole.stores.rows.refusals import altered, ignored
from opsconsole.stores.rows.sqlite import MARK, SQLiteRows, affinity
from opsconsole.stores.store import Store


def _engine(store: Store, since: int | None = None) -> SQLiteRows | PostgreSQLRows:
    return SQLiteRows(store) if store.vendor == "sqlite" else PostgreSQLRows(store, since)


def is_numbered(store: Store, table: str) -> bool:
    """Return whether the key of `table` is a whole number. An unknown table counts as numbered."""
    if table not in store.tables:
        return True
    name, *others = store.key_columns(table)
    return not others and is_whole_number(store, table, name)


def is_whole_number(store: Store, table: str, column: str) -> bool:
    """Return whether a column is declared to hold whole numbers."""
    declared = store.tables[table][column]
    return declared.is_whole_number if store.vendor == "postgresql" else affinity(declared.type) == "INTEGER"


def may_be_real(declared: str) -> bool:
    """Return whether a SQLite column of this type may hold a fraction as a number."""
    return affinity(declared) in {"REAL", "NUMERIC", "BLOB"}


def mark(store: Store) -> int:
    """Return a mark of the writes of other clients. Take it before rows are read.

    SQLite: the mark differs after another connection has committed. PostgreSQL: the oldest transaction that may
    still write; a row with an older version has not changed since.
    """
    return _engine(store).mark()


def has_versions(store: Store, tables: Iterable[str]) -> bool:
    """Return whether the role may read the versions (`xmin`) of the rows of `tables` on PostgreSQL."""
    oids = [store.tables[name].oid for name in tables if name in store.tables]
    sql = (
        "SELECT COALESCE(bool_and(has_column_privilege(t::oid, 'xmin', 'SELECT')), true) FROM unnest(%s::bigint[]) AS t"
    )
    return bool(store.query(sql, [oids])[0][0])


def changed_since(store: Store, table: str, since: int) -> RawSQL:
    """Return the condition that a row of `table` on PostgreSQL may have changed since the mark."""
    sql = f"NOT {PostgreSQLRows(store, since).is_old(quote(table))}"
    return RawSQL(sql, (), BooleanField())  # noqa: S611  # a quoted name and a number


def write(store: Store, change: Write, *, since: int | None = None) -> int:
    """Apply `change` and return the number of its rows. Raise RowsChanged unless all of them were written.

    `since` is the mark of PostgreSQL from before the rows were read: a row that may have changed is not written.
    None means that the caller has locked the rows.
    """
    if not store.tables[change.table].is_unique(store.key_columns(change.table)):
        _require_single(store, change)
    engine = _engine(store, since)
    met = {"insert": engine.insert, "update": engine.update, "delete": engine.delete}[change.kind](change)
    if met != len(change.rows):
        _require_met(store, change, met, since)
    return len(change.rows)


def verify(store: Store, change: Write) -> None:
    """Compare the rows with what was written, if a column or a trigger may have altered it. Raise RowsChanged.

    Deferred triggers must have fired.
    """
    if (
        change.kind == "insert"
        or store.triggers(change.table, change.kind.upper())
        or (change.kind == "update" and _engine(store).column_may_alter(change))
    ):
        _require_written(store, change)


def read(store: Store, table: str, columns: Sequence[str], keys: Iterable[Key]) -> dict[Key, Values]:
    """Return key → raw values of `columns` of the rows that exist."""
    return _engine(store).read(table, columns, list(keys))


def key_sql(store: Store, table: str, alias: str) -> str:
    """Return the values of a key as a list of expressions. `key_of` makes the key from them."""
    return _engine(store).key(table, alias)


def key_condition(store: Store, table: str, alias: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
    """Return the condition that a row of the table called `alias` has one of `keys`, and its parameters."""
    return _engine(store).key_condition(table, alias, keys)


def existing(store: Store, table: str, keys: Iterable[Key]) -> set[Key]:
    """Return the `keys` that rows have."""
    condition, values = key_condition(store, table, "t", list(keys))
    found = store.query(
        f"SELECT {key_sql(store, table, 't')} FROM {store.tables[table].sql} AS t WHERE {condition}", values
    )
    return {key_of(row) for row in found}


def new_keys(store: Store, table: str, count: int, taken: Collection[Key] = ()) -> list[Key]:
    """Return `count` keys for new rows, as the database itself would make them, without those in `taken`.

    A sequence of PostgreSQL never returns a key twice. SQLite reserves nothing: another client may take the key.
    """
    return _engine(store).new_keys(table, count, taken) if count else []


def known_rowids(store: Store, table: str, rowids: Sequence[int]) -> set[int]:
    """Return the `rowids` that exist in a SQLite table."""
    name = quote(store.tables[table].rowid)
    sql = f"SELECT {name} FROM {quote(table)} WHERE {name} IN (SELECT value FROM json_each(%s))"
    return {rowid for (rowid,) in store.query(sql, [json.dumps(list(rowids))])}


def highest_rowid(store: Store, table: str) -> int:
    """Return the highest rowid of a SQLite table, 0 if it is empty."""
    return store.query(f"SELECT MAX({quote(store.tables[table].rowid)}) FROM {quote(table)}")[0][0] or 0


def normalized(store: Store, change: Write) -> Write:
    """Return `change` with its new values as the database writes them: a time or a number has many texts."""
    return change if change.kind == "delete" else _engine(store).normalized(change)


def lock(store: Store, change: Write) -> None:
    """Lock the rows of `change` on PostgreSQL, so that no new row can refer to them. SQLite has one lock."""
    if store.vendor == "postgresql":
        PostgreSQLRows(store).lock(change)


def deleted(store: Store, table: str) -> int:
    """Return a number that grows by each row of `table` that this transaction and its triggers delete."""
    return _engine(store).deleted(table)


def check_deferred(store: Store) -> None:
    """Check deferred constraints and fire deferred triggers: at COMMIT, their errors belong to no statement."""
    if store.vendor == "postgresql":
        store.execute("SET CONSTRAINTS ALL IMMEDIATE")


def explain(store: Store, kind: str, table: str, columns: Sequence[str]) -> None:
    """Let the database compile a statement that a run needs, without executing it. Raise the error of the database."""
    values: Values = (None,) * len(columns)
    old, new = None if kind == "insert" else values, None if kind == "delete" else values
    engine = _engine(store)
    builders = {"insert": engine.insert_sql, "update": engine.update_sql, "delete": engine.delete_sql}
    statement = builders[kind](Write(table, tuple(columns), [(0, old, new)]))
    store.query(f"{engine.explain} {statement}", [None] * len(MARK.findall(statement)))


def _require_met(store: Store, change: Write, met: int, since: int | None) -> None:
    """Find the rows that a statement did not write, and the reason. Raise RowsChanged."""
    keys = [row[0] for row in change.rows]
    if twice := {key for key, count in Counter(keys).items() if count > 1}:
        reason = DuplicateKey(_("The change writes one row of %(table)s twice.") % {"table": change.table})
        raise RowsChanged(refused={(change.table, key): reason for key in twice})
    found = read(store, change.table, change.columns, keys)
    young = _engine(store, since).young(change.table, keys)
    fired = any(one.before for one in store.triggers(change.table, change.kind.upper()))
    unmet: dict[RowKey, Exception | None] = {}
    refused: dict[RowKey, Exception] = {}
    as_requested = [key for key, _old, new in change.rows if found.get(key) == store.normalize(new)]
    # If more rows hold the new values than were written, another client wrote some of them. If the caller has locked
    # the rows, a cascade or a trigger of this transaction wrote them.
    ours = set(as_requested) if fired or since is None or len(as_requested) == met else set()
    for key, old, _new in change.rows:
        now = found.get(key)
        if key in ours:
            continue
        if now is not None and now == store.normalize(old) and key in young:
            unmet[change.table, key] = None
        elif now == store.normalize(old):
            refused[change.table, key] = ignored(store, change)
        else:
            # A trigger may have done it. If the row is read unchanged again, no other client changed it.
            unmet[change.table, key] = ignored(store, change) if fired else None
    if unmet or refused:
        raise RowsChanged(unmet, refused)


def _require_written(store: Store, change: Write) -> None:
    found = read(store, change.table, change.columns, [row[0] for row in change.rows])
    refused: dict[RowKey, Exception] = {}
    for key, old, new in change.rows:
        now = found.get(key)
        if _same(now, store.normalize(new)):
            continue
        if now is None or new is None or now == store.normalize(old):
            refused[change.table, key] = ignored(store, change)
            continue
        differing = [
            (name, given, held)
            for name, given, held in zip(change.columns, store.normalize(new) or (), now, strict=True)
            if not _same((given,), (held,))
        ]
        refused[change.table, key] = altered(store, change, differing)
    if refused:
        raise RowsChanged(refused=refused)


def _same(one: Values | None, other: Values | None) -> bool:
    """Return whether values are equal and of one type: 5, 5.0 and '5' differ in SQLite."""
    return one == other and (one is None or list(map(type, one)) == list(map(type, other or ())))


def _require_single(store: Store, change: Write) -> None:
    """Refuse rows whose key is not unique. Raise RowsChanged."""
    if change.kind == "insert":
        return
    engine = _engine(store)
    key = engine.key(change.table, "t")
    refused: dict[RowKey, Exception] = {}
    for part in engine.portions(change.table, [row[0] for row in change.rows]):
        condition, values = engine.key_condition(change.table, "t", part)
        table = store.tables[change.table].sql
        found = store.query(
            f"SELECT {key}, COUNT(*) FROM {table} AS t WHERE {condition} GROUP BY {key} HAVING COUNT(*) > 1", values
        )
        for row in found:
            duplicate, (count,) = engine.key_of(change.table, row)
            refused[change.table, duplicate] = DuplicateKey(
                _("%(count)d rows of %(table)s have this key. Nothing was changed in them.")
                % {"count": count, "table": change.table}
            )
    if refused:
        raise RowsChanged(refused=refused)


def references(
    store: Store, reference: ForeignKey, table: str, keys: Sequence[Key], *, but: Sequence[Key] = ()
) -> dict[Key, list[Any]]:
    """Return key of `table` → the rows that refer to it by `reference`, without the rows `but` of the referring table.

    A referring row is its key, or None if the store does not know its table.
    """
    engine, child = _engine(store), known_table(store, reference)
    key, shown = engine.key(table, "p"), engine.key(child, "c") if child else "NULL"
    excluded, found = set(but), dict[Key, list[Any]]()
    for part in engine.portions(table, keys):
        condition, values = engine.key_condition(table, "p", part)
        rows = store.query(
            f"SELECT {key}, {shown} FROM {store.tables[table].sql} AS p "
            f"JOIN {reference.child_sql} AS c ON {reference.matches} WHERE {condition}",
            values,
        )
        for row in rows:
            parent, rest = engine.key_of(table, row)
            one = engine.key_of(child, rest)[0] if child else None
            if one is None or one not in excluded:
                found.setdefault(parent, []).append(one)
    return found
