"""What a list reads of each row: the columns that it shows, and only the beginning of long texts."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.http import HttpRequest

from opsconsole.console.base_admin import ConsoleChangeList
from opsconsole.formatting import CutText
from opsconsole.stores.fields import Beginning, RawTimestampField

LIST_CHARACTERS = 1_000  # of a text that a list reads
SHOWN_CHARACTERS = 160  # of a longer text
_ALIAS = "beginning_of_{}"


def is_long(field: Any) -> bool:
    """Return whether the values of a column may be of any length, and are neither keys nor known values."""
    if field.primary_key or field.choices or isinstance(field, RawTimestampField):
        return False
    return isinstance(field, models.TextField | models.BinaryField)


class StoreChangeList(ConsoleChangeList):
    """A list of rows of a store. Its rows are for this page only: their long texts are cut."""

    queryset: Any
    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        cut = self._narrow(request)
        super().get_results(request)
        rows = list(self.result_list)
        for row in rows:
            for name in cut:
                row.__dict__[name] = _beginning(row.__dict__.pop(_ALIAS.format(name)))
        self.result_list = rows

    def _narrow(self, request: HttpRequest) -> list[str]:
        """Narrow the query to what the list shows. Return the columns of which it reads the beginning."""
        admin: Any = self.model_admin
        existing = admin.columns(request)
        shown = {column for name in self.list_display for column in admin.reads(getattr(name, "__name__", name))}
        whole: list[str] = []
        cut: list[str] = []
        for field in self.lookup_opts.concrete_fields:
            if field.column not in existing or (is_long(field) and field.column not in shown):
                continue
            is_cut = is_long(field) and not isinstance(field, models.BinaryField)
            (cut if is_cut and field.name not in admin.whole_fields(request) else whole).append(field.name)
        beginnings = {_ALIAS.format(name): Beginning(name, LIST_CHARACTERS + 1) for name in cut}
        self.queryset = self.queryset.only(*whole).annotate(**beginnings)
        return cut


def _beginning(value: Any) -> Any:
    is_cut = isinstance(value, str) and len(value) > LIST_CHARACTERS
    return CutText(f"{value[:SHOWN_CHARACTERS]}…") if is_cut else value
