"""Rows that appear or change during a run: each write has its before-image, each row is counted once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError

from audits.models import TaskAudit
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Status
from opsconsole.engine.operation import depends_on_row_alone
from opsconsole.stores import rows
from opsconsole.stores.errors import ErrorKind, classify
from opsconsole.stores.store import Store
from tests.agentos.test_clean_memory_items import DDL
from tests.conftest import attach_url
from tests.helix.test_clean_dirty_jobs import confirmed
from tests.support import agentos, helix
from tests.support.contract import execute_run, left_by, operation_called, plan_whole, start, undo, work
from tests.support.plain_client import dump, execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix"])
INSERT = "INSERT INTO tasks (job_id, agent_id, status, input_data) VALUES (1, 'AGENT_1', 'PENDING', '{}')"


def url_of(store: Store) -> str:
    config = store.connection.settings_dict
    return f"postgresql://{config['USER']}@{config['HOST']}:{config['PORT']}/{config['NAME']}"


def test_no_row_can_refer_to_a_row_that_a_delete_has_locked(make_helix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cascade of the delete would remove the new row without a before-image."""
    store = make_helix("postgresql-enum", helix.one_of_each())
    before = dump(store)
    refused: list[str] = []
    real = rows.write

    def insert_before(*args: Any, **options: Any) -> int:
        with psycopg.connect(url_of(store), options="-c lock_timeout=200ms", autocommit=True) as platform:
            try:
                platform.execute(INSERT)
            except psycopg.errors.LockNotAvailable as error:
                refused.append(str(error))
        return real(*args, **options)

    run = confirmed(store, 1)
    monkeypatch.setattr(rows, "write", insert_before)
    run = work(run)
    monkeypatch.undo()
    assert len(refused) == 6  # before the delete from each table, and before its trial restore
    assert run.status == Status.SUCCEEDED
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_a_parent_with_a_new_child_is_not_deleted(
    make_helix: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_helix(engine, helix.one_of_each())
    run = confirmed(store, 1)
    real = Executor._prepare
    done: list[bool] = []

    def insert_after(worker: Executor, *args: Any) -> Any:
        batch = real(worker, *args)
        if not done:
            done.append(True)
            execute(store, INSERT)
        return batch

    monkeypatch.setattr(Executor, "_prepare", insert_after)
    run = work(run)
    assert left_by(run)["skipped"] == {"changed_since_plan": ["1"]}
    assert 1 in dump(store)["jobs"]
    assert sum(row["agent_id"] == "AGENT_1" for row in dump(store)["tasks"].values()) >= 1


def test_a_row_that_is_due_again_needs_attention(make_attached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform empties a column again during the run. Only the store shows it, not the counters of the run."""
    store = make_attached("sqlite", 60).store
    real = Executor._finish
    done: list[bool] = []

    def empty_before(worker: Executor) -> Any:
        if not done:
            done.append(True)
            key = worker.run.batches.get(number=1).writes[0].rows[0][0]
            execute(store, f"UPDATE task_audits SET source_event_ts = NULL WHERE audit_id = {key}")
        return real(worker)

    monkeypatch.setattr(Executor, "_finish", empty_before)
    run = execute_run(operation_called("audits.backfill_decision_fields", store))
    assert run.status == Status.NEEDS_ATTENTION
    assert "1 row is still in scope" in run.error


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_rows_in_scope_are_processed_again_after_other_writes(
    make_attached: Any, engine: str, disturbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invalid rows are processed again if another client has written to the SQLite file, or to a row on PostgreSQL."""
    store = make_attached(engine, 60).store
    operation = operation_called("audits.backfill_decision_fields", store)
    invalid = next(row["key"] for row in plan_whole(operation).sample if row["outcome"] == "invalid")
    real, judged = type(operation).process, []

    def change(self: Any, row: Any) -> Any:
        judged.append(row.pk)
        return real(self, row)

    monkeypatch.setattr(type(operation), "process", change)
    if store.vendor == "postgresql":
        wait_for_older_transactions(store)
    run = start(operation)
    if disturbed:
        touch = "UPDATE task_audits SET level = level WHERE audit_id = ?"
        after_reading(monkeypatch, lambda: execute(store, touch, [invalid]))
    run = work(run)
    assert run.invalid > 0
    assert run.status == Status.SUCCEEDED
    assert len(judged) == run.total + (run.invalid if disturbed else 0)


def wait_for_older_transactions(store: Store) -> None:
    """Other tests share the server. While one of their transactions is older than a row, the row may have changed."""
    for _try in range(200):
        changed = rows.changed_since(store, "task_audits", rows.mark(store))
        if not TaskAudit.objects.using(store.alias).filter(changed).exists():
            return
        time.sleep(0.05)
    raise TimeoutError


def test_only_rows_of_one_table_depend_on_nothing_else(make_attached: Any) -> None:
    operation = operation_called("audits.backfill_decision_fields", make_attached("sqlite", 5).store)
    rows = operation.queryset()
    assert depends_on_row_alone(operation, rows)
    assert not depends_on_row_alone(operation, rows.filter(pk__in=rows.values("pk")))
    assert not depends_on_row_alone(operation, rows.filter(task__title=""))
    assert not depends_on_row_alone(operation, rows.none())


# --- classes of errors -----------------------------------------------------------------------------------


def postgres_error(state: str) -> Exception:
    error = OperationalError("odd")
    error.__cause__ = psycopg.errors.lookup(state)("odd")
    return error


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ("40001 40P01 55P03 57014 57P01 57P03 08006 53300", ErrorKind.TRANSIENT),
        ("22001 22P02 22003 23505 23503 23P01 44000 54000 21000 P0001", ErrorKind.ROW),
        ("53100 25006 58030", ErrorKind.RESOURCE),
        ("42P01 42703 42501 0A000 XX000 57P04 3F000 28P01", ErrorKind.PERMANENT),
    ],
)
def test_errors_of_postgresql_by_their_state(states: str, kind: ErrorKind) -> None:
    assert {state: classify(postgres_error(state)) for state in states.split()} == dict.fromkeys(states.split(), kind)


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_BUSY_SNAPSHOT), ErrorKind.TRANSIENT),
        ((sqlite3.SQLITE_CONSTRAINT_TRIGGER, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_TOOBIG), ErrorKind.ROW),
        ((sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR_WRITE), ErrorKind.RESOURCE),
        ((sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB), ErrorKind.PERMANENT),
    ],
)
def test_errors_of_sqlite_by_their_code(codes: tuple[int, ...], kind: ErrorKind) -> None:
    for code in codes:
        cause = sqlite3.OperationalError("whatever it says: database is locked, disk full, readonly")
        cause.sqlite_errorcode = code
        error = DatabaseError("odd")
        error.__cause__ = cause
        assert classify(error) == kind, code


def test_an_error_raised_by_a_trigger_fails_its_row(make_helix: Any) -> None:
    """The trigger may use any SQLSTATE, even that of a deadlock."""
    store = make_helix("postgresql-enum", [helix.Job("FAILED")], triggers=False)
    execute(
        store,
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END $$",
    )
    execute(store, "CREATE TRIGGER odd BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION odd()")
    with pytest.raises(OperationalError) as raised:
        store.execute("DELETE FROM jobs")
    assert classify(raised.value) == ErrorKind.ROW


ITEM = "INSERT INTO memory_items (id, scope, type, content, expires_at) VALUES (?, 'task', 'decision', '{}', ?)"


def fresh(make_attached: Any, engine: str) -> Store:
    store: Store = make_attached(engine, 20).store
    execute(store, "DROP TABLE IF EXISTS memory_items")
    return store


def with_items(store: Store, ddl: str, *statements: str, keys: Sequence[str] = ("mem0", "mem1", "mem2")) -> Store:
    execute(store, ddl)
    for key in keys:
        execute(store, ITEM, [key, "2020-01-01 00:00:00"])
    for statement in statements:
        execute(store, statement)
    return Store(store.alias, store.name)


BROKEN_TRIGGER = {  # errors of its statements have class 42, which elsewhere belongs to the whole run
    "42P01": "INSERT INTO no_such_table VALUES (1);",
    "42703": "SELECT no_such_column INTO STRICT gone FROM memory_items;",
    "42883": "PERFORM no_such_function(1);",
    "42804": "RAISE EXCEPTION 'no' USING ERRCODE = '42804';",
}


@pytest.mark.parametrize("state", BROKEN_TRIGGER)
def test_a_statement_that_is_refused_within_a_trigger_fails_its_row(make_attached: Any, state: str) -> None:
    store = with_items(
        fresh(make_attached, "postgresql-text"),
        DDL,
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ DECLARE gone TEXT; BEGIN {BROKEN_TRIGGER[state]} RETURN OLD; END $$",
        "CREATE TRIGGER odd BEFORE DELETE ON memory_items FOR EACH ROW WHEN (OLD.id = 'mem1') EXECUTE FUNCTION odd()",
    )
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 2, 1)
    assert list(dump(store)["memory_items"]) == ["mem1"]


# --- unusual tables -------------------------------------------------------------


def test_a_reference_to_a_partition_keeps_its_row(make_attached: Any) -> None:
    store = make_attached("postgresql-text", 20).store
    execute(store, "DROP TABLE IF EXISTS memory_items")
    store = with_items(
        store,
        f"{DDL} PARTITION BY HASH (id);"
        "CREATE TABLE part0 PARTITION OF memory_items FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TABLE child (ref TEXT REFERENCES part0 (id) ON DELETE CASCADE)",
        "INSERT INTO child VALUES ('mem1')",
    )
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 2, 1)
    assert "child" in run.failed_items.get().error
    assert list(dump(store)["part0"]) == ["mem1"]


def test_a_reference_compares_as_its_parent_does(make_attached: Any) -> None:
    store = with_items(
        make_attached("sqlite", 20).store,
        DDL.replace("id TEXT PRIMARY KEY", "id TEXT PRIMARY KEY COLLATE NOCASE"),
        "CREATE TABLE child (ref TEXT REFERENCES memory_items (id) ON DELETE CASCADE)",
        "INSERT INTO child VALUES ('MEM1')",
    )
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 2, 1)
    assert list(dump(store)["memory_items"]) == ["mem1"]


@pytest.mark.parametrize(("parent", "child"), [("C", "en-x-icu"), ("en-x-icu", "C"), ("tr-x-icu", "und-x-icu")])
def test_a_reference_between_collations_keeps_its_row(make_attached: Any, parent: str, child: str) -> None:
    store = with_items(
        fresh(make_attached, "postgresql-text"),
        DDL.replace("id TEXT PRIMARY KEY", f'id TEXT COLLATE "{parent}" PRIMARY KEY'),
        f'CREATE TABLE child (ref TEXT COLLATE "{child}" REFERENCES memory_items (id) ON DELETE CASCADE)',
        "INSERT INTO child VALUES ('mem1')",
    )
    before = dump(store)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 2, 1)
    assert "child" in run.failed_items.get().error
    assert undo(run).changed == 2
    assert dump(store) == before


LETTERS = ("i", "I", "ı", "İ", "iI", "Iı")


@pytest.mark.parametrize("rules", ["LOCALE 'tr_TR.utf8'", "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'"])
def test_turkish_letters_are_four_letters(postgres: Any, rules: str) -> None:
    """The database folds I to ı and i to İ, in names and values."""
    name = f"turkish{postgres.suffix}"
    with psycopg.connect(postgres.dsn, autocommit=True) as client:
        client.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        try:
            client.execute(f"CREATE DATABASE {name} TEMPLATE template0 {rules}")
        except (psycopg.errors.WrongObjectType, psycopg.errors.InvalidParameterValue):
            pytest.skip("the locale tr_TR.utf8 is missing: locale-gen tr_TR.UTF-8")
    url = postgres.url("turkish")
    agentos.create_postgres(url, 60)
    store = attach_url("agentos", url)
    with psycopg.connect(url, autocommit=True) as platform:
        platform.execute("DROP TABLE IF EXISTS memory_items")
        platform.execute('CREATE TABLE "Iıİi" (ref TEXT)')
        for number, letter in enumerate(LETTERS):
            payload = f'{{"source_event_ts": "{letter}", "supervisor_processed_at": "{letter}"}}'
            platform.execute(
                "UPDATE task_audits SET event_type = %s, payload = %s, source_event_ts = NULL WHERE audit_id ="
                " (SELECT audit_id FROM task_audits ORDER BY audit_id LIMIT 1 OFFSET %s)",
                [f"supervisor_{letter}" if number % 2 else f"SUPERVISOR_{letter}", payload, number],
            )
    store = with_items(
        store,
        DDL,
        'ALTER TABLE "Iıİi" ADD FOREIGN KEY (ref) REFERENCES memory_items (id) ON DELETE CASCADE',
        "INSERT INTO \"Iıİi\" VALUES ('ı')",
        "ALTER TABLE memory_items ADD COLUMN \"ıI\" TEXT DEFAULT 'İi'",
        keys=LETTERS,
    )
    before = dump(store)
    filled = backfill(store)
    audits = [dump(store)["task_audits"][key] for key in sorted(before["task_audits"])][: len(LETTERS)]
    assert [row["source_event_ts"] for row in audits] == list(LETTERS)
    assert filled.status == Status.SUCCEEDED
    cleaned = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (cleaned.changed, list(dump(store)["memory_items"])) == (len(LETTERS) - 1, ["ı"])
    assert "Iıİi" in cleaned.failed_items.get().error
    assert undo(cleaned).changed == cleaned.changed
    assert undo(filled).changed == filled.changed
    assert dump(store) == before
    store.close()
    postgres.drop_database("turkish")


def test_a_trigger_of_any_name_is_detected(make_attached: Any) -> None:
    store = with_items(
        make_attached("sqlite", 20).store,
        DDL,
        "CREATE TRIGGER on_begin_delete BEFORE DELETE ON memory_items WHEN OLD.id = 'mem1'"
        " BEGIN SELECT RAISE(IGNORE); END",
    )
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert "trigger on_begin_delete on memory_items" in run.failed_items.get().error
    assert (run.status, run.changed) == (Status.NEEDS_ATTENTION, 2)


def test_a_column_named_like_a_type_keeps_its_values(make_attached: Any) -> None:
    store = with_items(
        make_attached("sqlite", 20).store,
        DDL,
        "ALTER TABLE memory_items ADD COLUMN \"when [timestamp]\" TEXT DEFAULT '2026-01-01 00:00:00'",
    )
    before = dump(store)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert run.changed == 3
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


@pytest.mark.parametrize("type_", ["NAME", "DATE", "TIMESTAMP"])
def test_a_type_that_truncates_a_value_fails_the_row(make_attached: Any, type_: str) -> None:
    store = make_attached("postgresql-text", 20).store
    execute(store, f"ALTER TABLE task_audits ALTER source_event_ts TYPE {type_} USING NULL")
    execute(store, "UPDATE task_audits SET supervisor_processed_at = 'x', event_type = 'OTHER'")
    payload = '{"source_event_ts": "2026-01-20T09:59:58+02:00' + ("x" * 60 if type_ == "NAME" else "") + '"}'
    key = min(dump(store)["task_audits"])
    execute(store, "UPDATE task_audits SET event_type = 'SUPERVISOR_X', payload = ? WHERE audit_id = ?", [payload, key])
    run = execute_run(operation_called("audits.backfill_decision_fields", Store(store.alias, store.name)))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 0, 1)
    assert dump(store)["task_audits"][key]["source_event_ts"] is None


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_a_row_that_keeps_changing_does_not_delay_others(
    make_attached: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = with_items(make_attached(engine, 20).store, DDL)
    real, ticks = Executor._prepare, iter(range(1, 1000))

    def change_after(worker: Executor, *args: Any) -> Any:
        batch = real(worker, *args)
        execute(store, f"UPDATE memory_items SET use_count = {next(ticks)} WHERE id = 'mem1'")
        return batch

    monkeypatch.setattr(Executor, "_prepare", change_after)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.changed, run.skipped) == (2, 1)
    assert list(dump(store)["memory_items"]) == ["mem1"]


# --- values that depend on columns which change -------------------------------------------------------

PAYLOAD = '{"source_event_ts": "new", "supervisor_processed_at": "new"}'


def after_reading(monkeypatch: pytest.MonkeyPatch, call: Any, *, times: int = 1) -> None:
    """Run `call` `times` times after a batch is processed and before it is written."""
    real, left = Executor._prepare, [call] * times

    def prepare(worker: Executor, writes: Any, *rest: Any) -> Any:
        batch = real(worker, writes, *rest)
        if left and writes:
            left.pop()()
        return batch

    monkeypatch.setattr(Executor, "_prepare", prepare)


def backfill(store: Store, **options: Any) -> Any:
    return execute_run(operation_called("audits.backfill_decision_fields", store), **options)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_a_value_from_an_outdated_column_is_not_written(
    make_attached: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client changes the payload, which the run reads and does not write."""
    store = make_attached(engine, 60).store
    rows_before = dump(store)["task_audits"]
    backfilled = backfill(store)
    keys = [row[0] for batch in backfilled.batches.order_by("number") for write in batch.writes for row in write.rows]
    undo(backfilled)
    key = keys[len(keys) // 2]
    after_reading(
        monkeypatch, lambda: execute(store, f"UPDATE task_audits SET payload = '{PAYLOAD}' WHERE audit_id = {key}")
    )
    run = backfill(store)
    found = dump(store)["task_audits"][key]
    assert (found["source_event_ts"], found["supervisor_processed_at"]) == ("new", "new")
    assert (run.status, run.changed, run.skipped) == (Status.SUCCEEDED, backfilled.changed, 0)
    undo(run)
    assert dump(store)["task_audits"] == rows_before | {key: rows_before[key] | {"payload": PAYLOAD}}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_a_row_whose_payload_keeps_changing_is_skipped(
    make_attached: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_attached(engine, 60).store
    whole = backfill(store)
    key = whole.batches.first().writes[0].rows[0][0]
    undo(whole)
    ticks = iter(range(1000))

    def touch() -> None:
        payload = f'{{"source_event_ts": "{next(ticks)}", "supervisor_processed_at": "x"}}'
        execute(store, "UPDATE task_audits SET payload = ? WHERE audit_id = ?", [payload, key])

    after_reading(monkeypatch, touch, times=100)
    run = backfill(store)
    assert (run.changed, left_by(run)["skipped"]) == (whole.changed - 1, {"changed_concurrently": [str(key)]})
    assert dump(store)["task_audits"][key]["source_event_ts"] is None


def test_rows_younger_than_an_open_transaction_are_written(make_attached: Any) -> None:
    """Their versions do not show whether they changed since they were read, so they are locked and read again."""
    store = make_attached("postgresql-text", 60).store
    with psycopg.connect(url_of(store)) as other:
        other.execute("SELECT pg_current_xact_id()")
        execute(store, "UPDATE task_audits SET payload = payload")
        run = backfill(store, batch_size=7)
    assert run.status == Status.SUCCEEDED
    assert run.changed == run.total - run.invalid
    assert undo(run).status == Status.SUCCEEDED


# --- rows that delete each other ---------------------------------------------------------------------------------

CIRCLE = DDL.replace(
    "id TEXT PRIMARY KEY", "id TEXT PRIMARY KEY, next TEXT REFERENCES memory_items (id) ON DELETE CASCADE"
)
# BEFORE, because AFTER triggers of PostgreSQL fire when the statement has deleted all its rows.
SIBLING = {
    "sqlite": "CREATE TRIGGER sibling AFTER DELETE ON memory_items WHEN OLD.id = 'mem0'"
    " BEGIN DELETE FROM memory_items WHERE id = 'mem1'; END",
    "postgresql-text": """
        CREATE FUNCTION sibling() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM memory_items WHERE id = 'mem1'; RETURN OLD; END $$;
        CREATE TRIGGER sibling BEFORE DELETE ON memory_items FOR EACH ROW WHEN (OLD.id = 'mem0')
        EXECUTE FUNCTION sibling()
    """,
}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
@pytest.mark.parametrize("size", [4, 2000])
def test_rows_that_delete_each_other_are_deleted_and_restored(make_attached: Any, engine: str, size: int) -> None:
    """Small rows are deleted by one statement, documents by one each. The first one triggers the rest."""
    store = with_items(
        fresh(make_attached, engine),
        CIRCLE,
        f"UPDATE memory_items SET content = '{'x' * size}'",
        "UPDATE memory_items SET next = CASE id WHEN 'mem0' THEN 'mem1' WHEN 'mem1' THEN 'mem2' ELSE 'mem0' END",
    )
    before = dump(store)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed, run.skipped, run.failed) == (Status.SUCCEEDED, 3, 0, 0)
    assert not dump(store)["memory_items"]
    assert undo(run).changed == 3
    assert dump(store) == before


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
@pytest.mark.parametrize("batch_size", [1, 1000])
def test_no_trigger_deletes_a_row_of_the_run_without_its_image(
    make_attached: Any, engine: str, batch_size: int
) -> None:
    """The trigger of one row deletes another row of the same batch or of a later one."""
    store = with_items(fresh(make_attached, engine), DDL, SIBLING[engine])
    before = dump(store)
    run = execute_run(operation_called("agentos.clean_memory_items", store), batch_size=batch_size)
    kept = dump(store)["memory_items"]
    assert (run.changed, run.skipped, run.failed) == (3 - len(kept), 0, len(kept))
    if kept:
        assert list(kept) == ["mem0"]
        assert run.status == Status.NEEDS_ATTENTION
        assert "sibling" in run.failed_items.get().error
    else:
        assert run.status == Status.SUCCEEDED
    assert undo(run).changed == run.changed
    assert dump(store) == before
