"""Template filters from `opsconsole.formatting`, and breadcrumbs for any key."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib.admin.utils import quote
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.templatetags import unfold

from opsconsole import formatting
from opsconsole.console.list_table import list_table
from opsconsole.console.page_parts import detail_words
from opsconsole.engine import incidents
from opsconsole.engine.labels import operation_title, verb_label
from opsconsole.stores.platforms import store_title

register = template.Library()
for show in (
    formatting.format_number,
    formatting.format_time,
    formatting.duration,
    formatting.copy_button,
    formatting.pretty_json,
    formatting.labelled,
):
    register.filter(show.__name__, show)
register.inclusion_tag("console/result_list.html")(list_table)
register.filter("incident_title", incidents.title_of)
register.filter("operation_title", operation_title)
register.filter("store_title", store_title)


@register.filter
def event_words(event: Any) -> str:
    """Return an entry of the audit log as a sentence."""
    words = format_html("{} · {}", event.who, verb_label(event.verb))
    detail = detail_words(event)
    return format_html("{} · {}", words, detail) if detail else words


class _Linkable:
    """A row with a quoted key. The theme does not quote keys, and a key with a line break breaks its link."""

    def __init__(self, row: Any) -> None:
        self._row, self._meta, self.pk = row, row._meta, quote(str(row.pk))

    def __str__(self) -> str:
        return str(self._row)


_header_title = unfold.header_title


def header_title(context: Any) -> SafeString:
    rows = {name: _Linkable(context[name]) for name in ("original", "object") if hasattr(context.get(name), "_meta")}
    with context.push(**rows):
        return SafeString(_header_title(context))


unfold.register.simple_tag(header_title, takes_context=True)
