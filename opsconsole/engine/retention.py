"""Retention: operations that delete old records of the console itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import forms
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Operation, Risk


def days_field(days: int) -> forms.IntegerField:
    """Return the parameter `days` with its default."""
    return forms.IntegerField(
        min_value=1, initial=days, required=False, label=_("days"), help_text=_("keep this many days")
    )


class Retention(Operation):
    """An operation that deletes records of the console that are older than its parameter `days`."""

    store_alias = "default"
    risk = Risk.CHANGE  # it deletes records of the console, never a row of another store
    undoable = False

    @property
    def _days(self) -> int:
        return int(self.params.get("days") or self.Params.base_fields["days"].initial)

    @property
    def _kept_since(self) -> datetime:
        return self.as_of - timedelta(days=self._days)
