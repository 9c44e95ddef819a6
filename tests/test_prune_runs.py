"""Retention: the images of runs that ended long ago go, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from opsconsole.operations.models import Batch, Event, Run, Status
from opsconsole.operations.runs import UnableToRun
from opsconsole.stores.store import Store
from tests.contract import execute_run, operation_called, plan_whole, undo
from tests.outside import dump
from tests.test_backfill_decision_fields import NAME

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def test_only_old_images_go(make_attached: Any) -> None:
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
    assert not Batch.objects.filter(run=old, image__isnull=False).exists()
    assert not Batch.objects.filter(run=recent, image=None).exists()
    assert (Event.objects.filter(run=old).count(), Run.objects.get(pk=old.pk).changed) == (events, old.changed)
    with pytest.raises(UnableToRun, match="pruned"):
        operation_called("operations.undo_run", run=old.pk)
    undo(recent)
    assert dump(store) == before


def test_days_are_the_operators_choice() -> None:
    prune = operation_called("operations.prune_runs", Store("default", "default"), days=7)
    assert prune.params["days"] == 7
    assert execute_run(prune).changed == 0
