"""Rows that appear or change while a run works: none goes without its before-image, none is counted twice."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError

from opsconsole.operations.models import Status
from opsconsole.operations.runner import Runner
from opsconsole.stores import rows
from opsconsole.stores.errors import ErrorKind, classify
from opsconsole.stores.store import Store
from tests import helix
from tests.contract import execute_run, left_by, operation_called, undo, work
from tests.outside import dump, execute
from tests.test_clean_dirty_jobs import confirmed

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix"])
INSERT = "INSERT INTO tasks (job_id, agent_id, status, input_data) VALUES (1, 'AGENT_1', 'PENDING', '{}')"


def url_of(store: Store) -> str:
    config = store.connection.settings_dict
    return f"postgresql://{config['USER']}@{config['HOST']}:{config['PORT']}/{config['NAME']}"


def test_no_row_begins_to_refer_to_what_a_delete_has_locked(make_helix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cascade would take the new row away, and no image would hold it."""
    store = make_helix("postgresql-enum", helix.one_of_each())
    before = dump(store)
    refused: list[str] = []
    real = rows.write

    def insert_before(*args: Any) -> int:
        with psycopg.connect(url_of(store), options="-c lock_timeout=200ms", autocommit=True) as platform:
            try:
                platform.execute(INSERT)
            except psycopg.errors.LockNotAvailable as error:
                refused.append(str(error))
        return real(*args)

    run = confirmed(store, 1)
    monkeypatch.setattr(rows, "write", insert_before)
    run = work(run)
    monkeypatch.undo()
    assert len(refused) == 6  # before each table is deleted from, and before each is restored on trial
    assert run.status == Status.SUCCEEDED
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_a_row_that_appears_before_the_lock_leaves_its_parent_alone(
    make_helix: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_helix(engine, helix.one_of_each())
    run = confirmed(store, 1)
    real = Runner._prepare
    done: list[bool] = []

    def insert_after(worker: Runner, *args: Any) -> Any:
        batch = real(worker, *args)
        if not done:
            done.append(True)
            execute(store, INSERT)
        return batch

    monkeypatch.setattr(Runner, "_prepare", insert_after)
    run = work(run)
    assert left_by(run)["skipped"] == {"changed_since": ["1"]}
    assert 1 in dump(store)["jobs"]
    assert sum(row["agent_id"] == "AGENT_1" for row in dump(store)["tasks"].values()) >= 1


def test_a_row_that_is_due_again_needs_attention(make_attached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform empties a column again while the run still works: the counters do not know, the store does."""
    store = make_attached("sqlite", 60).store
    real = Runner._finish
    done: list[bool] = []

    def empty_before(worker: Runner) -> Any:
        if not done:
            done.append(True)
            key = worker.run.batches.get(number=1).writes[0].rows[0][0]
            execute(store, f"UPDATE task_audits SET source_event_ts = NULL WHERE audit_id = {key}")
        return real(worker)

    monkeypatch.setattr(Runner, "_finish", empty_before)
    run = execute_run(operation_called("audits.backfill_decision_fields", store))
    assert run.status == Status.NEEDS_ATTENTION
    assert "1 row in scope" in run.error


# --- what an error means -----------------------------------------------------------------------------------


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


def test_an_error_that_a_trigger_raises_is_its_rows(make_helix: Any) -> None:
    """Whatever state it carries: a deadlock of the trigger's own making is none."""
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
