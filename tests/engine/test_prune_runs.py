"""Retention: only the before-images of runs that ended long ago are pruned."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.lifecycle import confirm, create_run
from opsconsole.engine.models import Batch, Event, GivenRows, Run, Status, Trigger
from opsconsole.engine.operation import Risk
from opsconsole.engine.planner import advice
from opsconsole.stores.rows import Write
from opsconsole.stores.store import Store
from tests.audits.test_backfill_decision_fields import NAME
from tests.support.contract import execute_run, operation_called, plan_whole, undo
from tests.support.plain_client import dump

WRITE_ROWS = "operations.write_rows"
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def test_only_old_before_images_are_deleted(make_attached: Any) -> None:
    store = make_attached("sqlite", 150).store
    before = dump(store)
    old = execute_run(operation_called(NAME, store), batch_size=7)
    undo(old)
    recent = execute_run(operation_called(NAME, store), batch_size=7)
    Run.objects.filter(pk=old.pk).update(finished_at=timezone.now() - timedelta(days=91))
    images, events = old.batches.count(), Event.objects.filter(run=old).count()
    prune = operation_called("operations.prune_runs", Store("default", "default"))
    assert plan_whole(prune).counts()["changed"] == images
    run = execute_run(prune)
    assert (run.status, run.changed) == (Status.SUCCEEDED, images)
    assert not Batch.objects.filter(run=old, before_image__isnull=False).exists()
    assert not Batch.objects.filter(run=recent, before_image=None).exists()
    assert (Event.objects.filter(run=old).count(), Run.objects.get(pk=old.pk).changed) == (events, old.changed)
    with pytest.raises(RunRefused, match="pruned"):
        operation_called("operations.undo_run", run=old.pk)
    undo(recent)
    assert dump(store) == before


def test_given_rows_are_pruned_with_before_images(managed: Any) -> None:
    def run_of(*keys: str) -> Run:
        write = Write("tasks", ("task_id", "title"), [(key, None, (key, "x")) for key in keys])
        return execute_run(operation_called(WRITE_ROWS, store="agentos", table="tasks", rows=GivenRows.keep([write])))

    old, recent, undone = run_of("a"), run_of("b"), run_of("c")
    long_ago = timezone.now() - timedelta(days=91)
    GivenRows.objects.update(at=long_ago)
    Run.objects.filter(pk__in=(old.pk, undone.pk)).update(finished_at=long_ago)
    Run.objects.filter(pk=undone.pk).update(status=Status.PAUSED)  # it may continue
    execute_run(operation_called("operations.prune_runs", Store("default", "default")))
    kept = {recent.params["rows"], undone.params["rows"]}
    assert set(GivenRows.objects.values_list("digest", flat=True)) == kept


def test_days_are_the_operators_choice() -> None:
    prune = operation_called("operations.prune_runs", Store("default", "default"), days=40)
    assert prune.params["days"] == 40
    assert execute_run(prune).changed == 0


def test_only_a_superuser_ends_the_undo_of_recent_runs(make_attached: Any, alice: Any, bob: Any, settings: Any) -> None:
    store = make_attached("sqlite", 50).store
    run = execute_run(operation_called(NAME, store))
    Run.objects.filter(pk=run.pk).update(finished_at=timezone.now() - timedelta(days=3))
    prune = operation_called("operations.prune_runs", Store("default", "default"), days=1)
    assert prune.effective_risk() == Risk.DELETE
    planned = plan_whole(prune)
    assert advice(planned)[0] == "1 run younger than 30 days can no longer be undone."
    drafted = create_run(planned, Actor("bob", "", Trigger.ADMIN, bob))
    for person in (bob, None):
        with pytest.raises(RunRefused, match="needs a superuser"):
            confirm(drafted, Actor("x", "", Trigger.ADMIN, person), background=True)
    assert Batch.objects.filter(run=run, before_image__isnull=False).exists()
    settings.ENVIRONMENT = "staging"
    with pytest.raises(RunRefused, match="of the checklist are not confirmed"):
        confirm(drafted, Actor("alice", "", Trigger.ADMIN, alice), background=True)
    settings.ENVIRONMENT = "development"
    confirm(drafted, Actor("alice", "", Trigger.ADMIN, alice), background=True)
    settings.UNDO_MIN_DAYS = 1
    assert prune.effective_risk() == Risk.CHANGE
