"""AgentOS tasks, each with its newest audits."""

from __future__ import annotations

from urllib.parse import urlencode

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.display import copyable, moment
from opsconsole.stores.admin import DayFilter, ExactFilter, StoreModelAdmin, json_block, table
from tasks.models import Task

NEWEST = 20


class StatusFilter(ExactFilter):
    title = gettext_lazy("status")
    parameter_name = "status"


@admin.register(Task)
class TaskAdmin(StoreModelAdmin):
    list_display = ("name", "identifier", "status", "session", "created", "updated")
    list_filter = (StatusFilter, ("created_at", DayFilter))
    searched = ("task_id", "session_id")
    search_help_text = gettext_lazy("Searches a task's or a session's exact identifier.")
    fieldsets = (
        (None, {"fields": ("identifier", "title", "status", "session", "created", "updated", "created_by")}),
        (gettext_lazy("Newest audits"), {"fields": ("newest_audits",)}),
        (
            gettext_lazy("Documents"),
            {"fields": ("metadata_json", "route_plan", "requirements", "selected_instance_id", "router_version")},
        ),
    )
    needs = {
        StatusFilter: ("status",),
        "name": ("title",),
        "session": ("session_id",),
        "created": ("created_at",),
        "updated": ("updated_at",),
        "metadata_json": ("metadata",),
        "route_plan": ("route_plan_json",),
        "requirements": ("requirements_json",),
    }

    @admin.display(description=gettext_lazy("title"))
    def name(self, task: Task) -> str:
        return task.title or task.pk

    @admin.display(description=gettext_lazy("task"), ordering="pk")
    def identifier(self, task: Task) -> str:
        return copyable(task.pk)

    @admin.display(description=gettext_lazy("session"))
    def session(self, task: Task) -> str:
        return copyable(task.session_id)

    @admin.display(description=gettext_lazy("created at"))
    def created(self, task: Task) -> str:
        return moment(task.created_at)

    @admin.display(description=gettext_lazy("updated at"))
    def updated(self, task: Task) -> str:
        return moment(task.updated_at)

    @admin.display(description=gettext_lazy("metadata"))
    def metadata_json(self, task: Task) -> str:
        return json_block(task.metadata)

    @admin.display(description=gettext_lazy("route plan"))
    def route_plan(self, task: Task) -> str:
        return json_block(task.route_plan_json)

    @admin.display(description=gettext_lazy("requirements"))
    def requirements(self, task: Task) -> str:
        return json_block(task.requirements_json)

    @admin.display(description=gettext_lazy("newest audits"))
    def newest_audits(self, task: Task) -> str:
        levels = dict(task.audits.model._meta.get_field("level").flatchoices)
        newest = task.audits.order_by("-pk").values_list("pk", "event_type", "level", "created_at")[:NEWEST]
        rows = [
            [
                format_html('<a class="row-link" href="{}">{}</a>', _page_of_audit(key), key),
                event_type,
                levels.get(level, level) or "–",
                moment(created_at),
            ]
            for key, event_type, level, created_at in newest
        ]
        if not rows:
            return _("none")
        all_of_them = format_html(
            '<p class="mt-4"><a class="text-link" href="{}?{}">{}</a></p>',
            reverse("admin:audits_taskaudit_changelist"),
            urlencode({"task_id": task.pk}),
            _("All audits of this task"),
        )
        return table([_("Audit"), _("Event type"), _("Level"), _("Created at")], rows) + all_of_them


def _page_of_audit(key: int) -> str:
    return reverse("admin:audits_taskaudit_change", args=[key])
