"""What the lists and pages of a source system's tables share: nobody edits them, and any store may be behind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db import DatabaseError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.dateparse import parse_date
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from unfold.contrib.filters.admin import TextFilter
from unfold.contrib.filters.forms import RangeDateForm

from opsconsole.admin import ConsoleModelAdmin, ViewOnlyMixin
from opsconsole.display import pretty_json
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store, StoreUnusable


class StoreModelAdmin(ViewOnlyMixin, ConsoleModelAdmin):
    """Rows of a store, to look at: only columns that it has, and a sentence where it has no such table.

    `needs` says which columns a displayed field or a filter reads, where its name does not.
    """

    needs: ClassVar[Mapping[Any, tuple[str, ...]]] = {}
    searched: ClassVar[tuple[str, ...]] = ()  # indexed columns; a search is for exactly one of their values
    ordering = ("-pk",)
    sortable_by: ClassVar[Sequence[str]] = ()
    list_filter_submit = True

    def store(self, request: HttpRequest) -> Store:
        """The store, asked once per request what it holds."""
        found: Store | None = getattr(request, "store", None)
        if found is None:
            name = store_of(self.model)
            found = request.store = Store(name, name)  # type: ignore[attr-defined]
        return found

    def columns(self, request: HttpRequest) -> list[str]:
        """Columns that both the model and the store have. Raises StoreUnusable where the table is missing."""
        store, table = self.store(request), self.model._meta.db_table
        if table not in store.tables:
            raise StoreUnusable(
                _("%(location)s has no table %(table)s.") % {"location": store.location, "table": table}
            )
        return [f.column for f in self.model._meta.concrete_fields if f.column in store.tables[table]]

    def readable(self, request: HttpRequest, names: Any) -> list[Any]:
        """Those of `names` whose columns the store has."""
        known = {field.column for field in self.model._meta.concrete_fields}
        lacking = known - set(self.columns(request))
        return [name for name in names if lacking.isdisjoint(self._reads(name))]

    def _reads(self, name: Any) -> tuple[str, ...]:
        if isinstance(name, tuple):  # (field, filter class)
            name = name[0]
        return self.needs.get(name, (name,))

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return self.readable(request, super().get_list_display(request))

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return self.readable(request, super().get_list_filter(request))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [
            (title, {**options, "fields": self.readable(request, options["fields"])})
            for title, options in super().get_fieldsets(request, obj)
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [name for __, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        columns = self.columns(request)
        return rows.only(*(f.name for f in self.model._meta.concrete_fields if f.column in columns))

    # --- search: by index only ---------------------------------------------------------------------------

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return self.readable(request, self.searched)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Rows that hold exactly this value in a searched column."""
        term = search_term.strip()
        if not term:
            return queryset, False
        matches = Q()
        for name in self.get_search_fields(request):
            is_key = self.model._meta.get_field(name).get_internal_type() == "BigAutoField"
            if not is_key or _KEY.fullmatch(term):
                matches |= Q(**{name: term})
        return queryset.filter(matches) if matches else queryset.none(), False

    # --- a store that can't be read ------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        try:
            self._say_what_is_missing(request)
            return _rendered(super().changelist_view(request, extra_context))
        except (StoreUnusable, DatabaseError) as error:
            return self.unusable(request, error)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return _rendered(super().changeform_view(request, *args, **kwargs))
        except (StoreUnusable, DatabaseError) as error:
            return self.unusable(request, error)

    def unusable(self, request: HttpRequest, error: Exception) -> HttpResponse:
        store = self.store(request)
        sentence = error if isinstance(error, StoreUnusable) else store.unusable(error)
        context = {
            **self.admin_site.each_context(request),
            "title": _("%(store)s can't be shown") % {"store": store.title},
            "sentence": str(sentence),
            "managed": store.managed,
        }
        return TemplateResponse(request, "stores/unusable.html", context, status=503)

    def _say_what_is_missing(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            return  # refused in a moment
        have = self.columns(request)
        missing = [f.column for f in self.model._meta.concrete_fields if f.column not in have]
        if missing:
            messages.warning(
                request,
                _("%(location)s lacks %(columns)s: what depends on them is not shown.")
                % {"location": self.store(request).location, "columns": ", ".join(missing)},
            )


def _rendered(response: HttpResponse) -> HttpResponse:
    """Rendered now, so that what the store refuses while it is read is still caught."""
    return response.render() if isinstance(response, TemplateResponse) else response


class ExactFilter(TextFilter):
    """Rows with exactly this text in the column `parameter_name`, by its index; some may be `suggested`."""

    template = "stores/exact_filter.html"
    suggested: ClassVar[tuple[str, ...]] = ()

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        return queryset.filter(**{self.parameter_name: value}) if value else queryset

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        for choice in super().choices(changelist):
            choice["form"].fields[self.parameter_name].widget.attrs["list"] = f"suggested-{self.parameter_name}"
            yield choice


class DayFilter(admin.FieldListFilter):
    """From one day to another, both included, as the store's text says it: UTC, by the text's own order."""

    template = "unfold/filters/filters_date_range.html"
    form_class = RangeDateForm

    def __init__(self, field: Any, request: Any, params: Any, model: Any, model_admin: Any, field_path: str) -> None:
        self.ends = [f"{field_path}_from", f"{field_path}_to"]
        super().__init__(field, request, params, model, model_admin, field_path)

    def expected_parameters(self) -> list[str | None]:
        return list(self.ends)

    def day(self, end: str) -> date | None:
        value = self.used_parameters.get(end) or ""
        try:
            return parse_date(str(value[-1] if isinstance(value, list) else value))
        except ValueError:
            return None

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        first, last = map(self.day, self.ends)
        if first:
            queryset = queryset.filter(**{f"{self.field_path}__gte": first.isoformat()})
        if last and last < date.max:
            queryset = queryset.filter(**{f"{self.field_path}__lt": (last + timedelta(days=1)).isoformat()})
        return queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {"form": self.form_class(name=self.field_path, data={end: self.day(end) for end in self.ends})}


def table(headers: Sequence[Any], rows: Sequence[Sequence[Any]]) -> SafeString:
    """A table of the theme, as a field's value."""
    text = render_to_string("unfold/components/table.html", {"table": {"headers": headers, "rows": rows}})
    return format_html('<div class="roomy">{}</div>', text)


_KEY = re.compile(r"\d{1,18}", re.ASCII)


def json_block(text: str | None) -> SafeString | str:
    """A document on a page of its own: unfolded, and shown whatever it holds."""
    shown = str(pretty_json(text)).replace("<details", "<details open", 1)
    return mark_safe(shown)  # noqa: S308  # escaped by pretty_json
