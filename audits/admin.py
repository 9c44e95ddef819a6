"""Pages of audits, guardian verdicts and the supervisor's inbox, and the page of the backfill's coverage."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesRadioFilter, RadioFilter
from unfold.decorators import action

from audits.coverage import FILLED, LAG_COUNT_LABELS, LAG_LABELS, VERDICTS, Figures, coverage, lag, sample_note
from audits.extraction import KEYS
from audits.models import GuardianVerdict, InboxEntry, TaskAudit
from audits.operations.backfill_decision_fields import BackfillDecisionFields
from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import (
    DateRangeFilter,
    ExactTextFilter,
    StoreModelAdmin,
    linked,
)
from opsconsole.console.store_import_export import ExportStoreMixin
from opsconsole.formatting import copy_button, format_number, format_time
from opsconsole.stores.store import StoreUnavailable

# The coverage page reads only the newest audits. The command reads all.
NEWEST_AUDITS = 200_000
NEWEST_SAMPLE = 2_000

SUPERVISOR_EVENTS = tuple(
    f"SUPERVISOR_{name}"
    for name in (
        "ALLOWED",
        "PAUSED",
        "BLOCKED",
        "RETRY_RECOMMENDED",
        "DECISION",
        "DECISION_APPLIED",
        "ERROR",
    )
)


class DecisionTimesFilter(RadioFilter):
    """Supervisor audits with or without both decision times, as the backfill selects them."""

    title = _("decision times")
    parameter_name = "decision_times"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("missing", _("one or both are missing")),
            ("filled", _("both are filled")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in {"missing", "filled"}:
            return queryset
        supervisor = queryset.filter(event_type__has_word="SUPERVISOR")
        return supervisor.filter(FILLED if self.value() == "filled" else ~FILLED)


@admin.register(TaskAudit)
class TaskAuditAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    list_display = ("audit_id", "event_type", "level", "task_id", "created_at", "source_event_ts", "lag")
    sortable_by = ("audit_id",)
    suggestions = {"event_type": SUPERVISOR_EVENTS}
    list_filter = (
        DecisionTimesFilter,
        ("event_type", ExactTextFilter),
        ("level", ChoicesRadioFilter),
        ("task_id", ExactTextFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("audit_id", "task_id", "decision_id")
    search_help_text = _("Searches the number of an audit and the exact identifier of a task or a decision.")
    actions_list = ("coverage",)
    badge_colors = {"level": {"info": "info", "warning": "warning", "error": "danger"}}
    formatters = {
        "source_event_ts": format_time,
        "supervisor_processed_at": format_time,
        "decision_id": copy_button,
        "verdict_id": linked("audits.guardianverdict"),
    }
    fieldsets = (
        (None, {"fields": ("audit_id", "event_type", "level", "task_id", "repo_id", "created_at")}),
        (_("Decision"), {"fields": ("source_event_ts", "supervisor_processed_at", "lag", "decision_id", "verdict_id")}),
        (_("Payload"), {"fields": ("payload",)}),
    )
    required_columns = {DecisionTimesFilter: tuple(KEYS), "lag": tuple(KEYS)}

    @admin.display(description=_("lag"))
    def lag(self, audit: TaskAudit) -> str:
        seconds = lag([(audit.source_event_ts, audit.supervisor_processed_at)])["max"]
        return "–" if seconds is None else gettext("%(seconds)s s") % {"seconds": _seconds(seconds)}

    @action(description=_("Coverage"), url_path="coverage", permissions=["view"], icon="donut_large")
    def coverage(self, request: HttpRequest) -> HttpResponse:
        """Show the coverage of the decision times."""
        try:
            figures = coverage(self.store(request), newest=NEWEST_AUDITS, sample=NEWEST_SAMPLE)
        except (StoreUnavailable, DatabaseError) as error:
            return self.store_error_page(request, error)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Coverage of the decision times"),
            "figures": figures,
            "backfill": BackfillDecisionFields.name if self.operations(request) else "",
            **coverage_context(figures),
        }
        return TemplateResponse(request, "audits/coverage.html", context)


@admin.register(GuardianVerdict)
class GuardianVerdictAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    list_display = ("id", "decision", "task_id", "triggered_by", "reasons_json", "created_at")
    list_filter = (("task_id", ExactTextFilter), ("decision", ChoicesRadioFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("id", "task_id")
    search_help_text = _("Searches the exact identifier of a verdict or of a task.")
    badge_colors = {"decision": {"approve": "success", "reject": "danger", "warn": "warning"}}
    formatters = {"task_id": linked("agentos.task"), "created_at": format_time}
    fieldsets = (
        (None, {"fields": ("id", "decision", "task_id", "triggered_by", "created_at")}),
        (_("Documents"), {"fields": ("reasons_json", "policy_json")}),
    )


@admin.register(InboxEntry)
class InboxEntryAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    list_display = ("id", "status", "event_type", "task_id", "event_ts", "processed_at")
    suggestions = {"event_type": SUPERVISOR_EVENTS}
    list_filter = (
        ("task_id", ExactTextFilter),
        ("event_type", ExactTextFilter),
        ("status", ChoicesRadioFilter),
        ("created_at", DateRangeFilter),
    )
    exact_search_fields = ("id", "task_id")
    search_help_text = _("Searches the exact identifier of an entry or of a task.")
    badge_colors = {"status": {"pending": "warning", "processing": "info", "processed": "success", "failed": "danger"}}
    formatters = {
        "task_id": linked("agentos.task"),
        **dict.fromkeys(("event_ts", "processed_at", "created_at"), format_time),
    }
    fieldsets = (
        (None, {"fields": ("id", "status", "event_type", "task_id", "event_ts", "processed_at", "created_at")}),
        (_("Payload"), {"fields": ("payload_json",)}),
    )


def coverage_context(figures: Figures) -> dict[str, Any]:
    """Return the figures as tables and sentences of the page."""
    rows, lag, consistency = reverse("admin:audits_taskaudit_changelist"), figures["lag"], figures["consistency"]
    columns = {field.column: field.verbose_name for field in TaskAudit._meta.concrete_fields}
    counted = tuple(figures["columns"])
    link = '<a class="text-link" href="{}?{}">{}</a>'

    def share(of: Figures) -> str:
        return f"{format_number(of['filled'])} ({format_number(of['percent'], 2)} %)"

    def row(of: Figures) -> list[str]:
        kind = {"event_type": of["event_type"]}
        cells = [format_html(link, rows, urlencode(kind), of["event_type"]), format_number(of["total"])]
        cells += [share(of["columns"][column]) for column in counted]
        if of["missing"] is not None:  # the indexes do not tell it
            missing = urlencode(kind | {"decision_times": "missing"})
            cells.append(format_html(link, rows, missing, format_number(of["missing"])))
        return cells

    headers = [gettext("Event type"), gettext("Audits"), *(columns[column] for column in counted)]
    if "supervisor_processed_at" in counted:
        headers.append(gettext("Incomplete"))
    return {
        "as_of": datetime.fromisoformat(figures["as_of"]),
        "shares": [*figures["columns"].items(), (gettext("both times"), figures["both"])],
        "by_event_type": {
            "headers": headers,
            "rows": [row(of) for of in figures["event_types"]],
        },
        "lag": [(label, _seconds(lag[name])) for name, label in LAG_LABELS.items()],
        "outcomes": [(label, lag[name]) for name, label in LAG_COUNT_LABELS.items()],
        "by_verdict": {
            "headers": [gettext("Column"), *VERDICTS.values()],
            "rows": [
                [columns[column], *(format_number(counts[verdict]) for verdict in VERDICTS)]
                for column, counts in consistency["columns"].items()
            ],
        },
        "basis": (
            gettext("From the newest %(count)s audits.") % {"count": format_number(figures["newest"])}
            if figures["newest"]
            else gettext("From all supervisor audits.")
        ),
        "sampled": sample_note(consistency),
    }


def _seconds(seconds: float | None) -> str:
    return format_number(None if seconds is None else round(seconds, 3), 3)
