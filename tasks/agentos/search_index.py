"""Rebuild and check the full-text indexes of a managed store (see "Full-text search" in docs/platforms/agentos.md)."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, transaction
from django.utils.translation import gettext as _

from opsconsole.formatting import format_number
from opsconsole.stores.store import Store
from tasks.agentos.search import SOURCES, Source, has_tsvector
from tasks.agentos.search_query import is_han, pieces

PROBES = 500  # rows that the check of an index looks up
PROBED_WORDS = 8  # of each of these rows


def rebuild(store: Store, *names: str) -> None:
    """Rebuild the indexes of a managed store, by default of all sources. Readers see the old index until the end."""
    for source in (SOURCES[name] for name in names or SOURCES):
        if store.vendor == "postgresql":
            # CONCURRENTLY is not possible in a transaction, and a pooler runs every statement in one.
            concurrently = "" if store.behind_pooler else "CONCURRENTLY "
            with store.connection.cursor() as cursor:
                cursor.execute(f"REINDEX INDEX {concurrently}{source.index}")
            continue
        fts, grams = source.documented, source.grams
        with transaction.atomic(using=store.alias), store.connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {fts} ({fts}) VALUES ('rebuild')")
            cursor.execute(f"INSERT INTO {grams} ({grams}) VALUES ('delete-all')")
            cursor.execute(f"INSERT INTO {grams} (rowid, words) SELECT rowid, words FROM {grams}_text")


def check(store: Store) -> list[str]:
    """Return the problems of the indexes of a managed store as sentences."""
    if store.vendor == "postgresql":
        return [
            _("The index %(index)s is missing or invalid.") % {"index": source.index}
            for source in SOURCES.values()
            if not has_tsvector(store, source)
        ]
    problems: list[str] = []
    virtual = store.virtual_tables()
    for source in SOURCES.values():
        for fts in (source.documented, source.grams):
            if fts not in virtual:
                problems.append(_("The full-text table %(table)s is missing.") % {"table": fts})
            else:
                problems += _check_fts(store, source, fts)
    return problems


def _check_fts(store: Store, source: Source, fts: str) -> list[str]:
    with store.connection.cursor() as cursor:
        cursor.execute(
            f"SELECT (SELECT COUNT(*) FROM {fts}_docsize), (SELECT COUNT(*) FROM {source.table}),"
            f" (SELECT COUNT(*) FROM {source.table} AS t"
            f"  WHERE NOT EXISTS (SELECT 1 FROM {fts}_docsize AS d WHERE d.id = t.rowid))"
        )
        indexed, rows, missing = cursor.fetchone()
        if indexed != rows or missing:
            return [
                _("%(table)s contains %(indexed)s entries for %(rows)s rows; %(missing)s rows are missing.")
                % {
                    "table": fts,
                    "indexed": format_number(indexed),
                    "rows": format_number(rows),
                    "missing": format_number(missing),
                }
            ]
        try:  # rank 1 also compares the index with the rows
            cursor.execute(f"INSERT INTO {fts} ({fts}, rank) VALUES ('integrity-check', 1)")
            if fts != source.grams or not (astray := _astray(cursor, source)):
                return []
            reason = _("%(astray)s of %(count)s sampled rows are not found by their words") % astray
        except DatabaseError as error:
            reason = str(error)
    return [
        _("%(table)s does not match its rows: %(reason)s. Rebuild the search index.") % {"table": fts, "reason": reason}
    ]


def _astray(cursor: Any, source: Source) -> dict[str, str]:
    """Count the sampled rows that are not found by their words. The grams tables keep no text to compare."""
    grams = source.grams
    cursor.execute(f"SELECT rowid FROM {source.table} ORDER BY rowid")
    places = [row[0] for row in cursor.fetchall()]
    places = places[:: len(places) // PROBES + 1]
    astray = 0
    for place in places:
        cursor.execute(f"SELECT words FROM {grams}_text WHERE rowid = %s", [place])
        text = cursor.fetchone()[0] or ""
        words = [word for word in dict.fromkeys(pieces(text)) if word.isascii() or is_han(word)]
        if words and "\\x" not in text:  # invalid UTF-8 is read differently than it was indexed
            match = " AND ".join(f'"{word}"' for word in words[:: len(words) // PROBED_WORDS + 1])
            cursor.execute(f"SELECT 1 FROM {grams} WHERE {grams} MATCH %s AND rowid = %s", [match, place])
            astray += cursor.fetchone() is None
    return {"count": format_number(len(places)), "astray": format_number(astray)} if astray else {}
