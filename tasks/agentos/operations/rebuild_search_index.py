"""The operation that rebuilds the full-text indexes (see "Full-text search" in docs/platforms/agentos.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.operation import Action, NamedItemsMixin, Risk, Schedule
from opsconsole.engine.outcomes import Changes, Done, Invalid, Outcome
from tasks.agentos import search_index
from tasks.agentos.models import MemoryItem
from tasks.agentos.search import SOURCES


class RebuildSearchIndex(NamedItemsMixin, Action):
    title = _("Rebuild the search index")
    description = _(
        "Rebuilds the full-text indexes of memory and knowledge and checks them. Run it after a restore and after a "
        "VACUUM, which renumbers rows. Rows written during the rebuild are indexed, too."
    )
    store_alias = "agentos"
    model = MemoryItem
    risk = Risk.REPRODUCE
    action_label = ngettext_lazy("Rebuild %(count)s search index", "Rebuild %(count)s search indexes", "number")
    done_label = ngettext_lazy("%(count)s search index rebuilt", "%(count)s search indexes rebuilt", "number")
    schedule = Schedule("15 3 * * 0")
    reasons = {
        "rebuilt": _("rebuilt"),
        "attached": _("the store is attached; the console does not maintain its indexes"),
    }

    def item_names(self) -> Sequence[str]:
        return tuple(SOURCES)

    def process(self, row: Any) -> Outcome:
        if not self.store.managed:
            return Invalid("attached")
        source = SOURCES[row.name]
        return Done("rebuilt", f"{source.title}: {source.table}")

    def perform(self, row: Any) -> Outcome:
        found = self.process(row)
        if isinstance(found, Changes):
            search_index.rebuild(self.store, row.name)
        return found

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return search_index.check(self.store) if self.store.managed else []
