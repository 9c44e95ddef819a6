"""The queue: messages, slices, takeover, planning, schedules, and a real cluster."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from opsconsole.cli.output import result_of
from opsconsole.engine import lifecycle, planner, queue, workers
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Event, Run, ScheduleSetting, Status
from opsconsole.stores import rows
from tests.conftest import attach_url
from tests.support import agentos
from tests.support.contract import TESTER, Crash, crash, operation_called, plan_whole, work
from tests.support.reference_backfill import Invalid, expected_rows
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


def queued() -> list[tuple[str, int, int]]:
    """Return the messages of the queue: job, run, generation."""
    return [
        (task["func"].rpartition(".")[2], *task["args"])
        for task in (message.task for message in OrmQ.objects.order_by("pk"))
    ]


@pytest.fixture
def store(make_attached):
    return make_attached("sqlite", 300).store


def make_run(store, **options):
    return lifecycle.create_run(planner.plan(operation_called(BACKFILL, store)), TESTER, **options)


def test_run_and_message_are_queued_together_or_not_at_all(store):
    run = make_run(store)
    with transaction.atomic():
        queue.confirm(run, TESTER)
        transaction.set_rollback(True)
    assert queued() == []
    assert Run.objects.get().status == Status.PLANNED

    run.refresh_from_db()
    queue.confirm(run, TESTER)
    assert queued() == [("run_slice", run.pk, 0)]
    assert Run.objects.get().status == Status.QUEUED


def test_a_run_in_slices(store, monkeypatch):
    """Every slice except the last one queues its successor. An outdated or duplicate message does nothing."""
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    run = queue.confirm(make_run(store, batch_size=50), TESTER)
    statuses = []
    while queued():
        job, run_id, generation = queued()[0]
        OrmQ.objects.first().delete()
        assert job == "run_slice"
        statuses.append(queue.run_slice(run_id, generation))
        assert "has taken over run" in queue.run_slice(run_id, generation) or statuses[-1] == Status.SUCCEEDED
        assert len(statuses) < 50
    run.refresh_from_db()
    assert run.status == Status.SUCCEEDED
    assert run.seen == run.total
    assert run.generation == len(statuses) > 2


def test_a_run_that_lost_its_worker_or_message_is_queued_again(store):
    run = queue.confirm(make_run(store), TESTER)
    OrmQ.objects.all().delete()
    assert queue.requeue_stale_runs() == []  # the message may only be delayed
    Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert [woken.pk for woken in queue.requeue_stale_runs()] == [run.pk]
    OrmQ.objects.all().delete()

    run = workers.claim(Run.objects.get())
    assert queue.requeue_stale_runs() == []  # this process is alive
    Run.objects.update(worker={**run.worker, "pid": 2**22 + 1})
    queue.requeue_stale_runs()
    assert queued() == [("run_slice", run.pk, run.generation)]
    assert Run.objects.get().attempts == 1


def test_a_run_that_kills_every_worker_is_failed(store, monkeypatch):
    run = queue.confirm(make_run(store), TESTER)

    monkeypatch.setattr(rows, "write", crash)
    for _attempt in range(workers.MAX_ATTEMPTS):
        run = workers.claim(Run.objects.get(pk=run.pk))
        with pytest.raises(Crash):  # in the middle of its first batch
            work(run)
        Run.objects.update(worker={**run.worker, "pid": 2**22 + 1})
        queue.requeue_stale_runs()
    run = workers.claim(Run.objects.get(pk=run.pk))
    Run.objects.update(worker={**run.worker, "pid": 2**22 + 1})
    queue.requeue_stale_runs()
    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert "5 times" in run.error
    assert not run.locks.exists()


def test_a_large_plan_is_counted_in_slices(store, monkeypatch):
    monkeypatch.setattr(queue, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(planner, "DEFAULT_BATCH_SIZE", 20)
    run = make_run(store)
    queue.plan_in_background(run)
    slices = 0
    while queued():
        _job, run_id, generation = queued()[0]
        OrmQ.objects.first().delete()
        queue.count_plan(run_id, generation)
        assert queue.count_plan(run_id, generation) in {"gone", "counted"}
        slices += 1
        assert slices < 50
    run.refresh_from_db()
    whole = plan_whole(operation_called(BACKFILL, store))
    assert run.plan["counted"]
    assert run.plan["reasons"] == whole.reasons
    assert run.digest == whole.digest()


def test_a_tick_creates_one_run(monkeypatch):
    assert queue.run_schedule(BACKFILL, "2026-11-23T02:30").startswith("run ")
    assert "not finished" in queue.run_schedule(BACKFILL, "2026-11-24T02:30")
    for message in queued():
        queue.run_slice(*message[1:])
    assert queue.run_schedule(BACKFILL, "2026-11-23T02:30") == "this tick has its run already"
    assert Run.objects.get().status == Status.SUCCEEDED
    assert Run.objects.get().trigger == "schedule"


def test_a_tick_on_an_unusable_store_is_logged(make_attached):
    made = make_attached("sqlite", 30, version="0.20.0")
    attach_url("agentos", f"sqlite:///{made.url}")
    assert "source_event_ts" in queue.run_schedule(BACKFILL, "2026-11-23T02:30")
    assert Event.objects.get().verb == "schedule_refused"


def test_schedules_follow_their_switch():
    queue.sync_schedules()
    assert sorted(Schedule.objects.values_list("name", flat=True)) == [queue.HEARTBEAT, f"{queue.HEARTBEAT} long"]
    queue.switch(BACKFILL, on=True, cron="0 3 * * *", actor=TESTER)
    schedule = Schedule.objects.get(name=f"{queue.OPERATION_PREFIX}{BACKFILL}")
    assert timezone.localtime(schedule.next_run).hour == 3

    queue.switch(BACKFILL, on=True, cron="0 5 * * *", actor=TESTER)  # the due time follows the rule
    schedule.refresh_from_db()
    assert timezone.localtime(schedule.next_run).hour == 5
    due = schedule.next_run
    queue.sync_schedules()
    schedule.refresh_from_db()
    assert schedule.next_run == due

    with pytest.raises(RunRefused, match="not a cron rule"):
        queue.switch(BACKFILL, on=True, cron="at night", actor=TESTER)
    queue.switch(BACKFILL, on=False, cron="0 5 * * *", actor=TESTER)
    assert not Schedule.objects.filter(name__startswith=queue.OPERATION_PREFIX).exists()
    assert not ScheduleSetting.objects.get().on
    assert [event.verb for event in Event.objects.all()] == ["schedule"] * 3


def test_a_real_cluster_survives_the_loss_of_its_worker(tmp_path, empty_console, make_attached):
    """The worker is killed during a run. Another worker completes it, and every row is correct."""
    shell = Shell(tmp_path / "console", empty_console, {"OPSCONSOLE_WORKERS": "1"})
    made = make_attached("sqlite", 6_000)
    started = shell.run("backfill_audit_decision_fields", "--db-path", made.url, "--background", "--batch-size", "10")
    assert started.returncode == 0, started.stderr
    cluster = shell.start("qcluster")
    killed = False
    deadline = time.monotonic() + 150
    try:
        while True:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            with closing(sqlite3.connect(shell.folder / "default.sqlite3", timeout=10)) as console, console:
                status, changed, invalid, worker = console.execute(
                    "SELECT status, changed, invalid, worker FROM operations_run"
                ).fetchone()
                pid = json.loads(worker).get("pid")
                kills = status == "running" and not killed and changed and pid
                if kills:
                    os.kill(pid, signal.SIGKILL)
                    # The heartbeat runs every minute. Make it due now.
                    console.execute("UPDATE django_q_schedule SET next_run = datetime('now', '-1 minute')")
            if kills:  # a cluster looks for due schedules every 30 s
                killed = True
                looked = shell.run("shell", "-v", "0", "-c", "from django_q.scheduler import scheduler; scheduler()")
                assert looked.returncode == 0, looked.stderr
            if status not in {"queued", "running"}:
                break
        assert killed
        assert (status, changed + invalid) == ("succeeded", made.made.in_scope)
    finally:
        processes = [psutil.Process(cluster.pid), *psutil.Process(cluster.pid).children(recursive=True)]
        cluster.send_signal(signal.SIGTERM)
        try:
            cluster.wait(20)
        finally:
            for process in processes:
                if process.is_running():
                    process.kill()
    assert agentos.create_sqlite(tmp_path / "before.db", 6_000) == made.made
    after = {audit.audit_id: audit[4:] for audit in agentos.read_sqlite(Path(made.url))}
    for audit_id, wanted in expected_rows(agentos.read_sqlite(tmp_path / "before.db"), "sqlite"):
        if not isinstance(wanted, Invalid):
            assert after[audit_id] == wanted


# --- a store that makes runs wait ---------------------------------------------------------------------------


@pytest.fixture
def locked(request, make_attached):
    """Return a store whose audits another client locks until `free()`, on both engines."""
    made = make_attached(request.param, 60)
    holder: Any
    if request.param == "sqlite":
        holder = sqlite3.connect(made.url, isolation_level=None)
        made.store.connection.settings_dict["OPTIONS"]["timeout"] = 1
        lock, free = "BEGIN IMMEDIATE", "ROLLBACK"
    else:
        holder = psycopg.connect(made.url, autocommit=True, application_name="nightly migration")
        attach_url("agentos", f"{made.url}?options=-c%20lock_timeout%3D1s")
        lock, free = "BEGIN; LOCK TABLE task_audits IN ACCESS EXCLUSIVE MODE", "ROLLBACK"
    run = queue.confirm(make_run(made.store), TESTER)
    holder.execute(lock)
    with closing(holder):
        yield run, (lambda: holder.execute(free)), request.param != "sqlite"


def take() -> tuple[Any, ...]:
    message = OrmQ.objects.get()
    job, *args = queued()[0]
    message.delete()
    return job, *args


@pytest.mark.parametrize("locked", ["sqlite", "postgresql-jsonb"], indirect=True)
def test_a_run_that_waits_for_a_lock_releases_its_worker(locked, client, bob):
    run, free, named = locked
    since = None
    for attempt in range(3):
        _job, run_id, generation = take()
        started = time.monotonic()
        queue.run_slice(run_id, generation)
        assert time.monotonic() - started < 2.5, "the worker is free for the next job"
        run.refresh_from_db()
        assert (run.status, run.waiting_code, run.worker, run.waits) == ("running", "lock", {}, attempt + 1)
        since = since or run.waiting_since
        assert run.waiting_since == since
        delay = OrmQ.objects.get().lock - timezone.now()
        assert timedelta(seconds=-1) < delay - timedelta(seconds=workers.WAIT_SECONDS[attempt]) < timedelta(seconds=1)
        assert run.lease_until - timezone.now() > delay, "nothing else wakes it before"
    assert queue.requeue_stale_runs() == []
    waiting = result_of(run)["waiting"]
    assert (waiting["code"], waiting["since"]) == ("lock", since)
    assert not named or ("task_audits" in waiting["reason"] and "nightly migration" in waiting["reason"])
    client.force_login(bob)
    assert "Waiting: " in client.get(f"/admin/operations/run/{run.pk}/change/").content.decode()

    free()
    while queued():
        queue.run_slice(*take()[1:])
    run.refresh_from_db()
    assert (run.status, run.waiting, run.waiting_code, run.waits) == (Status.SUCCEEDED, "", "", 0)
    assert result_of(run)["waiting"] is None
    assert run.attempts == 0


@pytest.mark.parametrize("locked", ["sqlite"], indirect=True)
def test_a_run_that_waits_is_cancelled_or_paused_at_once(locked):
    run, free, _named = locked
    queue.run_slice(*take()[1:])
    run.refresh_from_db()
    lifecycle.pause(run, TESTER)
    assert Run.objects.get().status == Status.PAUSED
    _job, *late = take()
    assert "has taken over run" in queue.run_slice(*late)
    free()
    queue.resume(run, TESTER)
    queue.run_slice(*take()[1:])
    assert Run.objects.get().status == Status.SUCCEEDED


def test_a_run_whose_server_is_down_releases_its_worker(make_attached, postgres):
    made = make_attached("postgresql-jsonb", 60)
    run = queue.confirm(make_run(made.store), TESTER)
    attach_url("agentos", "postgresql://nobody@127.0.0.1:1/gone")
    queue.run_slice(*take()[1:])
    run.refresh_from_db()
    assert (run.status, run.waiting_code, run.waits) == ("queued", "connection", 1)
    attach_url("agentos", made.url)
    queue.run_slice(*take()[1:])
    assert Run.objects.get().status == Status.SUCCEEDED


def test_a_frozen_run_releases_its_worker(store, settings, tmp_path):
    run = queue.confirm(make_run(store), TESTER)
    file = tmp_path / "hold"
    file.touch()
    settings.RUN_HOLD_FILE = str(file)
    queue.run_slice(*take()[1:])
    run.refresh_from_db()
    assert (run.status, run.waiting_code) == ("running", "throttle")
    file.unlink()
    lifecycle.freeze(TESTER, "a fire")
    queue.run_slice(*take()[1:])
    run.refresh_from_db()
    assert (run.status, run.waiting_code) == ("running", "freeze")
    assert "a fire" in run.waiting
    lifecycle.unfreeze(TESTER)
    queue.run_slice(*take()[1:])
    assert Run.objects.get().status == Status.SUCCEEDED


def test_a_schedule_whose_store_is_locked_is_tried_again(make_attached, monkeypatch):
    made = make_attached("postgresql-jsonb", 30)
    attach_url("agentos", f"{made.url}?options=-c%20lock_timeout%3D200")
    with psycopg.connect(made.url) as holder:
        holder.execute("LOCK TABLE task_audits IN ACCESS EXCLUSIVE MODE")
        assert "is locked" in queue.run_schedule(BACKFILL, "2026-11-23T02:30")
    job, *args = take()
    assert (job, args) == ("run_schedule", [BACKFILL, "2026-11-23T02:30", 2])
    assert not Event.objects.filter(verb="schedule_refused").exists()
    assert queue.run_schedule(*args).startswith("run ")
    with psycopg.connect(made.url) as holder:
        holder.execute("LOCK TABLE task_audits IN ACCESS EXCLUSIVE MODE")
        take()
        queue.run_schedule(BACKFILL, "2026-11-24T02:30", queue.TICK_RETRIES + 1)
    assert Event.objects.filter(verb="schedule_refused").exists()


def test_a_plan_whose_store_is_locked_is_counted_later(make_attached):
    made = make_attached("postgresql-jsonb", 30)
    run = make_run(attach_url("agentos", f"{made.url}?options=-c%20lock_timeout%3D200"))
    queue.plan_in_background(run)
    with psycopg.connect(made.url) as holder:
        holder.execute("LOCK TABLE task_audits IN ACCESS EXCLUSIVE MODE")
        queue.count_plan(*take()[1:])
    assert queue.count_plan(*take()[1:]) == "counted"
