"""Restore backups. The whole file is read and verified before anything is changed."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from django.utils.translation import gettext as _

from opsconsole.backups import dump, files, pg_client
from opsconsole.backups.folders import folder_of
from opsconsole.stores.catalog import identifier
from opsconsole.stores.identify import platform_of
from opsconsole.stores.store import Store, StoreUnavailable

HEADS = {b"SQLite format 3\0": "sqlite", b"PGDMP": "postgresql"}
RESTORING = ".restoring"


class RestoreRefused(StoreUnavailable):
    """The file cannot be restored into this store. The message gives the reason."""


class BackupContents(NamedTuple):
    """The contents of a backup: table → columns, and table → rows."""

    engine: str
    columns: dict[str, tuple[str, ...]]
    rows: dict[str, int]


def examine(store: Store, path: Path) -> BackupContents:
    """Read the whole file. Raise RestoreRefused for a broken file, another platform or another engine."""
    if not path.is_file():
        raise RestoreRefused(
            _("%(path)s does not exist. Run `backup_store --list` to see all backups.") % {"path": path}
        )
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise RestoreRefused(
            _("The newest rows of %(path)s are in a separate WAL file. Merge them first: run VACUUM with sqlite3.")
            % {"path": path}
        )
    try:
        with files.open_backup(path) as content:
            head = content.read(16)
        engine = next((name for start, name in HEADS.items() if head.startswith(start)), None)
        if engine is None:
            raise RestoreRefused(
                _(
                    "%(path)s is neither a SQLite database nor a dump in the custom format of pg_dump. Choose "
                    "another file."
                )
                % {"path": path}
            )
        if engine != store.vendor:
            raise RestoreRefused(
                _(
                    "%(path)s is a backup of %(engine)s, but %(store)s uses %(own)s. Use `copy_store` to move "
                    "between engines."
                )
                % {"path": path, "engine": engine, "store": store.alias, "own": store.vendor}
            )
        contents = _examine_sqlite(path) if engine == "sqlite" else _examine_postgresql(store, path)
    except (files.BrokenArchive, dump.BackupFailed, pg_client.ToolFailed, OSError) as error:
        raise RestoreRefused(_("%(path)s cannot be restored: %(reason)s") % {"path": path, "reason": error}) from error
    platform = platform_of(contents.columns)
    if platform != (store.platform or None):
        raise RestoreRefused(
            _("%(path)s is not a backup of %(store)s: it contains the tables of %(platform)s. Choose another file.")
            % {"path": path, "store": store.name, "platform": platform or _("no known platform")}
        )
    return contents


def _examine_sqlite(path: Path) -> BackupContents:
    with unpacked(path) as copy, closing(sqlite3.connect(copy)) as connection:
        rows = dump.checked_rows(connection)
        columns = {
            table: tuple(row[1] for row in connection.execute(f"PRAGMA table_info({identifier(table)})"))
            for table in rows
        }
    return BackupContents("sqlite", columns, rows)


def _examine_postgresql(store: Store, path: Path) -> BackupContents:
    found = dump.read_content(store, path)
    columns = {table.partition(".")[2]: content.columns for table, content in found.items()}
    return BackupContents("postgresql", columns, {table: content.rows for table, content in found.items()})


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield the unpacked contents as a temporary file."""
    descriptor, name = tempfile.mkstemp(dir=folder_of(""), suffix=RESTORING)
    copy = Path(name)
    try:
        with open(descriptor, "wb") as target, files.open_backup(path) as content:
            while portion := content.read(files.PORTION):
                target.write(portion)
        yield copy
    finally:
        for left in (copy, Path(f"{copy}-wal"), Path(f"{copy}-shm"), Path(f"{copy}-journal")):
            left.unlink(missing_ok=True)


# --- into a store --------------------------------------------------------------------------------------------


def restore(store: Store, path: Path) -> None:
    """Replace the contents of the store by those of the file, atomically. Raise the engine's error."""
    store.close()  # connections of this process would block it
    if store.path is not None:
        with unpacked(path) as copy, closing(sqlite3.connect(copy)) as source:
            with closing(sqlite3.connect(store.path, timeout=5)) as target:
                source.backup(target, progress=dump.progress(bounded=False), sleep=0.05)
            contents = dump.checked_rows(source)
        with closing(sqlite3.connect(store.path)) as target:
            now = dump.checked_rows(target)
    else:
        _pg_restore(store, path, str(store.connection.settings_dict["NAME"]), "--clean", "--if-exists")
        contents = {table: content.rows for table, content in dump.read_content(store, path).items()}
        now = dump.count_rows(store, sorted({table.partition(".")[0] for table in contents}))
    differing = sorted(table for table, rows in contents.items() if now.get(table) != rows)
    if differing:  # another client wrote to it, or the file changed
        raise dump.BackupFailed(
            _(
                "The restored store and the file have different numbers of rows in %(tables)s. Restore it again "
                "while no other client writes."
            )
            % {"tables": ", ".join(differing[:5])}
        )


def _pg_restore(store: Store, path: Path, database: str, *flags: str) -> None:
    command: list[str | Path] = [pg_client.tool("pg_restore", store), "--no-password", "--no-owner", "--no-privileges"]
    command += ["--single-transaction", "--exit-on-error", *flags, f"--dbname={database}"]
    env = pg_client.environment(store, dbname=database)
    with files.open_backup(path) as content, dump.fed(content) as end, pg_client.started(command, env, end) as said:
        said.read()


def keep_files(path: Path, name: str) -> None:
    """Copy a SQLite database and its log unchanged to the backups."""
    folder = folder_of("")
    for ending in ("", "-wal"):
        source, target = Path(f"{path}{ending}"), folder / f"{name}{ending}"
        if source.exists() and not target.exists():
            shutil.copy2(source, target)
            target.chmod(0o600)


# --- as a copy -------------------------------------------------------------------------------------------------


def new_database(store: Store, name: str) -> str:
    """Return the place of the new database `name`. Raise RestoreRefused if it exists."""
    if not (name.isidentifier() and name.isascii() and name == name.lower() and len(name) <= 40):
        raise RestoreRefused(
            _("%(name)s is not a valid name. Use lower-case letters, digits and _.") % {"name": repr(name)}
        )
    if store.path is not None:
        place = str(store.path.with_name(f"{name}.sqlite3"))
        taken = Path(place).exists()
    else:
        place = name
        with store.connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)", [name])
            taken = cursor.fetchone()[0]
    if taken:
        raise RestoreRefused(_("%(place)s already exists. Choose another name.") % {"place": place})
    return place


def restore_as(store: Store, path: Path, name: str) -> None:
    """Restore into a new file or database on the same server. It is renamed when it is complete."""
    if store.path is not None:
        with unpacked(path) as copy:
            draft = store.path.with_name(f"{name}.restoring")
            shutil.move(copy, draft)  # the folder of the copy may be on another file system
        files.commit_file(draft, store.path.with_name(f"{name}.sqlite3"))
        return
    from psycopg import sql

    from opsconsole.stores.connection import connect

    draft_name = f"{name}_restoring"
    with connect(store) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(draft_name)))
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(draft_name)))
    _pg_restore(store, path, draft_name)
    with connect(store) as connection:
        names = sql.Identifier(draft_name), sql.Identifier(name)
        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*names))
