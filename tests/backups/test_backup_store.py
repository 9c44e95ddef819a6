"""Backups are consistent, verified, recorded only when complete, and contain no password."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyrage
import pytest
from django.conf import settings

from opsconsole.backups import dump, files, pg_client
from opsconsole.backups.notes import note_of
from opsconsole.backups.operations.backup_store import BackupStore
from opsconsole.engine import queue, registry
from opsconsole.engine.models import Run, Status
from opsconsole.stores import backups
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, StoreUnavailable
from tests.conftest import attach_url
from tests.support import agentos
from tests.support.contract import Crash, crash, die, execute_run, operation_called, start, work
from tests.support.plain_client import execute
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
KEY = str(pyrage.x25519.Identity.generate())


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")


def back_up(store: Store, **params: Any) -> Backup:
    run = execute_run(operation_called("backups.backup_store", store, store=store.name, **params))
    assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    return Backup.objects.get(run=run)


def content(backup: Backup, folder: Path) -> Path:
    """Return a connection to the contents of a SQLite backup."""
    path = folder / "content.sqlite3"
    with files.open_backup(Path(backup.path)) as stream:
        path.write_bytes(stream.read())
    return path


@pytest.mark.parametrize("key", ["", KEY], ids=["plain", "encrypted"])
def test_a_backup_of_each_engine_is_listed(managed: Any, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEY", key)
    managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, ?)", "t1", "one\ntwo\\.")
    backup = back_up(managed.store)
    assert backups.newest_verified(managed.store) == backup
    assert backup.verified_at is not None
    assert (backup.engine, backup.encrypted) == (managed.engine, bool(key))
    assert backup.size == Path(backup.path).stat().st_size
    assert Path(backup.path).stat().st_mode & 0o077 == 0
    assert backup.rows[("" if managed.engine == "sqlite" else "public.") + "tasks"] == 1
    assert Path(backup.path).read_bytes().startswith(b"age-encryption.org") == bool(key)
    assert set(Path(backup.path).parent.iterdir()) == {Path(backup.path), note_of(Path(backup.path))}
    Path(backup.path).write_bytes(b"cut off")
    assert backups.newest_verified(managed.store) is None
    assert list(backups.listed(managed.store)) == []


def test_a_plain_sql_backup_can_be_loaded(managed: Any, tmp_path: Path) -> None:
    managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, ?)", "t1", "one\ntwo")
    backup = back_up(managed.store, plain=True)
    assert backup.path.endswith(".sql.gz")
    with files.open_backup(Path(backup.path)) as stream:
        text = stream.read().decode()
    assert "CREATE TABLE" in text
    if managed.engine == "sqlite":
        with closing(sqlite3.connect(tmp_path / "elsewhere.db")) as elsewhere:
            elsewhere.executescript(text)
            assert elsewhere.execute("SELECT title FROM tasks").fetchall() == [("one\ntwo",)]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_no_torn_copy_under_writers(tmp_path: Path, mode: str) -> None:
    """Two tables are written in one transaction, about 500 times a second. The copy has as many rows of each."""
    path = tmp_path / "busy.db"
    agentos.create_sqlite(path, 20_000)
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"PRAGMA journal_mode={mode}")
        made.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, text TEXT)")
        made.execute("CREATE TABLE two (id INTEGER PRIMARY KEY, text TEXT)")
    from opsconsole.stores.store import attach_file

    store, over, written = attach_file("agentos", path), threading.Event(), [0]

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as writer:
            writer.execute("PRAGMA synchronous=OFF")
            while not over.is_set():
                writer.execute("BEGIN IMMEDIATE")
                writer.execute("INSERT INTO one (text) VALUES (?)", ["x" * 500])
                writer.execute("INSERT INTO two (text) VALUES (?)", ["x" * 500])
                writer.execute("COMMIT")
                written[0] += 1
                time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while written[0] < 50:
            time.sleep(0.01)
        backup = back_up(store)
    finally:
        over.set()
        thread.join()
    with closing(sqlite3.connect(content(backup, tmp_path))) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = [copy.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("one", "two")]
    assert counts[0] == counts[1]
    assert 50 <= counts[0] <= written[0]


def test_postgresql_under_writers(make_attached: Any) -> None:
    """The rows are counted in the snapshot of the dump, so concurrent inserts make no difference."""
    attached = make_attached("postgresql-text", 20_000)
    over, written = threading.Event(), [0]

    def write() -> None:
        while not over.is_set():
            execute(attached.store, "INSERT INTO tasks (task_id, title) VALUES (?, ?)", [f"busy {written[0]}", "busy"])
            written[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while written[0] < 10:
            time.sleep(0.01)
        backup = back_up(attached.store)
    finally:
        over.set()
        thread.join()
    assert backup.rows["public.task_audits"] == 20_000
    assert backup.rows["public.tasks"] >= 10


@pytest.mark.parametrize("step", ["files.write", "files.commit_file", "files.content_digest"])
def test_an_interrupted_backup_is_not_listed_and_is_repeated(
    managed: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    if managed.engine == "postgresql" and step == "files.content_digest":
        step = "pg_client.read_dump"
    module = {"files": files, "pg_client": pg_client}[step.partition(".")[0]]
    run = start(operation_called("backups.backup_store", managed.store, store="agentos"))

    with monkeypatch.context() as patched:
        patched.setattr(module, step.partition(".")[2], crash)
        with pytest.raises(Crash):
            work(run)
    assert not Backup.objects.exists()
    run = work(die(run))
    assert (run.status, Backup.objects.count()) == (Status.SUCCEEDED, 1)


def test_killed_in_the_middle(tmp_path: Path, empty_console: Path) -> None:
    shell = Shell(tmp_path / "console", empty_console)
    path = tmp_path / "large.db"
    agentos.create_sqlite(path, 60_000)
    process = shell.start("backup_store", "agentos", "--db-path", path)
    folder = shell.folder / "backups"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(folder.glob("*.partial*")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(folder.glob("*.partial*")), "it was killed too late for this test"
    with closing(sqlite3.connect(shell.folder / "default.sqlite3")) as console:
        assert console.execute("SELECT COUNT(*) FROM stores_backup").fetchone() == (0,)
    answer = shell.json("backup_store", "agentos", "--db-path", path)
    assert answer["status"] == "succeeded"
    assert set(folder.iterdir()) == {Path(answer["file"]), note_of(Path(answer["file"]))}


def test_an_unreadable_backup_is_not_listed(managed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = files.write

    def damaged(source: Any, path: Path, *, compress: bool) -> str:
        digest = write(source, path, compress=compress)
        path.write_bytes(path.read_bytes()[:-400])
        return digest

    monkeypatch.setattr(files, "write", damaged)
    run = execute_run(operation_called("backups.backup_store", managed.store, store="agentos"))
    assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1)
    assert not Backup.objects.exists()
    assert list((settings.DATA_DIR / "backups").iterdir()) == []


def test_a_damaged_store_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    agentos.create_sqlite(path, 3_000)
    data = bytearray(path.read_bytes())
    for page in range(20, 40):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    from opsconsole.stores.store import attach_file

    run = execute_run(operation_called("backups.backup_store", attach_file("agentos", path), store="agentos"))
    assert run.status == Status.NEEDS_ATTENTION
    assert "integrity check" in run.failed_items.get().error


def test_a_read_only_store_can_be_backed_up(tmp_path: Path, empty_console: Path) -> None:
    shell = Shell(tmp_path / "console", empty_console)
    path = tmp_path / "closed" / "store.db"
    path.parent.mkdir()
    agentos.create_sqlite(path, 100)
    path.chmod(0o444)
    assert shell.json("backup_store", "agentos", "--db-path", path)["status"] == "succeeded"
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


def test_the_list(tmp_path: Path, empty_console: Path) -> None:
    shell = Shell(tmp_path / "console", empty_console)
    path = tmp_path / "store.db"
    agentos.create_sqlite(path, 100)
    made = shell.json("backup_store", "agentos", "--db-path", path)
    (one,) = shell.json("backup_store", "agentos", "--db-path", path, "--list")["backups"]
    assert (one["file"], one["size_bytes"], one["encrypted"]) == (made["file"], made["size_bytes"], False)
    assert one["verified_at"] >= one["at"]
    own = shell.json("backup_store", "default")
    assert [backup["file"] for backup in shell.json("backup_store", "--list")["backups"]] == [own["file"]]
    listed = shell.run("backup_store", "--list")
    assert (listed.returncode, own["file"] in listed.stdout) == (0, True)
    assert "Name a store, or pass --list." in shell.refused("backup_store")
    assert Path(made["file"]).name in shell.run("backup_store", "agentos", "--db-path", path, "--list").stdout
    Path(made["file"]).unlink()
    assert "There are no backups." in shell.run("backup_store", "agentos", "--db-path", path, "--list").stdout


def test_refusals(managed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(tmp_path / "console")
    for words in (("backup_store", "nowhere"), ("backup_store", "agentos", "--to", tmp_path / "missing")):
        done = shell.run(*words)
        assert (done.returncode, done.stdout) == (2, "")
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEY", "hunter2")
    with pytest.raises(StoreUnavailable, match="age-keygen") as refused:
        start(operation_called("backups.backup_store", managed.store, store="agentos"))
    assert "hunter2" not in str(refused.value)


def test_the_password_is_in_no_argument_and_in_no_error(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.create_database("secretive").replace("postgres@", "postgres:hunter2@")
    seen: list[Any] = []
    popen = subprocess.Popen

    def watching(command: Any, **options: Any) -> Any:
        if "env" in options:
            seen.append((command, options["env"]))
        return popen(command, **options)

    store = attach_url("agentos", f"{url}?sslmode=prefer")
    monkeypatch.setattr(subprocess, "Popen", watching)
    backup = back_up(store)
    assert {env["PGPASSWORD"] for _command, env in seen} == {"hunter2"}
    assert {env["PGSSLMODE"] for _command, env in seen} == {"prefer"}
    assert "hunter2" not in str([command for command, _env in seen])
    assert "hunter2" not in str(list(Run.objects.values())) + backup.path
    monkeypatch.setattr(pg_client, "_candidates", lambda name: iter([Path(sys.executable)]))
    with pytest.raises(StoreUnavailable, match="or newer"):
        back_up(store)
    monkeypatch.setattr(pg_client, "_candidates", lambda name: iter([]))
    with pytest.raises(StoreUnavailable, match="not installed"):
        back_up(store)


def test_the_schedule_starts_one_run_per_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [one["store"] for one in registry.scheduled_params(BackupStore)] == ["default", *settings.STORES]
    attach_url("helix", f"sqlite:///{tmp_path}/gone.db")
    queue.run_schedule("backups.backup_store", "2026-11-24T02:00:00")
    queue.run_schedule("backups.backup_store", "2026-11-24T02:00:00")
    assert sorted(Run.objects.values_list("store", flat=True)) == ["agentos", "default", "records", "roadmaps"]


def test_a_store_that_is_a_schema(postgres: Any) -> None:
    import psycopg

    url = postgres.create_database("schemas")
    with psycopg.connect(url, autocommit=True) as client:
        for schema in ("agentos", "helix"):
            client.execute(f"CREATE SCHEMA {schema}")
            client.execute(f"CREATE TABLE {schema}.tasks (task_id text)")
    store = attach_url("agentos", f"{url}?options=-c%20search_path%3Dagentos")
    assert dump.has_own_schema(store)
    assert back_up(store).rows == {"agentos.tasks": 0}


def test_the_plain_text_of_sqlite_loads_with_its_full_text_tables(managed: Any, tmp_path: Path) -> None:
    if managed.engine != "sqlite":
        return  # another format, see above
    managed.execute("INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'task', 'decision', '\"words\"')")
    backup = back_up(managed.store, plain=True)
    with files.open_backup(Path(backup.path)) as content, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        copy.executescript(content.read().decode())
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT COUNT(*) FROM memory_fts WHERE memory_fts MATCH 'words'").fetchone() == (1,)
        copy.execute("DELETE FROM memory_items")
    assert backups.newest_verified(managed.store) is None, "the console cannot restore it"
