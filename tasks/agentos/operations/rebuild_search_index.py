"""Document 001: the full-text tables follow their rows by number, and a VACUUM or a restore renumbers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Action, NamedItemsMixin, Risk, Schedule
from opsconsole.engine.outcomes import Changes, Done, Invalid, Outcome
from tasks.agentos import search
from tasks.agentos.models import MemoryItem


class RebuildSearchIndex(NamedItemsMixin, Action):
    title = _("Rebuild the search index")
    description = _(
        "Builds the full-text indexes of memory and knowledge anew, and checks them: after a VACUUM, which renumbers "
        "rows, and after a restore. What is written meanwhile is found."
    )
    store_alias = "agentos"
    model = MemoryItem
    risk = Risk.MAKE
    schedule = Schedule("15 3 * * 0")
    reasons = {
        "rebuilt": _("built anew"),
        "attached": _("an attached store: its indexes are its owner's"),
    }

    def item_names(self) -> Sequence[str]:
        return tuple(search.SOURCES)

    def process(self, row: Any) -> Outcome:
        if not self.store.managed:
            return Invalid("attached")
        source = search.SOURCES[row.name]
        return Done("rebuilt", f"{source.title}: {source.table}")

    def perform(self, row: Any) -> Outcome:
        found = self.process(row)
        if isinstance(found, Changes):
            search.rebuild(self.store, row.name)
        return found

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return search.check(self.store) if self.store.managed else []
