"""The sync, compared with the independent model in `tests.support.roadmaps` on every engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from threading import Event
from typing import Any, ClassVar

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from opsconsole.engine import lifecycle, planner, workers
from opsconsole.engine.batch_writer import BatchWriter
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Operation
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from opsconsole.timestamps import format_timestamp
from roadmaps.operations.sync_results import WRITTEN
from tests.support import roadmaps
from tests.support.contract import (
    TESTER,
    Crash,
    EngineContract,
    after_batches,
    die,
    execute_run,
    left_by,
    operation_called,
    plan_whole,
    start,
    undo,
    work,
)
from tests.support.fault_injection import interposed
from tests.support.plain_client import Row, Tables, dump, execute
from tests.support.roadmaps import AS_OF, ENGINES, INCIDENT, INCIDENT_ROADMAP, LONG_AGO, NOW, Maker, concept

NAME = "roadmaps.sync_results"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


@pytest.fixture(autouse=True)
def _frozen() -> Iterator[None]:
    """Make every plan at noon, so that the model knows the written times."""
    real = Operation.__init__

    def at_noon(self: Operation, *args: Any) -> None:
        real(self, *args)
        self.as_of = AS_OF

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Operation, "__init__", at_noon)
        patch.setattr(planner, "SHOWN_CHARACTERS", 1_000_000)
        yield


class TestContract(EngineContract):
    operation = NAME
    engines = ENGINES
    late_key = "zzz"
    meddled: ClassVar[Row] = {"status": "cancelled", **dict.fromkeys(WRITTEN[1:]), "updated_at": LONG_AGO}

    @pytest.fixture
    def store(self, make_roadmaps: Any, engine: str) -> Store:
        self.engine = engine
        rows = roadmaps.everything()
        store: Store = make_roadmaps(engine, rows if engine == "sqlite" else roadmaps.without_broken(rows))
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        return roadmaps.synced(tables, self.engine)

    def with_row_unchanged(self, after: Tables, before: Tables, key: Any) -> Tables:
        tables = super().with_row_unchanged(after, before, key)
        roadmap = before["roadmap_tasks"][key]["roadmap_id"]
        tables["roadmap_metadata"][roadmap] = before["roadmap_metadata"][roadmap]
        return tables


def on(store: Store, *keys: str, **params: Any) -> Run:
    """Sync these tasks, or all stuck tasks."""
    operation = operation_called(NAME, store, **params)
    planned = planner.plan(operation, Selection(list(keys)) if keys else Selection())
    return work(lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_documented_figures_of_the_incident(make_roadmaps: Any, engine: str) -> None:
    maker = Maker()
    roadmaps.incident(maker)
    store = make_roadmaps(engine, maker.rows)
    before = dump(store)
    run = on(store)
    assert (run.status, run.total, run.changed) == (Status.SUCCEEDED, 1, 1)
    assert run.reasons["changed"] == {"partial_failure": 1}
    after = dump(store)
    task = after["roadmap_tasks"][INCIDENT]
    assert (task["status"], task["current_step"]) == ("partial_failure", "content_generation")
    assert json.loads(task["failed_concepts"]) == {"count": 3, "concept_ids": ["c27", "c28", "c29"]}
    assert json.loads(task["execution_summary"]) == {
        "tutorial_count": 27,
        "resource_count": 27,
        "quiz_count": 27,
        "failed_count": 3,
    }
    assert (task["updated_at"], task["completed_at"]) == (NOW, NOW)
    document = json.loads(after["roadmap_metadata"][INCIDENT_ROADMAP]["framework_data"])
    concepts = roadmaps.concepts_of(document)
    for status, reference in (
        ("content_status", "tutorial_id"),
        ("resources_status", "resources_id"),
        ("quiz_status", "quiz_id"),
    ):
        assert [one[status] for one in concepts] == ["completed"] * 27 + ["failed"] * 3
        assert all(one[reference] for one in concepts[:27])
        assert not any(one[reference] for one in concepts[27:])
    assert after == roadmaps.synced(deepcopy(before), engine)
    second = on(store, INCIDENT)
    assert (second.changed, second.reasons["skipped"]) == (0, {"in_step": 1})
    assert dump(store) == after
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_skipped_and_invalid_tasks(make_roadmaps: Any, engine: str) -> None:
    rows = roadmaps.everything(tasks=3)
    store = make_roadmaps(engine, rows if engine == "sqlite" else roadmaps.without_broken(rows))
    before = dump(store)
    alone = [key for key in before["roadmap_tasks"] if key.startswith("alone-") and key != "alone-completed"]
    run = on(store, *alone)
    assert dump(store) == before
    found = left_by(run)
    assert found["skipped"] == {
        "moves": ["alone-at-work"],
        "waits_for_a_person": ["alone-review"],
        "not_started": ["alone-pending"],
        "cancelled": ["alone-cancelled"],
        "deleted": ["alone-deleted"],
    }
    assert found["invalid"] == {
        "roadmap_missing": ["alone-early", "alone-without"],
        "no_framework": ["alone-null"],
        "no_concepts": ["alone-empty"],
        "not_an_object": ["alone-list"] if engine == "sqlite" else ["alone-broken", "alone-list"],
        **({"broken_framework": ["alone-broken"]} if engine == "sqlite" else {}),
    }
    assert on(store, "alone-at-work", force=True).changed == 1


def test_a_task_with_a_time_in_the_future(make_roadmaps: Any) -> None:
    maker = Maker()
    roadmaps.incident(maker)
    store = make_roadmaps("sqlite", maker.rows)
    execute(store, "UPDATE roadmap_tasks SET updated_at = '2999-03-01 12:00:01'")
    assert left_by(on(store, INCIDENT))["skipped"] == {"moves": [INCIDENT]}
    assert on(store, INCIDENT, force=True).changed == 1


def test_a_task_that_changed_since_the_plan(make_roadmaps: Any) -> None:
    maker = Maker()
    roadmaps.incident(maker)
    store = make_roadmaps("sqlite", maker.rows)
    operation = operation_called(NAME, store, force=True)
    run = lifecycle.create_run(planner.plan(operation, Selection([INCIDENT])), TESTER)
    execute(store, "UPDATE roadmap_tasks SET updated_at = '2026-03-01 12:00:01'")
    before = dump(store)
    run = work(lifecycle.confirm(run, TESTER, background=False))
    assert run.reasons["skipped"] == {"went_on": 1}
    assert dump(store) == before
    stuck = start(operation_called(NAME, store))
    assert stuck.total == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_two_tasks_of_one_roadmap(make_roadmaps: Any, engine: str) -> None:
    """The second task sees what was written for the first."""
    maker = Maker()
    maker.roadmap("r", [concept("a"), concept("b")])
    maker.content("r", "a")
    for number in range(5):
        maker.task(f"t{number}", "r", task_type="retry_tutorial" if number else "creation")
    store = make_roadmaps(engine, maker.rows)
    before = dump(store)
    run = on(store)
    assert (run.changed, run.batches.filter(rows=2).count(), run.batches.filter(rows=1).count()) == (5, 1, 4)
    assert dump(store) == roadmaps.synced(deepcopy(before), engine)
    undo(run)
    assert dump(store) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crash_between_batches_that_write_the_same_row(
    make_roadmaps: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second batch was read before the first was written, so both hold the same new framework."""
    maker = Maker()
    maker.roadmap("r", [concept("a")])
    maker.content("r", "a")
    for name in ("t0", "t1"):
        maker.task(name, "r")
    store = make_roadmaps(engine, maker.rows)
    if engine == "sqlite":
        store.query("PRAGMA journal_mode=WAL")  # only such a file is read ahead
    expected = roadmaps.synced(dump(store), engine)
    run = start(operation_called(NAME, store))

    prepared = Event()

    def crash() -> None:
        prepared.set()
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(BatchWriter, "_pause", lambda writer: prepared.wait(10))
        patch.setattr(*interposed("after the image", 2, crash))
        with pytest.raises(Crash):
            work(run)
    assert [len(batch.writes) for batch in run.batches.order_by("number")] == [2, 2]
    resumed = work(die(run))
    assert (resumed.status, resumed.changed) == (Status.SUCCEEDED, 2)
    assert dump(store) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_undo_of_batches_that_wrote_the_same_row(make_roadmaps: Any, engine: str) -> None:
    """A quiz is generated between two tasks of one roadmap, so both write its framework."""
    maker = Maker()
    maker.roadmap("r", [concept("a"), concept("b")])
    maker.content("r", "a")
    for name in ("t0", "t1"):
        maker.task(name, "r")
    store = make_roadmaps(engine, maker.rows)
    before = dump(store)
    columns = "roadmap_id, questions, total_questions, easy_count, medium_count, hard_count, generated_at"
    finish = (
        f"INSERT INTO quiz_metadata (quiz_id, concept_id, {columns})"
        f" SELECT 'late', 'b', {columns} FROM quiz_metadata WHERE concept_id = 'a'"
    )
    until, on_progress = after_batches(1)
    run = work(start(operation_called(NAME, store)), until=until, on_progress=on_progress)
    execute(store, finish)
    run = work(workers.claim(run))
    assert [len(batch.writes) for batch in run.batches.order_by("number")] == [2, 2]
    assert undo(run, batch_size=1).changed == 4
    after = dump(store)
    del after["quiz_metadata"]["late"]
    assert after == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_concurrent_write_to_the_same_roadmap_is_kept(
    make_roadmaps: Any, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and writing, the platform writes the name of another concept."""
    maker = Maker()
    roadmaps.incident(maker)
    store = make_roadmaps(engine, maker.rows)
    text = dump(store)["roadmap_metadata"][INCIDENT_ROADMAP]["framework_data"].replace("Concept c29", "By the platform")
    todo = [text]

    def prepare(worker: Executor, *args: Any) -> Any:
        if todo:
            execute(store, "UPDATE roadmap_metadata SET framework_data = ?", [todo.pop()])
        return real(worker, *args)

    real = Executor._prepare
    monkeypatch.setattr(Executor, "_prepare", prepare)
    run = on(store)
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1)
    kept = dump(store)["roadmap_metadata"][INCIDENT_ROADMAP]["framework_data"]
    assert "By the platform" in kept
    assert kept.count('"completed"') == 81


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"])
def test_a_store_without_deleted_at(make_roadmaps: Any, engine: str) -> None:
    maker = Maker()
    roadmaps.incident(maker)
    store = make_roadmaps(engine, maker.rows, lacks=roadmaps.WITHOUT_DELETED)
    assert on(store).changed == 1


def test_the_plan_shows_the_changed_part_of_the_document(make_roadmaps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    roadmaps.incident(maker)
    monkeypatch.setattr(planner, "SHOWN_CHARACTERS", 500)
    planned = plan_whole(operation_called(NAME, make_roadmaps("sqlite", maker.rows)))
    shown = planned.sample[0]["rows"][0]
    assert '"content_status": "pending"' in shown["before"]["framework_data"]
    assert '"content_status": "completed"' in shown["after"]["framework_data"]
    assert planned.sample[0]["detail"] == "27 of 30 concepts complete"


# --- any framework, any content ------------------------------------------------------------------------------------

names = st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
numbers = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str).filter(lambda n: "E" not in n),
    st.sampled_from(["1.50", "1e3", "-0", "0.10", "12345678901234567890.5"]),
)


class Literal(str):
    """The literal text of a number."""


values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers.map(Literal), names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
KEYS = (
    "content_status",
    "tutorial_id",
    "content_ref",
    "content_version",
    "resources_status",
    "resources_id",
    "resources_count",
    "quiz_status",
    "quiz_id",
    "quiz_questions_count",
)
known_values = st.one_of(
    st.none(), st.sampled_from(["completed", "pending", "failed", "v1", "gone"]), numbers.map(Literal)
)
IDS = ["a", "b", "ü", "d"]


@st.composite
def frameworks(draw: Any) -> Any:
    """Generate a framework with known and unknown keys in any order."""

    def some(key: str, inner: list[Any]) -> Any:
        members = [(key, inner), *draw(st.dictionaries(names, values, max_size=2)).items()]
        return dict(draw(st.permutations(members)))

    def a_concept() -> Any:
        members = [
            ("concept_id", draw(st.sampled_from(IDS))),
            *draw(st.dictionaries(st.sampled_from(KEYS), known_values, max_size=8)).items(),
            *draw(
                st.dictionaries(names.filter(lambda name: name not in (*KEYS, "concept_id")), values, max_size=3)
            ).items(),
        ]
        return dict(draw(st.permutations(members)))

    def level(depth: int) -> list[Any]:
        key = ("modules", "concepts")
        count = draw(st.integers(1, 2))
        if depth == 2:
            return [a_concept() for _number in range(count)]
        return [some(key[depth], level(depth + 1)) for _number in range(count)]

    return some("stages", level(0))


@st.composite
def contents(draw: Any) -> dict[str, list[Row]]:
    maker = Maker()
    for key in IDS:
        for version in draw(st.lists(st.integers(1, 12), max_size=3, unique=True)):
            maker.tutorial("r", key, version, content_status=draw(st.sampled_from(["completed", "failed", "pending"])))
        for number in draw(st.lists(st.integers(1, 9), max_size=2, unique=True)):
            maker.resources("r", key, number)
        for number in draw(st.lists(st.integers(1, 9), max_size=2, unique=True)):
            maker.quiz("r", key, number)
    return maker.rows


def written(value: Any, draw_space: Any) -> str:
    """Return a document as JSON with literal numbers and any white space."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        inner = f"{draw_space()},{draw_space()}".join(
            f"{json.dumps(key, ensure_ascii=False)}{draw_space()}:{draw_space()}{written(item, draw_space)}"
            for key, item in value.items()
        )
        return f"{{{draw_space()}{inner}{draw_space()}}}"
    if isinstance(value, list):
        return f"[{draw_space()}{f',{draw_space()}'.join(written(item, draw_space) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)


def pairs(text: str) -> Any:
    """Parse a document into pairs in order, with numbers as their digits."""
    return json.loads(text, object_pairs_hook=list, parse_int=Literal, parse_float=Literal)


@pytest.mark.parametrize("engine", ENGINES)
def test_any_framework_and_any_content(make_roadmaps: Any, engine: str) -> None:
    """A sync gives the same result as the model and keeps all other bytes. A second sync changes nothing."""
    maker = Maker()
    maker.roadmap("r", [])
    maker.task("t", "r")
    store = make_roadmaps(engine, maker.rows)

    @settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: Any) -> None:
        document, rows = data.draw(frameworks()), data.draw(contents())
        rng = data.draw(st.randoms(use_true_random=False))
        given_text = written(document, lambda: rng.choice(("", " ", "\n  ")))
        _reset(store, rows, given_text)
        before = dump(store)
        run = on(store)
        assert run.failed == 0
        after = dump(store)
        stored = before["roadmap_metadata"]["r"]["framework_data"]
        expected = json.loads(stored, parse_int=Literal, parse_float=Literal)
        failed = roadmaps.sync(before, "r", expected)
        found = after["roadmap_metadata"]["r"]["framework_data"]
        # Numbers that the model wrote are numbers, the others are literals.
        assert _comparable(json.loads(found, parse_int=Literal, parse_float=Literal)) == _comparable(expected)
        if engine == "postgresql-jsonb":
            assert _keys_of(pairs(found)) == _keys_of(pairs(roadmaps.text(json.loads(found), engine)))
        else:
            assert _survives(pairs(stored), pairs(found))
        assert after["roadmap_tasks"]["t"]["status"] == ("partial_failure" if failed else "completed")
        second = on(store, "t")
        assert second.changed == 0
        assert dump(store) == after
        undone = undo(run)
        assert (undone.status, undone.invalid) == (Status.SUCCEEDED, 0)
        assert dump(store) == before

    check()


def _reset(store: Store, rows: dict[str, list[Row]], document: str) -> None:
    from tests.support.plain_client import neighbour

    with neighbour(store) as connection:
        for table in ("tutorial_metadata", "resource_recommendation_metadata", "quiz_metadata"):
            connection.execute(f"DELETE FROM {table}")
            for row in rows[table]:
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        connection.execute("UPDATE roadmap_metadata SET framework_data = ?", [document])
        connection.execute(
            "UPDATE roadmap_tasks SET status = 'processing', current_step = 'content_generation', completed_at = NULL,"
            " failed_concepts = NULL, execution_summary = NULL, updated_at = ?",
            [roadmaps.LONG_AGO],
        )


def _comparable(value: Any) -> Any:
    """Return a document with numbers as digits, and without null values of known keys."""
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items() if item is not None or key not in KEYS}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _keys_of(document: Any) -> Any:
    if isinstance(document, list):
        return [(item[0], _keys_of(item[1])) if isinstance(item, tuple) else _keys_of(item) for item in document]
    return None


def _survives(before: Any, after: Any) -> bool:
    """Return whether `after` keeps everything of `before` in order, except values of KEYS. New keys come last."""
    if isinstance(before, list) and before and isinstance(before[0], tuple):
        ours = dict(before).get("concept_id") in IDS
        kept = after[: len(before)]
        if [key for key, _item in kept] != [key for key, _item in before]:
            return False
        if any(key not in KEYS for key, _item in after[len(before) :]):
            return False
        return all(
            (ours and key in KEYS) or _survives(item, other)
            for (key, item), (_key, other) in zip(before, kept, strict=True)
        )
    if isinstance(before, list):
        return len(before) == len(after) and all(map(_survives, before, after))
    return bool(before == after) and type(before) is type(after)


def test_the_time_zone_of_the_store(make_roadmaps: Any, settings: Any) -> None:
    """A time 29 minutes ago in Shanghai would be seven hours in the future in UTC."""
    maker = Maker()
    maker.roadmap("r", [concept("a")])
    at = AS_OF + timedelta(hours=8)
    maker.task("t", "r", updated_at=f"{at - timedelta(minutes=29):%Y-%m-%d %H:%M:%S}")
    maker.task("u", "r", updated_at=f"{at - timedelta(minutes=31):%Y-%m-%d %H:%M:%S}")
    store = make_roadmaps("sqlite", maker.rows)
    assert operation_called(NAME, store).queryset().count() == 1
    settings.ROADMAPS_STUCK_AFTER_MINUTES = 28
    assert operation_called(NAME, store).queryset().count() == 2
    execute_run(operation_called(NAME, store))
    assert dump(store)["roadmap_tasks"]["t"]["updated_at"] == NOW


def test_untyped_columns(make_roadmaps: Any) -> None:
    """SQLite may store text as a version, bytes as JSON, and NULL as `updated_at`."""
    maker = Maker()
    roadmaps.incident(maker)
    store: Store = make_roadmaps("sqlite", maker.rows)
    execute(store, "UPDATE roadmap_metadata SET framework_data = CAST(framework_data AS BLOB)")
    execute(store, "UPDATE tutorial_metadata SET content_version = 'v2' WHERE concept_id = 'c00'")
    execute(store, "UPDATE roadmap_tasks SET updated_at = NULL")
    run = on(store, INCIDENT)
    assert (run.status, run.changed) == (Status.SUCCEEDED, 1), run.reasons
    assert isinstance(dump(store)["roadmap_metadata"][INCIDENT_ROADMAP]["framework_data"], bytes)
    undo(run)
    created = format_timestamp(AS_OF - timedelta(minutes=5), django_settings.ROADMAPS_TIME_ZONE)
    execute(store, "UPDATE roadmap_tasks SET created_at = ?", [created])
    assert on(store, INCIDENT).reasons["skipped"] == {"moves": 1}
