"""Parameters that several operations of store care have."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import TITLES, Store


def _stores() -> list[tuple[str, Any]]:
    return [(name, TITLES[name]) for name in (DEFAULT, *settings.STORES)]


class StoreField(forms.ChoiceField):
    """Which store."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("help_text", _("the store: default, agentos, helix, records or roadmaps"))
        options.setdefault(
            "error_messages", {"invalid_choice": _("No store is called %(value)s: there are default and the systems'.")}
        )
        super().__init__(choices=_stores, label=_("store"), **options)


class StoreParams(forms.Form):
    store = StoreField()


def named_store(params: Any) -> Store:
    """The store that the parameters name."""
    return Store(params["store"], params["store"])
