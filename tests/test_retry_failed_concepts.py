"""Requests for the concepts that failed: rows of the platform's own kind, once for each, and undone."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from opsconsole.operations import planning, runs
from opsconsole.operations.base import Operation
from opsconsole.operations.models import Run, Status
from opsconsole.operations.selection import Selection
from opsconsole.stores.store import Store
from tests import roadmaps
from tests.contract import TESTER, Contract, execute_run, operation_called, plan_whole, undo, work
from tests.outside import Tables, dump, execute
from tests.roadmaps import AS_OF, ENGINES, INCIDENT, INCIDENT_ROADMAP, NOW, Maker, concept

NAME = "roadmaps.retry_failed_concepts"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


def partial(make_roadmaps: Any, engine: str) -> Store:
    maker = Maker()
    roadmaps.incident(maker)
    maker.rows["quiz_metadata"].pop()
    store: Store = make_roadmaps(engine, maker.rows)
    execute_run(operation_called("roadmaps.sync_results", store))
    return store


def retry(store: Store, *keys: str) -> Run:
    planned = planning.plan(operation_called(NAME, store), Selection(list(keys)) if keys else Selection())
    return work(runs.confirm(runs.draft(planned, TESTER), TESTER, background=False))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_request_for_each_part_that_failed(make_roadmaps: Any, engine: str) -> None:
    store = partial(make_roadmaps, engine)
    before = dump(store)
    run = retry(store)
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)
    made = {key: row for key, row in dump(store)["roadmap_tasks"].items() if key not in before["roadmap_tasks"]}
    asked = sorted((row["concept_id"], row["task_type"]) for row in made.values())
    types = ("retry_quiz", "retry_resources", "retry_tutorial")
    assert asked == [("c26", "retry_quiz"), *((key, type_) for key in ("c27", "c28", "c29") for type_ in types)]
    one = next(iter(made.values()))
    assert (one["status"], one["roadmap_id"], one["completed_at"]) == ("pending", INCIDENT_ROADMAP, None)
    assert json.loads(one["user_request"])["retry_of"] == INCIDENT
    assert retry(store).total == 0
    assert retry(store, INCIDENT).reasons["skipped"] == {"nothing_failed": 1}
    assert undo(run).changed == 10
    assert dump(store) == before


def test_a_plan_shows_the_very_rows(make_roadmaps: Any) -> None:
    planned = plan_whole(operation_called(NAME, partial(make_roadmaps, "sqlite")))
    assert len(planned.sample[0]["rows"]) == 10
    assert planned.sample[0]["detail"] == "10 requests"


def test_what_is_asked_already_is_not_asked_again(make_roadmaps: Any) -> None:
    store = partial(make_roadmaps, "sqlite")
    execute(
        store,
        "INSERT INTO roadmap_tasks (task_id, roadmap_id, status, task_type, concept_id)"
        " VALUES ('x', ?, 'processing', 'retry_quiz', 'c27')",
        [INCIDENT_ROADMAP],
    )
    assert retry(store).total == 0
    run = retry(store, INCIDENT)
    assert sum(run.batches.values_list("rows", flat=True)) == 9


class TestContract(Contract):
    """Its units are tasks that stay as they are; what it writes are new rows."""

    operation = NAME
    engines = ENGINES

    @pytest.fixture(autouse=True)
    def _frozen(self) -> Iterator[None]:
        """Every plan is made at noon: the rows' keys follow from that."""
        real = Operation.__init__

        def at_noon(operation: Operation, *args: Any) -> None:
            real(operation, *args)
            operation.as_of = AS_OF

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Operation, "__init__", at_noon)
            yield

    @pytest.fixture
    def store(self, make_roadmaps: Any, engine: str) -> Store:
        maker = Maker()
        for number in range(64):
            maker.roadmap(f"r{number}", [concept("a"), concept("b")])
            maker.content(f"r{number}", "a")
            maker.task(f"task{number:02d}", f"r{number}", status="partial_failure")
        self.engine = engine
        store: Store = make_roadmaps(engine, maker.rows)
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        tasks = tables["roadmap_tasks"]
        for task, row in list(tasks.items()):
            for part in ("tutorial", "resources", "quiz"):
                key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{task} b {part} {AS_OF.isoformat()}"))
                request = {
                    "roadmap_id": row["roadmap_id"],
                    "concept_id": "b",
                    "content_type": part,
                    "retry_of": task,
                }
                tasks[key] = dict.fromkeys(row) | {
                    "task_id": key,
                    "status": "pending",
                    "current_step": "queued",
                    "user_request": roadmaps.text(request, self.engine),
                    "roadmap_id": row["roadmap_id"],
                    "task_type": f"retry_{part}",
                    "concept_id": "b",
                    "content_type": part,
                    "created_at": NOW,
                    "updated_at": NOW,
                }
        return tables

    def changed(self, before: Tables, after: Tables) -> Iterator[Any]:
        """Tasks for which something is asked."""
        made = [row for key, row in after[self.table].items() if key not in before[self.table]]
        yield from sorted({json.loads(row["user_request"])["retry_of"] for row in made})

    def with_unit_as_before(self, after: Tables, before: Tables, key: Any) -> Tables:
        tables = super().with_unit_as_before(after, before, key)
        for made in set(after[self.table]) - set(before[self.table]):
            if json.loads(after[self.table][made]["user_request"])["retry_of"] == key:
                del tables[self.table][made]
        return tables

    # A neighbour's write to the task is no obstacle to new rows beside it.
    test_row_whose_write_fails_is_set_aside = None  # type: ignore[assignment]
    test_verify_finds_a_leftover = None  # type: ignore[assignment]
    test_rows_made_after_the_plan_are_left_alone = None  # type: ignore[assignment]
    test_a_neighbours_value_is_not_overwritten = None  # type: ignore[assignment]
    test_a_row_that_never_stands_still_is_skipped = None  # type: ignore[assignment]
    test_undo_leaves_what_changed_since = None  # type: ignore[assignment]
