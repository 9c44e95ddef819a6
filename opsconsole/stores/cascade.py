"""Rows that a delete removes by the foreign keys of the store. The plan and the run use the same code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from opsconsole.stores import rows
from opsconsole.stores.catalog import ForeignKey
from opsconsole.stores.rows import Key, RowKey
from opsconsole.stores.store import Store

References = Mapping[str, Sequence[tuple[ForeignKey, str | None]]]


@dataclass
class Cascade:
    """The rows that a delete removes, each with the first chosen row that causes it, and the reasons to keep rows."""

    chosen: list[RowKey]
    owners: dict[RowKey, Key] = field(default_factory=dict)
    kept_by: dict[Key, str] = field(default_factory=dict)  # chosen row → table of a remaining row that refers to it
    staying: Counter[tuple[str, bool]] = field(default_factory=Counter)  # such a table, and whether it has a model

    @property
    def along(self) -> Counter[str]:
        """The number of rows of each table that are deleted with the chosen rows."""
        return Counter(table for table, _key in self.owners.keys() - set(self.chosen))


def references(store: Store) -> References:
    """Return table → foreign keys that refer to it, each with the referring table, None if it has no model."""
    known = {model._meta.db_table for model in store.models()} & store.tables.keys()
    children = [(reference, rows.known_table(store, reference)) for reference in store.foreign_keys]
    return {
        table: [
            (reference, child if child in known else None)
            for reference, child in children
            if store.is_parent(reference, table)
        ]
        for table in known
    }


def delete_order(table: str, referring: References) -> list[str]:
    """Return the tables that lose rows when rows of `table` are deleted, children before parents."""
    losing = {table}
    while more := {child for parent in losing for child in _cascading(parent, referring)} - losing:
        losing |= more
    found: list[str] = []

    def follow(parent: str, path: tuple[str, ...]) -> None:
        for _reference, child in referring.get(parent, ()):
            if child in losing and child not in path and child not in found:
                follow(child, (*path, child))
        found.append(parent)

    follow(table, (table,))
    return found


def _cascading(parent: str, referring: References) -> Iterator[str]:
    for reference, child in referring.get(parent, ()):
        if reference.cascades and child is not None:
            yield child


def cascade(store: Store, table: str, keys: Iterable[Key], referring: References) -> Cascade:
    """Return the effect of deleting the rows `keys` of `table`, by one query for each foreign key and generation."""
    chosen = [(table, key) for key in keys]
    chosen_rows = set(chosen)
    links: dict[RowKey, list[tuple[RowKey | None, str]]] = {row: [] for row in chosen}  # row → rows that refer to it
    takes: dict[RowKey, list[RowKey]] = {}  # row → rows that are deleted with it
    level = list(links)
    while level:
        parents: dict[str, list[Key]] = {}
        for name, key in level:
            parents.setdefault(name, []).append(key)
        level = []
        for parent, parent_keys in parents.items():
            for reference, child in referring.get(parent, ()):
                for key, found in rows.references(store, reference, parent, parent_keys).items():
                    for one in found:
                        row = (child, rows.plain_key(one)) if child else None
                        links[parent, key].append((row, reference.child))
                        if row is not None and (reference.cascades or row in chosen_rows):
                            takes.setdefault((parent, key), []).append(row)
                            if row not in links:
                                links[row] = []
                                level.append(row)
    return _judged(chosen, links, takes)


def _judged(
    chosen: list[RowKey], links: Mapping[RowKey, list[tuple[RowKey | None, str]]], takes: Mapping[RowKey, list[RowKey]]
) -> Cascade:
    """Keep each chosen row if a remaining row refers to it, or to a row that would be deleted with it."""
    found = Cascade(chosen)
    for referring in links.values():
        found.staying.update((table, row is not None) for row, table in referring if row not in links)
    while True:
        found.owners = _owners([row for row in chosen if row[1] not in found.kept_by], takes)
        kept = {
            owner: table
            for row, owner in found.owners.items()
            for referring_row, table in links[row]
            if referring_row not in found.owners
        }
        if not kept:
            return found
        found.kept_by |= kept


def _owners(roots: Iterable[RowKey], takes: Mapping[RowKey, list[RowKey]]) -> dict[RowKey, Key]:
    """Return row → first root that deletes it, which does not depend on the batches."""
    owners: dict[RowKey, Key] = {}
    for root in roots:
        waiting = [root]
        while waiting:
            row = waiting.pop()
            if row not in owners:
                owners[row] = root[1]
                waiting += takes.get(row, ())
    return owners
