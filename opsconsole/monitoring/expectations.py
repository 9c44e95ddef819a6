"""What is expected of each store beside its models: columns that hold JSON, and the questions asked all the time."""

from __future__ import annotations

from typing import NamedTuple

# Store → table → columns that hold JSON where they are not NULL.
JSON_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "agentos": {
        "tasks": ("metadata", "route_plan_json", "requirements_json"),
        "task_lineage": ("metadata",),
        "task_audits": ("payload",),
        "projects": ("tags", "settings"),
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
    },
    "helix": {
        "jobs": ("initial_request",),
        "tasks": ("input_data", "output_data"),
        "artifacts": ("payload",),
        "system_logs": ("metadata",),
    },
    "records": {"test_records": ("ai_models_used", "questions_used")},
    "roadmaps": {
        "roadmap_tasks": ("user_request", "failed_concepts", "execution_summary"),
        "roadmap_metadata": ("framework_data",),
        "resource_recommendation_metadata": ("resources", "search_queries_used"),
        "quiz_metadata": ("questions",),
    },
}


class HotQuery(NamedTuple):
    """A question that the platform or the console asks all the time: `table` must be read by an index."""

    name: str
    table: str
    columns: tuple[str, ...]  # that it compares, and that the store must have
    sql: str


def _newest(table: str, order: str) -> HotQuery:
    return HotQuery(f"newest {table}", table, (order,), f"SELECT * FROM {table} ORDER BY {order} DESC LIMIT 100")


def _by(table: str, column: str, value: str = "'x'", order: str = "") -> HotQuery:
    sql = f"SELECT * FROM {table} WHERE {column} = {value}"
    columns: tuple[str, ...] = (column,)
    if order:
        sql, columns = f"{sql} ORDER BY {order} LIMIT 100", (column, order.split()[0])
    return HotQuery(f"{table} by {' and '.join(columns)}", table, columns, sql)


HOT_QUERIES: dict[str, tuple[HotQuery, ...]] = {
    "agentos": (
        _by("tasks", "status"),
        _by("tasks", "session_id"),
        _newest("tasks", "created_at"),
        _by("task_audits", "task_id"),
        _by("task_audits", "event_type"),
        _newest("task_audits", "created_at"),
        _by("webui_sessions", "user_id", order="updated_at DESC"),
        _by("webui_messages", "session_id", order="created_at ASC"),
        _by("projects", "status", "'active'", order="created_at DESC"),
    ),
    "helix": (
        _by("jobs", "status", "'FAILED'"),
        _by("tasks", "status", "'FAILED'"),
        _by("tasks", "job_id", "1"),
        _by("artifacts", "task_id", "1"),
    ),
    "records": (_by("test_records", "execution_id"),),
    "roadmaps": (
        _by("roadmap_tasks", "status", "'processing'"),
        _by("roadmap_tasks", "roadmap_id"),
        _by("tutorial_metadata", "roadmap_id"),
        _by("resource_recommendation_metadata", "roadmap_id"),
        _by("quiz_metadata", "roadmap_id"),
    ),
}

# Document 001, for a server that AgentOS has to itself.
SERVER_MEMORY = {"shared_buffers": "256MB", "effective_cache_size": "1GB", "work_mem": "4MB"}
