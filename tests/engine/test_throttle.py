"""Throttle signals and the freeze make runs wait: a file, connections, signals that a store does not provide."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from django.db import connections

from opsconsole.engine import lifecycle, planner
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Event, Run, Status
from opsconsole.engine.throttle import throttle_reason
from tests.support.contract import TESTER, execute_run, operation_called, start, work
from tests.support.plain_client import neighbour

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


@pytest.fixture
def store(make_attached):
    return make_attached("sqlite", 60).store


def later(call: Callable[[], object]) -> tuple[threading.Thread, list[str]]:
    """Run `call` in a thread with separate connections when the run waits. Return a list with the reason."""

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not Run.objects.exclude(waiting="").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        waited.extend(Run.objects.values_list("waiting", flat=True))
        call()
        connections.close_all()

    waited: list[str] = []
    thread = threading.Thread(target=wait)
    thread.start()
    return thread, waited


def test_a_hold_file(store, settings, tmp_path):
    """The run waits, reports the reason, and continues when the file is deleted."""
    file = tmp_path / "hold"
    file.touch()
    settings.RUN_HOLD_FILE = str(file)
    thread, waited = later(file.unlink)
    run = execute_run(operation_called(BACKFILL, store))
    thread.join()
    assert str(file) in waited[0]
    assert (run.status, run.waiting) == (Status.SUCCEEDED, "")


def test_a_freeze_stops_running_and_new_runs(store):
    """A running run waits, no run starts, and both are recorded."""
    run = start(operation_called(BACKFILL, store))
    lifecycle.freeze(TESTER, "a fire")
    thread, waited = later(lambda: lifecycle.unfreeze(TESTER))
    with pytest.raises(RunRefused, match="runs unfreeze"):
        start(operation_called("operations.prune_runs"))
    run = work(run)
    thread.join()
    assert "a fire" in waited[0]
    assert run.status == Status.SUCCEEDED
    assert list(Event.objects.filter(run=None).values_list("verb", flat=True)) == ["freeze", "unfreeze"]


def test_a_waiting_run_can_be_cancelled(store, settings, tmp_path):
    file = tmp_path / "hold"
    file.touch()
    settings.RUN_HOLD_FILE = str(file)
    run = start(operation_called(BACKFILL, store))
    thread, _waited = later(lambda: lifecycle.cancel(Run.objects.get(pk=run.pk), TESTER))
    run = work(run)
    thread.join()
    assert (run.status, run.changed) == (Status.CANCELLED, 0)


def test_active_connections(make_attached, settings):
    store = make_attached("postgresql-text", 30).store
    settings.RUN_HOLD_MAX_ACTIVE_CONNECTIONS = 1000
    assert throttle_reason(store) == ""
    settings.RUN_HOLD_MAX_ACTIVE_CONNECTIONS = 0
    with neighbour(store) as other:
        busy = threading.Thread(target=lambda: other.execute("SELECT pg_sleep(2)"))
        busy.start()
        time.sleep(0.5)
        assert "active" in throttle_reason(store)
        busy.join()


def test_an_unobservable_signal_is_a_warning(store, settings):
    settings.RUN_HOLD_MAX_REPLICA_LAG_SECONDS = 5.0
    assert throttle_reason(store) == ""
    planned = planner.plan(operation_called(BACKFILL, store))
    assert any("RUN_HOLD_MAX_REPLICA_LAG_SECONDS" in sentence for sentence in planner.advice(planned))
