"""A short form of the migrations of AgentOS: the columns that each adds to the known tables, and how they run.

A migration that adds an existing column fails, and leaves the store between two versions.
"""

from __future__ import annotations

import re
from typing import Any

from opsconsole.stores.store import Store
from tests.support.plain_client import neighbour

NEWEST = 53


def _columns(table: str, *columns: str) -> list[str]:
    return [f"ALTER TABLE {table} ADD COLUMN {column}" for column in columns]


MIGRATIONS: dict[int, list[str]] = {
    1: [
        "CREATE TABLE IF NOT EXISTS schema_version (version TEXT PRIMARY KEY, applied_at TIMESTAMP DEFAULT "
        "CURRENT_TIMESTAMP)",
        "CREATE TABLE IF NOT EXISTS projects (id TEXT PRIMARY KEY, path TEXT NOT NULL, added_at TIMESTAMP DEFAULT "
        "CURRENT_TIMESTAMP)",
    ],
    2: [
        "CREATE TABLE IF NOT EXISTS memory_items (id TEXT PRIMARY KEY, scope TEXT NOT NULL, type TEXT NOT NULL, "
        "content TEXT NOT NULL, tags TEXT, sources TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at "
        "TIMESTAMP DEFAULT CURRENT_TIMESTAMP, confidence REAL DEFAULT 0.5, project_id TEXT)",
    ],
    4: _columns(
        "memory_items",
        "last_used_at TIMESTAMP",
        "use_count INTEGER DEFAULT 0",
        "retention_type TEXT DEFAULT 'project'",
        "expires_at TIMESTAMP",
        "auto_cleanup INTEGER DEFAULT 1",
    ),
    6: [
        "CREATE TABLE IF NOT EXISTS tasks (task_id TEXT PRIMARY KEY, session_id TEXT, title TEXT, status TEXT DEFAULT "
        "'created', created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, "
        "created_by TEXT, metadata TEXT)",
        "CREATE TABLE IF NOT EXISTS task_lineage (id {key}, task_id TEXT NOT NULL, kind TEXT NOT NULL, ref_id TEXT NOT "
        "NULL, phase TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, metadata TEXT)",
        "CREATE TABLE IF NOT EXISTS task_audits (audit_id {key}, task_id TEXT NOT NULL, level TEXT DEFAULT 'info', "
        "event_type TEXT NOT NULL, payload TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)",
        "CREATE INDEX IF NOT EXISTS idx_task_audits_task ON task_audits(task_id)",
        "CREATE INDEX IF NOT EXISTS idx_task_audits_event ON task_audits(event_type)",
    ],
    12: [
        *_columns(
            "tasks",
            "route_plan_json TEXT DEFAULT NULL",
            "requirements_json TEXT DEFAULT NULL",
            "selected_instance_id TEXT DEFAULT NULL",
            "router_version TEXT DEFAULT NULL",
        ),
        "CREATE INDEX IF NOT EXISTS idx_tasks_selected_instance ON tasks(selected_instance_id)",
    ],
    15: [
        *_columns("task_audits", "decision_id TEXT", "source_event_ts TEXT", "supervisor_processed_at TEXT"),
        "CREATE UNIQUE INDEX IF NOT EXISTS idx_task_audits_decision_id ON task_audits(decision_id) "
        "WHERE decision_id IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS idx_task_audits_lag ON task_audits(supervisor_processed_at)",
        "CREATE INDEX IF NOT EXISTS idx_task_audits_event_created ON task_audits(event_type, created_at DESC) "
        "WHERE event_type LIKE 'SUPERVISOR_%'",
    ],
    17: [
        "CREATE TABLE IF NOT EXISTS guardian_verdicts (verdict_id TEXT PRIMARY KEY, task_id TEXT NOT NULL, status TEXT "
        "NOT NULL, created_at TIMESTAMP NOT NULL, verdict_json TEXT NOT NULL)",
        *_columns("task_audits", "verdict_id TEXT"),
    ],
    20: [
        *_columns("task_audits", "repo_id TEXT"),
        "CREATE INDEX IF NOT EXISTS idx_task_audits_repo ON task_audits(repo_id)",
        "CREATE INDEX IF NOT EXISTS idx_task_audits_task_repo ON task_audits(task_id, repo_id)",
    ],
    21: [
        "CREATE INDEX IF NOT EXISTS idx_task_audits_source_event_ts ON task_audits(source_event_ts) "
        "WHERE source_event_ts IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS idx_task_audits_event_source_ts ON task_audits(event_type, source_event_ts) "
        "WHERE source_event_ts IS NOT NULL",
    ],
    25: [
        *_columns(
            "projects",
            "name TEXT NOT NULL DEFAULT ''",
            "description TEXT",
            "status TEXT DEFAULT 'active'",
            "tags TEXT",
            "default_repo_id TEXT",
            "default_workdir TEXT",
            "settings TEXT",
            "created_at TIMESTAMP",
            "updated_at TIMESTAMP",
            "created_by TEXT",
        ),
        "CREATE INDEX IF NOT EXISTS idx_projects_status ON projects(status)",
    ],
    53: ["ALTER TABLE projects RENAME COLUMN id TO project_id"],
}


def migrate(store: Store, to: int = NEWEST) -> int:
    """Run the migrations that the store does not have, as the platform does. Return the earlier version."""
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if store.path is not None else "BIGSERIAL PRIMARY KEY"
    with neighbour(store) as client:
        began = _version(client) if "schema_version" in _tables(client, store) else 0
        for number, statements in MIGRATIONS.items():
            if began < number <= to:
                for statement in statements:
                    client.execute(statement.replace("{key}", key))
                client.execute("INSERT INTO schema_version (version) VALUES (?)", (f"0.{number}.0",))
    return began


def _tables(client: Any, store: Store) -> set[str]:
    catalogue = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if store.path is not None
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    return {row[0] for row in client.execute(catalogue).fetchall()}


def _version(client: Any) -> int:
    """Return the newest version, in one of the two forms that the migrator of the platform knows."""
    numbers = [0]
    for (text,) in client.execute("SELECT version FROM schema_version").fetchall():
        for pattern in (r"0\.(\d+)\.", r"v(\d+)$"):
            if found := re.search(pattern, text):
                numbers.append(int(found[1]))
    return max(numbers)
