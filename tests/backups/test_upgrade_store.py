"""An upgrade adds the documented columns and indexes and nothing else. A second upgrade changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import DatabaseError, transaction
from django.test import Client

from opsconsole.engine import incidents, planner, repairs
from opsconsole.engine.models import Incident, Run, Status
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.wording import figure_rows
from opsconsole.stores import remedies, schema
from opsconsole.stores.indexes import indexes
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, StoreUnavailable, attach_file
from tests.conftest import attach_url, forget_attached
from tests.support import agentos, agentos_versions
from tests.support.contract import execute_run, operation_called, plan_whole
from tests.support.plain_client import dump, execute
from tests.support.plain_client import schema as shape
from tests.support.pooler import Pooler
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")


def upgrade(store: Store) -> Run:
    run = execute_run(operation_called("backups.upgrade_store", store, store=store.name))
    assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    return run


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_an_older_store(make_attached: Any, engine: str) -> None:
    attached = make_attached(engine, 300, version="0.20.0")
    store = attached.store
    assert {"task_audits.source_event_ts", "task_audits.verdict_id"} <= {one.name for one in schema.missing(store)}
    before, before_shape = dump(store), shape(store)
    planned = plan_whole(operation_called("backups.upgrade_store", store, store="agentos"))
    assert "ADD COLUMN" in planned.sample[0]["detail"]
    assert (dump(store), shape(store)) == (before, before_shape), "the plan writes nothing"
    run = upgrade(store)
    fresh = Store(store.alias, store.name)
    assert [one.name for one in schema.missing(fresh) if one.kind != "table"] == ["task_audits.verdict_id"]
    after = dump(store)
    for table, rows in before.items():
        for key, row in rows.items():
            assert {name: after[table][key][name] for name in row} == row
    assert set(after) == set(before), "no table was made"
    assert Backup.objects.get(run=run).is_there
    again = upgrade(fresh)
    assert again.reasons["skipped"] == {"nothing_to_add": 1}
    assert not Backup.objects.filter(run=again).exists()


def test_a_managed_store_is_complete(managed: Any) -> None:
    assert schema.missing(managed.store) == []
    assert upgrade(managed.store).reasons["skipped"] == {"complete": 1}


def test_dropped_columns_come_back_as_documented(managed: Any) -> None:
    """The declarations differ only in parts that no engine adds to existing rows."""
    managed.execute("ALTER TABLE memory_items DROP COLUMN use_count")
    managed.execute("DROP INDEX idx_tasks_session")
    upgrade(Store("agentos", "agentos"))
    managed.execute("INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'task', 'decision', '{}')")
    assert managed.execute("SELECT use_count FROM memory_items") == [(0,)]
    assert "idx_tasks_session" in indexes(Store("agentos", "agentos"))


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
    sqlite3.connect(stranger).execute("CREATE TABLE t (x)").connection.close()
    for words in (("upgrade_store",), ("upgrade_store", "--db-path", stranger)):
        assert shell.run(*words).returncode == 2


def test_a_store_of_another_system_is_refused(tmp_path: Path, empty_console: Path, make_attached: Any) -> None:
    """HELIX has tables of the same names."""
    shell = Shell(tmp_path / "console", empty_console)
    path = make_attached("sqlite", 50).url
    assert "contains the tables of agentos, not of helix" in shell.refused("upgrade_store", "helix", "--db-path", path)
    assert "works on agentos, but --database names helix" in shell.refused(
        "check_store", "agentos", "--database", "helix"
    )


# --- a platform that migrates its store itself -----------------------------------------------------------------

BACKFILL = "audits.backfill_decision_fields"


@pytest.fixture(params=["sqlite", "postgresql"])
def make_versioned(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Return a function that creates an AgentOS store of a version: `make_versioned(20)`."""
    made: list[str] = []

    def make(version: int) -> Store:
        made.append(f"versioned_{len(made)}")
        if request.param == "sqlite":
            path = tmp_path / made[-1]
            with closing(sqlite3.connect(path)) as client:
                client.execute("CREATE TABLE runs (id INTEGER)")
            store = attach_file("agentos", path)
        else:
            forget_attached()
            store = attach_url("agentos", request.getfixturevalue("postgres").create_database(made[-1]))
        agentos_versions.migrate(store, version)
        return Store(store.alias, store.name)

    yield make
    forget_attached()
    for name in made if request.param != "sqlite" else ():
        request.getfixturevalue("postgres").drop_database(name)


def shapes(store: Store) -> dict[str, set[str]]:
    return {table: set(columns) for table, columns in Store(store.alias, store.name).tables.items()}


@pytest.mark.parametrize("version", [2, 4, 6, 12, 15, 17, 20, 21, 25, 53])
def test_the_platform_s_own_migrations_still_run(make_versioned: Any, version: int) -> None:
    other = make_versioned(version)
    agentos_versions.migrate(other)
    wanted = shapes(other)
    forget_attached()
    store = make_versioned(version)
    with suppress(PlanRefused):
        upgrade(store)
    assert agentos_versions.migrate(store) == version
    assert shapes(store) == wanted


def test_columns_that_a_migration_will_add_are_left_to_it(make_versioned: Any) -> None:
    store = make_versioned(12)
    before = shape(store)
    for asked in (
        lambda: execute_run(operation_called(BACKFILL, store)),
        lambda: execute_run(operation_called("backups.upgrade_store", store, store="agentos", needed_by=BACKFILL)),
    ):
        with pytest.raises((StoreUnavailable, PlanRefused)) as refused:
            asked()
        assert (
            "This store is at v12 of AgentOS. The migration v15 of AgentOS adds task_audits.source_event_ts, "
            "task_audits.supervisor_processed_at." in str(refused.value)
        )
        advice, _only, _statements = str(refused.value).partition("Only if AgentOS no longer migrates this store")
        assert "Run the migrations of AgentOS." in advice
        assert "ALTER TABLE" not in advice
    assert shape(store) == before
    agentos_versions.migrate(store, 15)
    run = execute_run(operation_called(BACKFILL, Store(store.alias, store.name)))
    assert run.status == Status.SUCCEEDED


def test_a_plan_names_the_migration_that_also_adds_the_column(make_versioned: Any) -> None:
    """The column is missing although the store is newer than its migration."""
    store = make_versioned(20)
    execute(store, "DROP INDEX idx_task_audits_lag")
    execute(store, "ALTER TABLE task_audits DROP COLUMN supervisor_processed_at")
    store = Store(store.alias, store.name)
    operation = operation_called("backups.upgrade_store", store, store="agentos", needed_by=BACKFILL)
    planned = plan_whole(operation)
    assert "ADD COLUMN" in planned.sample[0]["detail"]
    assert "The migration v15 of AgentOS also adds task_audits.supervisor_processed_at." in planner.advice(planned)
    assert execute_run(operation).status == Status.SUCCEEDED
    assert "supervisor_processed_at" in shapes(store)["task_audits"]
    assert agentos_versions.migrate(store) == 20


def test_a_key_that_is_missing_is_another_shape(make_versioned: Any) -> None:
    store = make_versioned(53)
    before = shape(store)
    with pytest.raises(StoreUnavailable, match="its key is project_id, and the expected key is id") as refused:
        execute_run(operation_called("agentos.archive_projects", store))
    assert "ADD COLUMN" not in str(refused.value)
    with pytest.raises(PlanRefused, match="its key is project_id, and the expected key is id"):
        execute_run(
            operation_called("backups.upgrade_store", store, store="agentos", needed_by="agentos.archive_projects")
        )
    assert shape(store) == before
    planned = plan_whole(operation_called("backups.upgrade_store", store, store="agentos"))
    assert any("The table projects has another shape" in sentence for sentence in planner.advice(planned))
    upgrade(store)
    assert "id" not in shapes(store)["projects"]
    assert "lineage_id" not in shapes(store)["task_lineage"]


def test_printed_statements_do_not_break_migrations_of_the_platform(make_versioned: Any) -> None:
    """The platform's migrations still succeed after the printed statements were executed."""
    other = make_versioned(12)
    agentos_versions.migrate(other)
    wanted = shapes(other)
    store = make_versioned(12)
    check: Any = operation_called("monitoring.check_store", store, store="agentos")
    found = {one.code: one for one in check.run_rule("schema")}
    assert {"absent_table", "pending_migration", "other_shape", "missing_index"} == set(found)
    for one in check.run_rule("schema"):
        if one.code.startswith("missing"):
            execute(store, one.data["statement"])
    assert agentos_versions.migrate(store) == 12
    assert shapes(store) == wanted


def test_an_operation_that_does_not_exist(make_versioned: Any) -> None:
    with pytest.raises(PlanRefused, match="agentos has no operation nothing"):
        plan_whole(operation_called("backups.upgrade_store", make_versioned(20), store="agentos", needed_by="nothing"))


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"])
def test_columns_that_a_revision_of_alembic_will_add(make_roadmaps: Any, engine: str) -> None:
    store = make_roadmaps(engine, {})
    execute(store, "ALTER TABLE roadmap_tasks DROP COLUMN execution_summary")
    fresh = Store(store.alias, store.name)
    assert "roadmap_tasks.execution_summary" in [one.name for one in schema.missing(fresh) if one.kind == "column"]
    execute(store, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    upgrade(Store(store.alias, store.name))
    assert "execution_summary" not in shapes(store)["roadmap_tasks"]
    with pytest.raises(StoreUnavailable, match="The migration add_task_execution_fields of"):
        execute_run(operation_called("roadmaps.sync_results", Store(store.alias, store.name)))


@pytest.mark.parametrize("managed", ["postgresql"], indirect=True)
def test_behind_a_pooler_in_transaction_mode(managed: Any, postgres: Any, tmp_path_factory: Any) -> None:
    """An upgrade is refused, because neither a backup nor a concurrent index works. Search indexes are built."""
    managed.execute("DROP INDEX idx_tasks_session")
    folder = tmp_path_factory.mktemp("pooler")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o711)  # PgBouncer runs as another user
    pooler = Pooler(folder, psycopg.conninfo.conninfo_to_dict(postgres.dsn)["port"])
    try:
        address = f"postgresql://postgres@127.0.0.1:{pooler.port}/{managed.url.rpartition('/')[2]}?pooler=transaction"
        store = attach_url("agentos", address, attached=False)
        with pytest.raises(StoreUnavailable, match="a connection pooler in transaction mode, which cannot dump"):
            execute_run(operation_called("backups.upgrade_store", store, store="agentos"))
        run = execute_run(operation_called("agentos.rebuild_search_index", store))
        assert run.status == Status.SUCCEEDED, [row.error for row in run.failed_items.all()]
    finally:
        forget_attached()
        pooler.close()


# --- indexes whose name is taken ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name_of", ["index", "table"])
def test_an_index_whose_name_is_taken(managed: Any, name_of: str) -> None:
    managed.execute("DROP INDEX idx_tasks_session")
    if name_of == "index":
        managed.execute("CREATE INDEX idx_tasks_session ON tasks (lower(session_id))")
    else:
        managed.execute("CREATE TABLE idx_tasks_session (x INTEGER)")
    store = Store("agentos", "agentos")
    (missing,) = schema.missing(store)
    assert missing.kind == "index"
    upgrade(store)
    assert schema.missing(Store("agentos", "agentos")) == []
    found = indexes(Store("agentos", "agentos"))
    assert found[missing.name].columns == ("session_id",)
    if name_of == "index":
        assert found["idx_tasks_session"].columns == (None,)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("idx_task_audits_decision", "CREATE INDEX idx_task_audits_decision ON task_audits (decision_id)"),
        ("idx_tasks_status", "CREATE INDEX idx_tasks_status ON tasks (status) WHERE status = 'created'"),
        ("idx_tasks_status", "CREATE INDEX idx_tasks_status ON tasks (created_by, status)"),
    ],
    ids=["not unique", "partial", "other columns"],
)
def test_an_index_that_is_not_the_documented_one(managed: Any, name: str, other: str) -> None:
    managed.execute(f"DROP INDEX {name}")
    managed.execute(other)
    assert [one.name for one in schema.missing(Store("agentos", "agentos"))] == [f"{name}_2"]
    upgrade(Store("agentos", "agentos"))
    assert schema.missing(Store("agentos", "agentos")) == []


def test_an_index_without_the_nulls_serves(managed: Any) -> None:
    managed.execute("DROP INDEX idx_tasks_session")
    managed.execute("CREATE INDEX other ON tasks (session_id) WHERE session_id IS NOT NULL")
    assert schema.missing(Store("agentos", "agentos")) == []


class _Undone(Exception):
    """An error that rolls a transaction back."""


def added_again(store: Store) -> int:
    """Drop columns one by one and restore each by the printed statements. Return the number of dropped columns."""
    models = {model._meta.db_table: model for model in store.models()}
    cascade = "" if store.vendor == "sqlite" else " CASCADE"
    gone = set()
    with suppress(_Undone), transaction.atomic(using=store.alias):
        for name in (
            store.query("SELECT name FROM sqlite_master WHERE type = 'index' AND sql > ''") if not cascade else ()
        ):
            store.execute(f'DROP INDEX "{name[0]}"')
        for table, columns in schema.documented(store.name, store.vendor).columns.items():
            for column in columns:
                if column != remedies.key_of(models[table]):
                    with suppress(DatabaseError), transaction.atomic(using=store.alias):
                        store.execute(f'ALTER TABLE "{table}" DROP COLUMN "{column}"{cascade}')
                        gone.add(f"{table}.{column}")
        missing = schema.missing(Store(store.alias, store.name))
        assert {one.name for one in missing if one.kind == "column"} == gone
        for one in missing:
            store.execute(one.statement)
        assert schema.missing(Store(store.alias, store.name)) == []
        raise _Undone
    return len(gone)


def test_every_column_of_agentos_can_be_added_again(managed: Any) -> None:
    assert added_again(managed.store) > 60
    assert schema.missing(Store("agentos", "agentos")) == []


@pytest.mark.parametrize("name", ["helix", "records", "roadmaps"])
def test_every_column_of_the_others_can_be_added_again(name: str) -> None:
    assert added_again(Store(name, name)) > 10


def test_an_invalid_index(managed: Any) -> None:
    if managed.engine == "sqlite":
        return  # SQLite does not have them
    managed.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_tasks_status'::regclass")
    (missing,) = schema.missing(Store("agentos", "agentos"))
    assert missing.statement == 'REINDEX INDEX CONCURRENTLY "idx_tasks_status"'
    upgrade(Store("agentos", "agentos"))
    assert schema.missing(Store("agentos", "agentos")) == []


def test_the_page_of_a_table_with_another_key_explains_it(make_versioned: Any, viewer: Any, client: Client) -> None:
    client.force_login(viewer)
    store = make_versioned(53)
    if store.path is not None:
        attach_url("agentos", f"sqlite:///{store.path}")
    for address in ("/admin/agentos/project/", "/admin/agentos/project/p/change/"):
        page = client.get(address)
        assert page.status_code == 503
        assert "its key is project_id, and the expected key is id" in page.content.decode()
    assert client.get("/admin/agentos/task/").status_code == 200


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_an_upgrade_resolves_the_incident_of_missing_columns(make_attached: Any, engine: str) -> None:
    """The repair works on the whole store, and its end repeats the rule that found the columns."""
    store: Store = make_attached(engine, 30, version="0.20.0").store
    if store.path is not None:
        store = attach_url("agentos", f"sqlite:///{store.path}")
    execute_run(operation_called("monitoring.check_store", store, store="agentos"))
    incident = Incident.objects.get(cause="missing_column")
    assert incidents.title_of(incident) == f"{incident.count} documented columns are missing"
    best = repairs.recommended(repairs.repairs_of(incident))
    assert best is not None
    assert (best.operation.name, best.label[:4]) == ("backups.upgrade_store", "Add ")
    run = upgrade(store)
    ((label, before, after),) = figure_rows(best.operation, run.before, run.after, selected=False)
    assert (label, after) == ("missing columns and indexes", "0")
    assert int(before) >= incident.count
    incident.refresh_from_db()
    assert incident.resolved_run == run
