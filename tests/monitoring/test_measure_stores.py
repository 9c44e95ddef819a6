"""Every store is measured. An unreachable store keeps its previous measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from audits.models import TaskAudit
from opsconsole.engine.models import Status
from opsconsole.monitoring import measurements
from opsconsole.monitoring.models import Measurement
from tasks.agentos.models import Task
from tests.conftest import attach_url
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
BACKFILL = "problem:audits.backfill_decision_fields"


def test_figures_of_every_store(tmp_path: Path) -> None:
    task = Task.objects.create(task_id="T1", title="one")
    for _number in range(3):
        TaskAudit.objects.create(task=task, event_type="SUPERVISOR_DECISION", payload="{}")
    run = execute_run(operation_called("monitoring.measure_stores"))
    assert (run.status, run.reasons["skipped"]) == (Status.SUCCEEDED, {"measured": 5})
    row = Measurement.objects.get(name=BACKFILL)
    assert (row.value, row.before, row.since) == (3, None, row.at)
    assert Measurement.objects.filter(name=measurements.SIZE, value__gt=0).count() == 5
    assert set(Measurement.objects.filter(name=measurements.MISSING).values_list("value", flat=True)) == {0}


def test_missing_columns_are_a_figure_and_not_a_failure(managed) -> None:
    execute(managed.store, "ALTER TABLE task_audits RENAME COLUMN source_event_ts TO another")
    execute(managed.store, "DROP TABLE supervisor_inbox")
    run = execute_run(operation_called("monitoring.measure_stores"))
    assert run.status == Status.SUCCEEDED
    row = Measurement.objects.get(store="agentos", name=measurements.MISSING)
    assert (row.value, row.text) == (2, "task_audits.source_event_ts, supervisor_inbox")
    row = Measurement.objects.get(name=BACKFILL)
    assert row.value is None
    assert "source_event_ts" in row.text


def test_an_unreachable_store_keeps_its_figures(tmp_path: Path) -> None:
    execute_run(operation_called("monitoring.measure_stores"))
    before = Measurement.objects.get(store="helix", name=measurements.SIZE)
    attach_url("helix", f"sqlite:///{tmp_path}/gone.db")
    run = execute_run(operation_called("monitoring.measure_stores"))
    assert run.reasons["skipped"] == {"measured": 4, "down": 1}
    assert Measurement.objects.get(store="helix", name=measurements.SIZE).at == before.at
