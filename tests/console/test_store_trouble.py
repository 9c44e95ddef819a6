"""A store that is locked, slow or down: the answers of pages and API, and their waiting time."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connections
from django.test import Client

from opsconsole.console import store_errors
from opsconsole.engine import lifecycle
from opsconsole.env import database_url
from opsconsole.stores.config import database
from opsconsole.stores.errors import is_lock
from opsconsole.stores.postgresql import base as pooled
from tests.conftest import attach_url
from tests.support.contract import TESTER, execute_run, operation_called, plan_whole

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
BACKFILL = "audits.backfill_decision_fields"
AUDITS = "/admin/audits/taskaudit/"


@pytest.fixture(autouse=True)
def _not_known_to_be_locked(monkeypatch: pytest.MonkeyPatch, bob: Any, client: Client) -> Iterator[None]:
    monkeypatch.setattr(settings, "STORE_LOCK_SECONDS", 0.5)
    store_errors._locked_until.clear()
    client.force_login(bob)
    client.get(AUDITS)  # the first page of a process compiles templates
    yield
    store_errors._locked_until.clear()


@contextmanager
def locked_table(url: str, table: str) -> Iterator[int]:
    """Lock the table as `ALTER TABLE` does. Yield the process that holds the lock."""
    with psycopg.connect(url, application_name="nightly migration") as holder, holder.transaction():
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield holder.info.backend_pid


@contextmanager
def locked_file(path: str) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


@pytest.fixture
def locked(request: pytest.FixtureRequest, make_attached: Any) -> Iterator[Any]:
    """Create a plan and a finished run of an AgentOS store, and lock its audits. Yield the expected message."""
    engine = request.param
    made = make_attached(engine, 30)
    if engine == "sqlite":
        with closing(sqlite3.connect(made.url)) as file:
            file.execute("PRAGMA journal_mode=DELETE")
        store = attach_url("agentos", f"sqlite:///{made.url}")
        store.connection.settings_dict["OPTIONS"]["timeout"] = 0.5
        lock: Any = locked_file(made.url)
    else:
        store = attach_url("agentos", f"{made.url}?options=-c%20lock_timeout%3D500")
        lock = locked_table(made.url, "task_audits")
    plan = lifecycle.create_run(plan_whole(operation_called(BACKFILL, store)), TESTER)
    run = execute_run(operation_called(BACKFILL, store))
    store.close()
    with lock as pid:
        said = ["is locked", *(["task_audits", "nightly migration", str(pid)] if pid else [str(os.getpid())])]
        yield plan, run, said


both = pytest.mark.parametrize("locked", ["sqlite", "postgresql-jsonb"], indirect=True)


class _Clock:
    """A stop watch for the longest statement."""

    longest = 0.0

    def __init__(self) -> None:
        _Clock.longest = 0.0

    def __call__(self, execute: Any, *statement: Any) -> Any:
        began = time.monotonic()
        try:
            return execute(*statement)
        finally:
            _Clock.longest = max(_Clock.longest, time.monotonic() - began)


@both
def test_pages_of_a_locked_store_name_the_process_that_locks_it(locked: Any, bob: Any, client: Client) -> None:
    plan, _run, said = locked
    client.force_login(bob)
    asks: list[Any] = [
        lambda: client.get(AUDITS),
        lambda: client.get(f"{AUDITS}1/change/"),
        lambda: client.get(f"{AUDITS}coverage/"),
        lambda: client.post(f"/admin/operations/{BACKFILL}/plan/"),
        lambda: client.post(f"/admin/operations/run/{plan.pk}/replan/"),
    ]
    for number, ask in enumerate(asks):
        started = time.monotonic()
        response = ask()
        took = time.monotonic() - started
        text = response.content.decode()
        assert response.status_code == 503, (number, text[-2000:])
        assert [words for words in said if words not in text] == [], number
        assert took < 4, number  # SQLite alone would wait 5 s for each statement


@both
def test_pages_without_a_store_are_not_affected(locked: Any, bob: Any, client: Client) -> None:
    plan, run, said = locked
    client.force_login(bob)
    for path in ("/admin/", "/metrics", "/readyz", "/admin/operations/", f"/admin/operations/run/{run.pk}/change/"):
        assert client.get(path).status_code == 200, path
    shown = client.get(
        f"/admin/operations/run/{plan.pk}/change/"
    )  # it reads the catalogue; a file is locked as a whole
    assert shown.status_code == (200 if "task_audits" in said else 503)


@both
def test_the_stores_page_shows_the_error_of_a_store(locked: Any, bob: Any, client: Client) -> None:
    client.force_login(bob)
    response = client.get("/admin/stores/")
    assert response.status_code == 200
    assert response.content.decode().count("is locked") == 1


@both
def test_a_process_that_knows_of_a_lock_waits_briefly(locked: Any, bob: Any, client: Client) -> None:
    client.force_login(bob)
    waited = []
    for _load in range(2):
        with connections["agentos"].execute_wrapper(_Clock()):
            assert client.get(AUDITS).status_code == 503
        waited.append(_Clock.longest)
    assert waited[0] > 0.4
    assert waited[1] < 0.4


def test_a_page_recovers_when_the_lock_is_released(make_attached: Any, bob: Any, client: Client) -> None:
    made = make_attached("postgresql-jsonb", 30)
    attach_url("agentos", f"{made.url}?options=-c%20lock_timeout%3D500")
    client.force_login(bob)
    with locked_table(made.url, "task_audits"):
        assert client.get(AUDITS).status_code == 503
        assert client.get(AUDITS).status_code == 503
    assert client.get(AUDITS).status_code == 200
    assert made.store.query("SHOW lock_timeout") == [("500ms",)], "the connection has its usual limit again"


def test_one_request_waits_for_a_file_once(make_attached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each statement of SQLite has its own time limit, which would add up on a page."""
    made = make_attached("sqlite", 30)
    store = attach_url("agentos", f"sqlite:///{made.url}")
    limit = store_errors.WaitLimit("agentos")
    with closing(sqlite3.connect(made.url, isolation_level=None, check_same_thread=False)) as holder:
        with connections["agentos"].execute_wrapper(limit):
            for _statement in range(5):
                holder.execute("BEGIN IMMEDIATE")
                free = threading.Timer(0.3, holder.execute, ["ROLLBACK"])
                free.start()
                with suppress(OperationalError):
                    store.execute("BEGIN IMMEDIATE")
                    store.execute("ROLLBACK")
                free.join()
        limit.end()
    assert limit.error is not None
    assert is_lock(limit.error)
    assert store.query("PRAGMA busy_timeout") == [(5000,)]


def test_a_statement_of_sqlite_that_takes_too_long_is_stopped(
    bob: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_errors, "STATEMENT_SECONDS", 0.2)
    client.force_login(bob)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n"
    from audits.admin import TaskAuditAdmin

    monkeypatch.setattr(TaskAuditAdmin, "columns", lambda self, request: self.store(request).query(endless))
    started = time.monotonic()
    response = client.get(AUDITS)
    assert response.status_code == 503
    assert b"took too long" in response.content
    assert time.monotonic() - started < 3


def test_a_server_that_never_answers_delays_few_requests(bob: Any, client: Client) -> None:
    """The server accepts connections and never responds, like a firewall that drops packets."""
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        connections["agentos"].close()
        del connections["agentos"]
        connections.settings["agentos"] = database(
            database_url(f"postgresql://nobody@127.0.0.1:{hanging.getsockname()[1]}/gone"),
            password="",
            attached=True,
            pool=True,
        )
        connections.configure_settings(connections.settings)
        client.force_login(bob)
        taken = []
        for _load in range(3):
            started = time.monotonic()
            response = client.get(AUDITS)
            taken.append(time.monotonic() - started)
            assert response.status_code == 503
            assert "cannot be reached" in response.content.decode()
        connections["agentos"].close_pool()  # type: ignore[attr-defined]
        pooled._unanswered.clear()
    assert taken[0] > 1
    assert min(taken[1:]) < 1


@both
def test_the_api_names_the_process_that_locks_a_store(locked: Any, bob: Any, client: Client) -> None:
    from opsconsole.api.endpoints import api

    said = locked[2]
    client.force_login(bob)
    request: Any = client.get("/admin/").wsgi_request
    request.store_wait_limits = []
    try:
        connections["agentos"].cursor().execute("SELECT COUNT(*) FROM task_audits")
    except Exception as error:  # noqa: BLE001
        response = api.on_exception(request, error)
    message = response.content.decode()
    assert response.status_code == 503
    assert [words for words in said if words not in message] == []


def test_problems_of_the_console_database_are_reported_clearly(
    bob: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(bob)
    path = str(settings.DATABASES["default"]["NAME"])
    connections["default"].close()
    monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "timeout", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        response = client.post("/admin/operations/freeze/", {"note": "hold it"})
        holder.execute("ROLLBACK")
    connections["default"].close()
    assert response.status_code == 503
    assert "is locked" in response.content.decode()
