"""Tests of the schema of a managed AgentOS store with a plain client: all documented rules, on both engines."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import psycopg
import pytest
from django.db import IntegrityError
from django.db.models import Model

from opsconsole.stores import schema
from opsconsole.stores.store import attach_file
from tasks.agentos import models
from tests.conftest import Managed

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

REFUSALS = (sqlite3.IntegrityError, psycopg.IntegrityError)

#: The documented table definitions. Tests below cover the document's other statements.
DOCUMENT = """
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    status TEXT DEFAULT 'created',
    session_id TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT,
    metadata TEXT,
    route_plan_json TEXT,
    requirements_json TEXT,
    selected_instance_id TEXT,
    router_version TEXT
);
CREATE TABLE task_lineage (
    lineage_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    ref_id TEXT NOT NULL,
    phase TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE
);
CREATE TABLE task_audits (
    audit_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    repo_id TEXT,
    level TEXT DEFAULT 'info',
    event_type TEXT NOT NULL,
    payload TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    decision_id TEXT,
    source_event_ts TEXT,
    supervisor_processed_at TEXT,
    verdict_id TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE
);
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    added_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    name TEXT NOT NULL DEFAULT '',
    description TEXT,
    status TEXT DEFAULT 'active',
    tags TEXT,
    default_repo_id TEXT,
    default_workdir TEXT,
    settings TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT
);
CREATE TABLE webui_sessions (
    session_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    metadata TEXT
);
CREATE TABLE webui_messages (
    message_id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TEXT NOT NULL,
    metadata TEXT,
    FOREIGN KEY (session_id) REFERENCES webui_sessions(session_id) ON DELETE CASCADE
);
CREATE TABLE project_repos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    repo_path TEXT NOT NULL,
    added_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    UNIQUE(project_id, repo_id),
    FOREIGN KEY (project_id) REFERENCES projects(id) ON DELETE CASCADE
);
CREATE TABLE task_repo_scope (
    scope_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    scope TEXT DEFAULT 'full',
    path_filters TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT,
    FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE
);
CREATE TABLE task_dependency (
    dependency_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    depends_on_task_id TEXT NOT NULL,
    dependency_type TEXT DEFAULT 'blocks',
    reason TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT,
    metadata TEXT,
    UNIQUE(task_id, depends_on_task_id)
);
CREATE TABLE task_artifact_ref (
    artifact_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    repo_id TEXT NOT NULL,
    ref_type TEXT NOT NULL,
    ref_value TEXT NOT NULL,
    summary TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    metadata TEXT
);
CREATE TABLE guardian_verdicts (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    triggered_by TEXT NOT NULL,
    policy_json TEXT NOT NULL,
    decision TEXT NOT NULL,
    reasons_json TEXT,
    created_at TEXT NOT NULL
);
CREATE TABLE supervisor_inbox (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    event_ts TEXT NOT NULL,
    payload_json TEXT,
    status TEXT DEFAULT 'pending',
    processed_at TEXT,
    created_at TEXT NOT NULL
);
CREATE TABLE kb_sources (
    source_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    source_type TEXT NOT NULL,
    source_path TEXT NOT NULL,
    indexed_at TEXT,
    metadata TEXT,
    FOREIGN KEY (project_id) REFERENCES projects(id)
);
CREATE TABLE kb_chunks (
    chunk_id TEXT PRIMARY KEY,
    source_id TEXT NOT NULL,
    content TEXT NOT NULL,
    chunk_index INTEGER NOT NULL,
    metadata TEXT,
    created_at TEXT NOT NULL,
    FOREIGN KEY (source_id) REFERENCES kb_sources(source_id) ON DELETE CASCADE
);
CREATE TABLE kb_embeddings (
    chunk_id TEXT PRIMARY KEY,
    embedding BLOB NOT NULL,
    model_name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    FOREIGN KEY (chunk_id) REFERENCES kb_chunks(chunk_id) ON DELETE CASCADE
);
CREATE TABLE memory_items (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    tags TEXT,
    sources TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    confidence REAL DEFAULT 0.5,
    project_id TEXT,
    last_used_at TIMESTAMP,
    use_count INTEGER DEFAULT 0,
    retention_type TEXT DEFAULT 'project',
    expires_at TIMESTAMP,
    auto_cleanup INTEGER DEFAULT 1,
    FOREIGN KEY (project_id) REFERENCES projects(id)
);
CREATE INDEX idx_tasks_status ON tasks(status);
CREATE INDEX idx_tasks_session ON tasks(session_id);
CREATE INDEX idx_tasks_created ON tasks(created_at DESC);
CREATE INDEX idx_task_audits_task ON task_audits(task_id);
CREATE INDEX idx_task_audits_created ON task_audits(created_at DESC);
CREATE INDEX idx_task_audits_event ON task_audits(event_type);
CREATE INDEX idx_sessions_user_updated ON webui_sessions(user_id, updated_at DESC);
CREATE INDEX idx_messages_session_created ON webui_messages(session_id, created_at ASC);
CREATE INDEX idx_projects_status ON projects(status);
CREATE INDEX idx_projects_status_created ON projects(status, created_at DESC);
CREATE TABLE schema_version (
    version TEXT PRIMARY KEY,
    applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
"""

TABLES = re.findall(r"CREATE TABLE (\w+)", DOCUMENT)
#: Indexes of deployed stores that the document does not list, all on `task_audits`.
DEPLOYED_INDEXES = """
CREATE INDEX idx_task_audits_level ON task_audits(level);
CREATE INDEX idx_task_audits_repo ON task_audits(repo_id);
CREATE INDEX idx_task_audits_task_repo ON task_audits(task_id, repo_id);
CREATE INDEX idx_task_audits_repo_created ON task_audits(repo_id, created_at DESC);
CREATE UNIQUE INDEX idx_task_audits_decision ON task_audits(decision_id) WHERE decision_id IS NOT NULL;
CREATE INDEX idx_task_audits_event_created ON task_audits(event_type, created_at DESC);
CREATE INDEX idx_task_audits_source_ts ON task_audits(source_event_ts) WHERE source_event_ts IS NOT NULL;
CREATE INDEX idx_task_audits_lag ON task_audits(source_event_ts, supervisor_processed_at)
    WHERE source_event_ts IS NOT NULL AND supervisor_processed_at IS NOT NULL;
CREATE INDEX idx_task_audits_event_source_ts ON task_audits(event_type, source_event_ts)
    WHERE source_event_ts IS NOT NULL;
"""

#: A row with only the required values: table → column → value.
MOMENT = "2026-01-20T10:00:00"
ROWS: dict[str, dict[str, object]] = {
    "tasks": {"task_id": "t1", "title": "a task"},
    "task_lineage": {"task_id": "t1", "kind": "intent", "ref_id": "r"},
    "task_audits": {"task_id": "t1", "event_type": "TASK_CREATED"},
    "projects": {"id": "p1", "path": "/srv/p1"},
    "webui_sessions": {"session_id": "s1", "user_id": "u", "created_at": MOMENT, "updated_at": MOMENT},
    "webui_messages": {
        "message_id": "m1",
        "session_id": "s1",
        "role": "user",
        "content": "hello",
        "created_at": MOMENT,
    },
    "project_repos": {"project_id": "p1", "repo_id": "r1", "repo_path": "."},
    "task_repo_scope": {"task_id": "t1", "repo_id": "r1"},
    "task_dependency": {"task_id": "t1", "depends_on_task_id": "t0"},
    "task_artifact_ref": {"task_id": "t1", "repo_id": "r1", "ref_type": "commit", "ref_value": "abc"},
    "guardian_verdicts": {
        "id": "v1",
        "task_id": "t1",
        "triggered_by": "E",
        "policy_json": "{}",
        "decision": "approve",
        "created_at": MOMENT,
    },
    "supervisor_inbox": {"id": "i1", "task_id": "t1", "event_type": "E", "event_ts": MOMENT, "created_at": MOMENT},
    "kb_sources": {"source_id": "k1", "project_id": "p1", "source_type": "file", "source_path": "a.md"},
    "kb_chunks": {"chunk_id": "c1", "source_id": "k1", "content": "text", "chunk_index": 0, "created_at": MOMENT},
    "kb_embeddings": {"chunk_id": "c1", "embedding": b"\x00\x01", "model_name": "m", "created_at": MOMENT},
    "memory_items": {"id": "y1", "scope": "global", "type": "decision", "content": "{}"},
    "schema_version": {"version": "0.26.0"},
}
DEFAULTS: dict[tuple[str, str], object] = {
    ("tasks", "status"): "created",
    ("task_audits", "level"): "info",
    ("projects", "name"): "",
    ("projects", "status"): "active",
    ("task_repo_scope", "scope"): "full",
    ("task_dependency", "dependency_type"): "blocks",
    ("supervisor_inbox", "status"): "pending",
    ("memory_items", "confidence"): 0.5,
    ("memory_items", "use_count"): 0,
    ("memory_items", "retention_type"): "project",
    ("memory_items", "auto_cleanup"): 1,
}
#: Child, its foreign key, parent, and whether a delete of the parent cascades.
REFERENCES = [
    ("task_lineage", "task_id", "tasks", "task_id", True),
    ("task_audits", "task_id", "tasks", "task_id", True),
    ("task_repo_scope", "task_id", "tasks", "task_id", True),
    ("webui_messages", "session_id", "webui_sessions", "session_id", True),
    ("project_repos", "project_id", "projects", "id", True),
    ("kb_chunks", "source_id", "kb_sources", "source_id", True),
    ("kb_embeddings", "chunk_id", "kb_chunks", "chunk_id", True),
    ("kb_sources", "project_id", "projects", "id", False),
    ("memory_items", "project_id", "projects", "id", False),
]


def insert(managed: Managed, table: str, **values: object) -> None:
    row = ROWS[table] | values
    managed.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


def fill(managed: Managed) -> None:
    """Add one row to each table, referenced tables first."""
    for table in TABLES:
        if table != "schema_version":
            insert(managed, table)


def count(managed: Managed, table: str) -> int:
    return int(managed.execute(f"SELECT COUNT(*) FROM {table}")[0][0])


# --- comparison with the documented definitions ------------------------------------------------------------------


def _sqlite_shape(client: sqlite3.Connection) -> dict[str, object]:
    shape: dict[str, object] = {}
    for table in TABLES:
        indexes = {}
        for _, name, unique, origin, partial in client.execute(f"PRAGMA index_list({table})"):
            columns = [row[1:4] for row in client.execute(f"PRAGMA index_xinfo({name})") if row[5]]
            indexes[name] = (unique, origin, partial, columns)
        sql = client.execute("SELECT sql FROM sqlite_master WHERE name = ?", [table]).fetchone()[0]
        shape[table] = {
            "columns": client.execute(f"PRAGMA table_info({table})").fetchall(),
            "references": sorted(row[2:7] for row in client.execute(f"PRAGMA foreign_key_list({table})")),
            "indexes": indexes,
            "counts up": "AUTOINCREMENT" in sql,
        }
    return shape


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_sqlite_has_the_documented_schema(managed: Managed) -> None:
    with closing(sqlite3.connect(":memory:")) as reference:
        reference.executescript(DOCUMENT + DEPLOYED_INDEXES)
        expected = _sqlite_shape(reference)
    assert _sqlite_shape(managed.client) == expected


_COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable, is_identity, column_default
    FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position
"""
_REFERENCES = """
    SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype IN ('f', 'u', 'p') AND connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"


@pytest.mark.parametrize("managed", ["postgresql"], indirect=True)
def test_postgresql_has_the_documented_schema(managed: Managed, postgres) -> None:
    document = (
        (DOCUMENT + DEPLOYED_INDEXES)
        .replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
        .replace("DEFAULT CURRENT_TIMESTAMP", "DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC')")
        .replace("BLOB", "BYTEA")
    )
    try:
        with psycopg.connect(postgres.create_database("document_001"), autocommit=True) as reference:
            reference.execute(document)
            for query in (_COLUMNS, _REFERENCES, _INDEXES):
                expected = reference.execute(query).fetchall()
                made = managed.execute(query)
                assert [row for row in expected if row not in made] == []
                ours = [row for row in made if row not in expected]
                # The console adds the indexes of the search.
                assert all(re.search("django_migrations|_search", str(row)) for row in ours), ours
    finally:
        postgres.drop_database("document_001")


# --- rules for a plain client ------------------------------------------------------------------------------------


def test_required_columns_are_enough_and_the_rest_has_its_default(managed: Managed) -> None:
    fill(managed)
    for (table, column), value in DEFAULTS.items():
        assert managed.execute(f"SELECT {column} FROM {table}") == [(value,)], (table, column)
    now = "CAST(CURRENT_TIMESTAMP AS TEXT)" if managed.engine == "sqlite" else "CAST(now() AT TIME ZONE 'UTC' AS TEXT)"
    (clock,) = managed.execute(f"SELECT {now}")
    for table, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\);", DOCUMENT, re.DOTALL):
        for column in re.findall(r"(\w+) TIMESTAMP DEFAULT CURRENT_TIMESTAMP", body):
            (written,) = managed.execute(f"SELECT CAST({column} AS TEXT) FROM {table} LIMIT 1")
            assert written[0][:16] <= clock[0][:16]
            assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", written[0]), (table, column)


@pytest.mark.parametrize("table", ROWS)
def test_required_columns_are_not_nullable(managed: Managed, table: str) -> None:
    fill(managed)
    if table == "schema_version":
        insert(managed, table)
    for column in ROWS[table]:
        if managed.engine == "sqlite" and f"{column} TEXT PRIMARY KEY" in DOCUMENT:
            continue  # as documented: SQLite accepts NULL in a text key
        with pytest.raises(REFUSALS, match=r"(?i)not.null"):
            managed.execute(f"UPDATE {table} SET {column} = NULL")


def test_keys_are_unique(managed: Managed) -> None:
    fill(managed)
    for table, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\);", DOCUMENT, re.DOTALL):
        key = re.findall(r"(\w+) (?:TEXT|INTEGER) PRIMARY KEY", body)[0]
        (value,) = managed.execute(f"SELECT {key} FROM {table} LIMIT 1")
        with pytest.raises(REFUSALS):
            insert(managed, table, **{key: value[0]})


def test_keys_of_deleted_rows_are_not_reused(managed: Managed) -> None:
    fill(managed)
    for table, key in (("task_lineage", "lineage_id"), ("task_dependency", "dependency_id")):
        (first,) = managed.execute(f"SELECT {key} FROM {table}")
        managed.execute(f"DELETE FROM {table}")
        insert(managed, table)
        assert managed.execute(f"SELECT {key} FROM {table}")[0][0] > first[0]


@pytest.mark.parametrize(("table", "other"), [("project_repos", "repo_id"), ("task_dependency", "depends_on_task_id")])
def test_pairs_are_unique(managed: Managed, table: str, other: str) -> None:
    fill(managed)
    insert(managed, table, **{other: "another"})
    with pytest.raises(REFUSALS):
        insert(managed, table)


def test_a_project_has_a_documented_status(managed: Managed) -> None:
    for number, status in enumerate(("active", "archived", "deleted", None)):
        insert(managed, "projects", id=f"p{number}", status=status)
    with pytest.raises(REFUSALS):
        insert(managed, "projects", id="x", status="paused")
    with pytest.raises(REFUSALS):
        managed.execute("UPDATE projects SET status = 'Active'")


@pytest.mark.parametrize(("child", "column", "parent", "key", "cascades"), REFERENCES)
def test_references_hold(managed: Managed, child: str, column: str, parent: str, key: str, cascades: bool) -> None:
    fill(managed)
    managed.execute(f"UPDATE {child} SET {column} = {column}")
    if child == "memory_items":
        managed.execute("UPDATE memory_items SET project_id = 'p1'")
    with pytest.raises(REFUSALS):
        managed.execute(f"UPDATE {child} SET {column} = 'nowhere'")
    if cascades:
        if parent == "projects":
            managed.execute("DELETE FROM kb_sources")
        managed.execute(f"DELETE FROM {parent}")
        assert count(managed, child) == 0
    else:
        others = {"kb_sources", "memory_items"} - {child}
        for other in others:
            managed.execute(f"DELETE FROM {other}")
        with pytest.raises(REFUSALS):
            managed.execute(f"DELETE FROM {parent}")
        assert count(managed, child) == 1


def test_references_without_a_documented_key_may_dangle(managed: Managed) -> None:
    for table in ("task_dependency", "task_artifact_ref", "guardian_verdicts", "supervisor_inbox"):
        insert(managed, table, task_id="nobody's")
        assert count(managed, table) == 1


# --- JSON --------------------------------------------------------------------------------------------------------

BROKEN = ("", " ", "{", "{'a': 1}", "[1,]", "nope", "NaN", '{"a": 1} x')
VALID = ("[]", '["a", "b"]', "{}", '"text"', "1.50", "null", '{"a": "\\u0000"}', '{"a": 1, "a": 2}')


@pytest.mark.parametrize("column", ["tags", "settings"])
def test_a_project_takes_only_json(managed: Managed, column: str) -> None:
    insert(managed, "projects", id="null", **{column: None})
    for number, document in enumerate(VALID):
        insert(managed, "projects", id=f"p{number}", **{column: document})
        managed.execute(f"UPDATE projects SET {column} = ? WHERE id = 'null'", document)
    for document in BROKEN:
        with pytest.raises(REFUSALS, match=f"Invalid {column}: must be valid JSON"):
            insert(managed, "projects", id="x", **{column: document})
        with pytest.raises(REFUSALS, match=f"Invalid {column}: must be valid JSON"):
            managed.execute(f"UPDATE projects SET {column} = ?", document)
    stored = managed.execute(f"SELECT {column} FROM projects WHERE id <> 'null' ORDER BY id")
    assert [row[0] for row in stored] == list(VALID)  # byte for byte


def test_an_old_project_with_broken_json_can_still_be_renamed(managed: Managed) -> None:
    insert(managed, "projects")
    if managed.engine == "sqlite":
        definition = managed.execute("SELECT sql FROM sqlite_master WHERE name = 'check_projects_tags_json_update'")
        managed.execute("DROP TRIGGER check_projects_tags_json_update")
        managed.execute("UPDATE projects SET tags = 'broken'")
        managed.execute(definition[0][0])
    else:
        managed.execute("ALTER TABLE projects DISABLE TRIGGER USER")
        managed.execute("UPDATE projects SET tags = 'broken'")
        managed.execute("ALTER TABLE projects ENABLE TRIGGER USER")
    managed.execute("UPDATE projects SET name = 'new', settings = '{}'")
    assert managed.execute("SELECT name, tags FROM projects") == [("new", "broken")]
    with pytest.raises(REFUSALS):
        managed.execute("UPDATE projects SET name = 'newer', tags = tags")


def test_other_json_columns_store_any_text_unchanged(managed: Managed) -> None:
    fill(managed)
    columns = {
        "tasks": ("metadata", "route_plan_json", "requirements_json"),
        "task_lineage": ("metadata",),
        "task_audits": ("payload",),
        "webui_sessions": ("metadata",),
        "webui_messages": ("metadata",),
        "task_repo_scope": ("path_filters", "metadata"),
        "task_dependency": ("metadata",),
        "task_artifact_ref": ("metadata",),
        "guardian_verdicts": ("policy_json", "reasons_json"),
        "supervisor_inbox": ("payload_json",),
        "kb_sources": ("metadata",),
        "kb_chunks": ("metadata",),
        "memory_items": ("content", "tags", "sources"),
    }
    tables = {model._meta.db_table: model for model in managed.store.models()}
    for table, names in columns.items():
        for name in names:
            managed.execute(f"UPDATE {table} SET {name} = ?", "{broken")
        assert tables[table]._base_manager.values_list(*names).get() == ("{broken",) * len(names)


# --- the store in the console ------------------------------------------------------------------------------------


def test_nothing_is_missing_and_nothing_is_unknown(managed: Managed) -> None:
    assert managed.store.missing() == []
    assert managed.store.unknown() == []
    assert managed.store.version() == "0.25.0"
    assert {model._meta.db_table for model in managed.store.models()} == set(TABLES) - {"schema_version"}


def test_every_model_reads_what_a_plain_client_wrote(managed: Managed) -> None:
    fill(managed)
    for model in managed.store.models():
        row = model._base_manager.get()
        assert str(row)
        for column, value in ROWS[model._meta.db_table].items():
            found = getattr(row, column)
            assert (bytes(found) if isinstance(value, bytes) else found) == value
    project = models.Project.objects.get()
    assert [str(repo) for repo in models.ProjectRepo.objects.filter(project=project)] == ["r1"]
    assert models.KbEmbedding.objects.select_related("chunk").get().chunk == models.KbChunk.objects.get()


def test_rows_made_by_the_console_have_the_same_defaults(managed: Managed) -> None:
    models.Task.objects.create(task_id="a", title="a")
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('b', 'b')")
    models.MemoryItem.objects.create(id="a", scope="global", type="decision", content="{}")
    managed.execute("INSERT INTO memory_items (id, scope, type, content) VALUES ('b', 'global', 'decision', '{}')")
    made: tuple[type[Model], ...] = (models.Task, models.MemoryItem)
    for model in made:
        ours, theirs = model._base_manager.order_by("pk")
        for field in model._meta.concrete_fields:
            value, other = getattr(ours, field.attname), getattr(theirs, field.attname)
            if field.name.endswith("_at") and other:
                assert value[:16] <= other[:16]
            elif not field.primary_key and field.name != "title":
                assert value == other, field.name


def test_the_console_obeys_check_constraints_too(managed: Managed) -> None:
    for refused in ({"tags": "broken"}, {"status": "paused"}):
        with pytest.raises(IntegrityError):
            models.Project.objects.create(id="p", path="/", **refused)


def test_existing_tables_are_not_changed(managed: Managed) -> None:
    fill(managed)
    assert schema.make_tables(managed.store) == []
    assert count(managed, "tasks") == count(managed, "task_audits") == 1
    assert managed.execute("SELECT version FROM schema_version") == [("0.25.0",)]


def test_an_older_attached_store_lists_its_missing_columns(tmp_path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as client:
        client.executescript(DOCUMENT)
        client.executescript(
            "DROP INDEX idx_projects_status; DROP INDEX idx_projects_status_created;"
            "ALTER TABLE projects DROP COLUMN status; ALTER TABLE projects DROP COLUMN settings;"
            "DROP TABLE kb_embeddings; INSERT INTO schema_version (version) VALUES ('0.9.0'), ('0.24.0');"
        )
    store = attach_file("agentos", path)
    assert set(store.missing()) == {"kb_embeddings", "projects.status", "projects.settings"}
    assert store.version() == "0.24.0"
    store.close()
