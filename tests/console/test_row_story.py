"""The page of a row: its incidents, the runs that wrote it, and the undo of this row alone."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from audits.models import TaskAudit
from opsconsole.engine import planner, registry, stored_plans, workers, written_rows
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.executor import Executor
from opsconsole.engine.lifecycle import create_run
from opsconsole.engine.models import Finding, Incident, Run, Status, Trigger
from opsconsole.engine.queue import confirm
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from tasks.agentos.models import Task

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

BACKFILL = "audits.backfill_decision_fields"
PAYLOAD = '{"source_event_ts": "2026-01-20T10:00:00", "supervisor_processed_at": "2026-01-20T10:00:01"}'
ROWS = 60


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def audits() -> list[int]:
    task = Task.objects.create(task_id="T1", title="one")
    TaskAudit.objects.bulk_create(
        TaskAudit(task=task, event_type="SUPERVISOR_DECISION", payload=PAYLOAD) for _number in range(ROWS)
    )
    return list(TaskAudit.objects.order_by("pk").values_list("pk", flat=True))


def run_of(person: User, selection: Selection = Selection(), size: int = 10) -> Run:  # noqa: B008  # immutable
    """Run the backfill in batches of `size`."""
    cls = registry.operation(BACKFILL)
    planned = planner.count_outcomes(
        planner.plan(planner.operation_on(cls, stored_plans.store_for(cls, {}), {}), selection)
    )
    actor = Actor(person.username, "", Trigger.ADMIN, person)
    run = create_run(planned, actor, batch_size=size)
    confirm(run, actor)
    return work(run)


def work(run: Run) -> Run:
    run.refresh_from_db()
    return Executor(workers.claim(run)).work()


def story_of(client: Client, key: int) -> Any:
    response = client.get(f"/admin/audits/taskaudit/{key}/change/")
    assert response.status_code == 200
    return response.context["story"], response.content.decode()


def test_a_row_names_the_run_that_wrote_it(bobs: Client, bob: User, audits: list[int]) -> None:
    run = run_of(bob)
    assert run.batches.count() == ROWS // 10
    for key in (audits[0], audits[9], audits[10], audits[34], audits[-1]):
        story, text = story_of(bobs, key)
        assert [one.run for one in story.runs] == [run]
        assert "<ins>2026-01-20T10:00:00</ins>" in text
        assert "Undo this row…" in text
        assert story.is_complete
    other = TaskAudit.objects.create(task_id="T1", event_type="OTHER", payload="{}")
    story, text = story_of(bobs, other.pk)
    assert story.runs == []
    assert "History of this row" not in text


def test_one_row_is_undone_alone(bobs: Client, bob: User, audits: list[int]) -> None:
    run, key = run_of(bob), audits[34]
    one = story_of(bobs, key)[0].runs[0]
    answer = bobs.post(reverse("run-undo-row", args=[run.pk]), {"batch": one.batch, "place": one.place})
    undo = Run.objects.latest("pk")
    assert answer["Location"] == reverse("run", args=[undo.pk])
    assert (undo.operation, undo.parent, undo.total) == ("operations.undo_run", run, 1)
    page = bobs.get(answer["Location"]).content.decode()
    assert "Restore 1 row" in page
    bobs.post(reverse("run-confirm", args=[undo.pk]), {"digest": undo.digest})
    undo = work(undo)
    assert (undo.status, undo.changed) == (Status.SUCCEEDED, 1)
    assert list(TaskAudit.objects.filter(source_event_ts=None).values_list("pk", flat=True)) == [key]
    story, text = story_of(bobs, key)
    assert [one.run.pk for one in story.runs] == [undo.pk, run.pk]
    assert [one.undone_by for one in story.runs] == [None, None]  # the run is undone for this row only
    assert "Undo a run" in text


def test_a_row_that_the_run_did_not_write_is_not_found(bobs: Client, bob: User, audits: list[int]) -> None:
    run = run_of(bob, Selection(keys=audits[:3]))
    address = reverse("run-undo-row", args=[run.pk])
    for values in ({}, {"batch": 1, "place": 3}, {"batch": 2, "place": 0}, {"batch": "x", "place": "-1"}):
        assert bobs.post(address, values).status_code == 404
    assert Run.objects.count() == 1


def test_incidents_about_the_row(bobs: Client, audits: list[int]) -> None:
    scan = run_of(bobs_user(bobs), Selection(keys=audits[:1]))
    now = timezone.now()
    shared = {"store": "agentos", "identity": Store("agentos", "agentos").identity()}
    incident = Incident.objects.create(**shared, cause="gone", source="gone", opened_at=now, seen_at=now, count=1)
    Finding.objects.create(
        **shared,
        operation="gone",
        code="gone",
        subject=str(audits[5]),
        table="task_audits",
        key=str(audits[5]),
        incident=incident,
        priority="planned",
        found_at=now,
        seen_at=now,
        first_run=scan,
        last_run=scan,
    )
    story, text = story_of(bobs, audits[5])
    assert [one.incident for one in story.incidents] == [incident]
    assert reverse("incident", args=[incident.pk]) in text
    assert story_of(bobs, audits[6])[0].incidents == []


def bobs_user(client: Client) -> User:
    return User.objects.get(pk=client.session["_auth_user_id"])


def test_the_number_of_queries_is_constant(bobs: Client, bob: User, audits: list[int]) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connections["default"]) as captured:
            story_of(bobs, audits[0])
        return len(captured)

    run_of(bob, Selection(keys=audits[:1]))
    story_of(bobs, audits[0])
    first = queries()
    for _again in range(4):
        TaskAudit.objects.update(source_event_ts=None)
        run_of(bob, size=5)
    story = story_of(bobs, audits[0])[0]
    assert len(story.runs) == 5
    assert queries() == first


def test_the_work_is_bounded_and_says_so(
    bobs: Client, bob: User, audits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _again in range(3):
        TaskAudit.objects.update(source_event_ts=None)
        run_of(bob)
    monkeypatch.setattr(written_rows, "SEARCHED_RUNS", 2)
    story, text = story_of(bobs, audits[0])
    assert len(story.runs) == 2
    assert "newest 2 runs on this table" in text
    monkeypatch.setattr(written_rows, "SEARCHED_RUNS", 20)
    monkeypatch.setattr(written_rows, "SEARCHED_BYTES", 1)
    assert not story_of(bobs, audits[0])[0].is_complete


def test_who_may_not_see_runs_sees_no_story(client: Client, charlie: User, bob: User, audits: list[int]) -> None:
    run_of(bob)
    charlie.user_permissions.add(Permission.objects.get(codename="view_taskaudit"))
    client.force_login(charlie, backend="django.contrib.auth.backends.ModelBackend")
    response = client.get(f"/admin/audits/taskaudit/{audits[0]}/change/")
    assert response.status_code == 200
    assert "story" not in response.context
