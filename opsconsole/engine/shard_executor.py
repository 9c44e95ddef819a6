"""The executors of a run with shards: one for each shard, and one that divides the run and ends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from django.db import DatabaseError, InterfaceError, transaction

from opsconsole.engine import shards
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.executor import Executor, HandOver, is_temporary, over_budget
from opsconsole.engine.leases import LostOwnership
from opsconsole.engine.models import Request, Run, Shard, Status
from opsconsole.engine.planner import count_outcomes
from opsconsole.engine.stored_plans import plan_of
from opsconsole.engine.workers import interrupt
from opsconsole.stores.errors import first_line, trouble_code
from opsconsole.stores.store import StoreUnavailable

TOTALS_SECONDS = 1.0  # between two updates of the run's totals
POLL_SECONDS = 0.2
MESSAGES = 3  # for each shard: a cluster keeps more messages than it has workers


def executor_of(run: Run, enqueue: HandOver) -> Executor:
    """Return the executor of a claimed run. `enqueue` makes a shard available to all workers."""
    return Coordinator(run, enqueue) if run.shard_count > 1 and run.bound is not None else Executor(run)


class ShardExecutor(Executor):
    """The execution of one claimed shard. It ends with its range; its run verifies the result."""

    part: Shard

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self._totalled = float("-inf")

    def _save(self, **fields: Any) -> None:
        super()._save(**fields)
        self._total()

    def _total(self) -> None:
        """Save the totals of the shards, and renew the lease of the run."""
        if time.monotonic() - self._totalled > TOTALS_SECONDS:
            self._totalled = time.monotonic()
            totals = shards.total_up(self.run)
            Run.objects.filter(pk=self.run.pk, status=Status.RUNNING).update(attempts=0, **totals)
            _take(self.run, totals)

    def _wait(self, code: str, reason: str, seconds: float) -> None:
        super()._wait(code, reason, seconds)
        with suppress(DatabaseError, InterfaceError):  # the console's own database is unavailable
            self._total()

    def _check_budget(self) -> None:
        """Count the failed rows of all shards."""
        if self.part.failed:
            others = list(self.run.shards.exclude(pk=self.part.pk))
            seen, failed = (sum(getattr(one, name) for one in (self.part, *others)) for name in ("seen", "failed"))
            self.part.error = over_budget(seen, failed)

    def _stop(self, hand_over: HandOver | None) -> Run:
        """Stop between two batches: with the run, or at the end of the slice."""
        if self._lease.request == Request.NONE and hand_over is not None:
            with transaction.atomic():
                self._save(worker={})
                hand_over(self.part, 0.0)
            self._unmarked.clear()
            return self.run
        return self._end(Status.INTERRUPTED)

    def _finish(self) -> Run:
        return self._end(Status.SUCCEEDED)

    def _recheck(self) -> None:
        """Do nothing: the run updates the incidents when it ends."""

    def _end(self, status: Status) -> Run:
        with transaction.atomic():
            self._save(status=status, worker={}, lease_until=None, error=self.part.error)
            if status == Status.FAILED:  # the other shards stop
                Run.objects.filter(pk=self.part.run_id, error="").update(error=self.part.error)
            if shards.have_stopped(self.run) and self._hand_over is not None:
                self._hand_over(Run.objects.get(pk=self.run.pk), 0.0)
        self._unmarked.clear()
        self.part.status = status
        return self.run


class Coordinator(Executor):
    """The execution of a claimed run with shards: it divides the run, and ends it when its shards have stopped.

    In the background it leaves the shards to the workers of the queue. In the foreground it also executes shards.
    """

    run: Run

    def __init__(self, run: Run, enqueue: HandOver) -> None:
        super().__init__(run)
        self._enqueue = enqueue

    def _work(
        self,
        until: Callable[[], bool],
        on_progress: Callable[[Run], None],
        hand_over: HandOver | None,
        patience: float,
    ) -> Run:
        try:
            return self._coordinate(until, on_progress, hand_over, patience)
        except (LostOwnership, RunRefused):
            raise
        except Exception as error:
            if is_temporary(error) or isinstance(error, StoreUnavailable):
                interrupt(self.run, first_line(error), trouble_code(error))
            else:
                self._fail(error)
            raise

    def _coordinate(
        self,
        until: Callable[[], bool],
        on_progress: Callable[[Run], None],
        hand_over: HandOver | None,
        patience: float,
    ) -> Run:
        run = self.run
        self._start()
        while True:
            self._total()
            on_progress(run)
            left = set(run.shards.values_list("status", flat=True))
            stops = bool(self._lease.request or run.error)
            if (stops or Status.INTERRUPTED not in left) and not left.intersection(shards.ACTIVE):
                return self._conclude(left)
            if hand_over is not None:
                if self._leave():
                    return run
                continue
            if until():
                return self._stop(None)
            try:
                if (shard := shards.next_free(run, stops=stops)) is None:
                    time.sleep(POLL_SECONDS)
                else:
                    ShardExecutor(shards.claim(shard)).work(until=until, on_progress=on_progress, patience=patience)
            except (LostOwnership, RunRefused):  # another worker executes this shard
                continue
            except Exception:
                run.refresh_from_db(fields=("error",))
                if not run.error:
                    raise  # otherwise the shard has failed: the run fails when the others have stopped

    def _fail(self, error: Exception) -> None:
        """Stop the shards, whose rows count, and fail the run."""
        _take(self.run, shards.abandon(self.run))
        super()._fail(error)

    def _start(self) -> None:
        """Divide the run, or continue its shards."""
        run = self.run
        run.refresh_from_db(fields=("error",))
        parts = [] if run.shards.exists() else shards.ranges(run, self.queryset)
        if parts and not run.plan["sample"]:  # a run of the shell is confirmed before its outcomes are counted
            run.plan["sample"] = count_outcomes(plan_of(run), until=lambda: True).sample
        with transaction.atomic():
            self._lease.update(plan=run.plan)
            self._lease.check()
            stops = self._lease.request or run.error
            started = shards.create(run, parts) if parts else [] if stops else shards.restart(run)
            for shard in started * MESSAGES:
                self._enqueue(shard, 0.0)

    def _total(self) -> None:
        """Save the totals of the shards, and read the request and the error of a shard."""
        totals = shards.total_up(self.run)
        _take(self.run, totals)
        self._lease.update(**totals)
        self._lease.check()
        self.run.refresh_from_db(fields=("error",))

    def _leave(self) -> bool:
        """Release this worker while shards are executed. Return False if the last one has just stopped."""
        with transaction.atomic():
            if shards.have_stopped(self.run):
                return False
            self._lease.update(worker={})
        return True

    def _conclude(self, left: set[str]) -> Run:
        """End or pause the run, whose shards have stopped."""
        run = self.run
        if run.error or self._lease.request == Request.CANCEL:
            self._recheck()
            return self._end(Status.FAILED if run.error else Status.CANCELLED)
        return self._finish() if left == {Status.SUCCEEDED} else self._stop(None)


def _take(run: Run, totals: Mapping[str, Any]) -> None:
    """Copy the totals of the shards into `run` without saving it."""
    for name, value in totals.items():
        setattr(run, name, value)
