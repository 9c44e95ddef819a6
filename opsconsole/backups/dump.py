"""Write backups: consistent while other clients write, verified, then renamed and recorded."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from django.db import OperationalError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.backups import files, notes, pg_client
from opsconsole.engine import audit_log
from opsconsole.stores.catalog import identifier, quote
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store

PORTION_PAGES = 4_000
MAX_RESTARTS = 3  # of a copy that other writers restart; then it is copied in one step
LOCKED_SECONDS = 60.0


class BackupFailed(Exception):
    """The backup is not valid and is not recorded. The message gives the reason."""


def write(store: Store, folder: Path, *, plain: bool, at: datetime, run_id: int | None) -> Backup:
    """Write a backup into `folder`, verify and record it. The same run and time write it again."""
    sqlite = store.path is not None
    format_ = "sql" if plain else "sqlite" if sqlite else "custom"
    ending = {"sql": ".sql.gz", "sqlite": ".sqlite3.gz", "custom": ".dump"}[format_] + files.suffix()
    number = f"-{run_id}" if run_id is not None else ""
    path = folder / f"{store.alias}-{at:%Y%m%dT%H%M%SZ}{number}{ending}"
    partial = path.with_name(f"{path.name[: -len(ending)]}{files.PARTIAL}{ending}")  # the suffix tells how to read it
    copy = path.with_name(f"{path.name}.copy{files.PARTIAL}")
    entries, head = audit_log.head()
    try:
        state_of = timezone.now()
        if sqlite:
            rows = _sqlite(store, copy, partial, plain=plain)
        else:
            state_of, rows = _postgresql(store, partial, plain=plain)
        digest, size = files.file_digest(partial), partial.stat().st_size
        notes.write(path, digest=digest, entries=entries, head=head)
        files.commit_file(partial, path)
    finally:
        for left in (partial, copy, Path(f"{copy}-journal"), Path(f"{copy}-wal"), Path(f"{copy}-shm")):
            left.unlink(missing_ok=True)
    backup, _made = Backup.objects.update_or_create(
        path=str(path),
        defaults={
            "store": store.name,
            "identity": store.identity(),
            "size": size,
            "digest": digest,
            "at": state_of,
            "verified_at": timezone.now(),
            "engine": store.vendor,
            "format": format_,
            "encrypted": path.suffix == files.ENCRYPTED,
            "rows": rows,
            "run_id": run_id,
            "audit_entries": entries,
            "audit_head": head,
        },
    )
    return backup


# --- SQLite -----------------------------------------------------------------------------------------------


def _sqlite(store: Store, copy: Path, partial: Path, *, plain: bool) -> dict[str, int]:
    copy.unlink(missing_ok=True)
    copy.touch(mode=0o600)
    copy_database(store, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # one file, without a log
        rows = checked_rows(connection)
        if plain:
            lines = _Lines(connection)
            digest = files.write(lines, partial, compress=True)  # type: ignore[arg-type]
        else:
            with copy.open("rb") as source:
                digest = files.write(source, partial, compress=True)
    if files.content_digest(partial) != digest:
        raise BackupFailed(_("The file differs from what was written. Check the disk."))
    return rows


def copy_database(store: Store, target: Path) -> None:
    """Copy the current state of the store into `target`, by SQLite's online backup.

    In WAL mode the copy blocks no writers, so it takes one step. Otherwise a step blocks writers, so the copy is made
    in portions. Each write of another process restarts it. After some restarts it takes one step too.
    """
    store.require_file()
    store.connection.ensure_connection()
    source: Any = store.connection.connection
    with closing(sqlite3.connect(target)) as copy:
        in_one_step = source.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        if not in_one_step:
            try:
                source.backup(copy, pages=PORTION_PAGES, progress=progress(bounded=True), sleep=0.005)
            except _SetBack:
                in_one_step = True
        if in_one_step:
            source.backup(copy, progress=progress(bounded=False), sleep=0.05)


class _SetBack(Exception):
    """Other writers have restarted the copy too often."""


def progress(*, bounded: bool) -> Any:
    """Return the callback for the steps of a copy. It stops a copy that a lock, or `bounded` writers, delay forever."""
    least, restarts = float("inf"), 0
    locked_since: float | None = None

    def look(status: int, remaining: int, total: int) -> None:
        nonlocal least, restarts, locked_since
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            locked_since = locked_since or time.monotonic()
            if time.monotonic() - locked_since > LOCKED_SECONDS:
                busy = sqlite3.OperationalError()
                busy.sqlite_errorcode = status
                raise OperationalError("database is locked") from busy
            return
        locked_since = None
        if remaining > least:
            restarts += 1
            if bounded and restarts >= MAX_RESTARTS:
                raise _SetBack
        least = remaining

    return look


def checked_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Return table → rows of a SQLite file after an integrity check. Raise BackupFailed."""
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            raise BackupFailed(_("SQLite's integrity check failed: %(text)s") % {"text": "; ".join(map(str, found))})
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 AND name NOT GLOB 'sqlite_*'"
        ).fetchall()
        return {
            name: connection.execute(f"SELECT COUNT(*) FROM {identifier(name)}").fetchone()[0] for (name,) in tables
        }
    except sqlite3.DatabaseError as error:
        raise BackupFailed(_("SQLite cannot read the file: %(text)s") % {"text": error}) from error


class _Lines:
    """A SQLite database as SQL text, readable in portions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        self._lines = _statements(connection)

    def read(self, size: int) -> bytes:
        found: list[bytes] = []
        length = 0
        for line in self._lines:
            found.append(line.encode(errors="surrogateescape") + b"\n")
            length += len(found[-1])
            if length >= size:
                break
        return b"".join(found)


def _statements(client: sqlite3.Connection) -> Iterator[str]:
    """Yield the statements of a dump. The driver's `iterdump` fails on quotes in names, U+0000 and rowids."""
    master = client.execute("SELECT type, name, rootpage, sql FROM sqlite_master ORDER BY name").fetchall()
    virtual = [(name, sql) for kind, name, page, sql in master if kind == "table" and not page]
    yield "BEGIN TRANSACTION;"
    for kind, name, page, sql in master:
        if kind == "table" and page and not name.startswith("sqlite_"):
            yield f"{sql};"
            yield from _inserts(client, name)
    if any(name == "sqlite_sequence" for _kind, name, _page, _sql in master):
        yield "DELETE FROM sqlite_sequence;"
        yield from _inserts(client, "sqlite_sequence")
    if virtual:  # their rows are in shadow tables, which are dumped too
        yield "PRAGMA writable_schema=ON;"
        for name, sql in virtual:
            values = f"'table', {_literal(name)}, {_literal(name)}, 0, {_literal(sql)}"
            yield f"INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) VALUES ({values});"
        yield "PRAGMA writable_schema=OFF;"
    for kind, _name, _page, sql in master:
        if kind != "table" and sql:
            yield f"{sql};"
    yield "COMMIT;"


def _inserts(client: sqlite3.Connection, table: str) -> Iterator[str]:
    declared = client.execute(f"PRAGMA table_xinfo({identifier(table)})").fetchall()
    names = [row[1] for row in declared if not row[6]]  # the database computes a generated column
    taken = {row[1].lower() for row in declared}
    (without_rowid,) = client.execute("SELECT wr FROM pragma_table_list(?) WHERE schema = 'main'", [table]).fetchone()
    if not without_rowid:  # a full-text index may refer to the rowid
        names = [*[name for name in ("rowid", "_rowid_", "oid") if name not in taken][:1], *names]
    columns = [identifier(name) for name in names]
    head = f"INSERT INTO {identifier(table)} ({', '.join(columns)}) VALUES"
    literals = ", ".join(
        f"CASE WHEN typeof({column}) = 'text' AND instr({column}, char(0))"
        f" THEN 'CAST(X''' || hex({column}) || ''' AS TEXT)' ELSE quote({column}) END"
        for column in columns
    )
    for row in client.execute(f"SELECT {literals} FROM {identifier(table)}"):
        yield f"{head} ({', '.join(row)});"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- PostgreSQL -------------------------------------------------------------------------------------------


def _postgresql(store: Store, partial: Path, *, plain: bool) -> tuple[datetime, dict[str, int]]:
    """Dump and count in one snapshot, then read the file back and count again."""
    program = pg_client.tool("pg_dump", store)
    with _snapshot(store) as (snapshot, schemas):
        state_of = timezone.now()
        command: list[str | Path] = [program, "--no-password", f"--snapshot={snapshot}"]
        command += ["--format=plain"] if plain else ["--format=custom"]
        command += [f"--schema={identifier(schema)}" for schema in schemas]
        with pg_client.started(command, pg_client.environment(store)) as output:
            files.write(output, partial, compress=plain)
        rows = count_rows(store, schemas)
    saved = {table: content.rows for table, content in read_content(store, partial).items()}
    if saved != rows:
        differing = sorted(table for table in {*saved, *rows} if saved.get(table) != rows.get(table))
        raise BackupFailed(
            _("The file and the database have different numbers of rows in %(tables)s. Repeat the backup.")
            % {"tables": ", ".join(differing[:5])}
        )
    return state_of, rows


@contextmanager
def _snapshot(store: Store) -> Iterator[tuple[str, list[str]]]:
    """Open a snapshot. Yield its name, by which other connections use it, and the schemas of the store.

    The schemas are those of the URL (`options=-c search_path=…`). Without them, the store is the whole database.
    """
    with transaction.atomic(using=store.alias), store.connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT pg_export_snapshot(), current_schemas(false)")
        snapshot, schemas = cursor.fetchone()
        yield snapshot, schemas if has_own_schema(store) else []


def has_own_schema(store: Store) -> bool:
    """Return whether the store is one schema of its database."""
    return bool(store.connection.settings_dict["OPTIONS"].get("own_schema"))


def count_rows(store: Store, schemas: list[str]) -> dict[str, int]:
    """Return `schema.table` → rows of all tables in a dump."""
    with store.connection.cursor() as cursor:
        cursor.execute(_TABLES, [schemas or None, schemas or None])
        tables = cursor.fetchall()
        rows = {}
        for schema, table in tables:
            cursor.execute(f"SELECT COUNT(*) FROM ONLY {quote(schema)}.{quote(table)}", [])
            rows[f"{schema}.{table}"] = cursor.fetchone()[0]
    return rows


def read_content(store: Store, path: Path) -> dict[str, pg_client.Content]:
    """Read a whole dump and return its contents. Raise ToolFailed, BrokenArchive."""
    with files.open_backup(path) as content:
        if files.COMPRESSED in path.suffixes:
            return pg_client.read_dump(content)
        return _restored_text(store, content)


def _restored_text(store: Store, content: BinaryIO) -> dict[str, pg_client.Content]:
    command: list[str | Path] = [pg_client.tool("pg_restore", store), "--data-only", "--file=-"]
    with fed(content) as end, pg_client.started(command, pg_client.environment(store), end) as text:
        return pg_client.read_dump(text)


@contextmanager
def fed(content: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a pipe from which another program can read `content`."""
    end, start = os.pipe()
    errors: list[Exception] = []

    def feed() -> None:
        try:
            with open(start, "wb") as pipe:
                shutil.copyfileobj(content, pipe, files.PORTION)
        except BrokenPipeError:  # the program has stopped reading
            pass
        except Exception as error:  # noqa: BLE001  # raised below
            errors.append(error)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    with open(end, "rb") as reader:
        try:
            yield reader
        finally:
            reader.close()
            thread.join()
    if errors:
        raise errors[0]


_TABLES = """
    SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
      AND (%s::text[] IS NULL OR n.nspname = ANY (%s::text[]))
      AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2
"""
