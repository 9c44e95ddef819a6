"""Pages of projects and their repositories."""

from __future__ import annotations

from django.contrib import admin
from django.utils.translation import gettext_lazy

from opsconsole.console.store_admin import (
    CountedChoicesFilter,
    DateRangeFilter,
    ExactTextFilter,
    long_text,
    related_rows,
)
from opsconsole.formatting import copy_button, format_time
from tasks.agentos.admin.base import AgentosAdmin
from tasks.agentos.models import Project, ProjectRepo

ALL_OF_PROJECT = gettext_lazy("All of this project")


@admin.register(Project)
class ProjectAdmin(AgentosAdmin):
    list_display = ("id", "name", "status", "path", "tags", "updated_at")
    list_filter = (("status", CountedChoicesFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("id",)
    search_help_text = gettext_lazy("Searches a project's exact identifier.")
    documents = ("description", "tags", "settings")
    badge_colors = {"status": {"active": "success", "archived": "info", "deleted": "danger"}}
    formatters = {
        **dict.fromkeys(("path", "default_repo_id", "default_workdir"), copy_button),
        "description": long_text,
    }
    fieldsets = (
        (None, {"fields": ("id", "name", "status", "path", "description", "default_repo_id", "default_workdir")}),
        (gettext_lazy("Documents"), {"fields": ("tags", "settings")}),
        (gettext_lazy("History"), {"fields": ("added_at", "created_at", "updated_at", "created_by")}),
    )
    related_panels = (
        (gettext_lazy("Repositories"), {"fields": ("repos",)}),
        (gettext_lazy("Knowledge"), {"fields": ("sources",)}),
        (gettext_lazy("Memory"), {"fields": ("memory",)}),
    )

    repos = related_rows(
        "agentos.ProjectRepo",
        "project_id",
        ("id", "repo_id", "repo_path", "added_at"),
        title=gettext_lazy("repositories"),
        link_to_all=ALL_OF_PROJECT,
        formatters={"repo_id": copy_button, "repo_path": copy_button},
    )
    sources = related_rows(
        "agentos.KbSource",
        "project_id",
        ("source_id", "source_type", "source_path", "indexed_at"),
        title=gettext_lazy("sources"),
        link_to_all=ALL_OF_PROJECT,
        formatters={"source_path": copy_button, "indexed_at": format_time},
    )
    memory = related_rows(
        "agentos.MemoryItem",
        "project_id",
        ("id", "type", "content", "use_count", "expires_at"),
        title=gettext_lazy("memory"),
        link_to_all=ALL_OF_PROJECT,
    )


@admin.register(ProjectRepo)
class ProjectRepoAdmin(AgentosAdmin):
    list_display = ("id", "project_id", "repo_id", "repo_path", "added_at")
    list_filter = (("project_id", ExactTextFilter), ("repo_id", ExactTextFilter), ("added_at", DateRangeFilter))
    exact_search_fields = ("id", "project_id")
    search_help_text = gettext_lazy("Searches the number of an entry and a project's exact identifier.")
    formatters = {"repo_id": copy_button, "repo_path": copy_button}
    fieldsets = ((None, {"fields": list_display}),)
