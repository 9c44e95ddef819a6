"""A rebuild copies the readable rows of a damaged file and lists the losses."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from opsconsole.backups.salvage import rebuild
from opsconsole.stores.store import StoreUnavailable
from tests.conftest import Managed
from tests.support import agentos
from tests.support.subprocess_cli import Shell


def rows(path: Path, table: str) -> dict[int, tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return {row[0]: row for row in connection.execute(f"SELECT rowid, * FROM {table}")}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.db"
    agentos.create_sqlite(path, 20_000)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE pairs (a TEXT, b INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID")
        connection.executemany("INSERT INTO pairs VALUES (?, ?)", [(f"k{n}", n) for n in range(500)])
        connection.execute("CREATE VIEW latest AS SELECT MAX(audit_id) FROM task_audits")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
    return path


def test_an_undamaged_file_is_copied_completely(whole: Path, tmp_path: Path) -> None:
    before = whole.read_bytes()
    saved = rebuild(whole, tmp_path / "new.db")
    assert saved.lost == []
    for table in ("task_audits", "tasks"):
        assert rows(tmp_path / "new.db", table) == rows(whole, table)
    assert saved.rows["pairs"] == 500
    with closing(sqlite3.connect(tmp_path / "new.db")) as new, closing(sqlite3.connect(whole)) as old:
        listed = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"
        assert new.execute(listed).fetchall() == old.execute(listed).fetchall()
    assert whole.read_bytes() == before


@pytest.mark.parametrize("start", [0.2, 0.4, 0.6])
def test_rows_around_the_damage_are_copied(whole: Path, tmp_path: Path, start: float) -> None:
    damaged = tmp_path / "damaged.db"
    shutil.copyfile(whole, damaged)
    data = bytearray(damaged.read_bytes())
    first = int(len(data) / 4096 * start)
    for page in range(first, first + 3):
        data[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    damaged.write_bytes(data)
    saved = rebuild(damaged, tmp_path / "new.db")
    assert saved.lost
    assert damaged.read_bytes() == data
    before, after = rows(whole, "task_audits"), rows(tmp_path / "new.db", "task_audits")
    assert set(after) <= set(before)
    assert len(before) - len(after) < 100
    assert all(after[key] == before[key] for key in after)
    with closing(sqlite3.connect(tmp_path / "new.db")) as new:
        assert new.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_refusals(whole: Path, tmp_path: Path, empty_console: Path) -> None:
    with pytest.raises(StoreUnavailable, match="already exists"):
        rebuild(whole, whole)
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"\x01" * 8192)
    with pytest.raises(StoreUnavailable, match="Restore a backup"):
        rebuild(noise, tmp_path / "new.db")
    assert not list(tmp_path.glob("new.db*"))
    shell = Shell(tmp_path / "console", empty_console)
    answer = shell.json("rebuild_store", "--db-path", whole, "--to", tmp_path / "new.db")
    assert answer["rows"]["task_audits"] == 20_000
    assert shell.run("rebuild_store", "--db-path", tmp_path / "missing", "--to", tmp_path / "x").returncode == 2


def test_full_text_tables_of_each_kind_are_saved(managed: Managed, tmp_path: Path) -> None:
    if managed.engine != "sqlite":
        return
    managed.execute("CREATE VIRTUAL TABLE notes USING fts5(title, body)")
    managed.execute("INSERT INTO notes VALUES ('a', 'kept text')")
    managed.execute("INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'task', 'decision', '\"数据\"')")
    target = tmp_path / "rebuilt.db"
    saved = rebuild(Path(managed.url), target)
    assert saved.lost == []
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT body FROM notes WHERE notes MATCH 'kept'").fetchone() == ("kept text",)
        copy.execute("UPDATE memory_items SET content = '\"words\"'")
        assert copy.execute("SELECT COUNT(*) FROM memory_fts WHERE memory_fts MATCH 'words'").fetchone() == (1,)
        copy.execute("DELETE FROM memory_items")
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_existing_file_is_not_replaced(whole: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.db.partial"
    shutil.copyfile(whole, source)
    with pytest.raises(StoreUnavailable, match="already exists"):
        rebuild(source, tmp_path / "new.db")
    assert source.exists()
