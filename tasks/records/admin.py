"""Pages of the execution records: results and statuses."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter, RadioFilter

from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import DateRangeFilter, ExactTextFilter, StoreModelAdmin, json_block
from opsconsole.console.store_import_export import ExportStoreMixin
from opsconsole.formatting import copy_button
from opsconsole.jsontext import Unreadable, encode
from opsconsole.stores.store import Store
from tasks.records import status as executions
from tasks.records.models import TaskStatus, TestRecord
from tasks.records.operations.backfill_execution_ids import BackfillExecutionIds
from tasks.records.summaries import IN_MEMORY_LIMIT, decode_document


class RecordsAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    """A read-only table, written by the platform and repaired by operations."""

    def answer(self, execution_id: str | None, store: Store) -> str:
        """Return the answer of the status endpoint."""
        if not execution_id:
            return _("No client can look up this record. Its execution id is missing.")
        answer = executions.get_statuses([execution_id], [store]).answers.get(execution_id)
        return json_block(encode(answer).decode()) if answer else _("not known")


class FilledFilter(RadioFilter):
    """Records with or without an execution id."""

    title = gettext_lazy("execution id")
    parameter_name = "execution_id_is"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("missing", _("missing")), ("filled", _("filled"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in {"missing", "filled"}:
            return queryset
        return queryset.filter(execution_id__isnull=self.value() == "missing")


@admin.register(TestRecord)
class TestRecordAdmin(RecordsAdmin):
    __test__ = False

    list_display = ("id", "brand_name", "execution_id", "overall_score", "total_tests", "user_id", "test_date")
    sortable_by = ("id",)
    list_filter = (FilledFilter, ("execution_id", ExactTextFilter), ("test_date", DateRangeFilter))
    exact_search_fields = ("id", "execution_id")
    search_help_text = gettext_lazy("Searches the number of a record and the exact id of an execution.")
    formatters = {"execution_id": copy_button}
    required_columns = {
        FilledFilter: ("execution_id",),
        "summary": ("results_summary", "is_summary_compressed"),
        "details": ("detailed_results", "is_detailed_compressed"),
        "answered": ("execution_id",),
    }
    required_tables = {"answered": ("task_statuses",)}
    fieldsets = (
        (
            None,
            {"fields": ("id", "brand_name", "execution_id", "overall_score", "total_tests", "user_id", "test_date")},
        ),
        (gettext_lazy("Asked"), {"fields": ("ai_models_used", "questions_used")}),
        (gettext_lazy("Results"), {"fields": ("summary", "details")}),
    )
    related_panels = ((gettext_lazy("Status endpoint"), {"fields": ("answered",)}),)

    @admin.display(description=gettext_lazy("summary"))
    def summary(self, record: TestRecord) -> str:
        return _document(record.results_summary, record.is_summary_compressed)

    @admin.display(description=gettext_lazy("details"))
    def details(self, record: TestRecord) -> str:
        return _document(record.detailed_results, record.is_detailed_compressed)

    @admin.display(description=gettext_lazy("answer"))
    def answered(self, record: TestRecord, store: Store) -> str:
        return self.answer(record.execution_id, store)


@admin.register(TaskStatus)
class TaskStatusAdmin(RecordsAdmin):
    list_display = ("task_id", "progress", "stage", "is_completed", "status_text", "created_at", "updated_at")
    sortable_by = ()
    list_filter = (("task_id", ExactTextFilter), ("stage", ChoicesRadioFilter), ("updated_at", DateRangeFilter))
    exact_search_fields = ("task_id",)
    search_help_text = gettext_lazy("Searches the exact id of an execution.")
    formatters = {"task_id": copy_button}
    badge_colors = {
        "stage": {
            "init": "default",
            "ai_fetching": "info",
            "analyzing": "info",
            "completed": "success",
            "failed": "danger",
        }
    }
    fieldsets = ((None, {"fields": list_display}),)
    required_columns = {"answered": ("task_id",)}
    required_tables = {"answered": ("test_records",)}
    related_panels = ((gettext_lazy("Status endpoint"), {"fields": ("answered",)}),)

    @admin.display(description=gettext_lazy("answer"))
    def answered(self, status: TaskStatus, store: Store) -> str:
        return self.answer(status.task_id, store)


def _document(stored: Any, compressed: Any) -> str:
    """Format a stored document. Show the reason and the beginning of one that cannot be decoded."""
    if stored is None:
        return "–"
    try:
        return json_block(encode(decode_document(stored, compressed, limit=IN_MEMORY_LIMIT)).decode())
    except Unreadable as error:
        reason = error.reason
    if reason == "too_large":
        return _("The document is too long for this page. The status endpoint links to it.")
    message = BackfillExecutionIds.reasons.get(reason, reason)
    beginning = bytes(stored[:200]) if not isinstance(stored, str) else stored[:200].encode()
    return format_html('{} <code class="broken">{}</code>', message, beginning.decode("utf-8", "backslashreplace"))
