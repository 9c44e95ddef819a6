"""The full-text search box of a changelist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.db.models import Case, QuerySet, When
from django.http import HttpRequest
from django.utils.translation import gettext as _

from opsconsole.formatting import format_number
from tasks.agentos.search import CANDIDATES, INDEX, search, search_queryset
from tasks.agentos.search_query import json_strings


class FullTextMixin:
    """A search box that lists the best matches first, each with the matching part of its text."""

    source: str  # a key of tasks.agentos.search.SOURCES
    snippet_column: str  # of the list

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        exact = queryset.filter(pk=term)
        if exact.exists():
            return exact, False
        found = search(self.store(request), term, sources=(self.source,), limit=CANDIDATES)  # type: ignore[attr-defined]
        request.search_query = found.query  # type: ignore[attr-defined]
        method = found.methods[self.source]
        remarks = [] if method is INDEX else [_("Searched %(method)s.") % {"method": method.label}]
        if len(found.hits) < CANDIDATES:
            keys = [hit.key for hit in found.hits]
            rank = Case(*(When(pk=key, then=place) for place, key in enumerate(keys)), default=len(keys))
            queryset = queryset.filter(pk__in=keys).order_by(rank) if keys else queryset.none()
        else:
            queryset = search_queryset(queryset, term)
            remarks.append(
                _("More than %(count)s rows match. They are sorted by key.") % {"count": format_number(CANDIDATES)}
            )
        if remarks:
            messages.info(request, " ".join(remarks))
        return queryset, False

    def whole_fields(self, request: HttpRequest) -> tuple[str, ...]:
        """Return the searched text, whose matching part may be anywhere."""
        return ("content",) if getattr(request, "search_query", None) is not None else ()

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        names: list[Any] = super().get_list_display(request)  # type: ignore[misc]
        return [self._with_snippet(name, request) if name == self.snippet_column else name for name in names]

    def _with_snippet(self, name: str, request: HttpRequest) -> Callable[[Any], Any]:
        method = getattr(self, name)

        def cell(row: Any) -> Any:
            query = getattr(request, "search_query", None)
            if query is None or not isinstance(row.content, str):
                return method(row)
            return query.snippet(json_strings(row.content)).html()

        cell.__name__ = name
        cell.short_description = method.short_description  # type: ignore[attr-defined]
        return cell
