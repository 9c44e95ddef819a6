"""Copies between the engines: rows, types, sequences, rows that the target cannot store, and resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from opsconsole.backups import copying
from opsconsole.backups.models import TableCopy
from opsconsole.backups.operations.copy_store import target_store
from opsconsole.engine import registry
from opsconsole.engine.models import Run, Status
from opsconsole.engine.planner import PlanRefused
from opsconsole.stores.store import Store
from tests.conftest import attach_url, forget_attached
from tests.support.contract import Crash, die, execute_run, operation_called, plan_whole, start, work
from tests.support.plain_client import dump, execute, neighbour, quoted
from tests.support.pooler import Pooler
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
VARIABLE = "AGENTOS_NEW_DATABASE_URL"


@pytest.fixture
def target(managed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Create an empty database of the other engine and set its variable."""
    if managed.engine == "postgresql":
        monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/new.sqlite3")
        yield
        return
    server = request.getfixturevalue("postgres")
    monkeypatch.setenv(VARIABLE, server.create_database("agentos_new"))
    yield
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
    return execute_run(operation_called("backups.copy_store", store="agentos", to="agentos_new"), **options)


def test_all_rows_are_copied(managed: Any, target: Any) -> None:
    fill(managed)
    run = copy()
    assert (run.status, run.error) == (Status.SUCCEEDED, ""), list(run.failed_items.values_list("label", "error"))
    assert set(TableCopy.objects.values_list("agrees", flat=True)) == {True}
    there = Store("agentos_new", "agentos")
    ours, theirs = dump(managed.store), dump(there)
    for table in ("tasks", "task_audits", "projects", "memory_items"):
        assert set(theirs[table]) == set(ours[table]), table
    row, other = ours["tasks"]["t00003"], theirs["tasks"]["t00003"]
    assert {n: v for n, v in row.items() if n != "created_at"} == {n: v for n, v in other.items() if n != "created_at"}
    assert str(other["created_at"]).startswith("2026-01-04 10:00:00.5")
    assert float(theirs["memory_items"]["m"]["confidence"]) == 0.1
    with neighbour(there) as client:
        client.execute("INSERT INTO task_audits (task_id, event_type) VALUES ('t00001', 'next')")
        found = client.execute("SELECT MAX(audit_id) FROM task_audits").fetchone()[0]
    assert found == 301, "the numbers of rows that were deleted are not given again"
    with pytest.raises(PlanRefused, match="already contains rows"):
        copy()


def test_values_that_the_target_cannot_store_are_listed(managed: Any, target: Any) -> None:
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


def test_an_interrupted_copy_is_resumed(managed: Any, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(managed, 100)
    monkeypatch.setattr(copying, "BATCH", 10)
    run = start(operation_called("backups.copy_store", store="agentos", to="agentos_new"))
    insert = copying.TableCopyJob._insert
    calls: list[int] = []

    def dying(self: Any, pairs: Any, *, last: bool) -> None:
        insert(self, pairs, last=last)
        calls.extend([len(pairs)] * (self.table == "tasks"))
        if len(calls) == 5:
            raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(copying.TableCopyJob, "_insert", dying)
        with pytest.raises(Crash):
            work(run)
    seen: list[int] = []

    def counting(self: Any, pairs: Any, *, last: bool) -> None:
        seen.append(len(pairs))
        insert(self, pairs, last=last)

    monkeypatch.setattr(copying.TableCopyJob, "_insert", counting)
    run = work(die(run))
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    assert TableCopy.objects.get(table="tasks").target_rows == 100
    assert len(seen) < 30, "it was resumed, not started again"


# --- what stays behind, and tables that the platform made itself ------------------------------------------------

ODD = 'Runs "of" 100%s'  # a name that is an identifier only in quotes


def prepared(*statements: str) -> Store:
    """Create the documented tables in the target. Return their definitions."""
    store = target_store(Store("agentos", "agentos"), "agentos_new")
    copying.make_tables(store)
    for statement in statements:
        execute(store, statement)
    return Store(store.alias, store.name)


def test_unknown_tables_and_columns_are_named(managed: Any, target: Any) -> None:
    fill(managed, 20)
    managed.execute(f"CREATE TABLE {quoted(ODD)} (run_id INTEGER PRIMARY KEY, {quoted(ODD)} TEXT)")
    managed.execute(f"INSERT INTO {quoted(ODD)} VALUES (1, 'a'), (2, 'b')")
    managed.execute("CREATE TABLE nothing_in_it (x INTEGER)")
    managed.execute(f"ALTER TABLE tasks ADD COLUMN {quoted(ODD)} TEXT")
    managed.execute(f"UPDATE tasks SET {quoted(ODD)} = 'x' WHERE task_id < 't00003'")
    planned = plan_whole(operation_called("backups.copy_store", store="agentos", to="agentos_new"))
    assert planned.reasons["invalid"] == {"unknown_table": 2}
    assert any(ODD in entry["detail"] for entry in planned.sample)
    run = copy()
    assert run.status == Status.NEEDS_ATTENTION
    assert "Not copied: " in run.error
    for named in (f"{ODD} (2 rows)", "nothing_in_it (0 rows)", f"tasks.{ODD} (3 rows)"):
        assert named in run.error
    made = registry.operation("backups.copy_store").result_details(run.pk)
    assert made["stays_behind"] == {"tables": {ODD: 2, "nothing_in_it": 0}, "columns": {f"tasks.{ODD}": 3}}
    assert set(TableCopy.objects.exclude(agrees=None).values_list("agrees", flat=True)) == {True}
    assert len(dump(Store("agentos_new", "agentos"))["tasks"]) == 20


def test_odd_columns_that_both_have_are_copied(managed: Any, target: Any) -> None:
    fill(managed, 5)
    managed.execute(f"ALTER TABLE tasks ADD COLUMN {quoted(ODD)} TEXT")
    managed.execute(f"UPDATE tasks SET {quoted(ODD)} = '100%s'")
    there = prepared(f"ALTER TABLE tasks ADD COLUMN {quoted(ODD)} TEXT")
    run = copy()
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    assert {row[ODD] for row in dump(there)["tasks"].values()} == {"100%s"}


def test_a_table_with_another_key_is_not_copied(managed: Any, target: Any) -> None:
    fill(managed, 5)
    managed.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('t00001', 'intent', 'r')")
    prepared("ALTER TABLE task_lineage RENAME COLUMN lineage_id TO id")
    run = copy()
    assert run.status == Status.NEEDS_ATTENTION
    assert "task_lineage (1 row)" in run.error
    assert TableCopy.objects.get(table="task_lineage").obstacle == "other_key"


def test_generated_columns_are_compared_and_not_written(managed: Any, target: Any) -> None:
    fill(managed, 5)
    managed.execute("ALTER TABLE tasks ADD COLUMN loud TEXT")
    managed.execute("UPDATE tasks SET loud = upper(task_id)")
    stored = "STORED" if managed.engine == "sqlite" else "VIRTUAL"  # the target's engine is the other one
    prepared(f"ALTER TABLE tasks ADD COLUMN loud TEXT GENERATED ALWAYS AS (upper(task_id)) {stored}")
    run = copy()
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    managed.execute("UPDATE tasks SET loud = 'quiet' WHERE task_id = 't00002'")
    clear(Store("agentos_new", "agentos"))
    run = copy()
    assert run.error == "tasks differs from its source."


def test_a_generated_column_of_the_source_is_a_value_elsewhere(managed: Any, target: Any) -> None:
    fill(managed, 5)
    stored = "VIRTUAL" if managed.engine == "sqlite" else "STORED"
    managed.execute(f"ALTER TABLE tasks ADD COLUMN loud TEXT GENERATED ALWAYS AS (upper(task_id)) {stored}")
    there = prepared("ALTER TABLE tasks ADD COLUMN loud TEXT")
    run = copy()
    assert (run.status, run.error) == (Status.SUCCEEDED, "")
    assert dump(there)["tasks"]["t00002"]["loud"] == "T00002"


@pytest.mark.parametrize("managed", ["postgresql"], indirect=True)
def test_partitions_are_their_table_and_heirs_are_not(managed: Any, target: Any) -> None:
    fill(managed, 20)
    managed.execute("DROP TABLE webui_messages")
    managed.execute(
        "CREATE TABLE webui_messages (message_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, role TEXT NOT NULL,"
        " content TEXT NOT NULL, created_at TEXT NOT NULL, metadata TEXT) PARTITION BY HASH (message_id)"
    )
    for rest in (0, 1):
        managed.execute(
            f"CREATE TABLE messages_{rest} PARTITION OF webui_messages FOR VALUES WITH (MODULUS 2, REMAINDER {rest})"
        )
    managed.execute(
        "INSERT INTO webui_sessions (session_id, user_id, created_at, updated_at) VALUES ('s', 'u', '', '')"
    )
    for number in range(20):
        managed.execute("INSERT INTO webui_messages VALUES (?, 's', 'user', 'x', '', NULL)", f"m{number:02}")
    managed.execute("CREATE TABLE more_tasks (more TEXT) INHERITS (tasks)")
    managed.execute("INSERT INTO more_tasks (task_id, title, more) VALUES ('t00001', 'the same key', 'x')")
    run = copy()
    assert run.error == "Not copied: more_tasks (1 row)."
    there = dump(Store("agentos_new", "agentos"))
    assert len(there["webui_messages"]) == len(there["tasks"]) == 20
    assert set(TableCopy.objects.exclude(agrees=None).values_list("agrees", flat=True)) == {True}


def clear(store: Store) -> None:
    for table in ("memory_items", "projects", "task_audits", "tasks", "schema_version"):
        execute(store, f"DELETE FROM {table}")


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE task_audits ALTER audit_id SET GENERATED ALWAYS",),
        ('ALTER SEQUENCE task_audits_audit_id_seq RENAME TO "Zähler 100%s"',),
        (
            "ALTER TABLE task_audits ALTER audit_id DROP IDENTITY",
            "CREATE SEQUENCE own_numbers AS integer",
            "ALTER TABLE task_audits ALTER audit_id SET DEFAULT nextval('own_numbers')",
        ),
        ("ALTER TABLE task_audits ADD COLUMN place BIGSERIAL",),
    ],
    ids=["always", "renamed", "not owned", "second"],
)
def test_a_key_beyond_the_target_and_the_sequences(managed: Any, target: Any, statements: tuple[str, ...]) -> None:
    fill(managed, 30)
    for key in (2**31, 2**31 + 5, 2**63 - 1):
        managed.execute("INSERT INTO task_audits (audit_id, task_id, event_type) VALUES (?, 't00001', 'X')", key)
    if "place" in statements[0]:
        managed.execute("ALTER TABLE task_audits ADD COLUMN place INTEGER")
        managed.execute("UPDATE task_audits SET place = 7000 + audit_id WHERE audit_id < 100")
        managed.execute("UPDATE task_audits SET place = audit_id WHERE place IS NULL")
    there = prepared("ALTER TABLE task_audits ALTER audit_id TYPE integer", *statements)
    run = copy()
    assert run.status == Status.NEEDS_ATTENTION
    record = TableCopy.objects.get(table="task_audits")
    assert {key for key, _reason in record.left} == {2**31, 2**31 + 5, 2**63 - 1}
    assert "out of range for integer" in record.left[0][1]
    assert record.agrees
    assert record.target_rows == 25
    with neighbour(there) as client:
        client.execute("INSERT INTO task_audits (task_id, event_type) VALUES ('t00001', 'next')")
        found = client.execute("SELECT audit_id, * FROM task_audits WHERE event_type = 'next'").fetchone()
    assert found[0] == 26
    if "place" in statements[0]:
        assert found[-1] == 7026


def test_rows_without_a_key_are_counted(managed: Any, target: Any) -> None:
    """A text key of SQLite may be NULL."""
    fill(managed, 5)
    if managed.engine == "sqlite":
        managed.execute("INSERT INTO tasks (task_id, title) VALUES (NULL, 'a'), (NULL, 'b')")
        run = copy()
        assert "2 rows of tasks could not be copied, first: NULL: the row has no key." in run.error
        assert TableCopy.objects.get(table="tasks").agrees


def test_a_resumed_copy_lists_earlier_losses(managed: Any, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(managed, 60)
    monkeypatch.setattr(copying, "BATCH", 10)
    if managed.engine == "sqlite":
        managed.execute("UPDATE tasks SET created_at = 'yesterday' WHERE task_id = 't00003'")
        managed.execute("PRAGMA foreign_keys=OFF")
        left = {"tasks": ["t00003"], "task_audits": [4]}
    else:
        managed.execute("SET session_replication_role = replica")
        managed.execute("UPDATE task_audits SET task_id = 'gone' WHERE audit_id = 4")
        left = {"task_audits": [4]}
    run = start(operation_called("backups.copy_store", store="agentos", to="agentos_new"))
    read = copying.TableCopyJob._read
    calls: list[str] = []

    def dying(self: Any, *asked: Any) -> Any:
        calls.append(self.table)
        if calls.count("task_audits") == 4:
            raise Crash
        return read(self, *asked)

    with monkeypatch.context() as patched:
        patched.setattr(copying.TableCopyJob, "_read", dying)
        with pytest.raises(Crash):
            work(run)
    run = work(die(run))
    assert run.status == Status.NEEDS_ATTENTION
    found = {
        record.table: [key for key, _reason in record.left] for record in TableCopy.objects.filter(left_rows__gt=0)
    }
    assert found == left
    assert set(TableCopy.objects.values_list("agrees", flat=True)) == {True}


def test_values_of_one_type_are_copied_exactly(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between schemas of PostgreSQL, values that Python cannot represent are copied exactly."""
    url = postgres.create_database("exact_source")
    new = postgres.create_database("exact_target")
    own = "options=-c%20search_path%3D%22Mine%5C%20100%25%22"
    for address in (url, new):
        with psycopg.connect(address, autocommit=True) as client:
            client.execute('CREATE SCHEMA "Mine 100%"')
    source = attach_url("agentos", f"{url}?{own}", attached=False)
    monkeypatch.setenv(VARIABLE, f"{new}?{own}")
    there = target_store(source, "agentos_new")
    for store in (source, there):
        copying.make_tables(store)
        with psycopg.connect(url if store is source else new, autocommit=True) as client:
            client.execute('ALTER TABLE "Mine 100%".tasks ADD a numeric, ADD b real, ADD c bytea, ADD d timestamptz(3)')
            client.execute('ALTER TABLE "Mine 100%".tasks ADD e interval, ADD f uuid, ADD g int[], ADD h char(5)')
    with psycopg.connect(url, autocommit=True) as client:
        client.execute(
            'INSERT INTO "Mine 100%".tasks (task_id, title, created_at, a, b, c, d, e, f, g, h) VALUES'
            " ('1', 'x', 'infinity', 1.50, 0.1, '\\x00ff', '0044-03-15 12:00:00 BC', '1 mon -2 days 00:00:01.5',"
            " 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{1,NULL}', 'ab'), ('2', 'x', '-infinity', 'NaN', '-0',"
            " '', 'infinity', NULL, NULL, '{}', '')"
        )
    run = copy()
    assert (run.status, run.error) == (Status.SUCCEEDED, ""), list(run.failed_items.values_list("label", "error"))
    with psycopg.connect(url) as ours, psycopg.connect(new) as theirs:
        rows = [
            client.execute('SELECT tasks::text FROM "Mine 100%".tasks ORDER BY 1').fetchall()
            for client in (ours, theirs)
        ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2
    forget_attached()
    for name in ("exact_source", "exact_target"):
        postgres.drop_database(name)


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_through_a_pooler_in_transaction_mode(
    managed: Any, postgres: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy works in both directions, on connections that other clients have used."""
    fill(managed, 300)
    monkeypatch.setattr(copying, "BATCH", 20)
    folder = tmp_path_factory.mktemp("pooler")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o711)  # PgBouncer runs as another user
    pooler = Pooler(folder, psycopg.conninfo.conninfo_to_dict(postgres.dsn)["port"])
    try:
        for name in ("pooled_one", "pooled_two"):
            url = postgres.create_database(name)
            address = f"postgresql://postgres@127.0.0.1:{pooler.port}/{url.rpartition('/')[2]}?pooler=transaction"
            monkeypatch.setenv(VARIABLE, address)
            run = copy()
            assert (run.status, run.error) == (Status.SUCCEEDED, ""), list(run.failed_items.values_list("error"))
            forget_attached()
            if name == "pooled_one":
                attach_url("agentos", address, attached=False)
        with psycopg.connect(url) as client:
            assert client.execute("SELECT COUNT(*), MAX(audit_id) FROM task_audits").fetchone() == (295, 295)
            assert client.execute("SELECT nextval('task_audits_audit_id_seq')").fetchone() == (301,)
    finally:
        forget_attached()
        pooler.close()
        for name in ("pooled_one", "pooled_two"):
            postgres.drop_database(name)


def test_refusals(managed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanRefused, match=VARIABLE):
        copy()
    with pytest.raises(PlanRefused, match="already the alias of a store"):
        operation_called("backups.copy_store", store="agentos", to="helix")
    for bad in ("postgresql://u:p@h:port/x", "postgresql://u:se/cret@h/x", "postgresql://u:p@h/x?pool_max=many"):
        monkeypatch.setenv(VARIABLE, bad)
        with pytest.raises(PlanRefused) as refused:
            copy()
        assert "cret" not in str(refused.value)
        assert VARIABLE in str(refused.value) or "pool_max" in str(refused.value)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/missing/new.sqlite3")
    with pytest.raises(PlanRefused, match="is not a directory"):
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
        "source_rows": 1, "target_rows": 1, "failed": 0, "agrees": True
    }  # fmt: skip
    # The copy can be used as the store.
    moved = Shell(tmp_path / "console", None, {"AGENTOS_DATABASE_URL": url})
    done = moved.run("setup")
    assert done.returncode == 0, done.stderr
    assert moved.run("copy_store", "agentos", "--to", "helix").returncode == 2
    postgres.drop_database("commanded")
