"""The base of the admin classes of a store's tables: columns that may be missing, and values of any kind.

Forms are in `editing`, imports and exports in `store_import_export`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any, ClassVar

from django.apps import apps
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.db import DatabaseError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.dateparse import parse_date
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.contrib.filters.forms import RangeDateForm, SearchForm

from opsconsole.console.base_admin import COUNT_CAP, ConsoleModelAdmin, ViewOnlyMixin, can_hold
from opsconsole.console.list_columns import StoreChangeList
from opsconsole.console.page_parts import list_url
from opsconsole.console.row_story import RowStory
from opsconsole.console.store_errors import store_error_page
from opsconsole.console.store_urls import store_links
from opsconsole.formatting import CutText, copy_button, format_number, format_time, pretty_json, truncate
from opsconsole.stores import catalog, remedies
from opsconsole.stores.fields import RawTimestampField
from opsconsole.stores.platforms import platform_apps
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store, StoreUnavailable


class StoreModelAdmin(ViewOnlyMixin, ConsoleModelAdmin):
    """Read-only rows of a store, limited to the columns that the store contains."""

    # Column → the function that formats its value. `default_formatter` knows keys, times, JSON, choices and references.
    formatters: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    # Column → value → colour of the badge in lists.
    badge_colors: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    # Fieldsets below the columns of a row. Their fields are methods of (row, store).
    related_panels: ClassVar[Sequence[tuple[Any, dict[str, Any]]]] = ()
    # Method, filter or panel → the columns that it reads. The default is the column of the same name.
    required_columns: ClassVar[Mapping[Any, tuple[str, ...]]] = {}
    # Method or panel → the other tables that it reads.
    required_tables: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # Column → values that its ExactTextFilter offers for completion.
    suggestions: ClassVar[Mapping[str, Sequence[str]]] = {}
    ordering = ("-pk",)
    sortable_by: ClassVar[Sequence[str]] = ()
    list_filter_submit = True
    change_form_outer_before_template = "console/row_before.html"

    def __init__(self, model: type[Model], admin_site: Any) -> None:
        super().__init__(model, admin_site)
        self._cells: dict[tuple[str, bool], Callable[[Any], Any]] = {}

    def store(self, request: HttpRequest) -> Store:
        """Return the store of the request, which caches its tables."""
        found: Store | None = getattr(request, "store", None)
        if found is None:
            found = request.store = Store.current(store_of(self.model))  # type: ignore[attr-defined]
        return found

    def columns(self, request: HttpRequest) -> list[str]:
        """Return the columns of the model that the store contains. Raise StoreUnavailable if the table is missing."""
        store, table = self.store(request), self.model._meta.db_table
        if table not in store.tables:
            raise StoreUnavailable(
                _("%(location)s does not contain the table %(table)s.") % {"location": store.location, "table": table}
            )
        return [f.column for f in self.model._meta.concrete_fields if f.column in store.tables[table]]

    def readable(self, request: HttpRequest, names: Any) -> list[Any]:
        """Return the names whose columns and tables the store contains."""
        known = {field.column for field in self.model._meta.concrete_fields}
        missing = known - set(self.columns(request))
        tables = self.store(request).tables
        return [
            name for name in names if missing.isdisjoint(self.reads(name)) and tables.keys() >= set(self._tables(name))
        ]

    def reads(self, name: Any) -> tuple[str, ...]:
        """Return the columns that a column of the list, a filter or a panel reads."""
        if isinstance(name, tuple):  # (field, filter class)
            name = name[0]
        return self.required_columns.get(name, (name,))

    def _tables(self, name: Any) -> tuple[str, ...]:
        declared = getattr(getattr(self, name, None), "required_tables", ()) if isinstance(name, str) else ()
        return self.required_tables.get(name, declared)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        names = self.readable(request, super().get_list_display(request))
        return [self.cell(name, in_list=True) for name in names]

    def get_sortable_by(self, request: HttpRequest) -> list[Any]:
        return [self.cell(name, in_list=True) for name in super().get_sortable_by(request)]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return self.readable(request, super().get_list_filter(request))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        store = self.store(request)
        fieldsets = [
            (title, {**options, "fields": [self.cell(name) for name in self.readable(request, options["fields"])]})
            for title, options in super().get_fieldsets(request, obj)
        ]
        panels = [
            (
                title,
                {**options, "fields": [self.panel(name, store) for name in self.readable(request, options["fields"])]},
            )
            for title, options in (self.related_panels if obj is not None else ())
        ]
        return [(title, options) for title, options in (*fieldsets, *panels) if options["fields"]]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [name for __, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    # --- columns -----------------------------------------------------------------------------

    def cell(self, name: Any, *, in_list: bool = False) -> Any:
        """Return a callable that formats a column; the name of a method stays."""
        if not isinstance(name, str) or hasattr(self, name):
            return name
        if (name, in_list) not in self._cells:
            self._cells[name, in_list] = self._cell(name, in_list)
        return self._cells[name, in_list]

    def _cell(self, name: str, in_list: bool) -> Callable[[Any], Any]:
        field = self.model._meta.get_field(name)
        formatter = self.formatters.get(name) or default_formatter(field, in_list=in_list)

        def formatted(row: Any) -> Any:
            value = getattr(row, name)
            if isinstance(value, CutText):
                return truncate(value)
            if in_list and name in self.badge_colors and value is not None:
                return value, formatter(value)
            return formatter(value) if in_list else _once(row, name, partial(formatter, value))

        formatted.__name__ = name
        formatted.short_description = field.verbose_name  # type: ignore[attr-defined]
        formatted.admin_order_field = name  # type: ignore[attr-defined]
        if in_list and name in self.badge_colors:
            formatted.label = dict(self.badge_colors[name])  # type: ignore[attr-defined]
        return formatted

    def panel(self, name: str, store: Store) -> Callable[[Any], Any]:
        method = getattr(self, name)

        def formatted(row: Any) -> Any:
            return _once(row, name, partial(method, row, store))

        formatted.__name__ = name
        formatted.short_description = method.short_description  # type: ignore[attr-defined]
        return formatted

    # --- rows ----------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        columns = self.columns(request)
        return rows.only(*(f.name for f in self.model._meta.concrete_fields if f.column in columns))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[StoreChangeList]:
        return StoreChangeList

    def whole_fields(self, request: HttpRequest) -> tuple[str, ...]:
        """Return the long texts that the list reads to their end."""
        return ()

    def get_search_fields(self, request: HttpRequest) -> list[str]:
        return self.readable(request, self.exact_search_fields)

    # --- store errors ------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        try:
            self._require_key(request)
            self._warn_of_missing_columns(request)
            return _rendered(super().changelist_view(request, {**self._store_links(), **(extra_context or {})}))
        except (StoreUnavailable, DatabaseError) as error:
            return self.store_error_page(request, error)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        try:
            self._require_key(request)
            context = {**self._store_links(), **(extra_context or {})}
            response = super().changeform_view(request, object_id, form_url, context)
            self._add_story(request, response)
            return _rendered(response)
        except (StoreUnavailable, DatabaseError) as error:
            return self.store_error_page(request, error)

    def _store_links(self) -> dict[str, Any]:
        """Return links to the same list in the other stores of the platform."""
        return {"stores": store_links(store_of(self.model), partial(list_url, self.model))}

    def _add_story(self, request: HttpRequest, response: Any) -> None:
        """Add what is known of the row: its incidents, and the runs that wrote it."""
        context = getattr(response, "context_data", None)
        row = (context or {}).get("original")
        if context is not None and row is not None and request.user.has_perm("operations.view_run"):
            context["story"] = RowStory(self.store(request), self.model._meta.db_table, row.pk, request.user)

    def store_error_page(self, request: HttpRequest, error: Exception) -> HttpResponse:
        return store_error_page(request, error, self.store(request))

    def _require_key(self, request: HttpRequest) -> None:
        """Refuse a table whose key differs from the key of the model."""
        if self.has_view_permission(request) and remedies.other_shape(self.store(request), self.model):
            raise StoreUnavailable(remedies.shape_sentence(self.store(request), self.model))

    def _warn_of_missing_columns(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            return  # the view refuses the request
        have = self.columns(request)
        missing = [f.column for f in self.model._meta.concrete_fields if f.column not in have]
        if missing:
            messages.warning(
                request,
                _("The columns %(columns)s are missing in %(location)s. Fields that depend on them are hidden.")
                % {"location": self.store(request).location, "columns": ", ".join(missing)},
            )


def _rendered(response: HttpResponse) -> HttpResponse:
    """Render now, so that the caller catches errors of the store."""
    return response.render() if isinstance(response, TemplateResponse) else response


class ExactTextFilter(admin.FieldListFilter):
    """Rows with exactly this value in an indexed column. The admin's `suggestions` are offered for completion."""

    template = "console/exact_filter.html"

    def __init__(self, field: Any, request: Any, params: Any, model: Any, model_admin: Any, field_path: str) -> None:
        super().__init__(field, request, params, model, model_admin, field_path)
        self.title = _("%(column)s, exactly") % {"column": field.verbose_name}
        self.suggested = model_admin.suggestions.get(field_path, ())

    def expected_parameters(self) -> list[str | None]:
        return [self.field_path]

    @property
    def value(self) -> str:
        return _last(self.used_parameters.get(self.field_path)).strip()

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value:
            return queryset
        return queryset.filter(**{self.field_path: self.value}) if can_hold(self.field, self.value) else queryset.none()

    def choices(self, changelist: Any) -> Iterator[Any]:
        form = SearchForm(name=self.field_path, label=self.title, data={self.field_path: self.value})
        form.fields[self.field_path].widget.attrs["list"] = f"suggested-{self.field_path}"
        yield {"form": form}


def _last(value: Any) -> str:
    """Return the last value of a parameter in the query string, or an empty string."""
    return str((value[-1] if isinstance(value, list) else value) or "")


class CountedChoicesFilter(ChoicesRadioFilter):
    """Known values with their numbers of rows, counted in one query if the column is indexed."""

    def __init__(self, field: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.request = request
        super().__init__(field, request, *args, **kwargs)

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        counts = self._counts(changelist.model_admin, changelist.model)
        for choice in super().choices(changelist):
            radio = choice["form"].fields[self.lookup_kwarg]
            radio.choices = [
                (value, f"{label} ({counts[value]})" if value in counts else label) for value, label in radio.choices
            ]
            yield choice

    def _counts(self, model_admin: Any, model: type[Model]) -> dict[Any, str]:
        store: Store = model_admin.store(self.request)
        table, column = catalog.quote(model._meta.db_table), catalog.quote(self.field.column)
        if not store.indexes_on(model._meta.db_table, [self.field.column]):
            return {}
        values = [value for value, _label in self.field.flatchoices]
        one = f"(SELECT COUNT(*) FROM (SELECT 1 FROM {table} WHERE {column} = %s LIMIT %s) AS t)"  # noqa: S608
        with store.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {', '.join([one] * len(values))}",
                [parameter for value in values for parameter in (value, COUNT_CAP + 1)],
            )
            found = cursor.fetchone()
        return {
            value: f"{format_number(COUNT_CAP)}+" if count > COUNT_CAP else format_number(count)
            for value, count in zip(values, found, strict=True)
        }


class DateRangeFilter(admin.FieldListFilter):
    """A range of UTC days, both included, on a column of ISO timestamps as text."""

    template = "unfold/filters/filters_date_range.html"
    form_class = RangeDateForm

    def __init__(self, field: Any, request: Any, params: Any, model: Any, model_admin: Any, field_path: str) -> None:
        self.ends = [f"{field_path}_from", f"{field_path}_to"]
        super().__init__(field, request, params, model, model_admin, field_path)
        if settings.TIME_ZONE != "UTC":
            self.title = _("%(column)s, day in UTC") % {"column": self.title}

    def expected_parameters(self) -> list[str | None]:
        return list(self.ends)

    def day(self, end: str) -> date | None:
        try:
            return parse_date(_last(self.used_parameters.get(end)))
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


# --- formatters and tables -------------------------------------------------------------------------


def _once(row: Any, name: str, formatter: Callable[[], Any]) -> Any:
    """Format a value once per row: a page requests each value several times."""
    cache: dict[str, Any] = row.__dict__.setdefault("_formatted", {})
    if name not in cache:
        cache[name] = formatter()
    return cache[name]


def default_formatter(field: Any, *, in_list: bool = False) -> Callable[[Any], Any]:
    """Return the function that formats the values of a column in a list or on the page of a row."""
    if field.primary_key:
        return truncate if in_list else copy_button
    if isinstance(field, RawTimestampField):
        return format_time
    if field.is_relation:
        return linked(field.related_model._meta.label_lower)
    if field.column in json_columns(field.model):
        return pretty_json if in_list else json_block
    if field.choices:
        return partial(_choice, dict(field.flatchoices))
    return _brief_text if in_list else _plain


def json_columns(model: type[Model]) -> set[str]:
    """Return the columns that the platform declares as JSON."""
    table = model._meta.db_table
    return {column for app in platform_apps(store_of(model)) for column in app.json_columns.get(table, ())}


def _plain(value: Any) -> str:
    return "–" if value is None or value == "" else truncate(value, 2_000) if isinstance(value, bytes) else str(value)


def _brief_text(value: Any) -> str:
    return truncate(_plain(value))


def _choice(choices: Mapping[Any, Any], value: Any) -> str:
    """Return the label of a known value, or an unknown value unchanged."""
    known = value in choices if isinstance(value, str | int) else False
    return str(choices[value]) if known else _plain(value)


def row_link(model: str, key: Any, text: Any = None) -> SafeString | str:
    """Return a link to the page of a row of `app.model`, without checking that the row exists."""
    if key is None or key == "":
        return "–"
    label = key if text in (None, "") else text
    return format_html('<a class="row-link" href="{}">{}</a>', row_url(model, key), truncate(label, 80))


def row_url(model: str, key: Any) -> str:
    return reverse(f"admin:{model.replace('.', '_')}_change", args=[quote(str(key))])


def linked(model: str) -> Callable[[Any], SafeString | str]:
    """Return a formatter that links a key to its row."""
    return partial(row_link, model)


def long_text(value: Any) -> SafeString | str:
    """Return a text with its line breaks."""
    if value is None or value == "":
        return "–"
    return format_html('<div class="long-text">{}</div>', value if isinstance(value, str) else truncate(value, 2_000))


def table(headers: Sequence[Any], rows: Sequence[Sequence[Any]]) -> SafeString:
    """Return a table as the value of a field."""
    text = render_to_string("unfold/components/table.html", {"table": {"headers": headers, "rows": rows}})
    return format_html('<div class="roomy">{}</div>', text)


NEWEST = 20


def newest_rows(
    rows: QuerySet[Any],
    store: Store,
    columns: Mapping[str, Callable[[Any], Any]],
    *,
    all_link: tuple[Any, dict[str, Any]] | None = None,
) -> SafeString | str:
    """Return the newest rows as a table, with a link to the full list if there are more.

    Columns that the store does not contain are left out. The first column is the key. Runs one query.
    """
    model = rows.model
    existing = store.tables[model._meta.db_table]
    fields = [field for name in columns for field in [model._meta.get_field(name)] if field.column in existing]
    found = list(rows.using(store.alias).values_list(*(field.attname for field in fields))[: NEWEST + 1])
    if not found:
        return _("none")
    newest = table(
        [str(field.verbose_name) for field in fields],
        [
            [columns[name](value) for name, value in zip((f.attname for f in fields), row, strict=True)]
            for row in found[:NEWEST]
        ],
    )
    if len(found) <= NEWEST or all_link is None:
        return newest
    text, query = all_link
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist", query=query)
    return format_html('{}<p class="mt-4"><a class="text-link" href="{}">{}</a></p>', newest, url, text)


def related_rows(
    model: str,
    column: str,
    fields: Sequence[str],
    *,
    title: Any,
    link_to_all: Any,
    order: str = "-pk",
    formatters: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Callable[[Any, Any, Store], SafeString | str]:
    """Declare a panel: the rows of `model` whose `column` contains the key of the page's row.

    Values are formatted as in a list, and long texts are truncated. The key links to its row.
    """
    related: Any = apps.get_model(model)
    columns = {name: (formatters or {}).get(name) or _brief(related._meta.get_field(name)) for name in fields}

    def panel(model_admin: Any, row: Any, store: Store) -> SafeString | str:
        filters = {column: row.pk}
        return newest_rows(
            related.objects.filter(**filters).order_by(order), store, columns, all_link=(link_to_all, filters)
        )

    panel.short_description = title  # type: ignore[attr-defined]
    panel.required_tables = (related._meta.db_table,)  # type: ignore[attr-defined]
    return panel


def _brief(field: Any) -> Callable[[Any], Any]:
    if field.primary_key:
        return linked(field.model._meta.label_lower)
    formatter = default_formatter(field, in_list=True)
    return partial(truncate, characters=200) if formatter is _brief_text else formatter


def json_block(text: Any) -> SafeString | str:
    """Return a JSON text unfolded, or any other value as text."""
    if text is not None and not isinstance(text, str):
        text = truncate(text, 2_000)
    html = str(pretty_json(text, colours=True)).replace("<details", "<details open", 1)
    return mark_safe(html)  # noqa: S308  # escaped by pretty_json
