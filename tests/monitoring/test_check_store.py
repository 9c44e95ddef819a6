"""The check finds every kind of problem on both engines, and changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from opsconsole.engine.models import Finding, Status
from opsconsole.monitoring.stats import stats
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, attach_file
from tests.conftest import attach_url, forget_attached
from tests.support import agentos
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import dump, quoted, schema
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


def found(store: Store) -> dict[str, set[str]]:
    """Return code → subjects of the findings."""
    run = execute_run(operation_called("monitoring.check_store", store, store=store.name))
    assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    codes: dict[str, set[str]] = {}
    for code, subject in Finding.objects.filter(last_run=run, resolved_at=None).values_list("code", "subject"):
        codes.setdefault(code, set()).add(subject)
    return codes


def test_a_sound_store_has_no_findings(managed: Any) -> None:
    assert set(found(managed.store)) <= {"setting_advised"}


@pytest.mark.parametrize("name", ["default", "helix", "records", "roadmaps"])
def test_the_other_new_stores_have_no_findings(name: str) -> None:
    assert found(Store(name, name)) == {}


def test_each_planted_problem_is_found(managed: Any) -> None:
    store = managed.store
    before_shape = None
    managed.execute("INSERT INTO tasks (task_id, title, metadata) VALUES ('t1', 'one', '{broken')")
    managed.execute("INSERT INTO tasks (task_id, title, metadata) VALUES ('t2', 'two', '[1e400, {}]')")
    managed.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('t1', 'guess', 'r')")
    managed.execute("DROP INDEX idx_tasks_session")
    managed.execute("DROP INDEX idx_task_audits_task")
    managed.execute("DROP INDEX idx_task_audits_task_repo")
    managed.execute("ALTER TABLE memory_items DROP COLUMN retention_type")
    managed.execute("DROP TABLE supervisor_inbox")
    if managed.engine == "sqlite":
        managed.execute("PRAGMA foreign_keys=OFF")
    else:
        managed.execute("SET session_replication_role = replica")
    managed.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('gone', 'intent', 'r')")
    if managed.engine == "postgresql":
        managed.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_tasks_status'::regclass")
    before, before_shape = dump(store), schema(store)
    codes = found(Store("agentos", "agentos"))
    codes.pop("setting_advised", None)
    expected = {
        "invalid_json": {"tasks.metadata"},
        "outside_enumeration": {"task_lineage.kind=guess"},
        "dangling_reference": {"task_lineage.task_id"},
        "missing_index": {"idx_tasks_session", "idx_task_audits_task", "idx_task_audits_task_repo"},
        "missing_column": {"memory_items.retention_type"},
        "missing_table": {"supervisor_inbox"},
        "query_without_index": {"tasks by session_id", "task_audits by task_id"},
    }
    if managed.engine == "postgresql":
        expected["invalid_index"] = {"idx_tasks_status"}
        expected["query_without_index"].add("tasks by status")
    assert codes == expected
    assert (dump(store), schema(store)) == (before, before_shape), "it only reads"
    statement = Finding.objects.get(code="missing_column").data["statement"]
    assert "ADD COLUMN" in statement
    assert "retention_type" in statement
    managed.execute("UPDATE tasks SET metadata = NULL")
    assert "invalid_json" not in found(Store("agentos", "agentos"))


def test_damage_and_a_rollback_journal(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    agentos.create_sqlite(path, 5_000)
    with closing(sqlite3.connect(path)) as client:
        client.execute("PRAGMA journal_mode=DELETE")
    data = bytearray(path.read_bytes())
    for page in range(60, 64):
        data[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    path.write_bytes(data)
    run = execute_run(operation_called("monitoring.check_store", attach_file("agentos", path), store="agentos"))
    assert run.status == Status.SUCCEEDED, run.error
    codes = Finding.objects.filter(last_run=run, priority="immediate").values_list("code", flat=True)
    assert {"damaged", "unanswered"} <= set(codes)
    assert Finding.objects.get(code="setting_advised").data["value"] == "delete"
    assert path.read_bytes() == data


@pytest.mark.parametrize("payload_type", ["text", "json", "jsonb"])
def test_json_of_an_attached_postgresql(make_attached: Any, payload_type: str) -> None:
    attached = make_attached(f"postgresql-{payload_type}", 2_000)
    assert ("invalid_json" in found(attached.store)) == (payload_type == "text")


def test_the_server_s_memory(postgres: Any) -> None:
    attach_url("agentos", postgres.create_database("small"))
    codes = found(Store("agentos", "agentos"))
    assert "shared_buffers" in codes["setting_advised"]


def test_the_command(tmp_path: Path, empty_console: Path) -> None:
    shell = Shell(tmp_path / "console", empty_console)
    path = tmp_path / "store.db"
    agentos.create_sqlite(path, 500)
    before = path.read_bytes()
    answer = shell.json("check_store", "agentos", "--db-path", path, "--exit-code", code=3)
    assert answer["counts"]["invalid_json"] == 1
    assert {one["code"] for one in answer["findings"]} >= {"invalid_json"}
    unserved = {one["name"] for one in answer["findings"] if one["code"] == "query_without_index"}
    assert answer["hot_queries"]["task_audits by event_type"]
    assert {name for name, by_index in answer["hot_queries"].items() if not by_index} == unserved
    assert path.read_bytes() == before
    assert shell.run("check_store", "nowhere").returncode == 2


NAMES = ('a"; DROP TABLE victims; --', "100%s", "Mixed Case", "it's")


def test_names_are_identifiers_and_nothing_else(managed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of tables and columns execute nothing in a check, in statistics or in a backup."""
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")
    managed.execute("CREATE TABLE victims (id INTEGER PRIMARY KEY)")
    for name in NAMES:
        managed.execute(f"CREATE TABLE {quoted(name)} ({quoted(name)} INTEGER REFERENCES victims (id))")
    managed.execute("PRAGMA foreign_keys=OFF" if managed.engine == "sqlite" else "SET session_replication_role=replica")
    for name in NAMES:
        managed.execute(f"INSERT INTO {quoted(name)} VALUES (7)")
    store = Store("agentos", "agentos")
    before = dump(store)
    subjects = found(store)["dangling_reference"]
    assert len(subjects) == len(NAMES)
    if managed.engine == "sqlite":  # PostgreSQL's numbers are estimates
        rows = {one["table"]: one["rows"] for one in stats(Store("agentos", "agentos"))["tables"]}
        assert {name: rows[name] for name in NAMES} == dict.fromkeys(NAMES, 1)
    run = execute_run(operation_called("backups.backup_store", store="agentos"))
    assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    counted = {table.removeprefix("public."): rows for table, rows in Backup.objects.get(run=run).rows.items()}
    assert {name: counted[name] for name in NAMES} == dict.fromkeys(NAMES, 1)
    assert dump(store) == before


PLATFORM_SEARCH = """
CREATE TABLE memory_items (id TEXT PRIMARY KEY, scope TEXT, type TEXT, content TEXT, tags TEXT);
CREATE VIRTUAL TABLE memory_fts USING fts5(id UNINDEXED, content, tags, content='memory_items', content_rowid='rowid');
CREATE TRIGGER memory_ai AFTER INSERT ON memory_items BEGIN
    INSERT INTO memory_fts (rowid, id, content, tags) VALUES (new.rowid, new.id, new.content, new.tags);
END;
CREATE TRIGGER memory_ad AFTER DELETE ON memory_items BEGIN
    INSERT INTO memory_fts (memory_fts, rowid, id, content, tags)
    VALUES ('delete', old.rowid, old.id, old.content, old.tags);
END;
CREATE VIRTUAL TABLE notes USING fts4(words);
INSERT INTO memory_items (id, content) VALUES ('a', 'first words'), ('b', 'other words'), ('c', 'the last');
INSERT INTO notes VALUES ('something');
"""


def test_a_full_text_index_that_does_not_hold_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of an attached store is checked in a copy. Nothing is written to the store."""
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")
    path = tmp_path / "platform.db"
    with closing(sqlite3.connect(path)) as client:
        client.executescript(PLATFORM_SEARCH)
    assert not {"damaged_index", "unchecked_index"} & set(found(attach_file("agentos", path)))
    forget_attached()
    with closing(sqlite3.connect(path, isolation_level=None)) as client:
        client.execute("DROP TRIGGER memory_ad")
        client.execute("DELETE FROM memory_items WHERE id = 'b'")
    before = path.read_bytes()
    assert found(attach_file("agentos", path))["damaged_index"] == {"memory_fts"}
    assert path.read_bytes() == before
    assert not list((tmp_path / "data" / "backups").iterdir())
    forget_attached()
    with closing(sqlite3.connect(path, isolation_level=None)) as client:
        client.execute(Finding.objects.get(code="damaged_index").data["statement"])
    assert "damaged_index" not in found(attach_file("agentos", path))


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_a_damaged_full_text_index_of_a_managed_store(managed: Any) -> None:
    managed.execute(
        "INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'task', 'decision', '{\"a\": 1}')"
    )
    managed.execute("DROP TRIGGER memory_fts_after_update")
    managed.execute("UPDATE memory_items SET content = '{\"other\": 1}'")
    before = dump(managed.store)
    assert found(managed.store)["damaged_index"] == {"memory_fts"}
    assert dump(managed.store) == before
    run = execute_run(operation_called("agentos.rebuild_search_index", Store("agentos", "agentos")))
    assert run.status == Status.SUCCEEDED
    assert "damaged_index" not in found(Store("agentos", "agentos"))
