"""The base of operations that write rows which were given before: by a form, a file or a statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opsconsole.engine.models import FailedItem
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, NamedItemsMixin


class GivenRowsMixin(NamedItemsMixin):
    """An operation on given rows, each with a key. The keyset is the place of a row, from 1."""

    batch_size = None

    def label(self, row: Any) -> str:
        return str(row.key)

    def _all(self) -> Iterator[Any]:
        """Yield the selected rows with their current values."""
        after, bound = 0, self.bound()
        while bound is not None and (
            found := self.fetch(self.population(), after=after, bound=bound, limit=DEFAULT_BATCH_SIZE)
        ):
            yield from found
            after = found[-1].pk

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        remaining = after["to_write"] - FailedItem.objects.filter(run__pk=self.run_id or 0).count()
        return [self._unwritten(remaining)] if remaining > 0 else []

    def _unwritten(self, count: int) -> str:
        """Return the sentence about rows that the run should have written."""
        raise NotImplementedError
