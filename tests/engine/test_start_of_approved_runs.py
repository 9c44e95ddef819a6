"""The start of an approved run: whoever starts it first compares its rows and locks its tables."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User

from opsconsole.engine import lifecycle, queue, registry, workers
from opsconsole.engine.errors import PlanDrifted, TargetLocked
from opsconsole.engine.models import Alert, Lock, Run, Status
from tasks.agentos.models import MemoryItem
from tests.engine.test_approved_rows import CLEAN, items, keys, waiting
from tests.engine.test_duties import acting
from tests.support.contract import operation_called, start

__all__ = ("items", "waiting")  # fixtures
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix"])


@pytest.fixture
def paused(waiting: Run, alice: User) -> Run:
    """Return an approved run that was paused before a worker started it."""
    queue.approve(waiting, acting(alice))
    lifecycle.pause(waiting, acting(alice))
    waiting.refresh_from_db()
    assert (waiting.status, waiting.started_at) == (Status.PAUSED, None)
    return waiting


def test_a_paused_run_that_a_command_starts_locks_its_table(paused: Run) -> None:
    run = workers.claim(paused)
    assert run.status == Status.RUNNING
    assert list(Lock.objects.values_list("run", "table")) == [(run.pk, "memory_items")]


def test_a_paused_run_that_a_command_starts_compares_its_rows(paused: Run) -> None:
    MemoryItem.objects.filter(pk="c").update(expires_at="2020-01-02T00:00:00Z")
    with pytest.raises(PlanDrifted):
        workers.claim(paused)
    paused.refresh_from_db()
    assert paused.status == Status.REJECTED
    assert keys() == {"a", "c", "e"}


def test_a_paused_run_waits_for_the_run_that_holds_its_table(paused: Run, settings: object) -> None:
    settings.ENVIRONMENT, settings.PRODUCTION = "development", False  # type: ignore[attr-defined]
    other = start(operation_called("agentos.clean_memory_items"))
    with pytest.raises(TargetLocked):
        workers.claim(paused)
    assert set(Lock.objects.values_list("run", flat=True)) == {other.pk}


def test_an_approved_run_whose_operation_is_gone_fails(
    waiting: Run, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.approve(waiting, acting(alice))
    others = {name: cls for name, cls in registry.operations().items() if name != CLEAN}
    monkeypatch.setattr(registry, "operations", lambda: others)
    queue.run_slice(waiting.pk, waiting.generation)
    waiting.refresh_from_db()
    assert waiting.status == Status.FAILED
    assert Alert.objects.filter(key=f"run_failed/{waiting.pk}").exists()
    assert keys() == {"a", "c", "e"}
