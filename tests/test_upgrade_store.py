"""An older store gets the documented columns and indexes, and nothing else; asked twice, nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from opsconsole.care import schema
from opsconsole.care.models import Backup
from opsconsole.operations.models import Run, Status
from opsconsole.stores.store import Store
from tests import agentos
from tests.contract import execute_run, operation_called, plan_whole
from tests.outside import dump
from tests.outside import schema as shape
from tests.shell import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")


def upgrade(store: Store) -> Run:
    run = execute_run(operation_called("care.upgrade_store", store, store=store.name))
    assert run.status == Status.SUCCEEDED, [unit.error for unit in run.units_set_aside.all()]
    return run


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_an_older_store(make_attached: Any, engine: str) -> None:
    attached = make_attached(engine, 300, version="0.20.0")
    store = attached.store
    lacking = {one.name for one in schema.missing(store) if one.kind != "table"}
    assert "task_audits.source_event_ts" in lacking
    before, before_shape = dump(store), shape(store)
    planned = plan_whole(operation_called("care.upgrade_store", store, store="agentos"))
    assert "ADD COLUMN" in planned.sample[0]["detail"]
    assert (dump(store), shape(store)) == (before, before_shape), "the plan writes nothing"
    run = upgrade(store)
    fresh = Store(store.alias, store.name)
    assert [one.name for one in schema.missing(fresh) if one.kind != "table"] == []
    after = dump(store)
    for table, rows in before.items():
        for key, row in rows.items():
            assert {name: after[table][key][name] for name in row} == row
    assert set(after) == set(before), "no table was made"
    assert Backup.objects.get(run=run).is_there
    again = upgrade(fresh)
    assert again.reasons["skipped"] == {"complete": 1}
    assert not Backup.objects.filter(run=again).exists()


def test_a_managed_store_is_complete(managed: Any) -> None:
    assert schema.missing(managed.store) == []
    assert upgrade(managed.store).reasons["skipped"] == {"complete": 1}


def test_dropped_columns_come_back_as_documented(managed: Any) -> None:
    """But for what no engine gives to rows that are there already."""
    managed.execute("ALTER TABLE memory_items DROP COLUMN use_count")
    managed.execute("DROP INDEX idx_tasks_session")
    upgrade(Store("agentos", "agentos"))
    managed.execute("INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'task', 'decision', '{}')")
    assert managed.execute("SELECT use_count FROM memory_items") == [(0,)]
    assert "idx_tasks_session" in schema.existing_indexes(Store("agentos", "agentos"))


def test_the_command(tmp_path: Path, empty_console: Path) -> None:
    shell = Shell(tmp_path / "console", empty_console)
    path = tmp_path / "old.db"
    agentos.create_sqlite(path, 100, version="0.20.0")
    before = path.read_bytes()
    dry = shell.run("upgrade_store", "--db-path", path)
    assert dry.returncode == 0, dry.stderr
    assert "ADD COLUMN" in dry.stdout
    assert "CREATE INDEX" in dry.stdout
    assert path.read_bytes() == before
    answer = shell.json("upgrade_store", "--db-path", path, "--execute", "--yes")
    assert answer["status"] == "succeeded"
    assert Path(answer["state_before"]).exists()
    assert shell.json("upgrade_store", "--db-path", path)["skipped"] == 1
    stranger = tmp_path / "stranger.db"
    import sqlite3

    sqlite3.connect(stranger).execute("CREATE TABLE t (x)").connection.close()
    for words in (("upgrade_store",), ("upgrade_store", "--db-path", stranger)):
        assert shell.run(*words).returncode == 2


def test_a_store_of_another_system_is_refused(tmp_path: Path, empty_console: Path, make_attached: Any) -> None:
    """HELIX has tables of the same names."""
    shell = Shell(tmp_path / "console", empty_console)
    path = make_attached("sqlite", 50).url
    assert "holds the tables of agentos, not of helix" in shell.refused("upgrade_store", "helix", "--db-path", path)
    assert "contradict each other" in shell.refused("check_store", "agentos", "--database", "helix")
