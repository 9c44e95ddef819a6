"""The check of synced tasks."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.engine.models import Finding, Status
from tests.support import roadmaps
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import execute
from tests.support.roadmaps import INCIDENT, Maker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"])
def test_clean_after_a_sync_and_not_after_a_loss(make_roadmaps: Any, engine: str) -> None:
    maker = Maker()
    roadmaps.incident(maker)
    store = make_roadmaps(engine, maker.rows)
    execute_run(operation_called("roadmaps.sync_results", store))
    assert execute_run(operation_called("roadmaps.verify_sync", store)).status == Status.SUCCEEDED
    assert not Finding.objects.exists()
    check: Any = operation_called("roadmaps.verify_sync", store)
    report = next(check.task_reports())
    assert (report.comparison.references_complete, len(report.comparison.failed)) == (27, 3)
    execute(store, "DELETE FROM tutorial_metadata WHERE concept_id = 'c05'")
    execute_run(operation_called("roadmaps.verify_sync", store))
    found = Finding.objects.values_list("code", "subject")
    assert set(found) == {
        ("framework_ahead_of_content", INCIDENT),
        ("reference_dangling", INCIDENT),
        ("status_mismatch", INCIDENT),
    }
