"""Parameters shared by operations on a whole store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django import forms
from django.conf import settings
from django.utils.functional import lazy
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.platforms import store_titles
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import unknown_store


def _stores() -> list[tuple[str, Any]]:
    return [(name, store_titles()[name]) for name in (DEFAULT, *settings.STORES)]


class StoreField(forms.ChoiceField):
    """The store to work on."""

    def __init__(self, **options: Any) -> None:
        names = ", ".join((DEFAULT, *settings.STORES))
        options.setdefault("help_text", format_lazy(_("One of: {names}."), names=names))
        options.setdefault("error_messages", {"invalid_choice": lazy(unknown_store, str)("%(value)s")})
        super().__init__(choices=_stores, label=_("store"), **options)


def choose_from(field: forms.Field, names: Callable[[], list[str]]) -> None:
    """Offer these names on a page. The command line accepts other forms of them too."""
    widget: Any = field.widget
    widget.choices = [("", "---------"), *((name, name) for name in names())]


class StoreParams(forms.Form):
    store = StoreField()


def each_store() -> Iterable[Mapping[str, Any]]:
    """Return the parameters of a run for each store."""
    return [{"store": name} for name in (DEFAULT, *settings.STORES)]
