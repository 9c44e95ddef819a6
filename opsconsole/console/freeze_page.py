"""The page that freezes all runs: its state, the affected runs and the newest backups."""

from __future__ import annotations

from functools import cached_property

from opsconsole.console.obstacle_list import BACKUP_STORE
from opsconsole.console.page_parts import SHOWN_ROWS, alert_channels
from opsconsole.engine import checklist, registry
from opsconsole.engine.models import ENDED, Freeze, Run, Status
from opsconsole.stores.store import all_stores


class FreezePage:
    """The state of the freeze, the runs that it stops, and the newest backups."""

    @cached_property
    def freeze(self) -> Freeze | None:
        return Freeze.objects.order_by("pk").first()

    @cached_property
    def unfinished(self) -> list[Run]:
        """The runs that a freeze stops, newest first."""
        runs = Run.objects.exclude(status__in=(*ENDED, Status.PLANNED)).without_documents()
        return list(runs.order_by("-pk")[:SHOWN_ROWS])

    @property
    def alerts(self) -> str:
        return alert_channels()

    @cached_property
    def backups(self) -> list[tuple[str, str, str]]:
        """Alias, title and newest verified backup of each store; empty if the console makes no backups."""
        if BACKUP_STORE not in registry.operations():
            return []
        return [(store.alias, store.title, checklist.backup_words(store)) for store in all_stores()]
