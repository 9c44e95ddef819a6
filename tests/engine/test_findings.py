"""Checks and actions write no rows: findings between scans, lost workers, errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from audits.models import TaskAudit
from opsconsole.engine import executor, findings, leases, queue, registry, workers
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Finding, Run, Status
from opsconsole.engine.operation import Action, NamedItemsMixin, Risk
from opsconsole.engine.outcomes import Done, Invalid, Outcome
from opsconsole.stores.store import Store
from tests.support.contract import Crash, after_batches, die, execute_run, operation_called, start, work

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


class LookAround(Check):
    title = "Look around"
    description = "Finds what the test has hidden."
    store_alias = "agentos"
    model = TaskAudit
    rules = ("north", "south")
    reasons = {"lost": "something lost", "late": "something late"}
    messages = {"lost": "%(thing)s is lost", "late": "%(thing)s is late"}

    hidden: ClassVar[dict[str, list[FindingData | Exception | type[BaseException]]]] = {}

    def run_rule(self, question: str) -> Iterable[FindingData]:
        for one in self.hidden.get(question, []):
            if not isinstance(one, FindingData):
                raise one
            yield one


class RingBells(NamedItemsMixin, Action):
    title = "Ring the bells"
    description = "Rings each bell, and notes it."
    store_alias = "agentos"
    model = TaskAudit
    risk = Risk.REPRODUCE
    reasons = {"cracked": "the bell is cracked"}

    rung: ClassVar[list[str]] = []
    fails: ClassVar[dict[str, Any]] = {}

    def item_names(self) -> list[str]:
        return ["low", "middle", "high"]

    def perform(self, row: Any) -> Outcome:
        trouble = self.fails.get(row.name)
        if isinstance(trouble, Invalid):
            return trouble
        self.rung.append(row.name)
        if trouble is not None:
            raise self.fails.pop(row.name)
        return Done()


@pytest.fixture(autouse=True)
def _operations() -> Iterator[None]:
    for cls, name in ((LookAround, "tests.look_around"), (RingBells, "tests.ring_bells")):
        cls.name = name
        registry.operations()[name] = cls
    LookAround.hidden, RingBells.rung, RingBells.fails = {}, [], {}
    yield
    for name in ("tests.look_around", "tests.ring_bells"):
        del registry.operations()[name]


def lost(subject: str, thing: str = "key") -> FindingData:
    return FindingData("lost", subject, {"thing": thing}, "immediate")


def scan() -> Run:
    return execute_run(operation_called("tests.look_around"))


def open_subjects() -> set[str]:
    identity = Store("agentos", "agentos").identity()
    return set(findings.open_findings("tests.look_around", identity).values_list("subject", flat=True))


def test_new_persisting_resolved_and_back_again() -> None:
    LookAround.hidden = {"north": [lost("1"), lost("2")], "south": [FindingData("late", "1", {"thing": "train"})]}
    first = scan()
    assert (first.status, first.total, first.seen) == (Status.SUCCEEDED, 2, 2)
    assert first.after == {"late": 1, "lost": 2, "new": 3, "persisting": 0, "resolved": 0}
    LookAround.hidden = {"north": [lost("2", "ring"), lost("3")], "south": []}
    second = scan()
    assert second.after == {"lost": 2, "new": 1, "persisting": 1, "resolved": 2}
    assert open_subjects() == {"2", "3"}
    kept = Finding.objects.get(subject="2")
    assert (kept.first_run, kept.last_run, kept.data) == (first, second, {"thing": "ring"})
    resolved = Finding.objects.get(code="lost", subject="1")
    assert (resolved.resolved_run, resolved.last_run) == (second, first)
    LookAround.hidden = {"north": [lost("1")]}
    third = scan()
    assert third.after == {"lost": 1, "new": 1, "persisting": 0, "resolved": 2}
    back = Finding.objects.get(code="lost", subject="1")
    assert (back.first_run, back.resolved_at, back.resolved_run) == (third, None, None)


def test_many_findings_are_written_in_portions(django_assert_max_num_queries: Any) -> None:
    LookAround.hidden = {"north": [lost(str(number)) for number in range(2_500)]}
    assert scan().after["lost"] == 2_500
    with django_assert_max_num_queries(250):  # 2,500 findings known: 3 portions, each split by SQLite's variables
        assert scan().after == {"lost": 2_500, "new": 0, "persisting": 2_500, "resolved": 0}


def test_a_rule_that_fails_does_not_stop_the_others() -> None:
    LookAround.hidden = {"north": [lost("1"), ValueError("no such land")], "south": [lost("9")]}
    run = scan()
    assert (run.status, run.failed, run.skipped) == (Status.NEEDS_ATTENTION, 1, 1)
    assert run.failed_items.get().error == "no such land"
    assert open_subjects() == {"9"}
    LookAround.hidden = {"south": [ValueError("still")]}
    assert scan().status == Status.NEEDS_ATTENTION
    assert open_subjects() == {"9"}, "what could not be asked is not resolved"


def test_a_scan_whose_worker_dies_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    LookAround.hidden = {"north": [lost("1")], "south": [lost("2"), Crash]}
    run = start(operation_called("tests.look_around"))
    with pytest.raises(Crash):
        work(run)
    LookAround.hidden = {"south": [lost("2")]}
    run = work(die(run))
    assert (run.status, run.seen, run.batches_done) == (Status.SUCCEEDED, 2, 2)
    assert run.after == {"lost": 2, "new": 2, "persisting": 0, "resolved": 0}


def test_a_run_waits_for_transient_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BACKOFF_SECONDS", (0.01,))
    RingBells.fails = {"middle": OperationalError("database is locked")}
    run = execute_run(operation_called("tests.ring_bells"))
    assert (run.status, run.changed, run.failed) == (Status.SUCCEEDED, 3, 0)
    assert RingBells.rung == ["low", "middle", "middle", "high"]


def test_actions_stop_between_items_and_resume() -> None:
    run = start(operation_called("tests.ring_bells"))
    until, on_progress = after_batches(1)
    run = work(run, until=until, on_progress=on_progress)
    assert (run.status, RingBells.rung) == (Status.INTERRUPTED, ["low"])
    run = work(workers.claim(run))
    assert (run.status, run.changed, RingBells.rung) == (Status.SUCCEEDED, 3, ["low", "middle", "high"])
    with pytest.raises(RunRefused, match=r"cannot be undone\. Ring the bells"):
        operation_called("operations.undo_run", run=run.pk)


def test_actions_that_fail_or_are_invalid() -> None:
    RingBells.fails = {"low": Invalid("cracked"), "high": RuntimeError("the rope broke")}
    run = execute_run(operation_called("tests.ring_bells"))
    assert (run.status, run.changed, run.invalid, run.failed) == (Status.NEEDS_ATTENTION, 1, 1, 1)
    assert run.reasons["invalid"] == {"cracked": 1}
    again = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
    assert (again.status, RingBells.rung[-1]) == (Status.SUCCEEDED, "high")


def test_a_long_action_renews_its_lease_and_stops_after_losing_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(operation_called("tests.ring_bells"))
    monkeypatch.setattr(leases, "LEASE", timedelta(seconds=0.6))
    seen: list[Any] = []

    def act(operation: Any, row: Any) -> Outcome:
        Run.objects.filter(pk=run.pk).update(lease_until=None)
        deadline = timezone.now() + timedelta(seconds=5)
        while not seen and timezone.now() < deadline:
            if Run.objects.get(pk=run.pk).lease_until is not None:
                seen.append(row.name)
        if row.name == "middle":
            Run.objects.filter(pk=run.pk).update(generation=99)
        return Done()

    monkeypatch.setattr(RingBells, "perform", act)
    with pytest.raises(leases.LostOwnership):
        work(run)
    assert seen == ["low"]
    assert Run.objects.get(pk=run.pk).changed == 0, "the first act was not written down by the second batch"


def test_scan_from_the_page_is_queued_and_shown(bob: Any, charlie: Any, client: Client) -> None:
    client.force_login(charlie)
    assert client.post("/admin/operations/tests.look_around/plan/").status_code == 403
    client.force_login(bob)
    LookAround.hidden = {"north": [lost("<b>1</b>")]}
    response = client.post("/admin/operations/tests.look_around/plan/")
    run = Run.objects.get()
    assert (response.status_code, run.status) == (302, Status.QUEUED)
    assert queue.run_slice(run.pk, run.generation) == Status.SUCCEEDED
    page = client.get(f"/admin/operations/run/{run.pk}/change/").content.decode()
    assert "1 new, 0 persisting, 0 resolved" in page
    assert "key is lost" in page
    assert "<b>1</b>" not in page
    listed = client.get("/admin/operations/finding/?state=open").content.decode()
    assert "key is lost" in listed
