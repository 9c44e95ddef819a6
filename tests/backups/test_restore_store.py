"""Restores are atomic and back up the current contents first. A refused restore writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pyrage
import pytest
from django.conf import settings

from opsconsole.backups import restore as restores
from opsconsole.engine import lifecycle
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Run, Status
from opsconsole.engine.planner import PlanRefused
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, StoreUnavailable, attach_file
from tests.backups.test_backup_store import back_up
from tests.support import agentos
from tests.support.contract import TESTER, Crash, die, execute_run, operation_called, plan_whole, start, work
from tests.support.plain_client import dump

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(settings, "BACKUP_FOLDERS", [tmp_path / "data" / "backups", tmp_path])


@pytest.fixture
def saved(managed: Any) -> Any:
    """Create a store with a backup and later changes."""
    for number in range(50):
        managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, ?)", f"t{number}", "one\ntwo")
        managed.execute(
            "INSERT INTO task_audits (task_id, event_type, payload) VALUES (?, ?, ?)", f"t{number}", "X", '{"ä": 1}'
        )
    managed.before = dump(managed.store)
    managed.backup = back_up(managed.store)
    managed.execute("DELETE FROM tasks WHERE task_id = 't7'")
    managed.execute("UPDATE task_audits SET payload = 'gone'")
    managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, ?)", "new", "since")
    return managed


def restore(store: Store, file: Any, **params: Any) -> Run:
    return execute_run(operation_called("backups.restore_store", store, store=store.name, file=str(file), **params))


def ids(tables: Any) -> set[str]:
    return set(tables["tasks"])


@pytest.mark.parametrize("key", ["", str(pyrage.x25519.Identity.generate())], ids=["plain", "encrypted"])
def test_there_and_back(saved: Any, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(settings, "BACKUP_ENCRYPTION_KEY", key)
    store, backup = saved.store, back_up(saved.store) if key else saved.backup
    before = dump(store) if key else saved.before
    saved.execute("DELETE FROM tasks WHERE task_id = 't8'")
    changed = dump(store)
    run = restore(store, backup.path)
    assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    restored = dump(store)
    for table in ("tasks", "task_audits", "projects"):
        assert sorted(map(str, restored[table].values())) == sorted(map(str, before[table].values()))
    saved.execute("INSERT INTO task_audits (task_id, event_type) VALUES (?, ?)", "t1", "keys go on")
    saved.execute("DELETE FROM task_audits WHERE event_type = 'keys go on'")
    state_before = Backup.objects.get(run=run)
    assert run.status == restore(store, state_before.path).status
    assert sorted(map(str, dump(store)["tasks"].values())) == sorted(map(str, changed["tasks"].values()))


def test_beside(saved: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = saved.store
    now = dump(store)
    server = request.getfixturevalue("postgres") if saved.engine == "postgresql" else None
    name = f"agentos_before{server.suffix if server else ''}"  # parallel workers share the server
    assert restore(store, saved.backup.path, as_=name).status == Status.SUCCEEDED
    assert dump(store) == now
    if server is None:
        beside = attach_file("agentos", tmp_path / "agentos_before.sqlite3")
        assert dump(beside) == saved.before
    else:
        with psycopg.connect(server.url("agentos_before")) as client:
            assert client.execute("SELECT COUNT(*) FROM tasks").fetchone() == (50,)
        server.drop_database("agentos_before")
        return
    with pytest.raises(StoreUnavailable, match="already exists"):
        restore(store, saved.backup.path, as_="agentos_before")
    with pytest.raises(StoreUnavailable, match="not a valid name"):
        restore(store, saved.backup.path, as_="../x")


def test_a_second_attempt_keeps_the_backup_of_the_original_state(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dump(saved.store)
    run = start(operation_called("backups.restore_store", saved.store, store="agentos", file=saved.backup.path))
    real = restores.restore

    def crash(*args: Any) -> None:
        real(*args)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(restores, "restore", crash)
        with pytest.raises(Crash):
            work(run)
    run = work(die(run))
    assert run.status == Status.SUCCEEDED
    assert ids(dump(saved.store)) == ids(saved.before)
    assert restore(saved.store, Backup.objects.get(run=run).path).status == Status.SUCCEEDED
    assert ids(dump(saved.store)) == ids(changed)


def test_broken_files_are_refused(saved: Any, tmp_path: Path) -> None:
    now = dump(saved.store)
    whole = Path(saved.backup.path)
    ending = "".join(whole.suffixes)
    cut, other, damaged = (tmp_path / f"{name}{ending}" for name in ("cut", "other", "damaged"))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    other.write_bytes(b"hello")
    data = bytearray(whole.read_bytes())
    place = len(data) - 150  # rows, on both engines
    data[place : place + 50] = bytes(50)
    damaged.write_bytes(data)
    for file in (cut, other, damaged, tmp_path / "missing", tmp_path):
        with pytest.raises(StoreUnavailable):
            plan_whole(operation_called("backups.restore_store", saved.store, store="agentos", file=str(file)))
    assert dump(saved.store) == now


def test_a_listed_file_that_was_damaged_since_changes_nothing(saved: Any) -> None:
    now = dump(saved.store)
    path = Path(saved.backup.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    run = restore(saved.store, path)
    assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1)
    assert dump(saved.store) == now


def test_another_systems_file_is_refused(saved: Any) -> None:
    other = back_up(Store("roadmaps", "roadmaps")) if saved.engine == "sqlite" else None
    console = back_up(Store("default", "default"))
    with pytest.raises(StoreUnavailable, match="tables of default" if saved.engine == "sqlite" else "backup of sqlite"):
        restore(saved.store, console.path)
    if other is not None:
        with pytest.raises(StoreUnavailable, match="is not a backup of agentos"):
            restore(saved.store, other.path)
    plain = back_up(saved.store, plain=True)
    with pytest.raises(StoreUnavailable, match="neither"):
        restore(saved.store, plain.path)


def test_attached_and_the_console_itself_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    agentos.create_sqlite(path, 10)
    store = attach_file("agentos", path)
    backup = back_up(store)
    for params in ({}, {"as_": "mine"}):
        with pytest.raises(PlanRefused, match="attached"):
            restore(store, backup.path, **params)
    console = Store("default", "default")
    backup = back_up(console)
    with pytest.raises(PlanRefused, match="while the console runs"):
        restore(console, backup.path)
    copy = Path(str(console.path)).with_name("console_copy.sqlite3")
    assert restore(console, backup.path, as_="console_copy").status == Status.SUCCEEDED
    assert copy.exists()
    copy.unlink()


def test_no_other_run_uses_the_store_during_a_restore(saved: Any) -> None:
    run = start(operation_called("audits.backfill_decision_fields", saved.store))
    with pytest.raises(RunRefused, match="is locked by run"):
        restore(saved.store, saved.backup.path)
    lifecycle.cancel(run, TESTER)


def test_a_damaged_store_is_restored_and_its_files_are_kept(saved: Any) -> None:
    if saved.engine != "sqlite":
        return
    saved.client.executemany(
        "INSERT INTO task_audits (task_id, event_type, payload) VALUES ('t1', 'X', ?)", [("x" * 2_000,)] * 500
    )
    saved.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    saved.store.close()
    path = saved.store.path
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 4096 - 100, len(data) // 4096):  # in the rows, after the schema
        data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(data)
    run = restore(saved.store, saved.backup.path)
    assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    assert ids(dump(saved.store)) == ids(saved.before)
    assert [file.read_bytes()[:1000] for file in Path(saved.backup.path).parent.glob("*-damaged")] == [data[:1000]]
