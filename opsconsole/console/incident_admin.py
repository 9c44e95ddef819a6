"""The list of incidents, with filters and export."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesRadioFilter, RadioFilter
from unfold.decorators import display

from opsconsole.console.incident_page import STATE_VARIANTS, VARIANTS
from opsconsole.console.run_admin import ConsoleResource, ExportAdmin
from opsconsole.engine import incidents
from opsconsole.engine.models import Incident, IncidentState
from opsconsole.formatting import format_number, format_time
from opsconsole.stores.platforms import store_title, store_titles


class StateFilter(RadioFilter):
    """Without a choice, the list shows the open and the acknowledged incidents."""

    title = _("state")
    parameter_name = "state"
    default_removed_by = "all"
    default_words = _("open or acknowledged")

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [*IncidentState.choices, ("all", _("all of them"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "all":
            return queryset
        rows = Incident.objects.in_state(str(self.value())) if self.value() else Incident.objects.active()
        return queryset & rows


class StoreFilter(RadioFilter):
    title = _("store")
    parameter_name = "store"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(store_titles().items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(store=self.value()) if self.value() else queryset


class OwnerFilter(RadioFilter):
    title = _("owner")
    parameter_name = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("me", _("me")), ("none", _("no owner"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "me":
            return queryset.filter(owner=request.user)
        return queryset.filter(owner=None) if self.value() else queryset


class IncidentResource(ConsoleResource):
    class Meta:
        model = Incident
        fields = (
            "id",
            "store",
            "cause",
            "subject",
            "priority",
            "count",
            "owner__username",
            "link",
            "came_back",
            "opened_at",
            "seen_at",
            "resolved_at",
            "resolved_run",
        )
        export_order = fields


@admin.register(Incident)
class IncidentAdmin(ExportAdmin):
    """Worst first. An incident's page is `incident_views.incident_page`."""

    resource_classes = (IncidentResource,)
    list_display = ("urgency", "what", "state", "in_store", "size", "since", "owned")
    list_display_links = None
    list_filter = (StateFilter, StoreFilter, ("priority", ChoicesRadioFilter), OwnerFilter)
    exact_search_fields = ("subject", "cause")
    search_help_text = _("Searches the exact key of the row or the exact code of the cause.")
    list_select_related = ("owner",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Incident]:
        rows: QuerySet[Incident] = super().get_queryset(request)
        return rows.defer("history")

    def get_ordering(self, request: HttpRequest) -> list[Any]:
        return list(Incident.objects.worst_first().query.order_by)

    @display(description=_("priority"), label=VARIANTS)
    def urgency(self, incident: Incident) -> tuple[str, str]:
        return incident.priority, incident.get_priority_display()

    @admin.display(description=_("what is wrong"))
    def what(self, incident: Incident) -> str:
        url = reverse("incident", args=[incident.pk])
        return format_html('<a href="{}" class="row-link wraps">{}</a>', url, capfirst(incidents.title_of(incident)))

    @display(description=_("state"), label={state.value: variant for state, variant in STATE_VARIANTS.items()})
    def state(self, incident: Incident) -> tuple[str, str]:
        return incident.state.value, str(incident.state.label)

    @admin.display(description=_("store"))
    def in_store(self, incident: Incident) -> str:
        return store_title(incident.store)

    @admin.display(description=_("count"), ordering="count")
    def size(self, incident: Incident) -> str:
        return format_number(incident.count)

    @admin.display(description=_("since"), ordering="opened_at")
    def since(self, incident: Incident) -> str:
        return format_time(incident.opened_at)

    @admin.display(description=_("owner"))
    def owned(self, incident: Incident) -> str:
        return incident.owner.get_username() if incident.owner else "–"
