"""Pages of sessions and their messages."""

from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter

from opsconsole.console.store_admin import DateRangeFilter, ExactTextFilter, long_text, related_rows, row_link
from opsconsole.formatting import format_time, truncate
from opsconsole.stores.store import Store
from tasks.agentos.admin.base import AgentosAdmin
from tasks.agentos.models import WebuiMessage, WebuiSession

MESSAGES = 200


@admin.register(WebuiSession)
class WebuiSessionAdmin(AgentosAdmin):
    list_display = ("session_id", "user_id", "created_at", "updated_at")
    list_filter = (("user_id", ExactTextFilter), ("updated_at", DateRangeFilter))
    exact_search_fields = ("session_id", "user_id")
    search_help_text = gettext_lazy("Searches the exact identifier of a session or of a user.")
    documents = ("metadata",)
    formatters = {"created_at": format_time, "updated_at": format_time}
    fieldsets = ((None, {"fields": (*list_display, "metadata")}),)
    related_panels = (
        (gettext_lazy("Conversation"), {"fields": ("conversation",)}),
        (gettext_lazy("Tasks"), {"fields": ("tasks",)}),
    )
    required_tables = {"conversation": ("webui_messages",)}

    @admin.display(description=gettext_lazy("messages"))
    def conversation(self, session: WebuiSession, store: Store) -> str:
        """Return the newest messages in chronological order."""
        existing = store.tables[WebuiMessage._meta.db_table]
        columns = [name for name in ("message_id", "role", "content", "created_at") if name in existing]
        rows = WebuiMessage.objects.using(store.alias).filter(session_id=session.pk)
        messages = list(rows.order_by("-created_at", "-pk").values(*columns)[: MESSAGES + 1])
        if not messages:
            return _("none")
        roles = dict(WebuiMessage.Role.choices)
        earlier: SafeString | str = ""
        if len(messages) > MESSAGES:
            url = reverse("admin:agentos_webuimessage_changelist", query={"session_id": session.pk})
            text = _("The newest %(count)s messages; all of this session") % {"count": MESSAGES}
            earlier = format_html('<p><a class="text-link" href="{}">{}</a></p>', url, text)
        return format_html(
            '{}<ol class="conversation">{}</ol>',
            earlier,
            format_html_join(
                "",
                '<li class="said said-{}"><div class="said-by"><strong>{}</strong> {} {}</div>{}</li>',
                (
                    (
                        row.get("role") if row.get("role") in roles else "other",
                        roles.get(row.get("role"), truncate(row.get("role"), 40)),
                        format_time(row.get("created_at")),
                        row_link("agentos.webuimessage", row["message_id"], _("View message")),
                        long_text(row.get("content")),
                    )
                    for row in reversed(messages[:MESSAGES])
                ),
            ),
        )

    tasks = related_rows(
        "agentos.Task",
        "session_id",
        ("task_id", "title", "status", "created_at"),
        title=gettext_lazy("tasks"),
        link_to_all=gettext_lazy("All tasks of this session"),
    )


@admin.register(WebuiMessage)
class WebuiMessageAdmin(AgentosAdmin):
    list_display = ("message_id", "role", "excerpt", "session_id", "created_at")
    list_filter = (("session_id", ExactTextFilter), ("role", ChoicesRadioFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("message_id", "session_id")
    search_help_text = gettext_lazy("Searches the exact identifier of a message or of a session.")
    documents = ("content", "metadata")
    badge_colors = {"role": {"user": "info", "assistant": "success", "system": "warning"}}
    formatters = {"created_at": format_time, "content": long_text}
    required_columns = {"excerpt": ("content",)}
    fieldsets = ((None, {"fields": ("message_id", "session_id", "role", "created_at", "content", "metadata")}),)

    @admin.display(description=gettext_lazy("content"))
    def excerpt(self, message: WebuiMessage) -> str:
        return truncate(message.content)
