"""The base of operations that change or delete whole jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet

from opsconsole.engine.operation import Operation, Risk
from opsconsole.stores.rows import Key
from tasks.helix.dirty_data import NEEDS, among, jobs_with_all
from tasks.helix.models import HelixJob


class JobOperation(Operation):
    """An operation whose rows are jobs with their tasks and artifacts, each in its own transaction."""

    store_alias = "helix"
    model = HelixJob
    reads = NEEDS
    risk = Risk.DELETE
    batch_size = 1
    locks_rows = True
    allow_out_of_scope = True

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        return self.population().filter(pk__in=among(self.store, keys))

    _listed: tuple[QuerySet[Any], list[int]] | None = None

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        # The queries run once, not for every job: `process` examines each job again.
        if self._listed is None or self._listed[0] is not rows:
            self._listed = rows, sorted(self._list_keys(rows))
        keys = [key for key in self._listed[1] if (after is None or int(after) < key) and key <= int(bound)]
        for start in range(0, len(keys), limit):
            if found := self._read(keys[start : start + limit]):
                return found
        return []

    def _list_keys(self, rows: QuerySet[Any]) -> list[int]:
        return list(rows.values_list("pk", flat=True))

    def _read(self, keys: list[int]) -> list[Any]:
        return list(jobs_with_all(self.store, keys))
