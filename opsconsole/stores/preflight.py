"""Refuse a store before the first write if a run could not be exact there.

It reads the catalog and lets the database compile each statement. A refusal names the cause and the remedy.
Generated and identity columns, triggers, composite keys and keys of any type are handled, not refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from django.db import DatabaseError
from django.utils.translation import gettext as _

from opsconsole.stores import rows
from opsconsole.stores.catalog import NAME, ForeignKey, Table, TriggerInfo, other_relations, quote, unquoted
from opsconsole.stores.errors import ErrorKind, classify, first_line, sqlstate
from opsconsole.stores.remedies import closed_schema, kind_sentence, missing_table
from opsconsole.stores.store import Store, StoreUnavailable


class Target(NamedTuple):
    """A change of a run to a table: `kind` is insert, update or delete."""

    kind: str
    table: str
    columns: tuple[str, ...] = ()  # that an update writes or an insert fills


class Privilege(NamedTuple):
    """A privilege of a PostgreSQL role on a table or on one of its columns, or USAGE on a schema."""

    name: str
    place: str  # the quoted table with its schema, or the quoted schema
    oid: int = 0  # of the table
    column: str = ""


@dataclass
class Preflight:
    """Sentences for the plan about the store."""

    notes: list[str] = field(default_factory=list)
    undo_obstacles: list[str] = field(default_factory=list)


def examine(store: Store, targets: Sequence[Target], *, undoable: bool) -> Preflight:
    """Return the sentences for the plan. Raise StoreUnavailable if a run could not be exact."""
    _require_tables(store, targets)
    found = Preflight()
    if store.vendor == "postgresql":
        role = store.query("SELECT current_setting('session_replication_role')")[0][0]
        if role != "origin":
            raise _refusal(
                store,
                _(
                    "session_replication_role is %(role)s for this role, which disables foreign keys and triggers. "
                    "Set it to origin."
                ),
                role=role,
            )
    for target in targets:
        table = store.tables[target.table]
        _require_key(store, table)
        _require_no_rules(store, target)
        if target.kind == "update":
            _require_columns(store, table, target.columns)
        if target.kind == "delete":
            _require_deletable(store, table)
        note = _trigger_note(store, target)
        if note:
            found.notes.append(note)
        _compile(store, target)
    if undoable:
        found.undo_obstacles = list(_undo_obstacles(store, targets))
    return found


def require_privileges(
    store: Store,
    reads: Iterable[tuple[str, str]],
    targets: Sequence[Target],
    schemas: Iterable[str] = (),
) -> None:
    """Refuse a role without the privileges that a run needs, with the statements that grant them.

    `reads` are the tables and columns that the operation reads, `schemas` those of types that it names.
    """
    if store.vendor != "postgresql":
        return
    _require_tables(store, targets)
    wanted = dict.fromkeys([*_privileges(store, reads, targets), *map(_usage, schemas)])
    if missing := missing_privileges(store, list(wanted)):
        raise StoreUnavailable(
            _("%(location)s: the role %(role)s is missing %(rights)s. Nothing was written. The owner grants it with:")
            % {
                "location": store.location,
                "role": _role(store),
                "rights": ", ".join(f"{p.name} {_shown(p)}" for p in missing),
            }
            + "\n"
            + "\n".join(_grants(store, missing))
        )


def missing_privileges(store: Store, wanted: Sequence[Privilege]) -> list[Privilege]:
    """Return the privileges that the role does not have: one query."""
    if store.vendor != "postgresql" or not wanted:
        return []
    missing = store.query(
        """
        SELECT w.place
        FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[])
            WITH ORDINALITY AS w(name, object, oid, attribute, place)
        WHERE NOT CASE
            WHEN w.name = 'USAGE' THEN has_schema_privilege(to_regnamespace(w.object)::oid, 'USAGE')
            WHEN w.attribute = '' AND w.name = 'SELECT' THEN NOT EXISTS (
                SELECT FROM pg_attribute AS a WHERE a.attrelid = w.oid::oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND NOT has_column_privilege(w.oid::oid, a.attnum, 'SELECT'))
            WHEN w.attribute = '*' THEN has_any_column_privilege(w.oid::oid, w.name)
            WHEN w.attribute = '' THEN has_table_privilege(w.oid::oid, w.name)
            ELSE has_column_privilege(w.oid::oid, w.attribute, w.name)
        END
        """,
        [
            [p.name for p in wanted],
            [p.place.replace("%%", "%") for p in wanted],
            [p.oid for p in wanted],
            [p.column for p in wanted],
        ],
    )
    return [wanted[place - 1] for (place,) in missing]


# --- privileges -----------------------------------------------------------------------------------------------


def _privileges(store: Store, reads: Iterable[tuple[str, str]], targets: Sequence[Target]) -> Iterator[Privilege]:
    for name, column in reads:
        if name in store.tables and column in store.tables[name]:
            yield _on(store.tables[name], "SELECT", column)
    for target in targets:
        table = store.tables[target.table]
        for column in store.key_columns(target.table):
            yield _on(table, "SELECT", column)
        cast = target.columns if target.kind == "update" else table.writable
        for column in (*store.key_columns(target.table), *cast):  # a delete tries to insert its rows again
            if column in table:
                yield _usage(table[column].base_schema)
        if target.kind == "update":
            for column in target.columns:
                yield _on(table, "SELECT", column)
            for column in target.columns:
                yield _on(table, "UPDATE", column)
        else:
            yield _on(table, "SELECT")
            yield _on(table, target.kind.upper())
        if target.kind == "delete":
            yield _on(table, "UPDATE", "*")  # SELECT … FOR UPDATE requires it
            for reference in _referring(store, target.table):
                child = rows.known_table(store, reference)
                named = store.key_columns(child) if child else ()
                yield from map(_usage, sorted(reference.schemas))
                for column in (*reference.columns, *named):
                    yield Privilege("SELECT", reference.child_sql, reference.child_oid, column)


def _on(table: Table, name: str, column: str = "") -> Privilege:
    return Privilege(name, table.sql, table.oid, column)


def _usage(schema: str) -> Privilege:
    return Privilege("USAGE", quote(schema))


def _shown(privilege: Privilege) -> str:
    name = privilege.place.replace('"', "").removeprefix("public.")
    return name if privilege.column in {"", "*"} else f"{name}.{privilege.column}"


def _role(store: Store) -> str:
    return str(store.query("SELECT current_user")[0][0])


def _grants(store: Store, missing: Sequence[Privilege]) -> list[str]:
    """Return one statement for each table and privilege."""
    role = quote(_role(store))
    columns: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        columns.setdefault((one.name, one.place), []).append(one.column)
    statements = []
    for (name, place), named in columns.items():
        which = "" if {"", "*"} & set(named) else f" ({', '.join(map(quote, named))})"
        kind = "SCHEMA " if name == "USAGE" else ""
        statements.append(f"GRANT {name}{which} ON {kind}{place} TO {role};".replace("%%", "%"))
    return statements


# --- tables, keys, columns ----------------------------------------------------------------------------------------


def require_readable(store: Store, tables: Iterable[str]) -> None:
    """Refuse tables that hide rows from the role."""
    for name in tables:
        table = store.tables.get(name)
        if table is not None and table.row_security:
            raise _row_security(store, name)


def _row_security(store: Store, name: str) -> StoreUnavailable:
    return _refusal(
        store,
        _("Row-level security on %(table)s hides rows from this role. Use a role with BYPASSRLS."),
        table=name,
    )


def _require_tables(store: Store, targets: Sequence[Target]) -> None:
    for target in targets:
        table = store.tables.get(target.table)
        if table is not None and table.foreign_parts:
            raise _refusal(
                store,
                _(
                    "Partitions of %(table)s are foreign tables. The console cannot lock their rows. "
                    "Run the operation on the server that holds them."
                ),
                table=target.table,
            )
    missing = [target.table for target in targets if target.table not in store.tables]
    if missing:
        kind = other_relations(store).get(missing[0])
        if kind:
            raise StoreUnavailable(f"{store.location}: {kind_sentence(missing[0], kind)}")
        if sentence := closed_schema(store):
            raise StoreUnavailable(sentence)
        raise _refusal(store, "%(sentence)s", sentence=missing_table(store, missing[0]))
    require_readable(store, (target.table for target in targets))


def _require_key(store: Store, table: Table) -> None:
    """Refuse a table whose key is not unique, neither by the schema nor by its rows."""
    names = store.key_columns(table.name)
    for name in names:
        _require_key_values(store, table, name, alone=len(names) == 1)
    if table.is_unique(names):
        return
    key = ", ".join(map(quote, names))
    found = store.query(
        f"SELECT COUNT(*), {key} FROM {table.sql} GROUP BY {key} HAVING COUNT(*) > 1 ORDER BY {key} LIMIT 1"
    )
    if found:
        raise _refusal(
            store,
            _("%(table)s has %(count)d rows with the same key (%(key)s %(value)s). Give each row a unique key."),
            table=table.name,
            key=", ".join(names),
            count=found[0][0],
            value=", ".join(map(str, found[0][1:])),
        )


def _require_key_values(store: Store, table: Table, name: str, *, alone: bool) -> None:
    """Refuse a column of a key with values that cannot identify a row. An index answers if the key is `alone`."""
    key = quote(name)
    if table[name].nullable and store.query(f"SELECT 1 FROM {table.sql} WHERE {key} IS NULL LIMIT 1"):
        raise _refusal(
            store,
            _("Rows of %(table)s have no key (%(key)s) that identifies them. Give each row a key."),
            table=table.name,
            key=name,
        )
    if store.vendor != "sqlite":
        return
    if rows.may_be_real(table[name].type) and store.query(
        f"SELECT 1 FROM {table.sql} WHERE typeof({key}) = 'real' LIMIT 1"
    ):
        raise _refusal(
            store,
            _("A key of %(table)s is a fraction, which cannot identify a row exactly. Store %(key)s as text."),
            table=table.name,
            key=name,
        )
    if alone:  # SQLite sorts blobs last
        last = store.query(f"SELECT typeof({key}) FROM {table.sql} ORDER BY {key} DESC LIMIT 1")
        binary = bool(last) and last[0][0] == "blob"
    else:
        binary = bool(store.query(f"SELECT 1 FROM {table.sql} WHERE typeof({key}) = 'blob' LIMIT 1"))
    if binary:
        raise _refusal(
            store,
            _("A key of %(table)s is binary, which the console cannot use to identify a row. Store %(key)s as text."),
            table=table.name,
            key=name,
        )


def _require_no_rules(store: Store, target: Target) -> None:
    event = target.kind.upper()
    rules = [one.name for one in store.triggers(target.table, event) if one.rule]
    if rules:
        raise _refusal(
            store,
            _("The rule %(rule)s on %(table)s rewrites %(event)s. Drop or disable the rule."),
            rule=rules[0],
            table=target.table,
            event=event,
        )


def _require_columns(store: Store, table: Table, columns: Iterable[str]) -> None:
    written = {name for name in columns if name in table}
    for name in sorted(written):
        if table[name].generated or table[name].identity == "a":
            raise _refusal(
                store,
                _("%(table)s.%(column)s is a generated column. The database computes its value."),
                table=table.name,
                column=name,
            )
    for reference in _referring(store, table.name):
        if reference.on_update and written & set(reference.referred):
            raise _refusal(
                store,
                _("A change of %(table)s.%(column)s would also change %(child)s (%(action)s), which cannot be undone."),
                table=table.name,
                column=min(written & set(reference.referred)),
                child=reference.child,
                action=f"ON UPDATE {reference.on_update}",
            )


def _require_deletable(store: Store, table: Table) -> None:
    if table.children:
        raise _refusal(
            store,
            _("Other tables inherit from %(table)s. An undo could not put a deleted row back into its table."),
            table=table.name,
        )
    if store.vendor != "postgresql":
        return
    secured = {
        oid
        for (oid,) in store.query(
            "SELECT oid::bigint FROM pg_class WHERE oid = ANY (%s::bigint[]::oid[]) AND row_security_active(oid)",
            [[one.child_oid for one in _referring(store, table.name)]],
        )
    }
    for reference in _referring(store, table.name):
        if reference.child_oid in secured:
            raise _row_security(store, reference.child)


def _referring(store: Store, table: str) -> list[ForeignKey]:
    return [one for one in store.foreign_keys if store.is_parent(one, table)]


def _compile(store: Store, target: Target) -> None:
    """Let the database compile the statement. It finds broken triggers and foreign keys."""
    table = store.tables[target.table]
    columns = target.columns if target.kind == "update" else table.stored
    try:
        rows.explain(store, target.kind, target.table, [name for name in columns if name in (*table, table.rowid)])
    except DatabaseError as error:
        if sqlstate(error) == "42501":  # `require_privileges` reports it with the GRANT
            return
        if classify(error) == ErrorKind.TRANSIENT:
            raise  # such as a lock: the statement may be valid
        raise _refusal(
            store,
            _("The database refuses to %(kind)s rows of %(table)s: %(reason)s."),
            kind=target.kind,
            table=target.table,
            reason=first_line(error),
        ) from error


# --- triggers, undo -----------------------------------------------------------------------------------------------


def _trigger_note(store: Store, target: Target) -> str:
    fired = [one for one in store.triggers(target.table, target.kind.upper()) if not one.rule]
    if not fired:
        return ""
    values = {"table": target.table, "names": ", ".join(one.name for one in fired)}
    columns = sorted({name for one in fired for name in changed_columns(one)})
    if columns:
        return _(
            "Triggers on %(table)s (%(names)s) will fire. They change %(columns)s: "
            "these changes are not recorded and cannot be undone."
        ) % {**values, "columns": ", ".join(columns)}
    return (
        _("Triggers on %(table)s (%(names)s) will fire. Their changes are not recorded and cannot be undone.") % values
    )


_ASSIGNED = re.compile(rf"\bNEW\.{NAME}\s*:?=", re.IGNORECASE)
_UPDATED = re.compile(rf"\bUPDATE\s+(?:OR\s+\w+\s+)?(?:{NAME}\.)?{NAME}\s+SET\s+(.*?)(?:\bWHERE\b|;|$)", re.I | re.S)
_SET = re.compile(rf"(?:^|,)\s*{NAME}\s*=")
_TOUCHED = re.compile(rf"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|DELETE\s+FROM)\s+(?:{NAME}\.)?{NAME}", re.IGNORECASE)


def changed_columns(trigger: TriggerInfo) -> set[str]:
    """Return the `table.column` and `table` that a trigger changes, as far as its source shows."""
    found = {f"{trigger.table}.{unquoted(name)}" for name in _ASSIGNED.findall(trigger.source)}
    for _schema, table, assignments in _UPDATED.findall(trigger.source):
        found |= {f"{unquoted(table)}.{unquoted(name)}" for name in _SET.findall(assignments)}
    return found | {unquoted(table) for _schema, table in _TOUCHED.findall(trigger.source)}


def may_refuse_a_row(store: Store, table: str) -> bool:
    """Return whether the database may refuse to insert an existing row of `table` again."""
    if any(not one.rule for one in store.triggers(table, "INSERT")):
        return True
    if store.vendor == "sqlite":  # rows may be older than the keys and checks
        return any(one.child == table for one in store.foreign_keys) or store.has_checks(table)
    sql = "SELECT 1 FROM pg_constraint WHERE conrelid = %s::bigint::oid AND NOT convalidated LIMIT 1"
    return bool(store.query(sql, [store.tables[table].oid]))


def _undo_obstacles(store: Store, targets: Sequence[Target]) -> Iterator[str]:
    """Yield the reasons why deleted rows could not be inserted again."""
    for target in targets:
        if target.kind != "delete":
            continue
        table = store.tables[target.table]
        rules = [one.name for one in store.triggers(target.table, "INSERT") if one.rule]
        if rules:
            yield _("The rule %(rule)s on %(table)s rewrites INSERT.") % {"rule": rules[0], "table": target.table}
        if table.has_rowid and not table.rowid:
            yield _("Columns of %(table)s hide its rowid, so that an undo could not restore it.") % {
                "table": target.table
            }
        if missing_privileges(store, [_on(table, "INSERT")]):
            yield _("An undo needs INSERT on %(table)s. The role %(role)s is missing it.") % {
                "table": target.table,
                "role": _role(store),
            }
        try:
            rows.explain(store, "insert", target.table, table.stored)
        except DatabaseError as error:
            if classify(error) == ErrorKind.TRANSIENT:
                raise
            if sqlstate(error) != "42501":
                yield _("Deleted rows of %(table)s could not be inserted again: %(reason)s.") % {
                    "table": target.table,
                    "reason": first_line(error),
                }


def _refusal(store: Store, text: str, **values: object) -> StoreUnavailable:
    sentence = text % values
    return StoreUnavailable(
        _("%(location)s: %(sentence)s Nothing was written.") % {"location": store.location, "sentence": sentence}
    )
