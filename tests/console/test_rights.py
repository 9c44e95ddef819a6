"""A PostgreSQL role with minimal privileges: missing privileges are reported before a run starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.apps import apps

from opsconsole.engine import registry
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Risk
from opsconsole.stores.router import store_of
from opsconsole.stores.store import StoreUnavailable
from tests.conftest import attach_url
from tests.support.contract import execute_run, operation_called, start, undo

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def restricted(postgres: Any, agentos_template: str) -> Any:
    """Return an AgentOS database with due rows and a read-only role, and the owner's connection."""
    url = postgres.create_database("restricted", like=agentos_template)
    role = postgres.create_role("agentos_ops", "LOGIN PASSWORD 'hunter2'")
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        owner.execute("INSERT INTO tasks (task_id, title) VALUES ('t', 'one')")
        owner.execute("INSERT INTO task_audits (task_id, event_type, payload) VALUES ('t', 'SUPERVISOR_X', '{}')")
        owner.execute(
            "INSERT INTO memory_items (id, scope, type, content, expires_at)"
            " VALUES ('m', 'task', 'decision', '{}', '2020-01-01')"
        )
        store = attach_url("agentos", url.replace("postgres@", f"{role}:hunter2@"))
        yield store, owner, role
        store.close()
    postgres.drop_database("restricted")
    postgres.drop_role("agentos_ops")


def test_a_clean_is_refused_before_it_begins(restricted: Any) -> None:
    store, owner, role = restricted
    with pytest.raises(StoreUnavailable) as refused:
        start(operation_called("agentos.clean_memory_items", store))
    assert "is missing DELETE memory_items" in str(refused.value)
    assert f'GRANT DELETE ON "public"."memory_items" TO "{role}";' in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert Run.objects.get().status == Status.PLANNED
    assert owner.execute("SELECT COUNT(*) FROM memory_items").fetchone() == (1,)
    for statement in str(refused.value).splitlines()[1:]:
        owner.execute(statement)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)
    with pytest.raises(StoreUnavailable, match="is missing INSERT memory_items"):
        undo(run)
    owner.execute(f"GRANT INSERT ON memory_items TO {role}")
    assert undo(run).changed == 1


def test_usage_of_the_schema_of_a_type_is_asked_for_before_the_run(restricted: Any) -> None:
    """The type of a column may be in another schema. SQL that names the type needs USAGE on it."""
    store, owner, role = restricted
    owner.execute(
        "CREATE SCHEMA \"Kinds.of%\"; CREATE TYPE \"Kinds.of%\".mood AS ENUM ('low', 'high');"
        'CREATE DOMAIN "Kinds.of%".day AS date;'
        "ALTER TABLE memory_items ADD COLUMN moods \"Kinds.of%\".mood[] DEFAULT '{low}',"
        ' ADD COLUMN day "Kinds.of%".day;'
        f"GRANT INSERT, UPDATE, DELETE ON memory_items TO {role}"
    )
    grant = f'GRANT USAGE ON SCHEMA "Kinds.of%" TO "{role}";'
    update = "UPDATE memory_items SET {} = NULL WHERE id = 'm'"
    for name, params in (
        ("agentos.clean_memory_items", {}),
        ("operations.change_rows", {"statement": "DELETE FROM memory_items WHERE id = 'm'"}),
        ("operations.change_rows", {"statement": update.format("moods")}),
        ("operations.change_rows", {"statement": update.format("day")}),
    ):
        target = {"store": "agentos"} if params else {}
        with pytest.raises(StoreUnavailable, match=rf"(?s)the role {role} is missing USAGE.*GRANT") as refused:
            start(operation_called(name, store, **target, **params))
        assert str(refused.value).splitlines()[1:] == [grant]
    run = execute_run(
        operation_called("operations.change_rows", store="agentos", statement=update.format("retention_type"))
    )
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)
    owner.execute(grant)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)
    assert undo(run).changed == 1
    assert owner.execute("SELECT moods::text FROM memory_items").fetchone() == ("{low}",)


def test_a_backfill_requires_only_its_two_columns(restricted: Any) -> None:
    store, owner, role = restricted
    with pytest.raises(StoreUnavailable, match=r"is missing UPDATE task_audits\.source_event_ts, UPDATE"):
        start(operation_called("audits.backfill_decision_fields", store))
    owner.execute(f"GRANT UPDATE (source_event_ts, supervisor_processed_at) ON task_audits TO {role}")
    run = execute_run(operation_called("audits.backfill_decision_fields", store))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)


def test_privileges_on_columns_are_sufficient(restricted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a role cannot read the version of a row, with which the console detects changes."""
    store, owner, role = restricted
    columns = ", ".join(store.tables["task_audits"])
    owner.execute(f"REVOKE SELECT ON task_audits FROM {role}")
    owner.execute(
        f"GRANT SELECT ({columns}), UPDATE (source_event_ts, supervisor_processed_at) ON task_audits TO {role}"
    )
    payload = '{"source_event_ts": "new", "supervisor_processed_at": "new"}'
    real, changes = Executor._prepare, [payload]

    def prepare(worker: Executor, *args: Any) -> Any:
        batch = real(worker, *args)
        if changes:
            owner.execute("UPDATE task_audits SET payload = %s", [changes.pop()])
        return batch

    monkeypatch.setattr(Executor, "_prepare", prepare)
    run = execute_run(operation_called("audits.backfill_decision_fields", store))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)
    assert owner.execute("SELECT source_event_ts FROM task_audits").fetchall() == [("new",)]
    assert undo(run).changed == 1


def test_a_trigger_without_a_privilege_fails_its_row(restricted: Any) -> None:
    store, owner, role = restricted
    owner.execute(
        "INSERT INTO memory_items (id, scope, type, content, expires_at)"
        " VALUES ('n', 'task', 'decision', '{}', '2020-01-01');"
        "CREATE TABLE closed (id INTEGER);"
        "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO closed VALUES (1); RETURN OLD; END $$;"
        "CREATE TRIGGER odd BEFORE DELETE ON memory_items FOR EACH ROW WHEN (OLD.id = 'm') EXECUTE FUNCTION odd();"
        f"GRANT INSERT, UPDATE, DELETE ON memory_items TO {role}"
    )
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 1, 1)
    assert "closed" in run.failed_items.get().error


def test_checks_and_measuring_need_to_read_only(restricted: Any) -> None:
    store, _owner, _role = restricted
    assert execute_run(operation_called("monitoring.check_store", store, store="agentos")).status == Status.SUCCEEDED
    assert execute_run(operation_called("audits.check_references", store)).status == Status.SUCCEEDED
    assert execute_run(operation_called("monitoring.measure_stores")).reasons["skipped"]["measured"] == 5


def test_the_documentation_names_every_grant() -> None:
    """docs/production.md lists the columns that the operations of each store write."""
    text = (ROOT / "docs" / "production.md").read_text()
    models = [model for model in apps.get_models() if store_of(model) != "default"]
    keys = {(store_of(model), model._meta.db_table): model._meta.pk.column for model in models}
    for name, cls in registry.operations().items():
        store = getattr(cls, "store_alias", None)
        if registry.targets_run(cls) or store in {None, "default"} or cls.perform is not None or not cls.writes:
            continue
        for table, columns in cls.writes.items():
            if cls.risk == Risk.DELETE and not columns:
                assert re.search(rf"GRANT [A-Z, ]*DELETE[A-Z, ]* ON [\w, ]*\b{table}\b[\w, ]* TO {store}_ops", text), (
                    name
                )
            key = keys[store, table]
            if key in columns:
                assert re.search(rf"GRANT [A-Z, ]*INSERT[A-Z, ]* ON {table} TO {store}_ops", text), name
                continue
            for column in columns:
                found = re.search(rf"GRANT UPDATE \(([^)]*)\) ON {table} TO {store}_ops", text)
                assert found, f"{name}: {table}"
                assert column in found[1].split(", "), f"{name}: {table}.{column}"
