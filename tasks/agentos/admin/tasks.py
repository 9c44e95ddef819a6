"""Pages of tasks and of the rows that belong to them."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter

from opsconsole.console.store_admin import DateRangeFilter, ExactTextFilter, linked, related_rows
from opsconsole.formatting import copy_button, truncate
from opsconsole.stores.store import Store
from tasks.agentos import dependency_graph
from tasks.agentos.admin.base import AgentosAdmin
from tasks.agentos.models import Task, TaskArtifactRef, TaskDependency, TaskLineage, TaskRepoScope


@admin.register(Task)
class TaskAdmin(AgentosAdmin):
    list_display = ("title", "task_id", "status", "session_id", "created_at", "updated_at")
    suggestions = {"status": ("created", "planned", "running", "paused", "completed", "failed", "cancelled")}
    list_filter = (("status", ExactTextFilter), ("session_id", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("task_id", "session_id")
    search_help_text = gettext_lazy("Searches a task's or a session's exact identifier.")
    documents = ("metadata", "route_plan_json", "requirements_json")
    formatters = {
        "title": lambda title: truncate(title, 120) if title else _("(no title)"),
        "task_id": copy_button,
        "session_id": linked("agentos.webuisession"),
    }
    fieldsets = (
        (None, {"fields": ("task_id", "title", "status", "session_id", "created_at", "updated_at", "created_by")}),
        (gettext_lazy("Documents"), {"fields": (*documents, "selected_instance_id", "router_version")}),
    )
    related_panels = (
        (gettext_lazy("Dependencies"), {"fields": ("dependencies",)}),
        (gettext_lazy("Lineage"), {"fields": ("lineage",)}),
        (gettext_lazy("Repositories"), {"fields": ("repo_scopes", "artifacts")}),
        (gettext_lazy("Governance"), {"fields": ("newest_audits", "verdicts")}),
    )
    required_tables = {"dependencies": ("task_dependency",)}

    @admin.display(description=gettext_lazy("dependencies"))
    def dependencies(self, task: Task, store: Store) -> str:
        return dependency_graph.drawing(dependency_graph.neighbourhood(store, task.pk))

    lineage = related_rows(
        "agentos.TaskLineage",
        "task_id",
        ("lineage_id", "kind", "ref_id", "phase", "created_at"),
        title=gettext_lazy("lineage"),
        link_to_all=gettext_lazy("All lineage of this task"),
        formatters={"ref_id": copy_button},
    )
    repo_scopes = related_rows(
        "agentos.TaskRepoScope",
        "task_id",
        ("scope_id", "repo_id", "scope", "path_filters"),
        title=gettext_lazy("scope"),
        link_to_all=gettext_lazy("All scopes of this task"),
        formatters={"repo_id": copy_button},
    )
    artifacts = related_rows(
        "agentos.TaskArtifactRef",
        "task_id",
        ("artifact_id", "ref_type", "ref_value", "repo_id", "summary", "created_at"),
        title=gettext_lazy("artifacts"),
        link_to_all=gettext_lazy("All artifacts of this task"),
        formatters={"ref_value": copy_button, "repo_id": copy_button},
    )
    newest_audits = related_rows(
        "audits.TaskAudit",
        "task_id",
        ("audit_id", "event_type", "level", "created_at"),
        title=gettext_lazy("newest audits"),
        link_to_all=gettext_lazy("All audits of this task"),
    )
    verdicts = related_rows(
        "audits.GuardianVerdict",
        "task_id",
        ("id", "decision", "triggered_by", "reasons_json", "created_at"),
        title=gettext_lazy("verdicts"),
        link_to_all=gettext_lazy("All verdicts of this task"),
    )


@admin.register(TaskLineage)
class TaskLineageAdmin(AgentosAdmin):
    list_display = ("lineage_id", "task_id", "kind", "ref_id", "phase", "created_at")
    list_filter = (("task_id", ExactTextFilter), ("kind", ChoicesRadioFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("lineage_id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an entry and a task's exact identifier.")
    documents = ("metadata",)
    formatters = {"ref_id": copy_button}
    fieldsets = ((None, {"fields": (*list_display, "metadata")}),)


@admin.register(TaskRepoScope)
class TaskRepoScopeAdmin(AgentosAdmin):
    list_display = ("scope_id", "task_id", "repo_id", "scope", "path_filters", "created_at")
    list_filter = (
        ("task_id", ExactTextFilter),
        ("repo_id", ExactTextFilter),
        ("scope", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("scope_id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an entry and a task's exact identifier.")
    documents = ("path_filters", "metadata")
    badge_colors = {"scope": {"full": "warning", "paths": "info", "read_only": "success"}}
    formatters = {"repo_id": copy_button}
    fieldsets = ((None, {"fields": (*list_display, "metadata")}),)


@admin.register(TaskDependency)
class TaskDependencyAdmin(AgentosAdmin):
    list_display = ("dependency_id", "task_id", "dependency_type", "depends_on_task_id", "reason", "created_at")
    list_filter = (
        ("task_id", ExactTextFilter),
        ("depends_on_task_id", ExactTextFilter),
        ("dependency_type", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("dependency_id", "task_id")
    search_help_text = gettext_lazy(
        "Searches the number of an entry and the exact identifier of the task that depends."
    )
    documents = ("reason", "metadata")
    badge_colors = {"dependency_type": {"blocks": "danger", "requires": "warning", "suggests": "info"}}
    formatters = {"reason": lambda reason: truncate(reason, 120)}
    fieldsets = ((None, {"fields": (*list_display, "created_by", "metadata")}),)
    related_panels = ((gettext_lazy("Graph"), {"fields": ("graph",)}),)
    required_tables = {"graph": ("tasks",)}

    @admin.display(description=gettext_lazy("dependencies"))
    def graph(self, dependency: TaskDependency, store: Store) -> str:
        return dependency_graph.drawing(dependency_graph.neighbourhood(store, dependency.task_id))


@admin.register(TaskArtifactRef)
class TaskArtifactRefAdmin(AgentosAdmin):
    list_display = ("artifact_id", "ref_type", "ref_value", "repo_id", "task_id", "summary", "created_at")
    list_filter = (
        ("task_id", ExactTextFilter),
        ("repo_id", ExactTextFilter),
        ("ref_type", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("artifact_id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an artifact and a task's exact identifier.")
    documents = ("summary", "metadata")
    formatters = {
        "ref_value": copy_button,
        "repo_id": copy_button,
        "summary": lambda summary: truncate(summary, 300),
    }
    fieldsets = ((None, {"fields": (*list_display, "metadata")}),)
