"""The page of memory items."""

from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter

from opsconsole.console.store_admin import DateRangeFilter, ExactTextFilter
from opsconsole.formatting import format_time, pretty_json, truncate
from tasks.agentos.admin.base import AgentosAdmin
from tasks.agentos.admin.full_text import FullTextMixin
from tasks.agentos.models import MemoryItem

SUMMARY_KEYS = ("summary", "title", "text", "what", "content")


@admin.register(MemoryItem)
class MemoryItemAdmin(FullTextMixin, AgentosAdmin):
    source, snippet_column = "memory", "excerpt"
    list_display = ("id", "type", "scope", "excerpt", "project_id", "used", "expires_at")
    list_filter = (
        ("type", ChoicesRadioFilter),
        ("scope", ChoicesRadioFilter),
        ("project_id", ExactTextFilter),
        ("expires_at", DateRangeFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("id",)
    search_help_text = gettext_lazy("Searches the words of an item, or its exact identifier.")
    documents = ("content", "tags", "sources")
    badge_colors = {
        "type": {"decision": "info", "convention": "success", "constraint": "warning", "known_issue": "danger"}
    }
    required_columns = {"excerpt": ("content",), "used": ("use_count", "last_used_at")}
    fieldsets = (
        (None, {"fields": ("id", "type", "scope", "project_id", "content", "tags", "sources")}),
        (gettext_lazy("Use"), {"fields": ("confidence", "use_count", "last_used_at", "created_at", "updated_at")}),
        (gettext_lazy("Retention"), {"fields": ("retention_type", "expires_at", "auto_cleanup")}),
    )

    @admin.display(description=gettext_lazy("content"))
    def excerpt(self, item: MemoryItem) -> str:
        return pretty_json(item.content, SUMMARY_KEYS) if isinstance(item.content, str) else truncate(item.content)

    @admin.display(description=gettext_lazy("used"))
    def used(self, item: MemoryItem) -> str:
        if not item.use_count:
            return "–"
        return format_html("{} × {}", truncate(item.use_count, 20), format_time(item.last_used_at))
