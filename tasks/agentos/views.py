"""The page that searches memory and knowledge."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.widgets import INPUT_CLASSES, SELECT_CLASSES

from opsconsole.stores.store import Store, StoreUnavailable
from tasks.agentos.search import SOURCES, Source, search
from tasks.agentos.search_query import MAX_CHARACTERS

PAGE_LIMIT = 50


class SearchForm(forms.Form):
    q = forms.CharField(
        label=gettext_lazy("Search for"),
        max_length=MAX_CHARACTERS,
        widget=forms.TextInput(attrs={"type": "search", "autofocus": True, "class": " ".join(INPUT_CLASSES)}),
    )
    where = forms.ChoiceField(
        label=gettext_lazy("Where"), required=False, widget=forms.Select(attrs={"class": " ".join(SELECT_CLASSES)})
    )

    def __init__(self, *args: Any, sources: list[Source], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sources = tuple(source.name for source in sources)
        choices: Any = [("", _("Everywhere")), *((source.name, source.title) for source in sources)]
        self.fields["where"].choices = choices  # type: ignore[attr-defined]


def search_page(request: HttpRequest) -> HttpResponse:
    """Search the sources that the user may view."""
    allowed = [source for source in SOURCES.values() if may_search(request, source)]
    if not allowed:
        raise PermissionDenied
    form = SearchForm(request.GET or None, sources=allowed)
    context = {**admin.site.each_context(request), "title": _("Search memory and knowledge"), "form": form}
    status = 200
    if form.is_valid():
        where = form.cleaned_data["where"]
        sources = (where,) if where else form.sources
        try:
            found = search(Store.current("agentos"), form.cleaned_data["q"], sources=sources, limit=PAGE_LIMIT)
            context["found"] = found
        except StoreUnavailable as error:
            if error.error is not None:
                raise  # handled by the middleware for unavailable stores
            context["sentence"], status = str(error), 503
    return render(request, "agentos/search.html", context, status=status)


def may_search(request: HttpRequest, source: Source) -> bool:
    meta = source.model._meta
    return request.user.has_perm(f"{meta.app_label}.view_{meta.model_name}")
