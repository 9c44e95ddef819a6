"""Pages of the HELIX store: jobs, tasks, artifacts, prompts and the system log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import (
    CountedChoicesFilter,
    DateRangeFilter,
    ExactTextFilter,
    StoreModelAdmin,
    json_block,
    linked,
    long_text,
    newest_rows,
    row_link,
    table,
)
from opsconsole.console.store_import_export import ExportStoreMixin
from opsconsole.formatting import copy_button, format_number, format_time, pretty_json, truncate
from opsconsole.stores.store import Store
from tasks.helix.dirty_data import jobs_with_all
from tasks.helix.models import AgentPrompt, HelixArtifact, HelixJob, HelixTask, SystemLog
from tasks.helix.operations.scan_dirty_data import ScanDirtyData

SHOWN_TASKS = 200
JOB_COLORS = {
    "PENDING": "default",
    "IN_PROGRESS": "info",
    "COMPLETED": "success",
    "FAILED": "danger",
    "CANCELLED": "warning",
}
TASK_COLORS = {
    "PENDING": "default",
    "ASSIGNED": "info",
    "IN_PROGRESS": "info",
    "COMPLETED": "success",
    "FAILED": "danger",
    "RETRYING": "warning",
}

to_job, to_task, to_artifact = linked("helix.helixjob"), linked("helix.helixtask"), linked("helix.helixartifact")


AGENTS = tuple(f"AGENT_{number}" for number in range(1, 6))


class HelixAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    """A table that the platform writes and operations repair."""


@admin.register(HelixJob)
class HelixJobAdmin(HelixAdmin):
    list_display = ("id", "status", "request_summary", "session_id", "created_at", "updated_at")
    sortable_by = ("id",)
    list_filter = (("status", CountedChoicesFilter), ("session_id", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("id", "session_id")
    search_help_text = gettext_lazy("Searches the number of a job and a session's exact identifier.")
    badge_colors = {"status": JOB_COLORS}
    formatters = {"id": str, "session_id": copy_button, "initial_request": json_block, "error_message": long_text}
    required_columns = {"request_summary": ("initial_request",), "problems": ("status",), "task_table": ()}
    required_tables = {"problems": ("tasks", "artifacts"), "task_table": ("tasks", "artifacts")}
    fieldsets = (
        (None, {"fields": ("id", "status", "session_id", "created_at", "updated_at", "completed_at", "error_message")}),
        (gettext_lazy("Request"), {"fields": ("initial_request",)}),
    )
    related_panels = (
        (gettext_lazy("Dirty data"), {"fields": ("problems",)}),
        (gettext_lazy("Tasks"), {"fields": ("task_table",)}),
    )

    @admin.display(description=gettext_lazy("request"))
    def request_summary(self, job: HelixJob) -> str:
        return pretty_json(job.initial_request, keys=("chat_input", "brand", "topic"))

    @admin.display(description=gettext_lazy("findings"))
    def problems(self, job: HelixJob, store: Store) -> str:
        """Return the problems that a scan would find now."""
        found = [problem for row in jobs_with_all(store, [job.pk]) for problem in row.problems().items()]
        if not found:
            return _("none")
        return table(
            [_("Type"), _("Meaning"), _("Tasks")],
            [
                [code, str(ScanDirtyData.reasons[code]), ", ".join(str(task.row.pk) for task in tasks)]
                for code, tasks in found
            ],
        )

    @admin.display(description=gettext_lazy("tasks"))
    def task_table(self, job: HelixJob, store: Store) -> str:
        """Return the tasks with their artifacts, read in two queries."""
        rows = HelixTask.objects.using(store.alias).filter(job_id=job.pk).order_by("pk")
        columns = ("pk", "agent_id", "status", "retry_count", "updated_at", "error_log")
        found = list(rows.values_list(*columns)[:SHOWN_TASKS])
        names: dict[int, list[tuple[int, str]]] = {}
        artifacts = HelixArtifact.objects.using(store.alias).filter(task_id__in=[row[0] for row in found])
        for task, pk, name in artifacts.order_by("pk").values_list("task_id", "pk", "name"):
            names.setdefault(task, []).append((pk, name))
        if not found:
            return _("none")
        labels = dict(HelixTask.Status.choices)
        return table(
            [_("Task"), _("Agent"), _("Status"), _("Retries"), _("Updated at"), _("Artifacts"), _("Error")],
            [
                [
                    to_task(pk),
                    agent,
                    str(labels.get(status, status)),
                    format_number(retries),
                    format_time(updated_at),
                    _joined(names.get(pk, [])),
                    truncate(error, 120) if error else "–",
                ]
                for pk, agent, status, retries, updated_at, error in found
            ],
        )


def _joined(artifacts: list[tuple[int, str]]) -> SafeString | str:
    return format_html_join(", ", "{}", ((row_link("helix.helixartifact", pk, name),) for pk, name in artifacts)) or "–"


@admin.register(HelixTask)
class HelixTaskAdmin(HelixAdmin):
    list_display = ("id", "job_id", "agent_id", "status", "retry_count", "created_at", "updated_at")
    sortable_by = ("id",)
    suggestions = {"agent_id": AGENTS}
    list_filter = (("status", CountedChoicesFilter), ("job_id", ExactTextFilter), ("agent_id", ExactTextFilter))
    exact_search_fields = ("id", "job_id")
    search_help_text = gettext_lazy("Searches the number of a task or of a job.")
    badge_colors = {"status": TASK_COLORS}
    formatters = {
        "id": str,
        "job_id": to_job,
        "input_data": json_block,
        "output_data": json_block,
        "error_log": long_text,
    }
    required_columns = {"artifact_table": ()}
    required_tables = {"artifact_table": ("artifacts",)}
    fieldsets = (
        (None, {"fields": ("id", "job_id", "agent_id", "status", "retry_count", "error_log")}),
        (
            gettext_lazy("Times"),
            {"fields": ("created_at", "updated_at", "assigned_at", "started_at", "completed_at")},
        ),
        (gettext_lazy("Documents"), {"fields": ("input_data", "output_data")}),
    )
    related_panels = ((gettext_lazy("Artifacts"), {"fields": ("artifact_table",)}),)

    @admin.display(description=gettext_lazy("artifacts"))
    def artifact_table(self, task: HelixTask, store: Store) -> str:
        columns: dict[str, Callable[[Any], Any]] = {
            "id": to_artifact,
            "name": str,
            "schema_id": str,
            "created_at": format_time,
        }
        rows = HelixArtifact.objects.filter(task_id=task.pk).order_by("-pk")
        return newest_rows(rows, store, columns, all_link=(_("All artifacts of this task"), {"task_id": task.pk}))


@admin.register(HelixArtifact)
class HelixArtifactAdmin(HelixAdmin):
    list_display = ("id", "task_id", "name", "schema_id", "created_at")
    sortable_by = ("id",)
    list_filter = (("task_id", ExactTextFilter),)
    exact_search_fields = ("id", "task_id")
    search_help_text = gettext_lazy("Searches the number of an artifact or of a task.")
    formatters = {"id": str, "task_id": to_task, "payload": json_block}
    fieldsets = ((None, {"fields": ("id", "task_id", "name", "schema_id", "created_at", "payload")}),)


@admin.register(AgentPrompt)
class AgentPromptAdmin(HelixAdmin):
    list_display = ("id", "agent_id", "version", "is_active", "created_at", "created_by")
    suggestions = {"agent_id": AGENTS}
    list_filter = (("agent_id", ExactTextFilter),)
    exact_search_fields = ("id", "agent_id")
    search_help_text = gettext_lazy("Searches the number of a prompt and the exact name of an agent.")
    formatters = {"id": str, "prompt_text": long_text}
    fieldsets = (
        (None, {"fields": ("id", "agent_id", "version", "is_active", "created_at", "created_by", "prompt_text")}),
    )


@admin.register(SystemLog)
class SystemLogAdmin(HelixAdmin):
    list_display = ("id", "level", "component", "message_start", "created_at")
    suggestions = {"level": ("DEBUG", "INFO", "WARNING", "ERROR")}
    list_filter = (("level", ExactTextFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("id",)
    search_help_text = gettext_lazy("Searches the number of an entry.")
    formatters = {"id": str, "message": long_text, "metadata": json_block}
    required_columns = {"message_start": ("message",)}
    fieldsets = ((None, {"fields": ("id", "level", "component", "message", "created_at", "metadata")}),)

    @admin.display(description=gettext_lazy("message"))
    def message_start(self, entry: SystemLog) -> str:
        return truncate(entry.message, 200)
