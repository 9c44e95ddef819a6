"""The space that deleted rows still take: dead rows of PostgreSQL, free pages of SQLite."""

from __future__ import annotations

import hashlib
import sqlite3
from array import array
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from django.utils.translation import gettext as _

from opsconsole.stores.catalog import identifier
from opsconsole.stores.store import Store, StoreUnavailable

CHUNK = 100_000  # rowids
TRIAL = ".vacuum-trial"


class Unreclaimed(NamedTuple):
    """Space that the disk has not got back: of a table of PostgreSQL, or of a whole SQLite file."""

    table: str  # empty for a SQLite file
    size: int  # bytes
    dead_rows: int  # of PostgreSQL
    free: int  # bytes of SQLite


def unreclaimed(store: Store, tables: Iterable[str]) -> list[Unreclaimed]:
    """Return what can be reclaimed after a delete from `tables`, by one query for each table."""
    if store.vendor == "sqlite":
        free = store.query("PRAGMA freelist_count")[0][0] * store.query("PRAGMA page_size")[0][0]
        return [Unreclaimed("", store.size(), 0, free)] if free else []
    found = []
    for name in tables:
        if name in store.tables:
            ((size, dead),) = store.query(_DEAD, [list(store.tables[name].family)])
            if dead:
                found.append(Unreclaimed(name, size, dead, 0))
    return found


_DEAD = """
    SELECT COALESCE(SUM(pg_table_size(t::oid)), 0)::bigint, COALESCE(SUM(pg_stat_get_dead_tuples(t::oid)), 0)::bigint
    FROM unnest(%s::bigint[]) AS t
"""
_MAY_VACUUM = """
    SELECT pg_has_role(c.relowner, 'USAGE')
        OR pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
        OR CASE WHEN current_setting('server_version_num')::int >= 170000
            THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
    FROM pg_class AS c WHERE c.oid = %s::bigint::oid
"""


def require_reclaimable(store: Store, table: str) -> None:
    """Raise StoreUnavailable if the space cannot be reclaimed from here."""
    if store.vendor == "sqlite":
        if not store.managed:
            raise StoreUnavailable(
                _("%(location)s is an attached store. Its platform decides when to run VACUUM.")
                % {"location": store.location}
            )
        return
    if table not in store.tables:
        raise StoreUnavailable(
            _("%(location)s has no table %(table)s. Correct its name.") % {"location": store.location, "table": table}
        )
    if store.behind_pooler:
        raise StoreUnavailable(
            _("%(location)s is reached through a pooler in transaction mode, which cannot run VACUUM.")
            % {"location": store.location}
        )
    if not store.query(_MAY_VACUUM, [store.tables[table].oid])[0][0]:
        raise StoreUnavailable(
            _("Only the owner of %(table)s may run VACUUM on it. Nothing was changed. Ask the owner.")
            % {"table": table}
        )


def vacuum_table(store: Store, table: str) -> None:
    """Make the space of dead rows of a PostgreSQL table free for new rows.

    Reads and writes continue meanwhile. TRUNCATE would lock the table exclusively to shorten its file.
    """
    from opsconsole.stores.connection import connect  # imports psycopg

    warnings: list[str] = []
    with connect(store) as connection:
        connection.add_notice_handler(
            lambda notice: warnings.append(str(notice.message_primary)) if notice.severity == "WARNING" else None
        )
        connection.execute(f"VACUUM (ANALYZE, TRUNCATE false) {store.tables[table].sql.replace('%%', '%')}")
    if warnings:
        raise StoreUnavailable(warnings[0])


def vacuum_file(store: Store) -> None:
    """Give the free pages of a managed SQLite store back to the disk.

    VACUUM replaces the content of the file in one transaction: the file stays the same one, so that open connections
    and the undo of earlier runs stay right. It may number the rows of a table without an INTEGER PRIMARY KEY anew, and
    an undo needs their rowids. Therefore it is tried on a copy first. Other clients write between the trial and VACUUM:
    the rows of the copy get a gap in their numbers, so that the trial shows what VACUUM does with any rows.
    """
    path = str(store.path)
    store.close()
    trial = Path(f"{path}{TRIAL}")
    _remove(trial)
    try:
        with closing(sqlite3.connect(path, timeout=5)) as source, closing(sqlite3.connect(trial)) as copy:
            source.backup(copy)
            _make_gaps(store, copy)
            before = _rowids(store, copy)
            copy.execute("VACUUM")
            _require_intact(store, copy)
            if renumbered := sorted(table for table, rowids in _rowids(store, copy).items() if before[table] != rowids):
                raise StoreUnavailable(
                    _(
                        "VACUUM may number the rows of %(tables)s anew, and an undo needs their numbers. Nothing was "
                        "changed. Add an index to these tables first."
                    )
                    % {"tables": ", ".join(renumbered)}
                )
    finally:
        _remove(trial)
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        connection.execute("VACUUM")
        _require_intact(store, connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _make_gaps(store: Store, copy: sqlite3.Connection) -> None:
    """Leave a gap before the last rowid of each table whose rowids no column holds."""
    for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        copy.execute(f"DROP TRIGGER {identifier(name)}")  # they may write, and call functions of the platform
    for name, table in store.tables.items():
        if table.rowid:
            rowid, quoted = table.rowid, identifier(name)
            copy.execute(
                f"UPDATE {quoted} SET {rowid} = {rowid} + 1 "
                f"WHERE {rowid} = (SELECT max({rowid}) FROM {quoted}) AND {rowid} < {2**63 - 1}"
            )
    copy.commit()


def _rowids(store: Store, connection: sqlite3.Connection) -> dict[str, str]:
    """Return table → digest of the rowids that no column holds."""
    found = {}
    for name, table in store.tables.items():
        if not table.rowid:
            continue
        digest = hashlib.sha256()
        rows = connection.execute(f"SELECT {table.rowid} FROM {identifier(name)} ORDER BY {table.rowid}")
        while chunk := rows.fetchmany(CHUNK):
            digest.update(array("q", [rowid for (rowid,) in chunk]).tobytes())
        found[name] = digest.hexdigest()
    return found


def _require_intact(store: Store, connection: sqlite3.Connection) -> None:
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise StoreUnavailable(
            _("%(location)s is damaged (%(reason)s). Restore a backup first.")
            % {"location": store.location, "reason": problem}
        )


def _remove(trial: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        Path(f"{trial}{ending}").unlink(missing_ok=True)
