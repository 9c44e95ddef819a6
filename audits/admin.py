"""AgentOS: audits, guardian verdicts and the supervisor's inbox, to look at; and how far the decision times are."""

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
from unfold.decorators import action, display

from audits.coverage import FILLED, VERDICTS, Figures, coverage, lag
from audits.extraction import KEYS
from audits.models import GuardianVerdict, InboxEntry, TaskAudit
from audits.operations.backfill_decision_fields import BackfillDecisionFields
from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import (
    DateRangeFilter,
    ExactTextFilter,
    StoreModelAdmin,
    json_block,
    linked,
    row_link,
)
from opsconsole.console.store_import_export import ExportStoreMixin
from opsconsole.formatting import copy_button, format_number, format_time, pretty_json
from opsconsole.stores.store import StoreUnavailable

# So many audits the coverage page reads for what SQL can't tell; the command reads all.
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


task_link = linked("agentos.task")


class DecisionTimesFilter(RadioFilter):
    """Of supervisor audits, in the very words of the backfill's scope."""

    title = _("decision times")
    parameter_name = "decision_times"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("lacking", _("a supervisor audit that lacks one")),
            ("filled", _("a supervisor audit with both")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in {"lacking", "filled"}:
            return queryset
        supervisor = queryset.filter(event_type__has_word="SUPERVISOR")
        return supervisor.filter(FILLED if self.value() == "filled" else ~FILLED)


@admin.register(TaskAudit)
class TaskAuditAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    list_display = ("audit", "event_type", "severity", "of_task", "created", "source", "delay")
    sortable_by = ("audit",)
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
    deferred_fields = ("payload",)
    fieldsets = (
        (None, {"fields": ("audit", "event_type", "level", "of_task", "repo_id", "created")}),
        (_("Decision"), {"fields": ("source", "processed", "delay", "decision", "verdict")}),
        (_("Payload"), {"fields": ("document",)}),
    )
    required_columns = {
        DecisionTimesFilter: tuple(KEYS),
        "created": ("created_at",),
        "severity": ("level",),
        "source": ("source_event_ts",),
        "processed": ("supervisor_processed_at",),
        "delay": tuple(KEYS),
        "decision": ("decision_id",),
        "verdict": ("verdict_id",),
        "document": ("payload",),
    }

    @admin.display(description=_("audit"), ordering="pk")
    def audit(self, audit: TaskAudit) -> str:
        return str(audit.pk)

    @admin.display(description=_("created at"))
    def created(self, audit: TaskAudit) -> str:
        return format_time(audit.created_at)

    @display(description=_("level"), label={"info": "info", "warning": "warning", "error": "danger"}, empty_value="–")
    def severity(self, audit: TaskAudit) -> tuple[str, str] | None:
        return (audit.level, audit.get_level_display()) if audit.level else None

    @admin.display(description=_("task"))
    def of_task(self, audit: TaskAudit) -> str:
        return task_link(audit.task_id)

    @admin.display(description=_("source event"))
    def source(self, audit: TaskAudit) -> str:
        return format_time(audit.source_event_ts)

    @admin.display(description=_("processed"))
    def processed(self, audit: TaskAudit) -> str:
        return format_time(audit.supervisor_processed_at)

    @admin.display(description=_("lag"))
    def delay(self, audit: TaskAudit) -> str:
        seconds = lag([(audit.source_event_ts, audit.supervisor_processed_at)])["max"]
        return "–" if seconds is None else gettext("%(seconds)s s") % {"seconds": _seconds(seconds)}

    @admin.display(description=_("decision"))
    def decision(self, audit: TaskAudit) -> str:
        return copy_button(audit.decision_id)

    @admin.display(description=_("verdict"))
    def verdict(self, audit: TaskAudit) -> str:
        return row_link("audits.guardianverdict", audit.verdict_id)

    @admin.display(description=_("payload"))
    def document(self, audit: TaskAudit) -> str:
        return json_block(audit.payload)

    @action(description=_("Coverage"), url_path="coverage", permissions=["view"], icon="donut_large")
    def coverage(self, request: HttpRequest) -> HttpResponse:
        """The verification query of the backfill as a page."""
        try:
            figures = coverage(self.store(request), newest=NEWEST_AUDITS, sample=NEWEST_SAMPLE)
        except (StoreUnavailable, DatabaseError) as error:
            return self.unusable(request, error)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Coverage of the decision times"),
            "figures": figures,
            "backfill": BackfillDecisionFields.name if self.operations(request) else "",
            **coverage_words(figures),
        }
        return TemplateResponse(request, "audits/coverage.html", context)


@admin.register(GuardianVerdict)
class GuardianVerdictAdmin(OperationActionsMixin, ExportStoreMixin, StoreModelAdmin):
    list_display = ("id", "decision", "task_id", "triggered_by", "reasons", "created_at")
    list_filter = (("task_id", ExactTextFilter), ("decision", ChoicesRadioFilter), ("created_at", DateRangeFilter))
    exact_search_fields = ("id", "task_id")
    search_help_text = _("Searches the exact identifier of a verdict or of a task.")
    deferred_fields = ("policy_json",)
    badge_colors = {"decision": {"approve": "success", "reject": "danger", "warn": "warning"}}
    formatters = {
        "id": linked("audits.guardianverdict"),
        "task_id": task_link,
        "created_at": format_time,
        "reasons_json": json_block,
        "policy_json": json_block,
    }
    required_columns = {"reasons": ("reasons_json",)}
    fieldsets = (
        (None, {"fields": ("id", "decision", "task_id", "triggered_by", "created_at")}),
        (_("Documents"), {"fields": ("reasons_json", "policy_json")}),
    )

    @admin.display(description=_("reasons"))
    def reasons(self, verdict: GuardianVerdict) -> str:
        return pretty_json(verdict.reasons_json)


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
    deferred_fields = ("payload_json",)
    badge_colors = {"status": {"pending": "warning", "processing": "info", "processed": "success", "failed": "danger"}}
    formatters = {
        "id": linked("audits.inboxentry"),
        "task_id": task_link,
        "event_ts": format_time,
        "processed_at": format_time,
        "created_at": format_time,
        "payload_json": json_block,
    }
    fieldsets = (
        (None, {"fields": ("id", "status", "event_type", "task_id", "event_ts", "processed_at", "created_at")}),
        (_("Payload"), {"fields": ("payload_json",)}),
    )


def coverage_words(figures: Figures) -> dict[str, Any]:
    """The figures as the page's tables and sentences."""
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
        if of["lacking"] is not None:  # else only an index was read
            lacking = urlencode(kind | {"decision_times": "lacking"})
            cells.append(format_html(link, rows, lacking, format_number(of["lacking"])))
        return cells

    headers = [gettext("Event type"), gettext("Audits"), *(columns[column] for column in counted)]
    if "supervisor_processed_at" in counted:
        headers.append(gettext("Lacking one"))
    return {
        "as_of": datetime.fromisoformat(figures["as_of"]),
        "shares": [*figures["columns"].items(), (gettext("both times"), figures["both"])],
        "by_event_type": {
            "headers": headers,
            "rows": [row(of) for of in figures["event_types"]],
        },
        "lag": [
            (words, _seconds(lag[name]))
            for name, words in {
                "min": gettext("smallest"),
                "p50": "p50",
                "p90": "p90",
                "p99": "p99",
                "max": gettext("largest"),
                "mean": gettext("mean"),
            }.items()
        ],
        "outcomes": [
            (gettext("measured"), lag["count"]),
            (gettext("of them negative"), lag["negative"]),
            (gettext("unreadable"), lag["unreadable"]),
            (gettext("without both times"), lag["without_both"]),
        ],
        "by_verdict": {
            "headers": ["", *VERDICTS.values()],
            "rows": [
                [columns[column], *(format_number(counts[verdict]) for verdict in VERDICTS)]
                for column, counts in consistency["columns"].items()
            ],
        },
        "of_which": (
            gettext("Of the newest %(count)s audits.") % {"count": format_number(figures["newest"])}
            if figures["newest"]
            else gettext("Of all supervisor audits.")
        ),
        "sampled": gettext("Payloads read: %(count)s, at most %(sample)s, spread evenly.")
        % {"count": format_number(consistency["looked_at"]), "sample": format_number(consistency["sample"])},
    }


def _seconds(seconds: float | None) -> str:
    return format_number(None if seconds is None else round(seconds, 3), 3)
