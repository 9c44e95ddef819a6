from __future__ import annotations

from opsconsole.stores import platforms


class HelixConfig(platforms.StoreAppConfig):
    name = "tasks.helix"
    verbose_name = "HELIX"
    store = "helix"
    store_title = "HELIX"
    icons = {
        "helixjob": "work",
        "helixtask": "smart_toy",
        "helixartifact": "deployed_code",
        "agentprompt": "terminal",
        "systemlog": "receipt_long",
    }
    identifiers = {"helixjob": ("session_id",)}
    json_columns = {
        "jobs": ("initial_request",),
        "tasks": ("input_data", "output_data"),
        "artifacts": ("payload",),
        "system_logs": ("metadata",),
    }
    hot_queries = (
        platforms.by("jobs", "status", "'FAILED'"),
        platforms.by("tasks", "status", "'FAILED'"),
        platforms.by("tasks", "job_id", "1"),
        platforms.by("artifacts", "task_id", "1"),
    )
