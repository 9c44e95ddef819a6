"""The filters of a list that are in force, each with the address of the list without it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models.constants import LOOKUP_SEP
from django.http import HttpRequest, QueryDict
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from opsconsole.formatting import labelled_text, listed, truncate

PAGE, ERROR, ORDER, SEARCH = "p", "e", "o", "q"
_UNFILTERED = {PAGE, ERROR, ORDER, "all", "_facets", "_popup", "_to_field"}


class Chip(NamedTuple):
    """A filter in words, and the address that removes it."""

    text: str
    link: str


def chips(changelist: ChangeList, request: HttpRequest) -> list[Chip]:
    """Return the filters of the list, those that it applies without a parameter among them."""
    given = request.GET
    filters: list[Any] = changelist.filter_specs
    specs = {name: spec for spec in filters for name in spec.expected_parameters() if name}
    found = [
        Chip(truncate(labelled_text(_title(changelist, name, specs.get(name)), words), 120), without(given, name))
        for name in given
        if name not in _UNFILTERED and (words := _words(changelist, name, specs.get(name), given.getlist(name)))
    ]
    for spec in filters:
        removes = getattr(spec, "default_removed_by", None)  # the parameter without the default of the filter
        if removes is not None and not given.get(spec.parameter_name):
            link = f"?{with_value(given, spec.parameter_name, removes)}"
            found.append(Chip(labelled_text(capfirst(str(spec.title)), spec.default_words), link))
    return found


def without(given: QueryDict, *names: str) -> str:
    """Return the query string without these parameters and on the first page."""
    rest = given.copy()
    for name in (*names, PAGE, ERROR):
        rest.pop(name, None)
    return f"?{rest.urlencode()}"


def with_value(given: QueryDict, name: str, value: str) -> str:
    rest = given.copy()
    for gone in (PAGE, ERROR):
        rest.pop(gone, None)
    rest[name] = value
    return rest.urlencode()


def cleared(given: QueryDict) -> str:
    """Return the query string without any filter. The order stays."""
    return without(given, *(name for name in given if name not in _UNFILTERED))


def _title(changelist: ChangeList, name: str, spec: Any) -> str:
    if name == SEARCH:
        return _("Search")
    if spec is not None:
        return capfirst(str(spec.title))
    return capfirst(" ".join(str(part) for part in _path(changelist.model, name)[0]) or name)


def _path(model: Any, name: str) -> tuple[list[Any], Any]:
    """Return the titles of the columns that a lookup names, and the last of its fields."""
    titles: list[Any] = []
    field: Any = None
    for part in name.split(LOOKUP_SEP):
        try:
            field = model._meta.pk if part == "pk" else model._meta.get_field(part)
        except FieldDoesNotExist:
            break
        if not (field.primary_key and titles):
            titles.append(getattr(field, "verbose_name", part))
        if not field.is_relation:
            break
        model = field.related_model
    return titles, field


def _words(changelist: ChangeList, name: str, spec: Any, values: Iterable[str]) -> str:
    """Return the chosen values in words; nothing if the filter is empty."""
    labels = dict(_labels(changelist, name, spec))
    words = listed(labels.get(value, value) for value in values if value != "")
    if spec is not None and name.endswith(("_from", "_to")) and words:
        return (_("from %(day)s") if name.endswith("_from") else _("to %(day)s")) % {"day": words}
    return words


def _labels(changelist: ChangeList, name: str, spec: Any) -> Iterator[tuple[str, Any]]:
    for value, label in getattr(spec, "lookup_choices", None) or ():
        yield str(value), label
    if spec is not None and getattr(spec, "field", None) is None:
        return
    field = getattr(spec, "field", None) or _path(changelist.model, name)[1]
    for value, label in getattr(field, "flatchoices", ()):
        yield str(value), label
    if isinstance(field, models.BooleanField) or name.endswith("__isnull"):
        yield from (("1", _("yes")), ("0", _("no")), ("True", _("yes")), ("False", _("no")))
