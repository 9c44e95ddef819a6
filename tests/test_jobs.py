"""The queue: what is queued with its run, slices, takeover, planning, ticks, schedules; and a real cluster."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from opsconsole.operations import jobs, planning, runs
from opsconsole.operations.models import Event, Run, Status, Switch
from opsconsole.operations.runs import UnableToRun
from opsconsole.stores import rows
from tests import agentos
from tests.contract import TESTER, Crash, operation_called, plan_whole, work
from tests.model import Unfit, expected_rows
from tests.shell import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


def queued() -> list[tuple[str, int, int]]:
    """What waits in the queue: job, run, generation."""
    return [
        (task["func"].rpartition(".")[2], *task["args"])
        for task in (message.task for message in OrmQ.objects.order_by("pk"))
    ]


@pytest.fixture
def store(make_attached):
    return make_attached("sqlite", 300).store


def draft(store, **options):
    return runs.draft(planning.plan(operation_called(BACKFILL, store)), TESTER, **options)


def test_run_and_message_are_queued_together_or_not_at_all(store):
    run = draft(store)
    with transaction.atomic():
        jobs.confirm(run, TESTER)
        transaction.set_rollback(True)
    assert queued() == []
    assert Run.objects.get().status == Status.PLANNED

    run.refresh_from_db()
    jobs.confirm(run, TESTER)
    assert queued() == [("advance", run.pk, 0)]
    assert Run.objects.get().status == Status.QUEUED


def test_a_run_in_slices(store, monkeypatch):
    """Every slice but the last hands over; an outdated or doubled message gets nothing."""
    monkeypatch.setattr(jobs, "SLICE_SECONDS", 0.0)
    run = jobs.confirm(draft(store, batch_size=50), TESTER)
    statuses = []
    while queued():
        job, run_id, generation = queued()[0]
        OrmQ.objects.first().delete()
        assert job == "advance"
        statuses.append(jobs.advance(run_id, generation))
        assert "went on elsewhere" in jobs.advance(run_id, generation) or statuses[-1] == Status.SUCCEEDED
        assert len(statuses) < 50
    run.refresh_from_db()
    assert run.status == Status.SUCCEEDED
    assert run.seen == run.total
    assert run.generation == len(statuses) > 2


def test_a_run_that_lost_its_worker_or_its_message_is_woken(store):
    run = jobs.confirm(draft(store), TESTER)
    OrmQ.objects.all().delete()
    assert jobs.reap() == []  # its message may only be late
    Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert [woken.pk for woken in jobs.reap()] == [run.pk]
    OrmQ.objects.all().delete()

    run = runs.claim(Run.objects.get())
    assert jobs.reap() == []  # this process lives
    Run.objects.update(worker={**run.worker, "pid": 2**22 + 1})
    jobs.reap()
    assert queued() == [("advance", run.pk, run.generation)]
    assert Run.objects.get().attempts == 1


def test_a_run_that_kills_every_worker_is_failed(store, monkeypatch):
    run = jobs.confirm(draft(store), TESTER)

    def crash(*_):
        raise Crash

    monkeypatch.setattr(rows, "write", crash)
    for _attempt in range(runs.MAX_ATTEMPTS):
        run = runs.claim(Run.objects.get(pk=run.pk))
        with pytest.raises(Crash):  # in the middle of its first batch
            work(run)
        Run.objects.update(worker={**run.worker, "pid": 2**22 + 1})
        jobs.reap()
    run = runs.claim(Run.objects.get(pk=run.pk))
    Run.objects.update(worker={**run.worker, "pid": 2**22 + 1})
    jobs.reap()
    run.refresh_from_db()
    assert run.status == Status.FAILED
    assert "5 times" in run.error
    assert not run.locks.exists()


def test_a_large_plan_is_counted_in_slices(store, monkeypatch):
    monkeypatch.setattr(jobs, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(planning, "DEFAULT_BATCH_SIZE", 20)
    run = draft(store)
    jobs.plan_in_background(run)
    slices = 0
    while queued():
        _job, run_id, generation = queued()[0]
        OrmQ.objects.first().delete()
        jobs.count(run_id, generation)
        assert jobs.count(run_id, generation) in {"gone", "counted"}
        slices += 1
        assert slices < 50
    run.refresh_from_db()
    whole = plan_whole(operation_called(BACKFILL, store))
    assert run.plan["counted"]
    assert run.plan["reasons"] == whole.reasons
    assert run.digest == whole.digest()


def test_a_tick_makes_one_run(monkeypatch):
    assert jobs.tick(BACKFILL, "2026-11-23T02:30").startswith("run ")
    assert "not finished" in jobs.tick(BACKFILL, "2026-11-24T02:30")
    for message in queued():
        jobs.advance(*message[1:])
    assert jobs.tick(BACKFILL, "2026-11-23T02:30") == "this tick has its run already"
    assert Run.objects.get().status == Status.SUCCEEDED
    assert Run.objects.get().trigger == "schedule"


def test_a_tick_on_an_unfit_store_leaves_a_trace(make_attached):
    from tests.conftest import attach_url

    made = make_attached("sqlite", 30, version="0.20.0")
    attach_url("agentos", f"sqlite:///{made.url}")
    assert "source_event_ts" in jobs.tick(BACKFILL, "2026-11-23T02:30")
    assert Event.objects.get().verb == "schedule_refused"


def test_schedules_follow_their_switch():
    jobs.sync_schedules()
    assert sorted(Schedule.objects.values_list("name", flat=True)) == [jobs.BEAT, f"{jobs.BEAT} long"]
    jobs.switch(BACKFILL, on=True, cron="0 3 * * *", actor=TESTER)
    schedule = Schedule.objects.get(name=f"{jobs.OPERATION_PREFIX}{BACKFILL}")
    assert timezone.localtime(schedule.next_run).hour == 3

    jobs.switch(BACKFILL, on=True, cron="0 5 * * *", actor=TESTER)  # the due time follows the rule
    schedule.refresh_from_db()
    assert timezone.localtime(schedule.next_run).hour == 5
    due = schedule.next_run
    jobs.sync_schedules()
    schedule.refresh_from_db()
    assert schedule.next_run == due

    with pytest.raises(UnableToRun, match="no cron rule"):
        jobs.switch(BACKFILL, on=True, cron="at night", actor=TESTER)
    jobs.switch(BACKFILL, on=False, cron="0 5 * * *", actor=TESTER)
    assert not Schedule.objects.filter(name__startswith=jobs.OPERATION_PREFIX).exists()
    assert not Switch.objects.get().on
    assert [event.verb for event in Event.objects.all()] == ["schedule"] * 3


def test_a_real_cluster_survives_the_loss_of_its_worker(tmp_path, empty_console, make_attached):
    """The worker is killed in the middle of a run; the run goes on by itself, and every row is right."""
    shell = Shell(tmp_path / "console", empty_console, {"OPSCONSOLE_WORKERS": "1"})
    made = make_attached("sqlite", 20_000)
    started = shell.run("backfill_audit_decision_fields", "--db-path", made.url, "--background", "--batch-size", "20")
    assert started.returncode == 0, started.stderr
    cluster = shell.start("qcluster")
    killed = False
    deadline = time.monotonic() + 150
    try:
        while True:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            with closing(sqlite3.connect(shell.folder / "default.sqlite3", timeout=10)) as console, console:
                status, changed, unfit, worker = console.execute(
                    "SELECT status, changed, unfit, worker FROM operations_run"
                ).fetchone()
                pid = json.loads(worker).get("pid")
                if status == "running" and not killed and changed and pid:
                    os.kill(pid, signal.SIGKILL)
                    killed = True
                    # The beat that finds it comes each minute: let it be due.
                    console.execute("UPDATE django_q_schedule SET next_run = datetime('now', '-1 minute')")
            if status not in {"queued", "running"}:
                break
        assert killed
        assert (status, changed + unfit) == ("succeeded", made.made.in_scope)
    finally:
        processes = [psutil.Process(cluster.pid), *psutil.Process(cluster.pid).children(recursive=True)]
        cluster.send_signal(signal.SIGTERM)
        try:
            cluster.wait(20)
        finally:
            for process in processes:
                if process.is_running():
                    process.kill()
    assert agentos.create_sqlite(tmp_path / "before.db", 20_000) == made.made
    after = {audit.audit_id: audit[4:] for audit in agentos.read_sqlite(Path(made.url))}
    for audit_id, wanted in expected_rows(agentos.read_sqlite(tmp_path / "before.db"), "sqlite"):
        if not isinstance(wanted, Unfit):
            assert after[audit_id] == wanted
