"""Requests to the platform to generate failed concepts again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opsconsole.engine import lifecycle, notifications, planner
from opsconsole.engine.models import Run, Status
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store, StoreUnavailable
from tests.support import roadmaps
from tests.support.contract import TESTER, execute_run, operation_called, plan_whole, work
from tests.support.plain_client import dump, execute
from tests.support.platform_endpoint import listening
from tests.support.roadmaps import ENGINES, INCIDENT, INCIDENT_ROADMAP, Maker

NAME = "roadmaps.retry_failed_concepts"
PARTS = ("tutorial", "resources", "quiz")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


def partial(make_roadmaps: Any, engine: str) -> Store:
    maker = Maker()
    roadmaps.incident(maker)
    maker.rows["quiz_metadata"].pop()
    store: Store = make_roadmaps(engine, maker.rows)
    execute_run(operation_called("roadmaps.sync_results", store))
    return store


def retry(store: Store, *keys: str) -> Run:
    planned = planner.plan(operation_called(NAME, store), Selection(list(keys)) if keys else Selection())
    return work(lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_platform_is_asked_for_each_part_that_failed(make_roadmaps: Any, settings: Any, engine: str) -> None:
    store = partial(make_roadmaps, engine)
    settings.ROADMAPS_RESUME_SECRET = "s3cret"
    before = dump(store)
    with listening() as platform:
        settings.ROADMAPS_RETRY_URL = platform.url
        platform.answers = [503, 202]
        assert plan_whole(operation_called(NAME, store)).sample[0]["detail"] == "10 parts"
        failed = retry(store)
        assert (failed.status, failed.failed_items.get().error) == (
            Status.NEEDS_ATTENTION,
            "The retry endpoint answered 503.",
        )
        run = retry(store)
        assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"asked": 1})
    headers, body = platform.seen[-1]
    asked = json.loads(body)
    assert (asked["task_id"], asked["roadmap_id"]) == (INCIDENT, INCIDENT_ROADMAP)
    wanted = [("c26", "quiz"), *((key, part) for key in ("c27", "c28", "c29") for part in PARTS)]
    assert [(one["concept_id"], one["content_type"]) for one in asked["concepts"]] == wanted
    assert headers[notifications.SIGNATURE] == notifications.signature("s3cret", headers[notifications.TIMESTAMP], body)
    assert headers["Idempotency-Key"] == f"{INCIDENT}:retry:{run.pk}"
    assert dump(store) == before, "only the platform writes"


def test_without_an_endpoint_the_plan_is_refused(make_roadmaps: Any) -> None:
    """Rows of type retry_* would start no worker of the platform and only look like work in progress."""
    store = partial(make_roadmaps, "sqlite")
    before = dump(store)
    with pytest.raises(StoreUnavailable, match="Set ROADMAPS_RETRY_URL"):
        retry(store)
    assert dump(store) == before


@pytest.mark.parametrize(
    ("kind", "concept", "left"),
    [("retry_quiz", "c27", 9), ("retry_batch", "c27", 7), ("retry_batch", None, 0)],
)
def test_a_pending_request_is_not_repeated(
    make_roadmaps: Any, settings: Any, kind: str, concept: str | None, left: int
) -> None:
    store = partial(make_roadmaps, "sqlite")
    execute(
        store,
        "INSERT INTO roadmap_tasks (task_id, roadmap_id, status, task_type, concept_id)"
        " VALUES ('x', ?, 'processing', ?, ?)",
        [INCIDENT_ROADMAP, kind, concept],
    )
    with listening() as platform:
        settings.ROADMAPS_RETRY_URL = platform.url
        platform.answers = [200]
        assert retry(store).total == 0
        run = retry(store, INCIDENT)
    if not left:
        assert run.reasons["skipped"] == {"nothing_failed": 1}
    else:
        assert len(json.loads(platform.seen[0][1])["concepts"]) == left
