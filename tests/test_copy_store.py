"""Copies between the engines: all rows, right types, sequences; what the target can't hold is listed; resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from opsconsole.care import copying
from opsconsole.care.models import TableCopy
from opsconsole.operations.models import Run, Status
from opsconsole.operations.planning import UnableToPlan
from opsconsole.stores.store import Store
from tests.contract import Crash, die, execute_run, operation_called, start, work
from tests.outside import dump, neighbour
from tests.shell import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
VARIABLE = "AGENTOS_NEW_DATABASE_URL"


@pytest.fixture
def target(managed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """An empty database of the other engine, named by the variable."""
    if managed.engine == "postgresql":
        monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/new.sqlite3")
        yield
        return
    server = request.getfixturevalue("postgres")
    monkeypatch.setenv(VARIABLE, server.create_database("agentos_new"))
    yield
    from tests.conftest import forget_attached

    forget_attached()
    server.drop_database("agentos_new")


def fill(managed: Any, count: int = 300) -> None:
    for number in range(count):
        managed.execute(
            "INSERT INTO tasks (task_id, title, metadata, created_at) VALUES (?, ?, ?, ?)",
            f"t{number:05}", "a\t\\b\nдва 任务 🙂", '{"a": [1, 2.50]}', f"2026-01-{1 + number % 28:02} 10:00:00.5",
        )  # fmt: skip
        managed.execute("INSERT INTO task_audits (task_id, event_type) VALUES (?, ?)", f"t{number:05}", "X")
    managed.execute("INSERT INTO projects (id, path, tags) VALUES ('p', '/p', '[]')")
    managed.execute(
        "INSERT INTO memory_items (id, scope, type, content, confidence, project_id) VALUES (?, ?, ?, ?, ?, ?)",
        "m", "task", "decision", "{}", 0.1, "p",
    )  # fmt: skip
    managed.execute("DELETE FROM task_audits WHERE audit_id > ?", count - 5)


def copy(**options: Any) -> Run:
    return execute_run(operation_called("care.copy_store", store="agentos", to="agentos_new"), **options)


def test_everything_arrives(managed: Any, target: Any) -> None:
    fill(managed)
    run = copy()
    assert (run.status, run.error) == (Status.SUCCEEDED, ""), list(run.units_set_aside.values_list("label", "error"))
    assert set(TableCopy.objects.values_list("agrees", flat=True)) == {True}
    there = Store("agentos_new", "agentos")
    ours, theirs = dump(managed.store), dump(there)
    for table in ("tasks", "task_audits", "projects", "memory_items", "django_migrations"):
        assert set(theirs[table]) == set(ours[table]), table
    row, other = ours["tasks"]["t00003"], theirs["tasks"]["t00003"]
    assert {n: v for n, v in row.items() if n != "created_at"} == {n: v for n, v in other.items() if n != "created_at"}
    assert str(other["created_at"]).startswith("2026-01-04 10:00:00.5")
    assert float(theirs["memory_items"]["m"]["confidence"]) == 0.1
    with neighbour(there) as client:
        client.execute("INSERT INTO task_audits (task_id, event_type) VALUES ('t00001', 'next')")
        found = client.execute("SELECT MAX(audit_id) FROM task_audits").fetchone()[0]
    assert found == 301, "the numbers of rows that were deleted are not given again"
    with pytest.raises(UnableToPlan, match="holds rows already"):
        copy()


def test_what_the_target_can_not_hold_is_listed(managed: Any, target: Any) -> None:
    fill(managed, 20)
    if managed.engine == "sqlite":
        managed.execute("INSERT INTO tasks (task_id, title) VALUES ('nul', 'a' || char(0) || 'b')")
        managed.execute("INSERT INTO tasks (task_id, title, created_at) VALUES ('when', 'x', 'yesterday')")
        managed.execute("PRAGMA foreign_keys=OFF")
        expected = {"tasks": {"nul", "when"}, "task_audits": 1}
    else:
        managed.execute("SET session_replication_role = replica")
        expected = {"task_audits": 1}
    managed.execute("INSERT INTO task_audits (task_id, event_type) VALUES ('gone', 'orphan')")
    run = copy()
    assert run.status == Status.NEEDS_ATTENTION
    assert "could not be copied" in run.error
    left = {record.table: record for record in TableCopy.objects.filter(left_rows__gt=0)}
    assert set(left) == set(expected)
    if "tasks" in expected:
        assert {key for key, _reason in left["tasks"].left} == expected["tasks"]
    assert left["task_audits"].left_rows == 1
    assert set(TableCopy.objects.values_list("agrees", flat=True)) == {True}, "all others agree"


def test_a_copy_that_died_goes_on(managed: Any, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(managed, 100)
    monkeypatch.setattr(copying, "BATCH", 10)
    run = start(operation_called("care.copy_store", store="agentos", to="agentos_new"))
    insert = copying.TableCopying._insert
    calls: list[int] = []

    def dying(self: Any, pairs: Any, *, last: bool) -> None:
        insert(self, pairs, last=last)
        calls.extend([len(pairs)] * (self.table == "tasks"))
        if len(calls) == 5:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(copying.TableCopying, "_insert", dying)
        with pytest.raises(Crash):
            work(run)
    seen: list[int] = []

    def counting(self: Any, pairs: Any, *, last: bool) -> None:
        seen.append(len(pairs))
        insert(self, pairs, last=last)

    monkeypatch.setattr(copying.TableCopying, "_insert", counting)
    run = work(die(run))
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    assert TableCopy.objects.get(table="tasks").target_rows == 100
    assert len(seen) < 30, "it went on and did not begin again"


def test_refusals(managed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnableToPlan, match=VARIABLE):
        copy()
    with pytest.raises(UnableToPlan, match="in use"):
        operation_called("care.copy_store", store="agentos", to="helix")
    for bad in ("postgresql://u:p@h:port/x", "postgresql://u:se/cret@h/x", "postgresql://u:p@h/x?pool_max=many"):
        monkeypatch.setenv(VARIABLE, bad)
        with pytest.raises(UnableToPlan) as refused:
            copy()
        assert "cret" not in str(refused.value)
        assert VARIABLE in str(refused.value) or "pool_max" in str(refused.value)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/missing/new.sqlite3")
    with pytest.raises(UnableToPlan, match="make it first"):
        copy()
    assert not (tmp_path / "missing").exists()


def test_the_command(tmp_path: Path, empty_console: Path, postgres: Any) -> None:
    url = postgres.create_database("commanded")
    shell = Shell(tmp_path / "console", empty_console, {VARIABLE: url})
    assert shell.run("setup").returncode == 0
    assert shell.json("copy_store", "agentos", "--to", "agentos_new")["mode"] == "dry-run"
    with psycopg.connect(url) as client:
        assert client.execute("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    answer = shell.json("copy_store", "agentos", "--to", "agentos_new", "--execute")
    assert answer["tables"]["schema_version"] == {
        "source_rows": 1, "target_rows": 1, "set_aside": 0, "agrees": True
    }  # fmt: skip
    # What was copied serves as the store itself.
    moved = Shell(tmp_path / "console", None, {"AGENTOS_DATABASE_URL": url})
    done = moved.run("setup")
    assert done.returncode == 0, done.stderr
    assert moved.run("copy_store", "agentos", "--to", "helix").returncode == 2
    postgres.drop_database("commanded")
