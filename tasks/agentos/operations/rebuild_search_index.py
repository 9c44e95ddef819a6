"""Document 001: the full-text tables follow their rows by number, and a VACUUM or a restore renumbers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Act, Changed, Listed, Outcome, Risk, Schedule, Unfit
from tasks.agentos import search
from tasks.agentos.models import MemoryItem


class RebuildSearchIndex(Listed, Act):
    title = _("Rebuild the search index")
    description = _(
        "Builds the full-text indexes of memory and knowledge anew, and checks them: after a VACUUM, which renumbers "
        "rows, and after a restore. What is written meanwhile is found."
    )
    store = "agentos"
    model = MemoryItem
    risk = Risk.MAKE
    schedule = Schedule("15 3 * * 0")
    reasons = {
        "rebuilt": _("built anew"),
        "attached": _("an attached store: its indexes are its owner's"),
    }

    def items(self) -> Sequence[str]:
        return tuple(search.SOURCES)

    def change(self, unit: Any) -> Outcome:
        if not self.at.managed:
            return Unfit("attached")
        source = search.SOURCES[unit.name]
        return Changed((), "rebuilt", f"{source.title}: {source.table}")

    def act(self, unit: Any) -> Outcome:
        found = self.change(unit)
        if isinstance(found, Changed):
            search.rebuild(self.at, unit.name)
        return found

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return search.check(self.at) if self.at.managed else []
