"""A managed HELIX store: documented types, keys, checks, cascades, triggers and the view, on both engines."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from django.test import Client

from opsconsole.engine.models import Status
from opsconsole.stores import schema
from opsconsole.stores.store import Store
from tasks.helix import demo
from tasks.helix.models import HelixArtifact, HelixJob, HelixTask
from tests.conftest import attach_url, forget_attached
from tests.support.contract import execute_run, operation_called, undo
from tests.support.plain_client import dump, execute, neighbour

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
REFUSALS = (sqlite3.IntegrityError, psycopg.errors.IntegrityError, psycopg.errors.DataError)


@pytest.fixture(params=("sqlite", "postgresql"))
def store(request: pytest.FixtureRequest, tmp_path: Any, settings: Any) -> Iterator[Store]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/helix.sqlite3"
        with closing(sqlite3.connect(tmp_path / "helix.sqlite3")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    else:
        url = request.getfixturevalue("postgres").create_database("helix_managed")
    store = attach_url("helix", url, attached=False)
    schema.make_tables(store)
    yield store
    forget_attached()
    if request.param == "postgresql":
        request.getfixturevalue("postgres").drop_database("helix_managed")


def test_the_demo_has_each_type_and_can_be_cleaned(store: Store) -> None:
    assert len(list(demo.load())) == 1
    assert list(demo.load()) == []
    assert 35 <= HelixJob.objects.count() <= 45
    before = dump(store)
    scan = execute_run(operation_called("helix.scan_dirty_data"))
    assert {code: scan.after[code] for code in "ABCDEF"} == {"A": 1, "B": 1, "C": 1, "D": 1, "E": 2, "F": 1}
    run = execute_run(operation_called("helix.clean_dirty_jobs"))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 6)
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


def test_the_documented_rules(store: Store) -> None:
    def refused(sql: str) -> None:
        with neighbour(store) as connection, pytest.raises(REFUSALS):
            connection.execute(sql)

    job = "INSERT INTO jobs (id, status, initial_request) VALUES (1, 'IN_PROGRESS', '{}')"
    task = "INSERT INTO tasks (id, job_id, agent_id, input_data) VALUES (1, 1, 'AGENT_1', '{}')"
    artifact = "INSERT INTO artifacts (id, task_id, name, schema_id, payload) VALUES (%d, 1, 'brief', 'v1', '{}')"
    for sql in (job, task, artifact % 1):
        execute(store, sql)
    refused("INSERT INTO jobs (status, initial_request) VALUES ('DONE', '{}')")
    refused("INSERT INTO jobs (status) VALUES ('PENDING')")
    refused(artifact % 2)
    with neighbour(store) as connection:
        assert connection.execute("SELECT id, job_id FROM pending_tasks").fetchall() == [(1, 1)]
        (updated,) = connection.execute("SELECT updated_at FROM tasks").fetchone()
        connection.execute("UPDATE tasks SET status = 'ASSIGNED'")
        assert connection.execute("SELECT updated_at FROM tasks").fetchone()[0] != updated
        if store.vendor == "sqlite":
            connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM jobs")
    assert not HelixTask.objects.exists()
    assert not HelixArtifact.objects.exists()


def test_tables_are_created_once(store: Store) -> None:
    execute(store, "INSERT INTO jobs (id, status, initial_request) VALUES (1, 'IN_PROGRESS', '{}')")
    assert schema.make_tables(store) == []
    assert HelixJob.objects.get().pk == 1


def test_lists_and_pages(store: Store, client: Client, viewer: Any) -> None:
    list(demo.load())
    client.force_login(viewer)
    job = HelixJob.objects.filter(tasks__status="FAILED").latest("pk")
    task, artifact = job.tasks.latest("pk"), HelixArtifact.objects.latest("pk")
    for name, pk in (("helixjob", job.pk), ("helixtask", task.pk), ("helixartifact", artifact.pk)):
        assert client.get(f"/admin/helix/{name}/").status_code == 200
        assert client.get(f"/admin/helix/{name}/{pk}/change/").status_code == 200
    for name in ("agentprompt", "systemlog"):
        assert client.get(f"/admin/helix/{name}/").status_code == 200
        assert client.get(f"/admin/helix/{name}/1/change/").status_code == 200
    for query in ("?status__exact=FAILED", "?session_id=session-001", f"?q={job.pk}", "?created_at_from=2026-01-01"):
        assert client.get(f"/admin/helix/helixjob/{query}").status_code == 200
    for query in (f"?job_id={job.pk}", "?job_id=abc", "?status__exact=RETRYING", "?agent_id=AGENT_1"):
        assert client.get(f"/admin/helix/helixtask/{query}").status_code == 200
    assert client.post("/admin/helix/helixjob/add/").status_code == 403


def test_an_attached_store_with_a_missing_table(store: Store, client: Client, viewer: Any) -> None:
    execute(store, "DROP TABLE system_logs")
    client.force_login(viewer)
    page = client.get("/admin/helix/systemlog/")
    assert page.status_code == 503
    assert "does not contain the table system_logs" in page.content.decode()
