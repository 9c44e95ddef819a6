from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.stores import platforms


class AgentosConfig(platforms.StoreAppConfig):
    name = "tasks.agentos"
    verbose_name = "AgentOS"
    store = "agentos"
    store_title = "AgentOS"
    icons = {
        "task": "task",
        "tasklineage": "timeline",
        "taskreposcope": "rule_folder",
        "taskdependency": "account_tree",
        "taskartifactref": "inventory_2",
        "project": "workspaces",
        "projectrepo": "folder_code",
        "webuisession": "forum",
        "webuimessage": "chat",
        "kbsource": "library_books",
        "kbchunk": "article",
        "kbembedding": "scatter_plot",
        "memoryitem": "neurology",
    }
    identifiers = {"task": ("session_id",), "webuimessage": ("session_id",)}
    json_columns = {
        "tasks": ("metadata", "route_plan_json", "requirements_json"),
        "task_lineage": ("metadata",),
        "projects": ("tags", "settings"),
        "webui_sessions": ("metadata",),
        "webui_messages": ("metadata",),
        "task_repo_scope": ("path_filters", "metadata"),
        "task_dependency": ("metadata",),
        "task_artifact_ref": ("metadata",),
        "kb_sources": ("metadata",),
        "kb_chunks": ("metadata",),
        "memory_items": ("content", "tags", "sources"),
    }
    hot_queries = (
        platforms.by("tasks", "status"),
        platforms.by("tasks", "session_id"),
        platforms.newest("tasks", "created_at"),
        platforms.by("webui_sessions", "user_id", order="updated_at DESC"),
        platforms.by("webui_messages", "session_id", order="created_at ASC"),
        platforms.by("projects", "status", "'active'", order="created_at DESC"),
    )
    pages = (
        platforms.PlatformPage(
            "search/",
            "tasks.agentos.views.search_page",
            "search",
            _("Search"),
            "search",
            ("agentos.view_memoryitem", "agentos.view_kbchunk"),
        ),
    )
    server_memory = {"shared_buffers": "256MB", "effective_cache_size": "1GB", "work_mem": "4MB"}
