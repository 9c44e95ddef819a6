"""The table of the rows that a run wrote: one batch, or the rows with one key."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from django.utils.translation import gettext as _

from opsconsole.console.page_parts import SHOWN_ROWS, Table, row_link, value_changes
from opsconsole.console.run_tabs import SEARCHED_BATCHES
from opsconsole.engine.models import Run
from opsconsole.stores.rows import Write


class Changes:
    """The rows that a run wrote: those of one batch, or those with one key."""

    def __init__(self, run: Run, *, key: str = "", batch: int | None = None) -> None:
        self.run, self.key = run, key.strip()
        self.numbers = list(
            run.batches.filter(rows__gt=0, committed=True).order_by("number").values_list("number", "cursor")
        )
        self.number = batch
        if not self.key and self.numbers:
            known = [number for number, _cursor in self.numbers]
            place = min(bisect.bisect_left(known, batch or 0), len(known) - 1)
            self.number = known[place]
            self.previous = known[place - 1] if place else None
            self.following = known[place + 1] if place + 1 < len(known) else None

    @property
    def incomplete(self) -> bool:
        """Return whether the search covered only the first batches."""
        return bool(self.key) and not self._by_cursor and len(self.numbers) > SEARCHED_BATCHES

    @cached_property
    def _by_cursor(self) -> list[int]:
        """The batch that can contain the key, if keys and cursors can be compared."""
        cursors = [cursor for _number, cursor in self.numbers]
        try:
            wanted: Any = int(self.key) if cursors and isinstance(cursors[0], int) else self.key
            place = bisect.bisect_left(cursors, wanted)
        except (ValueError, TypeError):
            return []
        return [number for number, _cursor in self.numbers[place : place + 1]]

    def _rows(self) -> Iterator[tuple[int, Write, Any]]:
        numbers: Iterable[int] = [self.number] if self.number and not self.key else []
        if self.key:
            # The key may belong to another table than the cursor.
            numbers = dict.fromkeys([*self._by_cursor, *(n for n, _c in self.numbers[:SEARCHED_BATCHES])])
        for number in numbers:
            batch = self.run.batches.get(number=number)
            for write in batch.writes:
                for row in write.rows:
                    if not self.key or str(row[0]) == self.key:
                        yield number, write, row

    @cached_property
    def table(self) -> Table:
        rows = []
        for number, write, (key, old, new) in self._rows():
            before = None if old is None else dict(zip(write.columns, old, strict=True))
            after = None if new is None else dict(zip(write.columns, new, strict=True))
            link = row_link(self.run, write.table, key, str(key))
            rows.append([link, write.table, value_changes(before, after), number])
            if len(rows) >= SHOWN_ROWS:
                break
        return Table([_("Row"), _("Table"), _("Before → after"), _("Batch")], rows)
