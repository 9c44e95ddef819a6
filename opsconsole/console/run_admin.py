"""Lists of runs, findings and events, and the operations that a list and a row page offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import format_lazy
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from import_export import fields, resources
from import_export.admin import ExportMixin
from unfold.contrib.filters.admin import ChoicesRadioFilter, RadioFilter
from unfold.contrib.import_export.forms import ExportForm
from unfold.decorators import display

from opsconsole.console import operation_views, page_parts
from opsconsole.console.actors import actor_of
from opsconsole.console.base_admin import ConsoleModelAdmin, ViewOnlyMixin
from opsconsole.console.editing import SaveRefused
from opsconsole.console.file_formats import CSV, JSON, XLSX
from opsconsole.engine import queue, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.labels import STATUS_VARIANTS, VERB_LABELS, only_deletes, operation_title, verb_label
from opsconsole.engine.models import Event, Finding, GivenRows, Run, Status
from opsconsole.engine.operation import Operation
from opsconsole.engine.selection import Selection
from opsconsole.formatting import copy_button, duration, format_number, format_time
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import aliases_of, store_of, use
from opsconsole.stores.rows import Write
from opsconsole.stores.store import Store

DELETE_ROWS = "operations.delete_rows"
WRITE_ROWS = "operations.write_rows"


class DueFilter(RadioFilter):
    """The rows in scope of an operation whose scope is an incident."""

    title = _("waiting for a repair")
    parameter_name = "due"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(cls.name, cls.title) for cls in _due_operations(model_admin.model)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        cls = next((cls for cls in _due_operations(queryset.model) if cls.name == self.value()), None)
        if cls is None:
            return queryset
        return _both(queryset, cls(Store.called(queryset.db)).queryset().order_by())


def _both(rows: QuerySet[Any], scope: QuerySet[Any]) -> QuerySet[Any]:
    """Return the rows of `rows` that are in `scope`. With one condition for both, a database stops at the last row."""
    query = scope.query
    if query.distinct or query.combinator or query.is_sliced or query.group_by is not None:
        return rows.filter(pk__in=scope.values("pk"))
    return rows & scope


def _due_operations(model: Any) -> list[type[Operation]]:
    return [cls for cls in registry.problem_operations().values() if cls.model is model]


class OperationActionsMixin:
    """The operations of a list: for selected rows, for all matching rows and for all rows in scope."""

    model: Any

    def operations(self, request: HttpRequest) -> list[type[Operation]]:
        """Return the operations on this table that the user may run."""
        if not request.user.has_perm("operations.operate_run"):
            return []
        return [
            cls
            for cls in registry.operations().values()
            if getattr(cls, "model", None) is self.model and not registry.targets_run(cls)
        ]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        found = list(super().get_list_filter(request))  # type: ignore[misc]
        return [DueFilter, *found] if _due_operations(self.model) else found

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)  # type: ignore[misc]
        if "_popup" not in request.GET:
            for cls in self.row_operations(request):
                params = self.table_params if cls.name == DELETE_ROWS else None
                actions[cls.name] = (_planner(cls.name, params), cls.name, cls.title)
        return actions

    def row_operations(self, request: HttpRequest) -> list[type[Operation]]:
        """Return the operations on selected rows, with the deletion if the user may delete."""
        found = [cls for cls in self.operations(request) if cls.selectable]
        may = getattr(self, "may", None)
        if may is not None and may(request, "delete") and request.user.has_perm("operations.operate_run"):
            found.append(registry.operation(DELETE_ROWS))
        return found

    @property
    def table_params(self) -> dict[str, Any]:
        """The parameters that name store and table."""
        return {"store": Store.current(store_of(self.model)).alias, "table": self.model._meta.db_table}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {
            "operations": list(map(page_parts.described, self.operations(request))),
            **(extra_context or {}),
        }
        response: HttpResponse = super().changelist_view(request, context)  # type: ignore[misc]
        return response

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Offer the operations on selected rows for this row."""
        context = {
            "row_operations": [page_parts.described(cls) for cls in self.row_operations(request)],
            "row_keys": [] if object_id is None else [unquote(object_id)],
            **(extra_context or {}),
        }
        response: HttpResponse = super().changeform_view(request, object_id, form_url, context)  # type: ignore[misc]
        return response


class WriteByRunMixin(OperationActionsMixin):
    """An admin whose edits, additions and imports are written by runs."""

    def _write_params(self, writes: Sequence[Write]) -> dict[str, Any]:
        return {**self.table_params, "rows": GivenRows.keep(writes)}

    def plan_import(self, request: HttpRequest, writes: Sequence[Write], file_name: str) -> HttpResponse:
        note = gettext("Import of %(file)s") % {"file": file_name}
        return operation_views.start_plan(request, WRITE_ROWS, params=self._write_params(writes), note=note)

    def write_by_run(self, request: HttpRequest, writes: Sequence[Write]) -> HttpResponse | None:
        """Write the values of a form within the request, or redirect to the plan if it needs more than a click."""
        try:
            run, asks_more = operation_views.plan_now(request, WRITE_ROWS, self._write_params(writes))
            if not asks_more:
                run = queue.run_now(run, actor_of(request))
        except page_parts.REFUSALS as error:
            raise SaveRefused(str(error)) from error
        address = reverse("run", args=[run.pk])
        if run.ended and run.changed < 1:
            raise SaveRefused(_why_unsaved(run))
        if run.ended:
            link = format_html('<a class="text-link" href="{}">{}</a>', address, gettext("View or undo the run"))
            messages.info(
                request, format_html("{} {}", gettext("Run %(run)d saved the values.") % {"run": run.pk}, link)
            )
            return None
        if not asks_more:
            messages.warning(
                request, gettext("Run %(run)d saves the values later.") % {"run": run.pk} + " " + run.waiting
            )
        return redirect(address)


def _why_unsaved(run: Run) -> str:
    failed = run.failed_items.first()
    return (
        failed.error
        if failed is not None
        else run.error or gettext("Another user has just changed this row. Review the values and save again.")
    )


def _planner(
    name: str, params: dict[str, Any] | None = None
) -> Callable[[Any, HttpRequest, QuerySet[Any]], HttpResponse]:
    """Return the list action that plans operation `name`."""

    def plan(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        if request.POST.get("select_across") == "1":
            selection = Selection(query=request.GET.urlencode())
        else:
            selection = Selection(keys=sorted(queryset.values_list("pk", flat=True)))
        return operation_views.start_plan(request, name, selection=selection, params=params)

    return plan


# --- the console's own rows -----------------------------------------------------------------------------------


class ExportAdmin(ViewOnlyMixin, ExportMixin, ConsoleModelAdmin):
    """A read-only list with export."""

    export_form_class = ExportForm
    formats = (CSV, XLSX, JSON)
    actions = None

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("operations.view_run")

    def has_export_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)


class OperationFilter(admin.SimpleListFilter):
    title = _("operation")
    parameter_name = "operation"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, cls.title) for name, cls in registry.operations().items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(operation=self.value()) if self.value() else queryset


class ConsoleResource(resources.ModelResource):
    """An export of the console's own rows. They are never imported, so an empty text is an empty cell."""

    def after_export(self, queryset: QuerySet[Any], dataset: Any, **kwargs: Any) -> None:
        dataset.never_null = dataset.headers


class RunResource(ConsoleResource):
    rows_per_second = fields.Field(attribute="rows_per_second", readonly=True)
    notes = fields.Field(readonly=True)

    def before_export(self, queryset: QuerySet[Run], **kwargs: Any) -> None:
        self._notes: dict[int | None, list[str]] = {}
        for event in Event.objects.filter(verb="note").order_by("pk").iterator():
            self._notes.setdefault(event.run_id, []).append(f"{event.who}: {event.detail.get('text', '')}")

    def dehydrate_notes(self, run: Run) -> str:
        """Return the notes of users."""
        return "\n".join(self._notes.get(run.pk, ()))

    class Meta:
        model = Run
        fields = (
            "id",
            "operation",
            "store",
            "location",
            "params",
            "status",
            "trigger",
            "started_by",
            "note",
            "code_version",
            "digest",
            "total",
            "changed",
            "skipped",
            "invalid",
            "failed",
            "batches_done",
            "elapsed_seconds",
            "rows_per_second",
            "before",
            "after",
            "error",
            "notes",
            "created_at",
            "started_at",
            "finished_at",
        )
        export_order = fields


@admin.register(Run)
class RunAdmin(ExportAdmin):
    """The list of runs. It shows plans only if the filter of the status asks for them.

    `operation_views.run_page` shows one of them.
    """

    resource_classes = (RunResource,)
    list_display = ("run", "state", "started", "in_store", "outcome", "created", "took")
    list_display_links = None
    list_filter = ("status", "trigger", OperationFilter)
    search_fields = ("started_by", "note", "operation")
    search_help_text = _("Searches the account, the note and the name of the operation.")
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        runs: QuerySet[Run] = super().get_queryset(request)
        if request.GET.get("status__exact") != Status.PLANNED:
            runs = runs.exclude(status=Status.PLANNED)
        # These columns are large, and the list does not show them.
        return runs.defer("plan", "selection", "reasons", "before", "after", "cursor")

    def get_export_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        runs: QuerySet[Run] = super().get_export_queryset(request)
        return runs.defer(None).defer("plan")

    @admin.display(description=_("run"), ordering="id")
    def run(self, run: Run) -> str:
        link = format_html(
            '<a href="{}" class="row-link"><strong>{}</strong> {}</a>',
            reverse("run", args=[run.pk]),
            run.pk,
            operation_title(run.operation),
        )
        if run.break_glass:
            return format_html('{}<br><small class="error-text">{}</small>', link, _("started without approval"))
        return link

    @display(description=_("status"), label=STATUS_VARIANTS)
    def state(self, run: Run) -> tuple[str, str]:
        return run.status, run.get_status_display()

    @admin.display(description=_("started by"))
    def started(self, run: Run) -> str:
        return format_html("{}<br><small>{}</small>", run.started_by, run.get_trigger_display())

    @admin.display(description=_("store"))
    def in_store(self, run: Run) -> str:
        return format_html('<span title="{}">{}</span>', run.location, store_title(run.store))

    @admin.display(description=_("changed / in scope"))
    def outcome(self, run: Run) -> str:
        text = format_html("{} / {}", format_number(run.changed), format_number(run.total))
        if run.changed and only_deletes(registry.operations().get(run.operation)):
            text = format_html('<span class="text-outcome-deleted">{}</span> {}', _("deleted"), text)
        if run.failed:
            text = format_html("{}<br><small>{} {}</small>", text, format_number(run.failed), _("failed"))
        return text

    @admin.display(description=_("created at"), ordering="id")
    def created(self, run: Run) -> str:
        return format_time(run.created_at)

    @admin.display(description=_("took"))
    def took(self, run: Run) -> str:
        return duration(run.elapsed_seconds) if run.elapsed_seconds else "–"


class OpenFilter(RadioFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("open")), ("resolved", _("resolved"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(resolved_at__isnull=self.value() == "open") if self.value() else queryset


class CheckFilter(OperationFilter):
    title = _("check")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, cls.title) for name, cls in registry.operations().items() if issubclass(cls, Check)]


class FindingResource(ConsoleResource):
    class Meta:
        model = Finding
        fields = ("operation", "store", "code", "subject", "priority", "data", "found_at", "seen_at", "resolved_at")
        export_order = fields


@admin.register(Finding)
class FindingAdmin(ExportAdmin):
    """The list of findings."""

    resource_classes = (FindingResource,)
    list_display = ("problem", "about", "urgency", "words", "since", "seen", "resolved", "scan")
    list_display_links = None
    list_filter = (OpenFilter, CheckFilter, ("priority", ChoicesRadioFilter))
    exact_search_fields = ("subject", "code")
    search_help_text = _("Searches the exact key of a subject or the exact code of a problem.")
    ordering = ("-id",)
    list_select_related = ("last_run",)
    fields = list_display

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return the operations that repair findings."""
        if not request.user.has_perm("operations.operate_run"):
            return {}
        checks = (cls for cls in registry.operations().values() if issubclass(cls, Check))
        names = {name for cls in checks for cause in cls.causes.values() for name in cause.repairs}
        return {
            name: (_repairer(name), name, format_lazy("{} {}", _("Plan:"), cls.title))
            for name, cls in registry.operations().items()
            if name in names and cls.selectable
        }

    def get_queryset(self, request: HttpRequest) -> QuerySet[Finding]:
        found: QuerySet[Finding] = super().get_queryset(request)
        return found.defer("last_run__plan", "last_run__selection", "last_run__reasons")

    @admin.display(description=_("problem"), ordering="code")
    def problem(self, finding: Finding) -> str:
        title = page_parts.finding_title(registry.operations().get(finding.operation), finding.code)
        return format_html('<span class="wraps">{}</span>', title)

    @admin.display(description=_("subject"))
    def about(self, finding: Finding) -> str:
        return format_html('<span class="wraps">{}</span>', page_parts.finding_link(finding))

    @display(description=_("priority"), label={"immediate": "danger", "planned": "warning", "periodic": "info"})
    def urgency(self, finding: Finding) -> tuple[str, str]:
        return finding.priority, finding.get_priority_display()

    @admin.display(description=_("detail"))
    def words(self, finding: Finding) -> str:
        return format_html('<span class="wraps">{}</span>', page_parts.finding_words(finding))

    @admin.display(description=_("found at"))
    def since(self, finding: Finding) -> str:
        return format_time(finding.found_at)

    @admin.display(description=_("last seen at"))
    def seen(self, finding: Finding) -> str:
        return format_time(finding.seen_at)

    @admin.display(description=_("resolved at"))
    def resolved(self, finding: Finding) -> str:
        return format_time(finding.resolved_at)

    @admin.display(description=_("run"))
    def scan(self, finding: Finding) -> str:
        url = reverse("run", args=[finding.last_run_id])
        return format_html('<a href="{}" class="row-link">{}</a>', url, finding.last_run_id)


def _repairer(name: str) -> Callable[[Any, HttpRequest, QuerySet[Any]], HttpResponse | None]:
    """Return the list action that plans operation `name` for the rows of the selected findings."""

    def plan(model_admin: Any, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        cls = registry.operation(name)
        field, table = cls.model._meta.pk, cls.model._meta.db_table
        keys = set()
        found = queryset.filter(resolved_at=None, store__in=aliases_of(cls.store_alias), last_run__attached_path="")
        stores = set(found.order_by().values_list("store", flat=True))
        if len(stores) > 1:
            messages.warning(request, _("The selected findings belong to several stores. Select those of one store."))
            return None
        for finding in found:
            target = page_parts.finding_target(finding)
            if target is not None and target[0] == table:
                keys.add(field.to_python(target[1]))
        if not keys:
            messages.warning(
                request,
                _("The selected findings are resolved, or this operation does not repair their rows. Select others."),
            )
            return None
        with use(stores.pop()):
            return operation_views.start_plan(request, name, selection=Selection(keys=sorted(keys)))

    return plan


class VerbFilter(admin.SimpleListFilter):
    title = _("verb")
    parameter_name = "verb"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(verb, str(label)) for verb, label in VERB_LABELS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(verb=self.value()) if self.value() else queryset


class EventResource(ConsoleResource):
    operation = fields.Field(attribute="run__operation", readonly=True)

    class Meta:
        model = Event
        fields = ("id", "at", "verb", "who", "origin", "run", "operation", "detail")
        export_order = fields


@admin.register(Event)
class EventAdmin(ExportAdmin):
    resource_classes = (EventResource,)
    list_display = ("when", "what", "who", "from_where", "about", "more")
    list_display_links = None
    list_filter = (VerbFilter,)
    exact_search_fields = ("who", "run")
    search_help_text = _("Searches the exact name of an account or the number of a run.")
    ordering = ("-at",)
    list_select_related = ("run",)
    fields = ("when", "what", "who", "from_where", "about", "more")

    @admin.display(description=_("at"), ordering="at")
    def when(self, event: Event) -> str:
        return format_time(event.at)

    @admin.display(description=_("verb"))
    def what(self, event: Event) -> str:
        return verb_label(event.verb)

    @admin.display(description=_("from"))
    def from_where(self, event: Event) -> str:
        return copy_button(event.origin)

    @admin.display(description=_("run"))
    def about(self, event: Event) -> str:
        if event.run is None:
            return "–"
        title = format_lazy("{} {}", event.run_id, operation_title(event.run.operation))
        return format_html('<a href="{}" class="row-link">{}</a>', reverse("run", args=[event.run_id]), title)

    @admin.display(description=_("detail"))
    def more(self, event: Event) -> str:
        return page_parts.detail_words(event) or "–"
