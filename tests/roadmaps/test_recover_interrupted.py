"""The scheduled start of recoveries: one background run per interrupted task."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from opsconsole.engine import lifecycle, planner, queue, registry, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Run, Status, Trigger
from opsconsole.engine.selection import Selection
from tests.roadmaps.test_recover_tasks import NAME, _workflow, address_of, begin
from tests.support.contract import TESTER, operation_called, work
from tests.support.plain_client import dump
from tests.support.roadmaps import Maker, concept, minutes_ago

__all__ = ["_workflow"]  # an autouse fixture

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


def test_a_schedule_starts_one_run_per_task(make_roadmaps: Any, settings: Any) -> None:
    maker = Maker()
    for number in range(3):
        maker.roadmap(f"r{number}", [concept("a")])
        maker.content(f"r{number}", "a")
        maker.task(f"t{number}", f"r{number}", created_at=minutes_ago(100 + number), updated_at=minutes_ago(50))
    url = make_roadmaps("postgresql-json", maker.rows)
    begin(address_of(url), "t0", "t1", "t2")
    operation = operation_called("roadmaps.recover_interrupted", url)
    run = work(lifecycle.confirm(lifecycle.create_run(planner.plan(operation), TESTER), TESTER, background=False))
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"started": 3})
    started = Run.objects.filter(operation=NAME).order_by("pk")
    assert [one.selection["keys"] for one in started] == [["t2"], ["t1"], ["t0"]], "oldest first"
    assert {one.status for one in started} == {Status.QUEUED}
    again = work(lifecycle.confirm(lifecycle.create_run(planner.plan(operation), TESTER), TESTER, background=False))
    assert again.reasons["skipped"] == {"under_way": 3}
    for one in started:
        assert queue.run_slice(one.pk, one.generation) == Status.SUCCEEDED
    assert {row["status"] for row in dump(url)["roadmap_tasks"].values()} == {"completed"}
    settings.ENABLE_TASK_RECOVERY = False
    assert list(registry.scheduled_params(type(operation))) == []
    with pytest.raises(Exception, match="ENABLE_TASK_RECOVERY"):
        call_command("recover_interrupted_tasks")


def test_an_emergency_covers_the_runs_of_all_tasks(make_roadmaps: Any, settings: Any, alice: User) -> None:
    """Otherwise each of them waits for the approver that nobody can reach. Each carries the mark."""
    settings.PRODUCTION = True
    maker = Maker()
    maker.roadmap("r", [concept("a")])
    maker.task("t", "r", created_at=minutes_ago(100), updated_at=minutes_ago(50))
    store = make_roadmaps("sqlite", maker.rows)
    begin(address_of(store), "t")
    schedule = Actor("schedule", "here", Trigger.SCHEDULE)
    run = lifecycle.create_run(planner.plan(operation_called("roadmaps.recover_interrupted", store)), schedule)
    lifecycle.confirm(run, schedule, background=True)
    person = Actor("alice", "here", Trigger.ADMIN, alice)
    lifecycle.break_glass(run, person, "Creation hangs and no approver answers.")
    work(workers.claim(Run.objects.get(pk=run.pk)))
    started = Run.objects.get(operation=NAME)
    assert (started.status, started.break_glass, started.approved_by) == (Status.QUEUED, True, None)


def test_scheduled_recoveries_need_an_approver_in_production(
    make_roadmaps: Any, settings: Any, alice: User, bob: User
) -> None:
    """The account that last changed the schedule cannot approve. One approval covers the runs of all tasks."""
    settings.PRODUCTION = True
    maker = Maker()
    maker.roadmap("r", [concept("a")])
    maker.task("t", "r", created_at=minutes_ago(100), updated_at=minutes_ago(50))
    store = make_roadmaps("sqlite", maker.rows)
    begin(address_of(store), "t")
    schedule = Actor("schedule", "here", Trigger.SCHEDULE)
    planned = planner.plan(operation_called("roadmaps.recover_interrupted", store))
    run = lifecycle.create_run(planned, schedule, changed_by=bob)
    assert lifecycle.confirm(run, schedule, background=True).status == Status.AWAITING_APPROVAL
    with pytest.raises(RunRefused, match="You last changed the schedule"):
        lifecycle.approve(run, Actor("bob", "here", Trigger.SHELL, bob))
    lifecycle.approve(run, Actor("alice", "here", Trigger.ADMIN, alice))
    work(workers.claim(Run.objects.get(pk=run.pk)))
    started = Run.objects.get(operation=NAME)
    assert (started.status, started.approved_by, started.changed_by) == (Status.QUEUED, alice, bob)
    for keys, held in (["t"], True), (["other"], False):
        mine = lifecycle.create_run(planner.plan(operation_called(NAME, store), Selection(keys)), TESTER)
        if held:
            with pytest.raises(RunRefused, match=f"is locked by run {started.pk}"):
                lifecycle.confirm(mine, TESTER, background=False)
        else:
            assert lifecycle.confirm(mine, TESTER, background=False).status == Status.AWAITING_APPROVAL


def test_a_scheduled_run_without_tasks_needs_no_approval(make_roadmaps: Any, settings: Any) -> None:
    settings.PRODUCTION = True
    store = make_roadmaps("sqlite", Maker().rows)
    begin(address_of(store))
    schedule = Actor("schedule", "here", Trigger.SCHEDULE)
    run = lifecycle.create_run(planner.plan(operation_called("roadmaps.recover_interrupted", store)), schedule)
    assert work(lifecycle.confirm(run, schedule, background=False)).status == Status.SUCCEEDED
