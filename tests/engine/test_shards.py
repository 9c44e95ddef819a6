"""Runs that are divided among workers: each shard stops, dies and continues alone, and the run ends as one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from django.db import connection
from django_q.models import OrmQ

from opsconsole.engine import executor, lifecycle, planner, queue, shard_executor, shards, workers
from opsconsole.engine.batch_reader import BatchReader
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Batch, Event, Freeze, Heartbeat, Lock, Run, Shard, Status
from opsconsole.engine.operation import Operation
from opsconsole.engine.shard_executor import ShardExecutor, executor_of
from opsconsole.stores.store import Store
from tests.audits.test_backfill_decision_fields import expected
from tests.support.contract import (
    DEAD,
    TESTER,
    Crash,
    crash,
    die,
    execute_run,
    figures,
    lose_worker,
    operation_called,
    undo,
)
from tests.support.fault_injection import interposed
from tests.support.plain_client import Tables, dump

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


@pytest.fixture
def store(make_attached: Any) -> Store:
    store: Store = make_attached("postgresql-text", 600, seed=5).store
    return store


@pytest.fixture
def before(store: Store) -> Tables:
    return dump(store)


def make_run(store: Store, count: int = 4, **options: Any) -> Run:
    planned = planner.plan(operation_called(BACKFILL, store))
    return lifecycle.create_run(planned, TESTER, shard_count=count, batch_size=10, **options)


def work_off(limit: int = 500, *, stop: Callable[[], Any] = lambda: False) -> None:
    """Deliver the messages of the queue, as workers do, in turn."""
    for _ in range(limit):
        message = OrmQ.objects.order_by("pk").first()
        if message is None or stop():
            return
        task = message.task
        message.delete()
        getattr(queue, task["func"].rpartition(".")[2])(*task["args"])
    raise AssertionError("the queue never ends")


def check_done(run: Run, store: Store, before: Tables) -> None:
    """Check that the run did what one worker would have done, and that its undo is exact."""
    run.refresh_from_db()
    assert run.status == Status.SUCCEEDED, run.error
    after = expected(deepcopy(before), store.vendor)
    assert dump(store) == after
    changed = sum(before["task_audits"][key] != after["task_audits"][key] for key in before["task_audits"])
    assert (run.changed, run.seen) == (changed, run.total)
    assert {one.status for one in run.shards.all()} == {Status.SUCCEEDED}
    assert not Batch.objects.filter(committed=False).exists()
    assert not Lock.objects.exists()
    keys = [key for batch in run.batches.all() for write in batch.writes for key, _old, _new in write.rows]
    assert len(keys) == len(set(keys)) == changed
    undone = undo(run)
    assert (undone.status, undone.changed, undone.invalid) == (Status.SUCCEEDED, changed, 0)
    assert dump(store) == before


def test_a_divided_run_equals_an_undivided_one(store: Store, before: Tables) -> None:
    run = queue.confirm(make_run(store), TESTER)
    work_off()
    divided = figures(Run.objects.get(pk=run.pk))
    parts = list(run.shards.order_by("number"))
    assert len(parts) == 4
    assert max(one.seen for one in parts) - min(one.seen for one in parts) <= 1
    assert [one.start for one in parts[1:]] == [one.bound for one in parts[:-1]]
    assert Run.objects.get(pk=run.pk).plan["sample"]
    check_done(run, store, before)
    assert figures(execute_run(operation_called(BACKFILL, store), batch_size=10)) == divided


def test_a_worker_does_not_wait_for_messages_that_a_busy_cluster_holds_back(store: Store, before: Tables) -> None:
    """A cluster with one worker executes one message, keeps two more, and leaves the others to its peers."""
    run = queue.confirm(make_run(store, 2), TESTER)
    work_off(stop=run.shards.exists)  # divides the run
    first, *kept = OrmQ.objects.order_by("pk")[:3]
    pk, generation = first.task["args"]
    shards.claim(Shard.objects.get(pk=pk), generation=generation)  # its worker is busy
    held_back = [(one.pk, one.task) for one in kept]
    OrmQ.objects.filter(pk__in=[first.pk, *(pk for pk, _task in held_back)]).delete()
    work_off()
    assert sorted(run.shards.values_list("status", flat=True)) == [Status.RUNNING, Status.SUCCEEDED]
    for _pk, task in held_back:  # they are outdated now
        queue.run_shard(*task["args"])
    busy = Shard.objects.get(status=Status.RUNNING)
    Shard.objects.filter(pk=busy.pk).update(worker={})
    queue.run_shard(busy.pk, busy.generation)
    work_off()
    check_done(run, store, before)


def test_a_foreground_run_executes_its_shards_itself(store: Store, before: Tables) -> None:
    run = lifecycle.confirm(make_run(store, 3), TESTER, background=False)
    seen: list[int] = []
    executor_of(run, queue.enqueue).work(on_progress=lambda run: seen.append(run.seen))
    assert seen == sorted(seen)
    check_done(run, store, before)
    work_off()  # the messages of its shards are outdated
    assert Run.objects.filter(status=Status.SUCCEEDED).count() == 2


def test_a_foreground_run_whose_process_died_continues_with_the_same_command(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lifecycle.confirm(make_run(store, 3), TESTER, background=False)
    real, calls = Executor._count, []

    def die_in_the_second_shard(worker: Executor, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 12:
            raise Crash
        return real(worker, *args)

    monkeypatch.setattr(Executor, "_count", die_in_the_second_shard)
    with pytest.raises(Crash):
        executor_of(run, queue.enqueue).work()
    monkeypatch.undo()
    Shard.objects.exclude(worker={}).update(worker=DEAD)
    executor_of(die(run), queue.enqueue).work()
    check_done(run, store, before)


def test_a_killed_run_that_is_cancelled_counts_what_its_shards_wrote(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lifecycle.confirm(make_run(store, 3), TESTER, background=False)
    monkeypatch.setattr(*interposed("after the store's commit", 12, crash))
    with pytest.raises(Crash):
        executor_of(run, queue.enqueue).work()
    monkeypatch.undo()
    Shard.objects.exclude(worker={}).update(worker=DEAD)
    queue.cancel(lose_worker(run), TESTER)
    run = Run.objects.get(pk=run.pk)
    assert (run.status, run.batches.filter(committed=False).exists()) == (Status.CANCELLED, False)
    written = dump(store)["task_audits"]
    changed = sum(old != written[key] for key, old in before["task_audits"].items())
    assert run.changed == sum(one.changed for one in run.shards.all()) == changed
    undone = undo(run)
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, changed)
    assert dump(store) == before


@pytest.mark.parametrize("point", ["_prepare", "_count"])
def test_a_dead_shard_is_taken_over_alone(
    store: Store, before: Tables, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker dies before or after the commit of the store. The others go on."""
    run = queue.confirm(make_run(store), TESTER)
    real, calls = getattr(Executor, point), []

    def crash(worker: Executor, *args: Any) -> Any:
        if isinstance(worker.part, Shard) and worker.part.number == 2:
            calls.append(1)
            if len(calls) == 3:
                raise Crash
        return real(worker, *args)

    monkeypatch.setattr(Executor, point, crash)
    with pytest.raises(Crash):
        work_off()
    work_off()
    run.refresh_from_db()
    assert run.status == Status.RUNNING
    (dead,) = run.shards.exclude(status=Status.SUCCEEDED)
    assert (dead.number, dead.status, bool(dead.worker)) == (2, Status.RUNNING, True)
    Shard.objects.filter(pk=dead.pk).update(worker={**dead.worker, "pid": 2**22 + 1})
    assert queue.requeue_stale_runs() == [dead]
    work_off()
    check_done(run, store, before)
    assert run.shards.get(number=2).generation > run.shards.get(number=1).generation


def test_a_shard_that_lost_its_worker_cannot_write(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = queue.confirm(make_run(store, 2), TESTER)
    real = Executor._prepare
    seen: list[Tables] = []

    def lose(worker: Executor, *args: Any) -> Batch:
        batch = real(worker, *args)
        if not seen and isinstance(worker.part, Shard) and batch.number == worker.part.batches_before + 2:
            Shard.objects.filter(pk=worker.part.pk).update(lease_until="2020-01-01T00:00Z")
            shards.claim(Shard.objects.select_related("run").get(pk=worker.part.pk))
            seen.append(dump(store))
        return batch

    monkeypatch.setattr(Executor, "_prepare", lose)
    work_off(stop=lambda: seen)
    assert dump(store) == seen[0]
    Shard.objects.filter(generation=2).update(lease_until="2020-01-01T00:00Z")
    assert len(queue.requeue_stale_runs()) == 1
    work_off()
    check_done(run, store, before)


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_request_stops_every_shard(store: Store, before: Tables, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    run = queue.confirm(make_run(store), TESTER)
    work_off(stop=lambda: Run.objects.get().batches_done > 4)
    busy = shards.claim(run.shards.filter(status=Status.RUNNING).select_related("run")[0])
    getattr(lifecycle, verb)(Run.objects.get(), TESTER)
    assert Run.objects.get().status == Status.RUNNING  # a worker still executes a shard
    ShardExecutor(busy).work(hand_over=queue.enqueue)
    work_off()
    run.refresh_from_db()
    assert 0 < run.seen < run.total
    assert run.seen == sum(one.seen for one in run.shards.all())
    if verb == "cancel":
        assert run.status == Status.CANCELLED
        assert not Lock.objects.exists()
        assert undo(run).invalid == 0
        assert dump(store) == before
    else:
        assert run.status == Status.PAUSED
        queue.resume(run, TESTER)
        monkeypatch.undo()
        work_off()
        check_done(run, store, before)


def test_a_request_without_a_worker_takes_effect_at_once(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    run = queue.confirm(make_run(store), TESTER)
    work_off(stop=lambda: Run.objects.get().batches_done > 4)
    lifecycle.pause(Run.objects.get(), TESTER)
    assert Run.objects.get().status == Status.PAUSED
    seen = dump(store)
    work_off()
    assert dump(store) == seen
    queue.resume(Run.objects.get(), TESTER)
    work_off()
    check_done(run, store, before)


def test_a_shard_that_another_worker_has_just_continued_stays_its(store: Store, before: Tables) -> None:
    """`heartbeat` and a worker continue a stopped shard while the run reads its shards."""
    run = queue.confirm(make_run(store), TESTER)
    work_off(stop=Shard.objects.exists)
    run.shards.update(status=Status.INTERRUPTED)
    OrmQ.objects.all().delete()
    reads: list[str] = []
    taken: list[Shard] = []

    def take_the_first(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        found = execute(sql, *args)
        reads.append(sql)
        if len(reads) == 1:
            queue.requeue_stale_runs()
            taken.append(shards.claim(run.shards.select_related("run").get(number=1)))
        return found

    with connection.execute_wrapper(take_the_first):
        shards.restart(run)
    assert "operations_shard" in reads[0]
    ShardExecutor(taken[0]).work(hand_over=queue.enqueue)
    work_off()
    check_done(run, store, before)


def test_a_divided_run_that_advances_has_not_lost_its_workers_in_a_row(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    run = queue.confirm(make_run(store), TESTER)
    work_off(stop=Shard.objects.exists)
    Run.objects.update(attempts=workers.MAX_ATTEMPTS)
    work_off(stop=lambda: Run.objects.get().batches_done > 4)
    Run.objects.update(lease_until=None)
    queue.requeue_stale_runs()
    work_off()
    check_done(run, store, before)


def test_a_freeze_and_a_throttle_concern_every_shard(store: Store, before: Tables) -> None:
    run = queue.confirm(make_run(store), TESTER)
    work_off(stop=run.shards.exists)
    lifecycle.freeze(TESTER, "stop")
    seen = dump(store)
    for message in OrmQ.objects.all():
        queue.run_shard(*message.task["args"])
        message.delete()
    assert dump(store) == seen
    assert {one.waiting_code for one in run.shards.all()} == {"freeze"}
    Freeze.objects.all().delete()
    work_off()
    check_done(run, store, before)


def test_the_error_budget_counts_the_rows_of_all_shards(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shard alone has enough failed rows."""
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(executor, "BUDGET_SHARE", 0.05)
    cls = type(operation_called(BACKFILL, store))
    real = cls.process

    def fail(operation: Operation, row: Any) -> Any:
        if row.pk % 5 == 0:
            raise ZeroDivisionError("out of luck")
        return real(operation, row)

    monkeypatch.setattr(cls, "process", fail)
    run = queue.confirm(make_run(store), TESTER)
    work_off()
    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert 0 < run.seen < run.total
    assert f"{run.failed} of" in run.error
    assert not Lock.objects.exists()
    assert [event.verb for event in Event.objects.filter(run=run).order_by("pk")][-1] == "failed"


def test_a_shard_whose_workers_always_die_fails_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = queue.confirm(make_run(store, 2), TESTER)
    work_off(stop=run.shards.exists)
    OrmQ.objects.all().delete()
    for _ in range(workers.MAX_ATTEMPTS + 1):
        shard = shards.claim(run.shards.select_related("run").get(number=1))
        Shard.objects.filter(pk=shard.pk).update(worker={**shard.worker, "pid": 2**22 + 1})
        queue.requeue_stale_runs()
    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert "lost its worker" in run.error


def test_the_number_of_shards_follows_from_rows_and_workers(
    store: Store, make_attached: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 100)
    operation = operation_called(BACKFILL, store)
    planned = planner.plan(operation)

    def count(operation: Operation = operation, wanted: int | None = None) -> int:
        return shards.count_for(operation, planned.selection, planned.total, wanted)

    assert planned.total == 240
    assert count() == 1  # no worker was seen
    queue.heartbeat()
    Heartbeat.objects.create(host="long@here", at=Heartbeat.objects.get().at)
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "workers": 1}
    assert count() == 1
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "workers": 5}
    assert count() == 2
    assert count(wanted=7) == 7
    file = operation_called(BACKFILL, make_attached("sqlite", 300).store)
    assert (count(file), count(file, 1)) == (1, 1)
    with pytest.raises(RunRefused, match="one writer"):
        count(file, 2)
    monkeypatch.setattr(type(operation), "writes", {**operation.writes, "projects": ("name",)})
    assert count() == 1  # two shards could write the same project
    with pytest.raises(RunRefused, match="cannot be divided"):
        count(wanted=2)


def test_a_foreground_run_that_was_stopped_is_not_continued_by_its_last_shard(store: Store) -> None:
    run = lifecycle.confirm(make_run(store, 2), TESTER, background=False)
    busy: list[Shard] = []

    def take_the_second(run: Run) -> None:
        if not busy:
            busy.append(shards.claim(run.shards.select_related("run").get(number=2)))

    executor_of(run, queue.enqueue).work(until=Batch.objects.exists, on_progress=take_the_second)
    ShardExecutor(busy[0]).work(hand_over=queue.enqueue)
    work_off()
    run.refresh_from_db()
    assert run.status == Status.INTERRUPTED
    assert 0 < run.seen < run.total / 2


def test_a_foreground_run_pauses_without_other_workers(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_executor, "POLL_SECONDS", -1.0)  # there is nothing to wait for
    run = lifecycle.confirm(make_run(store), TESTER, background=False)

    def pause(run: Run) -> None:
        if run.seen and not Run.objects.get().request:
            lifecycle.pause(Run.objects.get(), TESTER)

    executor_of(run, queue.enqueue).work(on_progress=pause)
    run.refresh_from_db()
    assert run.status == Status.PAUSED
    assert 0 < run.seen < run.total
    queue.resume(run, TESTER)
    work_off()
    check_done(run, store, before)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_run_that_ends_without_a_worker_counts_the_rows_of_its_shards(
    store: Store, before: Tables, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_executor, "TOTALS_SECONDS", 1e9)  # only the start of a slice updates the totals
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    run = queue.confirm(make_run(store), TESTER)
    work_off(stop=lambda: Batch.objects.filter(committed=True).count() > 4)
    run = Run.objects.get()
    if end == "cancel":
        lifecycle.cancel(run, TESTER)
    else:
        workers.fail_run(run, "no worker")
    run.refresh_from_db()
    assert run.changed == sum(one.changed for one in run.shards.all()) > 0
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


def test_a_run_shows_why_all_its_shards_wait_and_stays_theirs(
    store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_executor, "TOTALS_SECONDS", 0.0)
    monkeypatch.setattr(executor, "THROTTLE_CHECK_SECONDS", 0.001)
    run = lifecycle.confirm(make_run(store, 2), TESTER, background=False)
    seen: list[str] = []

    def throttle(store: Store) -> str:
        if len(seen) == 4:
            return ""
        seen.append(Run.objects.get().waiting)
        assert not any(isinstance(one, Run) for one in queue.requeue_stale_runs())
        Run.objects.update(lease_until="2020-01-01T00:00Z")
        return "busy"

    monkeypatch.setattr(executor, "throttle_reason", throttle)
    executor_of(run, queue.enqueue).work()
    assert seen[-1] == "busy"
    assert not Run.objects.get().waiting
    check_done(run, store, before)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("step", [(BatchReader, "_encode"), (Executor, "_explained")])
def test_an_error_of_a_shard_or_of_the_end_fails_the_run(
    store: Store, step: tuple[type, str], background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *args: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(*step, fail)
    run = lifecycle.confirm(make_run(store, 2), TESTER, background=background)
    if background:
        queue.enqueue(run)
    for _job in range(3) if background else range(1):  # an error ends its job
        with suppress(RuntimeError):
            work_off() if background else executor_of(run, queue.enqueue).work()
    run.refresh_from_db()
    assert (run.status, run.error) == (Status.FAILED, "no such luck")
    assert not Lock.objects.exists()
