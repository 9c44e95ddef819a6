"""Planning the same command again renews the plan that the account has not confirmed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audits.models import TaskAudit
from opsconsole.engine import lifecycle, queue, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import PinnedRows, Run, Status, Trigger
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from tasks.agentos.models import Task
from tests.support import helix
from tests.support.contract import operation_called
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix"])
BACKFILL = "audits.backfill_decision_fields"
CLEAN = "helix.clean_dirty_jobs"
PAYLOAD = '{"source_event_ts": "2026-01-20T10:00:00", "supervisor_processed_at": "2026-01-20T10:00:01"}'


def add_audits(count: int) -> None:
    task, _created = Task.objects.get_or_create(task_id="T1", defaults={"title": "one"})
    TaskAudit.objects.bulk_create(
        TaskAudit(task=task, event_type="SUPERVISOR_DECISION", payload=PAYLOAD) for _number in range(count)
    )


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob)
    add_audits(3)
    return client


def planned(client: Client, name: str = BACKFILL, **data: Any) -> Run:
    answer = client.post(reverse("plan", args=[name]), data)
    assert answer.status_code == 302
    return Run.objects.get(pk=int(answer["Location"].split("/")[-3]))


def test_the_same_plan_keeps_its_address_and_has_the_figures_of_now(bobs: Client) -> None:
    first = planned(bobs)
    add_audits(2)
    second = planned(bobs)
    assert (second.pk, first.total, second.total) == (first.pk, 3, 5)
    assert second.created_at > first.created_at
    assert Run.objects.count() == 1
    assert second.events.filter(verb="planned").count() == 2
    assert bobs.post(reverse("run-confirm", args=[first.pk]), {"digest": second.digest}).status_code == 302
    second.refresh_from_db()
    assert Executor(workers.claim(second)).work().changed == 5


def test_a_page_of_the_earlier_figures_confirms_nothing(bobs: Client) -> None:
    first = planned(bobs)
    add_audits(2)
    planned(bobs)
    page = bobs.post(reverse("run-confirm", args=[first.pk]), {"digest": first.digest}, follow=True)
    assert "Nothing was written" in page.content.decode()
    assert not Run.objects.exclude(status__in=(Status.PLANNED, Status.CANCELLED)).exists()


@pytest.mark.parametrize("other", ["account", "parameters", "selection", "confirmed", "old", "discarded"])
def test_another_plan_has_its_own_address(bobs: Client, bob: User, alice: User, other: str) -> None:
    name, data = ("operations.prune_runs", {"asked": "1", "days": "90"}) if other == "parameters" else (BACKFILL, {})
    first = planned(bobs, name, **data)
    if other == "account":
        bobs.force_login(alice)
    elif other == "parameters":
        data["days"] = "100"
    elif other == "selection":
        actor = Actor("bob", "", Trigger.ADMIN, bob)
        chosen = queue.plan(operation_called(BACKFILL), Selection([TaskAudit.objects.earliest("pk").pk]), actor)
        assert chosen.pk != first.pk
        return
    elif other == "confirmed":
        queue.confirm(first, Actor("bob", "", Trigger.ADMIN, bob))
    elif other == "old":
        Run.objects.filter(pk=first.pk).update(created_at=timezone.now() - timedelta(days=2))
    elif other == "discarded":
        lifecycle.cancel(first, Actor("bob", "", Trigger.ADMIN, bob))
    assert planned(bobs, name, **data).pk != first.pk


def test_a_renewed_plan_pins_the_rows_of_now(make_helix: Any, bob: User) -> None:
    store: Store = make_helix("sqlite", helix.one_of_each())
    actor = Actor("bob", "", Trigger.ADMIN, bob)
    first = queue.plan(operation_called(CLEAN, store), Selection(), actor)
    pinned = PinnedRows.of(first)
    repaired = next(iter(pinned))
    execute(store, "UPDATE tasks SET updated_at = '2026-01-01 00:00:00' WHERE job_id = ?", [repaired])
    second = queue.plan(operation_called(CLEAN, store), Selection(), actor)
    assert second.pk == first.pk
    now = PinnedRows.of(second)
    assert now.keys() == pinned.keys()
    assert now[repaired] != pinned[repaired]
    assert queue.confirm(second, actor).status == Status.QUEUED


def test_a_count_of_the_earlier_plan_ends(bobs: Client, bob: User) -> None:
    """Its message carries the earlier generation."""
    first = planned(bobs)
    planned(bobs)
    assert queue.count_plan(first.pk, first.generation) == "gone"
