"""What a delete takes with it, by the store's own foreign keys: counted before anything is deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.utils.translation import gettext as _

from opsconsole.display import figure
from opsconsole.stores.catalog import count_parameters, quote
from opsconsole.stores.store import Store


class ForeignKey(NamedTuple):
    child: str
    column: str
    parent: str
    referred: str  # the parent's column
    cascades: bool
    empties: bool  # SET NULL, SET DEFAULT


@dataclass
class Cascade:
    """Table → rows that go too; table → rows whose reference is emptied; and why the delete is refused."""

    deleted: dict[str, int] = field(default_factory=dict)
    emptied: dict[str, int] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def cascade(store: Store, table: str, keys: Sequence[Any]) -> Cascade:
    """What deleting the rows `keys` of `table` does: one query for the keys, one for each table they lead to."""
    key = store.key_column(table)
    condition, value = _among(store, table, key, keys)
    known = {model._meta.db_table for model in store.models()}
    found = Cascade()
    for one, conditions in _reached(store, table, f"{quote(key)} {condition}").items():
        child, cascades, empties = one
        sql = f"SELECT COUNT(*) FROM {quote(child)} WHERE {' OR '.join(conditions)}"  # noqa: S608
        with store.connection.cursor() as cursor:
            cursor.execute(sql, [value] * count_parameters(sql))
            count = cursor.fetchone()[0]
        if not count:
            continue
        figures = {"table": child, "count": figure(count)}
        if empties:
            found.emptied[child] = found.emptied.get(child, 0) + count
        elif not cascades:
            found.refusals.append(_("%(table)s: %(count)s rows refer to it; delete those first") % figures)
        elif child not in known:
            found.refusals.append(_("%(table)s: %(count)s rows of a table that the console does not know") % figures)
        else:
            found.deleted[child] = found.deleted.get(child, 0) + count
    return found


def _reached(store: Store, table: str, where: str) -> dict[tuple[str, bool, bool], list[str]]:
    """Each table that refers to the rows, by what happens to its own, with the conditions that find those."""
    keys = list(_foreign_keys(store))
    found: dict[tuple[str, bool, bool], list[str]] = {}

    def follow(parent: str, where: str, path: tuple[str, ...]) -> None:
        for one in keys:
            if one.parent != parent:
                continue
            rows = f"{quote(one.column)} IN (SELECT {quote(one.referred)} FROM {quote(parent)} WHERE {where})"  # noqa: S608
            found.setdefault((one.child, one.cascades, one.empties), []).append(rows)
            if one.cascades and one.child not in path:  # a table that leads back to itself is counted one step far
                follow(one.child, rows, (*path, one.child))

    follow(table, where, (table,))
    return found


def _among(store: Store, table: str, key: str, keys: Sequence[Any]) -> tuple[str, Any]:
    if store.vendor == "sqlite":
        return "IN (SELECT value FROM json_each(%s))", json.dumps(list(keys))
    type_ = store.tables[table][key].type
    return f"= ANY (%s::text[]::{type_.replace('%', '%%')}[])", [str(key) for key in keys]


def _foreign_keys(store: Store) -> Iterator[ForeignKey]:
    names = {name.lower(): name for name in store.tables}
    with store.connection.cursor() as cursor:
        cursor.execute(_FOREIGN_KEYS[store.vendor])
        rows = cursor.fetchall()
    for child, column, parent, referred, action in rows:
        parent = names.get(parent.lower(), parent)
        if parent in store.tables:
            yield ForeignKey(
                child,
                column,
                parent,
                referred or store.key_column(parent),
                cascades=action in {"CASCADE", "c"},
                empties=action in {"SET NULL", "SET DEFAULT", "n", "d"},
            )


_FOREIGN_KEYS = {
    "sqlite": """
        SELECT m.name, f."from", f."table", f."to", f.on_delete
        FROM sqlite_master AS m JOIN pragma_foreign_key_list(m.name) AS f
        WHERE m.type = 'table' AND f.seq = 0
    """,
    "postgresql": """
        SELECT child.relname, a.attname, parent.relname, b.attname, c.confdeltype::text
        FROM pg_constraint AS c
        JOIN pg_class AS child ON child.oid = c.conrelid
        JOIN pg_class AS parent ON parent.oid = c.confrelid
        JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        JOIN pg_attribute AS b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
        WHERE c.contype = 'f' AND pg_table_is_visible(c.conrelid) AND pg_table_is_visible(c.confrelid)
    """,
}
