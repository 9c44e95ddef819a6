"""The rows of a list as HTML, with one function for each column.

The theme looks up each column again for every row, renders a template for each badge and checkbox, and repeats thirty
CSS classes in every cell. That takes most of the time and of the size of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import lookup_field
from django.core.exceptions import ObjectDoesNotExist
from django.template.loader import render_to_string
from django.urls import NoReverseMatch
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from unfold.templatetags.unfold_list import result_headers
from unfold.utils import display_for_field, display_for_value
from unfold.widgets import CHECKBOX_CLASSES

CHECKBOX = "action_checkbox"
TEXT = "TEXT"  # stands for the text in a template that is rendered once
Cell = Callable[[Any], SafeString]
_CHECKBOX_CLASSES = " ".join(CHECKBOX_CLASSES)


def list_table(cl: Any) -> dict[str, Any]:
    """Return the headers of a changelist, as the theme describes them, and the HTML of its rows."""
    headers = list(result_headers(cl))
    cells = [_cell(cl, name, header) for name, header in zip(cl.list_display, headers, strict=True)]
    rows = ((mark_safe("".join(cell(row) for cell in cells)),) for row in cl.result_list)  # noqa: S308  # see `_cell`
    return {
        "cl": cl,
        "result_headers": headers,
        "num_sorted_fields": sum(bool(header.get("sorted")) for header in headers),
        "rows": format_html_join("\n", '<tr class="data-row">{}</tr>', rows),
    }


def _cell(cl: Any, name: Any, header: Mapping[str, Any]) -> Cell:
    """Return the function that formats the cell of a row in the column called `name`."""
    text = _("Select record") if name == CHECKBOX else header["text"]
    class_name = "action-checkbox" if name == CHECKBOX else f"field-{getattr(name, '__name__', name)}"
    value = _value(cl, name)
    if name not in (cl.list_display_links or ()):
        start = format_html('<td class="{}" data-label="{}">', class_name, text)
        return lambda row: format_html("{}{}</td>", start, value(row))
    start = format_html('<th scope="row" class="{}" data-label="{}">', class_name, text)
    query = _preserved_query(cl)
    key = cl.to_field or cl.lookup_opts.pk.attname

    def linked(row: Any) -> SafeString:
        try:
            address = f"{cl.url_for_result(row)}{query}"
        except NoReverseMatch:  # an empty key
            return format_html("{}{}</th>", start, value(row))
        opener = format_html(' data-popup-opener="{}"', row.serializable_value(key)) if cl.is_popup else ""
        return format_html('{}<a href="{}"{}>{}</a></th>', start, address, opener, value(row))

    return linked


def _preserved_query(cl: Any) -> str:
    """Return the query that leads from the page of a row back to the list with its filters."""
    return str(add_preserved_filters({"preserved_filters": cl.preserved_filters, "opts": cl.opts}, ""))


def _value(cl: Any, name: Any) -> Callable[[Any], Any]:
    """Return the function that formats the value of a row in the column called `name`."""
    admin = cl.model_admin
    empty = admin.get_empty_value_display()
    if name == CHECKBOX:
        return checkbox
    columns = {field.name for field in cl.lookup_opts.get_fields()}
    method = name if callable(name) else getattr(admin, name, None)
    if method is None or name in columns or name == "__str__":
        return lambda row: _of_field(row, name, admin, empty)
    labels = getattr(method, "label", None)
    is_boolean = getattr(method, "boolean", False)
    empty = getattr(method, "empty_value_display", empty)

    def formatted(row: Any) -> Any:
        try:
            value = method(row)
        except ObjectDoesNotExist:
            return empty
        return display_for_value(value, empty, is_boolean) if labels is None else badge(value, labels)

    return formatted


def _of_field(row: Any, name: str, admin: Any, empty: str) -> Any:
    """Format the value of a model field or of an attribute of the row."""
    field, _attribute, value = lookup_field(name, row, admin)
    if field is None or field.is_relation:
        return display_for_value(value, empty)
    return display_for_field(value, field, empty)


def checkbox(row: Any) -> SafeString:
    """Return the checkbox that selects a row for an action."""
    return format_html(
        '<input type="checkbox" name="{}" value="{}" class="action-select {}" aria-label="{}">',
        ACTION_CHECKBOX_NAME,
        row.pk,
        _CHECKBOX_CLASSES,
        _("Select record"),
    )


def badge(value: Any, variants: Mapping[Any, str]) -> SafeString | str:
    """Return the text of a `(value, text)` as a badge in the colour of the value."""
    key, text = value if isinstance(value, tuple) else (value, value)
    if text in (None, ""):
        return "-"
    start, end = _badge(variants.get(key, ""))
    return format_html("{}{}{}", start, text, end)


@cache
def _badge(variant: str) -> tuple[SafeString, SafeString]:
    """Return what the theme puts before and after the text of a badge."""
    html = " ".join(render_to_string("unfold/helpers/label.html", {"type": variant, "text": TEXT}).split())
    start, _text, end = html.partition(TEXT)
    return mark_safe(start.rstrip()), mark_safe(end.lstrip())  # noqa: S308  # a template of the theme
