"""The reader of batches: it reads and processes the next ones while one is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from concurrent.futures import Future
from typing import Any

from django.db.models import QuerySet

from opsconsole.engine.batch_writer import BatchWriter, ReadBatch
from opsconsole.engine.before_images import encode_before_image
from opsconsole.engine.models import Run, Shard
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import FittingBatches, Outcomes, Sampler, measure, outcomes_of, read_batch
from opsconsole.engine.recovery import READ_AHEAD, FailingRows, concerns_rows
from opsconsole.engine.selection import Selection
from opsconsole.engine.threads import StoreThread
from opsconsole.stores.rows import Key, Write


class BatchReader:
    """The reader of one run. It is a thread with separate connections."""

    def __init__(
        self,
        part: Run | Shard,
        operation: Operation,
        rows: QuerySet[Any],
        pinned: Container[Key] | None,
        failing: FailingRows,
        writer: BatchWriter,
    ) -> None:
        self._part, self._run = part, part.whole
        self._operation = operation
        self._rows, self._pinned = rows, pinned
        self._failing = failing
        self._writer = writer
        self._thread = StoreThread("store-reader", operation.store)
        self._ahead: deque[Future[ReadBatch]] = deque()
        self._batches = FittingBatches()

    def next(self, after: Key | None, limit: int, *, ahead: bool) -> ReadBatch:
        """Return the batch after a key, with at most `limit` rows. Begin to read the batches after it if `ahead`."""
        if not self._ahead:
            self._ahead.append(self._thread.submit(self._process, after, limit))
        batch = self._ahead.popleft().result()
        while ahead and len(self._ahead) < READ_AHEAD:
            follows = self._ahead[-1].result if self._ahead else lambda: batch
            self._ahead.append(self._thread.submit(self._process_next, follows, limit))
        return batch

    def stop(self) -> None:
        """Drop the batches that were read ahead."""
        for batch in self._ahead:
            batch.exception()
        self._ahead.clear()

    def measure(self, selection: Selection) -> Future[dict[str, Any]]:
        """Begin to count the scope, and return its figures later."""
        bound: Key = self._part.bound  # type: ignore[assignment]
        return self._thread.submit(measure, self._operation, selection, bound)

    def cancel(self) -> None:
        """Make the store end the statement that it executes for this reader."""
        self._thread.cancel()

    def reconnect(self) -> None:
        """Close connections that may be broken."""
        self._thread.close_connections()

    def close(self) -> None:
        self.stop()
        self._thread.close()

    def read(self, after: Key | None, limit: int) -> list[Any]:
        """Return the next rows. If the plan has pinned rows, return only these."""
        bound: Key = self._part.bound  # type: ignore[assignment]
        while rows := read_batch(self._operation, self._rows, after=after, bound=bound, limit=limit):
            mine = [row for row in rows if self._pinned is None or row.pk in self._pinned]
            if mine:
                return mine
            after = rows[-1].pk
        return []

    def _process_next(self, follows: Callable[[], ReadBatch], limit: int) -> ReadBatch:
        last = follows()
        return self._process(last.rows[-1].pk, limit) if last.rows else last

    def _process(self, after: Key | None, limit: int) -> ReadBatch:
        """Read and process the rows after a key, fewer if they are long."""
        since = self._writer.mark()
        rows = self._batches.read(lambda most: self.read(after, most), limit)
        sampler = Sampler() if self._part.cursor is None and not self._run.plan["sample"] else None
        found = outcomes_of(self._operation, rows, sampler, change=self._failing.process)
        if sampler is not None:  # a run of the shell is confirmed before its outcomes are counted
            self._run.plan["sample"] = sampler.sample()
        return ReadBatch(rows, after, since, found, self._encode(found))

    def _encode(self, found: Outcomes) -> tuple[list[Write], bytes] | Exception:
        """Return the writes of a batch and its before-image, or the error of a row."""
        try:
            writes = self._writer.final(found.writes)
            # An irreversible operation stores no before-image. It is idempotent, so a batch in doubt is repeated.
            saved = writes if self._operation.undoable else []
            return writes, encode_before_image(saved, found.unchanged, found.reasons)
        except Exception as error:
            if not concerns_rows(error):
                raise
            return error
