"""The decision that a partial result is final."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.engine import lifecycle, planner
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Finding, Run, Status
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from roadmaps.models import Acceptance
from tests.support import roadmaps
from tests.support.contract import TESTER, execute_run, operation_called, work
from tests.support.plain_client import dump, execute
from tests.support.roadmaps import INCIDENT, INCIDENT_ROADMAP, Maker

NAME = "roadmaps.accept_partial"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


@pytest.fixture
def store(make_roadmaps: Any) -> Store:
    maker = Maker()
    roadmaps.incident(maker)
    store: Store = make_roadmaps("sqlite", maker.rows)
    execute_run(operation_called("roadmaps.sync_results", store))
    return store


def decide(store: Store, *keys: str, **params: Any) -> Run:
    planned = planner.plan(operation_called(NAME, store, **params), Selection(list(keys)) if keys else Selection())
    return work(lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False))


def open_codes(store: Store) -> set[str]:
    execute_run(operation_called("roadmaps.check_recovery", store))
    return set(Finding.objects.filter(resolved_at=None).values_list("code", flat=True))


def test_an_accepted_result_is_not_reported(store: Store) -> None:
    assert open_codes(store) == {"partial_failure"}
    before = dump(store)
    run = decide(store, INCIDENT, reason="90 % will do")
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"accepted": 1})
    assert dump(store) == before
    kept = Acceptance.objects.get()
    assert (kept.task_id, kept.failed_concepts, kept.reason) == (INCIDENT, ["c27", "c28", "c29"], "90 % will do")
    assert kept.run == run
    assert open_codes(store) == set()
    assert decide(store, INCIDENT, reason="again").reasons["skipped"] == {"accepted_before": 1}


def test_it_covers_only_concepts_that_had_failed(store: Store) -> None:
    decide(store, reason="fine")
    assert open_codes(store) == set()
    execute(store, "DELETE FROM quiz_metadata WHERE concept_id = 'c00'")
    execute_run(operation_called("roadmaps.sync_results", store))
    assert "partial_failure" in open_codes(store), "another concept has failed since"


def test_a_withdrawn_acceptance(store: Store) -> None:
    decide(store, reason="fine")
    assert decide(store, reason="not at all", withdraw=True).reasons["changed"] == {"withdrawn": 1}
    assert not Acceptance.objects.exists()
    assert open_codes(store) == {"partial_failure"}


def test_a_task_that_is_not_partial(store: Store) -> None:
    execute(store, "UPDATE roadmap_tasks SET status = 'completed'")
    assert decide(store, INCIDENT, reason="fine").reasons["skipped"] == {"not_partial": 1}
    assert dump(store)["roadmap_metadata"][INCIDENT_ROADMAP]


def test_a_decision_needs_a_reason(store: Store) -> None:
    with pytest.raises(RunRefused, match="Say why"):
        decide(store)
    planned = planner.plan(operation_called(NAME, store))
    work(
        lifecycle.confirm(
            lifecycle.create_run(planned, TESTER, note="agreed with the author"), TESTER, background=False
        )
    )
    assert Acceptance.objects.get().reason == "agreed with the author"
