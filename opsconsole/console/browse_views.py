"""Pages of a store without a platform: its tables from the catalog, their rows in key order, and single rows.

Everything that a database contains is untrusted: names are quoted, values are cut in SQL and escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import DataError, NotSupportedError, models
from django.db.models.expressions import RawSQL
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from opsconsole.console.navigation import may_change_by_statement
from opsconsole.console.operation_views import render_page
from opsconsole.console.page_parts import Table
from opsconsole.formatting import format_number, truncate
from opsconsole.stores import catalog
from opsconsole.stores.catalog import ForeignKey, other_relations
from opsconsole.stores.indexes import indexes
from opsconsole.stores.remedies import KIND_LABELS
from opsconsole.stores.rows import Key, is_bigint, key_of, key_parts, plain_key
from opsconsole.stores.store import Store, StoreUnavailable
from opsconsole.stores.table_models import pk_of, table_model

PERMISSION = "stores.browse_store"
PAGE_ROWS = 100
LISTED_COLUMNS = 30
LISTED_CHARACTERS, SHOWN_CHARACTERS = 200, 20_000
LONGEST_KEY = 500  # of a key in an address
ROWID = "rowid"  # the name in an address, and of the annotation
FIRST, LAST = "first", "last"  # the two directions of a list


class Cut(models.Func):
    """The first characters of a value of any type as text. Bytes are shown as hexadecimal digits."""

    arity = 1
    output_field = models.TextField()

    def __init__(self, expression: Any, characters: int) -> None:
        super().__init__(expression, characters=int(characters))

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        sql, params = compiler.compile(self.source_expressions[0])
        count = self.extra["characters"]
        text = f"substr(CAST({sql} AS TEXT), 1, {count})"
        return f"CASE typeof({sql}) WHEN 'blob' THEN hex(substr({sql}, 1, {count})) ELSE {text} END", [*params] * 4

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        sql, params = compiler.compile(self.source_expressions[0])
        return f"left(CAST({sql} AS text), {self.extra['characters']})", params


def _of_store(view: Callable[[HttpRequest, Store], HttpResponse]) -> Callable[[HttpRequest, str], HttpResponse]:
    """Require the permission, and pass the store."""

    @wraps(view)
    def checked(request: HttpRequest, alias: str) -> HttpResponse:
        if settings.STORES.get(alias) != "":
            raise Http404
        if not request.user.has_perm(PERMISSION):
            raise PermissionDenied
        store = request.store = Store.called(alias)  # type: ignore[attr-defined]  # for the error page
        store.require_file()
        return view(request, store)

    return require_safe(checked)


# --- the tables -----------------------------------------------------------------------------------------------


@_of_store
def tables(request: HttpRequest, store: Store) -> HttpResponse:
    """List the tables of a store, and what cannot be browsed."""
    listed, refused = [], [[name, KIND_LABELS[kind]] for name, kind in other_relations(store).items()]
    for name, table in sorted(store.tables.items()):
        reason = _why_not(store, name)
        if reason:
            refused.append([name, reason])
        else:
            key = ", ".join(table.identity) or _("none")
            listed.append(
                [_link(_rows_url(store, name), name), KIND_LABELS[table.kind], key, format_number(len(table))]
            )
    others = [[schema, format_number(count)] for schema, count in _other_schemas(store)]
    return render_page(
        request,
        "console/browse_tables.html",
        _("Tables of %(store)s") % {"store": store.title},
        store=store,
        listed=Table([_("Table"), _("Kind"), _("Key"), _("Columns")], listed),
        refused=Table([_("Name"), _("Why")], sorted(refused)),
        schemas=Table([_("Schema"), _("Tables")], others),
        statement_url=_statement_url(request, store),
    )


def _why_not(store: Store, name: str) -> str:
    """Return why the rows of a table cannot be browsed, or an empty string."""
    if store.tables[name].row_security:
        return _("Row-level security hides rows from this role.")
    if not store.tables[name].columns:
        return _("The table has no column that this role may read.")
    try:
        table_model(store, name)
    except StoreUnavailable as error:
        return str(error)
    return ""


def _other_schemas(store: Store) -> list[tuple[str, int]]:
    """Return the schemas with tables that the search path does not contain."""
    if store.vendor != "postgresql":
        return []
    return store.query(
        """
        SELECT n.nspname, count(*) FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace
        WHERE t.relkind IN ('r', 'p') AND NOT pg_table_is_visible(t.oid) AND n.nspname !~ '^pg_'
          AND n.nspname <> 'information_schema' GROUP BY 1 ORDER BY 1
        """
    )


# --- rows ---------------------------------------------------------------------------------------------------------


class Filter(NamedTuple):
    """An indexed column in the form above the rows."""

    name: str
    label: str
    value: str


@dataclass
class Browser:
    """A table, and the addresses of its rows and of the rows that they refer to."""

    store: Store
    name: str

    def __post_init__(self) -> None:
        if self.name not in self.store.tables:
            raise Http404
        if reason := _why_not(self.store, self.name):
            raise StoreUnavailable(f"{self.name}: {reason}")
        self.table = self.store.tables[self.name]
        self.model = table_model(self.store, self.name)

    @property
    def rows(self) -> Any:
        found = self.model._base_manager.using(self.store.alias)
        if self.order == ROWID:
            rowid = RawSQL(catalog.quote(self.table.rowid), (), models.BigIntegerField())  # noqa: S611  # quoted
            found = found.annotate(**{ROWID: rowid})
        return found

    @cached_property
    def order(self) -> str:
        """The field by which pages follow each other and a row is found; empty if there is none.

        A key of SQLite may hold NULL and values of several types, so the rowid comes first. The address of a row of
        PostgreSQL changes, and composite values cannot be compared with a parameter.
        """
        if self.store.vendor == "sqlite":
            return ROWID if self.table.rowid else "pk"
        is_comparable = all(self.table[column].category != "C" for column in self.table.identity)
        return "pk" if self.model.has_key and is_comparable else ""

    @cached_property
    def indexed(self) -> list[str]:
        """Return the columns that an index finds, the key first."""
        own = [index for index in indexes(self.store).values() if index.table == self.name and index.ordered]
        return [
            column
            for column in self.table
            if column in self.table.identity[:1] or any(index.finds(column) for index in own)
        ]

    def typed(self, column: str, text: str) -> Any:
        """Return a text as a value of a column. Raise ValueError."""
        return _typed(self.model._meta.get_field(self.model.columns[column]), text)

    def value(self, order: str, text: str) -> Any:
        """Return the key or the rowid in an address as the value of a filter. Raise Http404."""
        key: Key = text
        try:
            if order == ROWID:
                return _typed(models.BigIntegerField(), text)
            if isinstance(self.model._meta.pk, models.CompositePrimaryKey):
                if len(key_parts(text)) != len(self.table.identity):
                    raise ValueError(text)
            elif isinstance(self.model._meta.pk, models.BigIntegerField):
                key = _typed(self.model._meta.pk, text)
            return pk_of(self.model, key)
        except (ValueError, RecursionError):
            raise Http404 from None

    @cached_property
    def _references(self) -> list[tuple[ForeignKey, catalog.Table]]:
        """Return the foreign keys of the table that refer to the key of another table, with that table."""
        return [
            (key, parent)
            for key in self.store.foreign_keys
            for parent in self.store.tables.values()
            if _is(self.table, key.child_oid, key.child)
            and _is(parent, key.parent_oid, key.parent)
            and set(parent.identity) == set(key.referred)
        ]

    def links(self, values: dict[str, Any]) -> dict[str, str]:
        """Return column → the address of the row that the values of a row refer to."""
        found: dict[str, str] = {}
        for key, parent in self._references:
            referred = {to: values.get(of) for of, to in zip(key.columns, key.referred, strict=True)}
            given = [referred[column] for column in parent.identity]
            if all(value is not None and len(str(value)) < LISTED_CHARACTERS for value in given):
                found |= dict.fromkeys(key.columns, _row_url(self.store, parent.name, key_of(given)))
        return found


def _is(table: catalog.Table, oid: int, name: str) -> bool:
    """Return whether a foreign key names this table. SQLite ignores the case of names."""
    return table.oid == oid if table.oid else table.name.lower() == name.lower()


def _typed(field: Any, text: str) -> Any:
    if isinstance(field, models.BigIntegerField):
        number = int(text) if text.removeprefix("-").isascii() and text.removeprefix("-").isdecimal() else None
        if number is None or len(text) > 20 or not is_bigint(number):
            raise ValueError(text)
        return number
    if "\x00" in text:
        raise ValueError(text)
    return models.Value(text)


@_of_store
def rows(request: HttpRequest, store: Store) -> HttpResponse:
    """List the rows of a table by its key, a page at a time, filtered by indexed columns."""
    browser = Browser(store, request.GET.get("table", ""))
    backward = request.GET.get("from") == LAST
    found, filters, problem = browser.rows, [], ""
    for column in browser.indexed:
        name = browser.model.columns[column]
        text = request.GET.get(name, "")
        filters.append(Filter(name, column, text))
        if text:
            try:
                found = found.filter(**{name: browser.typed(column, text)})
            except ValueError:
                problem = _("%(value)s is not a value of %(column)s.") % {"value": truncate(text, 80), "column": column}
    after, order = request.GET.get("after", ""), browser.order
    if order:
        found = found.order_by(f"-{order}" if backward else order)
        if after:
            found = found.filter(**{f"{order}__{'lt' if backward else 'gt'}": browser.value(order, after)})
    columns = list(browser.table)[:LISTED_COLUMNS]
    cut = [Cut(models.F(browser.model.columns[column]), LISTED_CHARACTERS) for column in columns]
    try:
        page = [] if problem else list(found.values_list(order or "pk", *cut)[: PAGE_ROWS + 1])
    except (DataError, NotSupportedError):
        page, problem = [], _("A value does not have the type of its column. Correct the filter.")
    has_more = len(page) > PAGE_ROWS
    page = page[:PAGE_ROWS]
    asked = {name: value for name, _label, value in filters if value} | ({"from": LAST} if backward else {})
    last = _key_text(page[-1][0]) if page and order and has_more else ""
    return render_page(
        request,
        "console/browse_rows.html",
        _("Table %(table)s") % {"table": browser.name},
        browser=browser,
        filters=filters,
        problem=problem,
        listed=Table(
            [_("Row"), *columns], [[_key_link(browser, pk), *_cells(browser, columns, values)] for pk, *values in page]
        ),
        count=len(page),
        hidden_columns=len(browser.table) - len(columns),
        next_url=_rows_url(store, browser.name, **asked, after=last) if last else "",
        first_url=_rows_url(store, browser.name, **{**asked, "from": FIRST}),
        last_url=_rows_url(store, browser.name, **{**asked, "from": LAST}),
        is_cut=has_more and not last,
        tables_url=reverse("browse", args=[store.alias]),
        statement_url=_statement_url(request, store, browser.table),
    )


@_of_store
def row(request: HttpRequest, store: Store) -> HttpResponse:
    """Show the columns of one row."""
    browser = Browser(store, request.GET.get("table", ""))
    order = ROWID if ROWID in request.GET and browser.order == ROWID else "pk"
    text = request.GET.get(ROWID if order == ROWID else "key", "")
    if not browser.order:
        raise Http404
    cut = [Cut(models.F(name), SHOWN_CHARACTERS + 1) for name in browser.model.columns.values()]
    try:
        found = browser.rows.filter(**{order: browser.value(order, text)}).values_list(*cut).first()
    except (DataError, NotSupportedError):
        found = None
    if found is None:
        raise Http404
    values = dict(zip(browser.table, found, strict=True))
    links = browser.links(values)
    lines = [
        [column, browser.table[column].type, _shown(value, SHOWN_CHARACTERS, links.get(column, ""))]
        for column, value in values.items()
    ]
    return render_page(
        request,
        "console/browse_row.html",
        _("Row %(key)s of %(table)s") % {"key": truncate(text, 80), "table": browser.name},
        browser=browser,
        listed=Table([_("Column"), _("Type"), _("Value")], lines),
        is_cut=any(value is not None and len(value) > SHOWN_CHARACTERS for value in found),
        limit=format_number(SHOWN_CHARACTERS),
        rows_url=_rows_url(store, browser.name),
        tables_url=reverse("browse", args=[store.alias]),
    )


# --- cells and addresses ------------------------------------------------------------------------------------------


def _cells(browser: Browser, columns: Iterable[str], values: Iterable[Any]) -> list[Any]:
    named = dict(zip(columns, values, strict=True))
    links = browser.links(named)
    return [_shown(value, LISTED_CHARACTERS - 1, links.get(column, "")) for column, value in named.items()]


def _shown(value: Any, characters: int, url: str = "") -> SafeString | str:
    if value is None:
        return format_html("<em>{}</em>", "NULL")
    text = str(value) if characters > LISTED_CHARACTERS else truncate(value, characters)
    text = text if len(text) <= characters else f"{text[:characters]}…"
    return _link(url, text) if url else format_html('<span class="wraps">{}</span>', text)


def _link(url: str, text: str) -> SafeString:
    return format_html('<a class="row-link" href="{}">{}</a>', url, text)


def _key_text(pk: Any) -> str:
    """Return a key for an address; empty if it is too long."""
    text = str(key_of(pk) if isinstance(pk, tuple) else plain_key(pk))
    return text if len(text) <= LONGEST_KEY else ""


def _key_link(browser: Browser, pk: Any) -> SafeString | str:
    text = _key_text(pk) if browser.order else ""
    name = ROWID if browser.order == ROWID else "key"
    return _link(_row_url(browser.store, browser.name, text, name), _("Open")) if text else "–"


def _rows_url(store: Store, table: str, **query: str) -> str:
    return reverse("browse-rows", args=[store.alias], query={"table": table, **query})


def _statement_url(request: HttpRequest, store: Store, table: catalog.Table | None = None) -> str:
    """Return the address of the form for a statement on a table that has a key; empty without the permissions."""
    if not may_change_by_statement(request) or (table is not None and not table.identity):
        return ""
    if table is None:
        return reverse("statement", query={"store": store.alias})
    name = catalog.identifier(table.name)
    text = f"UPDATE {name} SET \nWHERE "  # noqa: S608  # a text for a form
    return reverse("statement", query={"store": store.alias, "statement": text})


def _row_url(store: Store, table: str, key: Key, name: str = "key") -> str:
    return reverse("browse-row", args=[store.alias], query={"table": table, name: str(key)})
