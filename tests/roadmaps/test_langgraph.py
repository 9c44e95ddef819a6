"""Workflows like those of platforms, interrupted by SIGKILL or for a person, with both savers: plans and recoveries."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import ormsgpack
import psycopg
import pytest

from opsconsole.engine.models import Run, Status
from opsconsole.jsontext import Unreadable
from opsconsole.stores.store import Store, StoreUnavailable
from roadmaps import attempts, langgraph, resume
from roadmaps.savers import Restricted, build
from roadmaps.serialized import Decoder, Inert
from roadmaps.task_scope import active_tasks
from tests.roadmaps.test_recover_tasks import ENGINES, NAME, address_of, nodes_run, recover
from tests.roadmaps.test_sync_results import on as sync
from tests.support import forking, workflows
from tests.support.contract import operation_called, plan_whole
from tests.support.plain_client import dump, execute, schema
from tests.support.pooler import Pooler
from tests.support.roadmaps import INCIDENT, Maker, concept, minutes_ago
from tests.support.subprocess_cli import ROOT, Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


@pytest.fixture(autouse=True)
def notes(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.TASK_RECOVERY_DELAY_SECONDS = 0
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("GRAPH_NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("GRAPH_ACCIDENT", raising=False)
    return tmp_path / "notes"


def a_store(make_roadmaps: Any, engine: str, *tasks: str, complete: bool = True) -> Store:
    """Create a store with interrupted tasks, each with a roadmap of two concepts."""
    maker = Maker()
    for task in tasks or (INCIDENT,):
        maker.roadmap(f"r-{task}", [concept("a"), concept("b")])
        maker.content(f"r-{task}", "a")
        if complete:
            maker.content(f"r-{task}", "b")
        maker.task(task, f"r-{task}", created_at=minutes_ago(90), updated_at=minutes_ago(45))
    store: Store = make_roadmaps(engine, maker.rows)
    return store


def begin(
    store: Store, graph: str, thread: str = INCIDENT, *, accident: str = "", given: str = "{}", answer: str = ""
) -> int:
    """Run this graph as the platform's worker would. Return the exit code."""
    words = [address_of(store), graph, thread, given, answer]
    return forking.run("tests/support/platform_worker.py", words, {**os.environ, "GRAPH_ACCIDENT": accident}).returncode


def use(settings: Any, graph: str) -> None:
    settings.ROADMAPS_WORKFLOW_GRAPH = f"tests.support.workflows.{graph}"


def planned(store: Store) -> tuple[dict[str, Any], str]:
    """Plan the recovery of the only task, which writes nothing. Return the reasons and the detail."""
    before = dump(store)
    plan = plan_whole(operation_called(NAME, store))
    assert dump(store) == before
    return {outcome: reasons for outcome, reasons in plan.reasons.items() if reasons}, (
        plan.sample[0]["detail"] if plan.sample else ""
    )


# --- killed at every node --------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("graph", "names"),
    [
        ("plain", workflows.NODES),
        ("of_a_model", workflows.NODES),
        ("of_async_nodes", workflows.NODES),
        ("async_factory", workflows.NODES),
        ("loops", ("round 0", "round 1", "round 2")),
        ("nested", ("before", *workflows.NODES, "behind")),
        ("joined", ("short", "long", "longer", "meet")),
        ("spread", ("intent", "topic a", "topic b", "topic c", "collect")),
        ("hands_over", ("intent", "curriculum", "enqueue")),
    ],
)
def test_killed_at_every_node(
    make_roadmaps: Any, settings: Any, engine: str, graph: str, names: tuple[str, ...], notes: Path
) -> None:
    """At the end each node has run, and no finished node has run twice."""
    use(settings, graph)
    store = a_store(make_roadmaps, engine, *names)
    for name in names:
        notes.write_text("")
        assert begin(store, graph, name, accident=f"kill {name}") == -signal.SIGKILL
        position = langgraph.position(store, name, resume.shape(store))
        assert position is not None
        assert not position.unreadable
        assert not position.waits_at
        waiting = {node.name for node in position.nodes if not node.finished}
        expected = {"topic": "each", "round": "round"}.get(name.split(" ")[0], name)
        inside = graph == "nested" and name in workflows.NODES
        assert ("inner" if inside else expected) in waiting
        run = recover(store, name)
        assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"recovered": 1})
        ran = notes.read_text().splitlines()
        parallel = {"short", "long", "topic a", "topic b", "topic c"}  # in the step that was killed
        assert set(ran) == set(names)
        assert all(ran.count(one) == 1 for one in set(names) - parallel)
    assert {task["status"] for task in dump(store)["roadmap_tasks"].values()} == {"completed"}


@pytest.mark.parametrize("graph", ["not_compiled", "compiled", "without_parameters"])
def test_kinds_of_dotted_paths(make_roadmaps: Any, settings: Any, graph: str, notes: Path) -> None:
    use(settings, graph)
    store = a_store(make_roadmaps, "sqlite")
    begin(store, graph, accident="kill curriculum")
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert nodes_run(notes) == list(workflows.NODES)


def test_invalid_dotted_paths_are_refused(make_roadmaps: Any, settings: Any) -> None:
    store = a_store(make_roadmaps, "sqlite")
    begin(store, "plain", accident="kill curriculum")
    for graph, words in (
        ("exploding", "no settings"),
        ("exploding_later", "no settings"),
        ("incomplete", "does not return a graph"),
        ("FIRST", "does not return a graph"),
        ("nobody", "cannot be imported"),
    ):
        use(settings, graph)
        check: Any = operation_called("roadmaps.check_recovery", store)
        assert {"stuck"} <= {problem.code for report in check.task_reports() for problem in report.problems}
        with pytest.raises(StoreUnavailable, match=words):
            recover(store)
    assert not Run.objects.exists()


# --- plans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_plan_shows_which_node_is_next_and_why(make_roadmaps: Any, settings: Any, engine: str) -> None:
    store = a_store(make_roadmaps, engine)
    use(settings, "plain")
    begin(store, "plain", accident="kill curriculum")
    assert planned(store)[1].endswith("; next: curriculum, which had not finished")
    begin(store, "plain", "t2", accident="raise curriculum")
    position = langgraph.position(store, "t2", resume.shape(store))
    assert position is not None
    assert position.nodes == (langgraph.Node("curriculum", "RuntimeError('curriculum is overloaded')"),)
    begin(store, "plain", "t3")
    position = langgraph.position(store, "t3")
    assert position is not None
    assert position.is_finished
    settings.ROADMAPS_WORKFLOW_GRAPH, settings.ROADMAPS_RESUME_URL = "", "http://127.0.0.1:9/"
    assert planned(store)[1].endswith("; next: curriculum, which had not finished"), "also without a graph"


# --- people ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("graph", "ran", "asked"),
    [
        ("stops_before", ["intent"], ("curriculum",)),
        ("stops_after", ["intent", "curriculum"], ("curriculum",)),
        ("asks", ["intent", "curriculum", "mail"], ("review",)),
        ("asks_inside", ["before", "intent", "curriculum", "mail"], ("inner",)),
        ("stops_inside", ["before", "intent"], ("inner/curriculum",)),
    ],
)
def test_nothing_runs_past_a_person(
    make_roadmaps: Any, settings: Any, engine: str, graph: str, ran: list[str], asked: tuple[str, ...], notes: Path
) -> None:
    """Neither an interrupt of the platform's worker nor one of a recovery is passed, however often it is tried."""
    use(settings, graph)
    store = a_store(make_roadmaps, engine)
    begin(store, graph, accident=f"kill {ran[0]}")
    for _attempt in range(3):
        run = recover(store)
        assert run.reasons["skipped"] == {"waits_for_a_person": 1}
        assert nodes_run(notes) == ran
        assert planned(store)[0] == {"skipped": {"waits_for_a_person": 1}}
    position = langgraph.position(store, INCIDENT, resume.shape(store))
    assert position is not None
    assert position.waits_at == asked
    check: Any = operation_called("roadmaps.check_recovery", store)
    (report,) = check.task_reports()
    assert "waits_for_a_person" in {problem.code for problem in report.problems}
    assert asked[0] in "".join(problem.detail for problem in report.problems)
    assert dump(store)["roadmap_tasks"][INCIDENT]["status"] == "processing"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", ["asks", "asks_inside"])
@pytest.mark.parametrize("accident", ["kill review", "kill tutorials"])
def test_a_workflow_with_an_answer_is_resumed(
    make_roadmaps: Any, settings: Any, engine: str, graph: str, accident: str, notes: Path
) -> None:
    use(settings, graph)
    store = a_store(make_roadmaps, engine)
    begin(store, graph)
    assert begin(store, graph, accident=accident, answer="yes") == -signal.SIGKILL
    assert recover(store).reasons["changed"] == {"recovered": 1}
    ran = nodes_run(notes)
    assert "tutorials" in ran
    assert " ".join(ran).count("answer yes") == 1


# --- routers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", ["routed", "routed_async"])
def test_a_failed_router_runs_again_and_its_node_does_not(
    make_roadmaps: Any, settings: Any, engine: str, graph: str, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(settings, graph)
    store = a_store(make_roadmaps, engine)
    begin(store, graph, accident="raise router")
    assert nodes_run(notes) == ["intent", "curriculum"]
    assert "conditional edge after curriculum, which raised RuntimeError" in planned(store)[1]
    monkeypatch.setenv("GRAPH_ACCIDENT", "raise router")
    run = recover(store)
    assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1), "it raises again"
    assert dump(store)["roadmap_tasks"][INCIDENT]["status"] == "processing"
    monkeypatch.delenv("GRAPH_ACCIDENT")
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert nodes_run(notes) == ["intent", "curriculum", "router", "tutorials"]
    assert values_of(store)["done"] == ["intent", "curriculum", "tutorials"], "applied once"


@pytest.mark.parametrize("graph", ["routed_beside", "raises_inside"])
def test_a_router_that_cannot_run_alone_fails_the_attempt(
    make_roadmaps: Any, settings: Any, graph: str, notes: Path
) -> None:
    use(settings, graph)
    store = a_store(make_roadmaps, "sqlite")
    begin(store, graph, accident="raise router")
    ran, before = nodes_run(notes), dump(store)
    run = recover(store)
    assert "conditional edge" in run.failed_items.get().error
    assert (nodes_run(notes), dump(store)) == (ran, before)


def values_of(store: Store) -> dict[str, Any]:
    from roadmaps.savers import saver

    with saver(store) as found:
        graph = workflows.plain(found)
        found.serde = Restricted(resume.state_types(graph))
        checkpoint = found.get_tuple(langgraph.graph_config(INCIDENT)).checkpoint
        return dict(checkpoint["channel_values"])


# --- rows that name dangerous types ----------------------------------------------------------------------------

BOOM = ("tests.support.workflows", "boom", "x")


def packed(value: Any) -> bytes:
    return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)


def extension(code: int, value: Any) -> bytes:
    return packed(ormsgpack.Ext(code, packed(value)))


def too_deep() -> bytes:
    data = packed("x")
    for _level in range(100):
        data = packed(ormsgpack.Ext(7, data))
    return data


DANGEROUS: dict[str, tuple[str, bytes]] = {
    "a callable": ("msgpack", extension(0, BOOM)),
    "with arguments": ("msgpack", extension(1, ("tests.support.workflows", "boom", ["x"]))),
    "with keywords": ("msgpack", extension(2, ("tests.support.workflows", "boom", {"x": 1}))),
    "a method": ("msgpack", extension(3, ("tests.support.workflows", "Path", "x", "touch"))),
    "a model": ("msgpack", extension(5, ("tests.support.workflows", "Outside", {"text": "x"}, "model_validate_json"))),
    "an older model": ("msgpack", extension(4, ("tests.support.workflows", "boom", {"x": 1}))),
    "a module": ("msgpack", extension(0, ("antigravity", "x", "x"))),
    "deep inside": (
        "msgpack",
        extension(5, ("tests.support.workflows", "Goal", {"text": ormsgpack.Ext(0, packed(BOOM))}, "")),
    ),
    "unknown": ("msgpack", extension(99, BOOM)),
    "too deep": ("msgpack", too_deep()),
    "no object": ("msgpack", extension(0, 7)),
    "cut off": ("msgpack", extension(0, BOOM)[:-3]),
    "json": ("json", b'{"lc": 2, "type": "constructor", "id": ["tests", "workflows", "boom"], "args": ["x"]}'),
    "json of langchain": ("json", b'{"lc": 1, "type": "constructor", "id": ["langchain", "x", "PromptTemplate"]}'),
    "a secret": ("json", b'{"lc": 1, "type": "secret", "id": ["PATH"]}'),
    "pickle": ("pickle", b"cos\nsystem\n"),
    "a kind of later": ("msgpack+aes", b"x"),
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_callables_that_a_row_names_are_not_called(name: str, notes: Path) -> None:
    graph = workflows.plain(None)
    for types in (resume.state_types(graph), None):
        if types is None and name in {"a callable", "with arguments", "with keywords", "a model", "an older model"}:
            continue  # without a graph nothing is built, so names of the platform's modules are harmless
        if types is None and name in {"deep inside", "json"}:
            continue
        with pytest.raises(Unreadable):
            Decoder(types).load(*DANGEROUS[name])
    with pytest.raises(Unreadable, match="cannot be read"):
        Restricted(resume.state_types(graph)).loads_typed(DANGEROUS[name])
    assert nodes_run(notes) == []
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dangerous_row_is_reported_and_nothing_runs(
    make_roadmaps: Any, settings: Any, engine: str, notes: Path
) -> None:
    """The dangerous value may be in a checkpoint, a pending write or a blob."""
    use(settings, "plain")
    tasks = ("checkpoint", "write", "blob", "json", "broken")
    store = a_store(make_roadmaps, engine, *tasks)
    for task in tasks:
        begin(store, "plain", task, accident="raise curriculum")
    plant(store, tasks)
    notes.write_text("")
    before = dump(store)
    assert planned(store)[0] == {"invalid": {"checkpoint_unreadable": len(tasks)}}
    check: Any = operation_called("roadmaps.check_recovery", store)
    for report in check.task_reports():
        codes = {problem.code for problem in report.problems}
        assert "checkpoint_unreadable" in codes
        assert "no_checkpoint" not in codes
    run = recover(store)
    assert run.reasons["invalid"] == {"checkpoint_unreadable": len(tasks)}
    assert run.status == Status.NEEDS_ATTENTION
    assert "Examine them" in run.error
    assert plan_whole(operation_called("roadmaps.fail_unrecoverable", store)).reasons["changed"] == {}
    settings.ROADMAPS_WORKFLOW_GRAPH, settings.ROADMAPS_RESUME_URL = "", "http://127.0.0.1:9/"
    assert planned(store)[0]["invalid"]["checkpoint_unreadable"] >= 2
    assert dump(store) == before
    assert nodes_run(notes) == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", ["plain", "of_async_nodes"])
def test_a_dangerous_row_that_comes_after_the_plan(
    make_roadmaps: Any, settings: Any, engine: str, graph: str, notes: Path
) -> None:
    """The savers refuse it as well, both sync and async."""
    use(settings, graph)
    tasks = ("checkpoint", "write", "blob", "json", "broken")
    store = a_store(make_roadmaps, engine, *tasks)
    for task in tasks:
        begin(store, graph, task, accident="raise curriculum")
    found = langgraph.positions(store, tasks, resume.shape(store))
    plant(store, tasks)
    notes.write_text("")
    before = dump(store)
    for task in tasks:
        if engine != "sqlite" and task == "checkpoint":
            continue  # PostgreSQL stores it as JSON, which names no types
        with pytest.raises(Unreadable, match="cannot be read"):
            resume.resume(store, task, found[task])
    assert dump(store) == before
    assert nodes_run(notes) == []


def plant(store: Store, tasks: tuple[str, ...]) -> None:
    danger = extension(0, BOOM)
    if store.path is not None:
        with closing(sqlite3.connect(store.path)) as connection:
            for task in tasks:
                (data,) = connection.execute(
                    "SELECT checkpoint FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id DESC", [task]
                ).fetchone()
                content = ormsgpack.unpackb(data, ext_hook=lambda code, inner: ormsgpack.Ext(code, inner))
                content["channel_values"]["topic"] = ormsgpack.Ext(0, packed(BOOM))
                kind, text = {
                    "json": ("json", b'{"channel_values": ' + DANGEROUS["json"][1] + b"}"),
                    "broken": ("msgpack", data[:-9]),
                }.get(task, ("msgpack", packed(content)))
                if task != "write":
                    connection.execute(
                        "UPDATE checkpoints SET type = ?, checkpoint = ? WHERE thread_id = ? AND checkpoint = ?",
                        [kind, text, task, data],
                    )
            connection.execute(
                "UPDATE writes SET value = ? WHERE thread_id = 'write' AND channel = '__error__'", [danger]
            )
            connection.commit()
        return
    with psycopg.connect(address_of(store), autocommit=True) as pg:
        pg.execute(
            "UPDATE checkpoint_writes SET blob = %s WHERE channel = '__error__' AND thread_id = 'write'", [danger]
        )
        pg.execute("UPDATE checkpoint_blobs SET blob = %s WHERE thread_id = 'blob' AND channel = 'done'", [danger])
        pg.execute(
            "UPDATE checkpoint_blobs SET blob = %s, type = 'json' WHERE thread_id = 'json' AND channel = 'goal'",
            [DANGEROUS["json"][1]],
        )
        pg.execute("UPDATE checkpoint_blobs SET blob = '\\xc1'::bytea WHERE thread_id = 'broken' AND channel = 'goal'")
        pg.execute("""UPDATE checkpoints SET checkpoint = '{"v": "x"}' WHERE thread_id = 'checkpoint'""")


def test_types_of_the_state_arrive_as_objects() -> None:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    types = resume.state_types(workflows.asks(None))
    assert {("tests.support.workflows", name) for name in ("Goal", "Level", "Review")} <= types
    assert ("tests.support.workflows", "Outside") not in types
    restricted = Restricted(types)
    goal, review = workflows.Goal(text="x"), workflows.Review(approved=True)
    value = {"goal": goal, "reviews": [review], "at": {1, 2}, "level": workflows.Level.BEGINNER}
    assert restricted.loads_typed(JsonPlusSerializer().dumps_typed(value)) == value
    assert isinstance(restricted.loads_typed(restricted.dumps_typed(goal)), workflows.Goal)
    with pytest.raises(Unreadable, match="Outside"):
        restricted.loads_typed(JsonPlusSerializer().dumps_typed([workflows.Outside()]))


def test_an_object_that_cannot_be_built_raises() -> None:
    """The library would return the payload instead of the object."""
    with pytest.raises(ValueError, match="is not a valid"):
        build(0, Inert("tests.support.workflows", "Level", "expert"))
    restricted = Restricted(resume.state_types(workflows.plain(None)))
    with pytest.raises(Unreadable):
        restricted.loads_typed(("msgpack", extension(0, ("tests.support.workflows", "Level", "expert"))))
    with pytest.raises(Unreadable):
        restricted.loads_typed(("msgpack", extension(0, ("uuid", "UUID", "no uuid"))))


def test_every_type_that_langgraph_takes_for_safe() -> None:
    from datetime import UTC, datetime, timedelta
    from decimal import Decimal
    from uuid import uuid4
    from zoneinfo import ZoneInfo

    from langchain_core.messages import AIMessage, HumanMessage
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.types import Interrupt, Send

    value = [
        datetime.now(UTC),
        timedelta(1),
        uuid4(),
        Decimal("1.50"),
        {1, 2},
        frozenset("a"),
        Path("/tmp"),
        ZoneInfo("Asia/Shanghai"),
        HumanMessage("x"),
        AIMessage("y"),
        Send("node", {"a": 1}),
        Interrupt("why", id="1"),
    ]
    library, restricted = JsonPlusSerializer(), Restricted(frozenset())
    assert restricted.loads_typed(library.dumps_typed(value)) == library.loads_typed(library.dumps_typed(value))


# --- tables of other versions and places ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_tables_from_before_task_path(make_roadmaps: Any, settings: Any, engine: str, notes: Path) -> None:
    """The plan is refused with the statement that adds the column. Checks do not need the column."""
    use(settings, "plain")
    store = a_store(make_roadmaps, engine)
    begin(store, "plain", accident="raise curriculum")
    table = "writes" if engine == "sqlite" else "checkpoint_writes"
    execute(store, f"ALTER TABLE {table} DROP COLUMN task_path")
    shape, before = schema(store), dump(store)
    vars(store).pop("tables", None)
    with pytest.raises(StoreUnavailable, match=f"ALTER TABLE {table} ADD COLUMN task_path") as refused:
        recover(store)
    check: Any = operation_called("roadmaps.check_recovery", store)
    (report,) = check.task_reports()
    assert {problem.code for problem in report.problems} == {"stuck", "framework_behind_content"}
    assert (schema(store), dump(store)) == (shape, before)
    execute(store, str(refused.value).split("execute: ")[1].rstrip("."))
    vars(store).pop("tables", None)
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert nodes_run(notes) == list(workflows.NODES)


def test_missing_privileges_are_found_before_a_node_runs(
    make_roadmaps: Any, settings: Any, notes: Path, postgres: Any
) -> None:
    use(settings, "plain")
    store = a_store(make_roadmaps, "postgresql-json")
    begin(store, "plain", accident="raise curriculum")
    ran = nodes_run(notes)
    execute(store, "ALTER TABLE checkpoint_blobs ALTER COLUMN blob SET NOT NULL")
    with pytest.raises(StoreUnavailable, match="DROP NOT NULL") as refused:
        recover(store)
    execute(store, str(refused.value).split("Execute: ")[1])
    assert nodes_run(notes) == ran
    role = postgres.create_role("roadmaps_ops", "LOGIN")
    try:
        for table in ("roadmap_tasks", "roadmap_metadata", *TABLES_OF_CONTENT, "checkpoints", "checkpoint_writes"):
            execute(store, f"GRANT SELECT, INSERT, UPDATE ON {table} TO {role}")
        execute(store, f"GRANT SELECT ON checkpoint_blobs TO {role}")
        settings.ROADMAPS_CHECKPOINT_URL = address_of(store).replace("postgres@", f"{role}@")
        with pytest.raises(StoreUnavailable, match="may not write") as refused:
            recover(store)
        execute(store, str(refused.value).split("Execute: ")[1])
        assert nodes_run(notes) == ran
        assert recover(store).reasons["changed"] == {"recovered": 1}
    finally:
        execute(store, f"DROP OWNED BY {role}")
        postgres.drop_role("roadmaps_ops")


TABLES_OF_CONTENT = ("tutorial_metadata", "resource_recommendation_metadata", "quiz_metadata")


def test_sends_of_older_savers(make_roadmaps: Any, settings: Any) -> None:
    """Before version 4 of checkpoints, the writes of the parent contain the tasks that nodes sent."""
    use(settings, "spread")
    store = a_store(make_roadmaps, "sqlite")
    begin(store, "spread", accident="kill topic a")
    with closing(sqlite3.connect(str(store.path))) as connection:
        data, key = connection.execute(
            "SELECT checkpoint, checkpoint_id FROM checkpoints ORDER BY checkpoint_id DESC"
        ).fetchone()
        content = ormsgpack.unpackb(data, ext_hook=lambda code, inner: ormsgpack.Ext(code, inner))
        sent = content["channel_values"].pop(langgraph.SENDS)
        assert len(sent) == 3
        content["v"] = 3
        connection.execute("UPDATE checkpoints SET checkpoint = ? WHERE checkpoint_id = ?", [packed(content), key])
        connection.commit()
    position = langgraph.position(store, INCIDENT, resume.shape(store))
    assert position is not None
    assert [node.name for node in position.nodes] == ["each"] * 3


def test_tables_of_the_first_savers(make_roadmaps: Any, settings: Any) -> None:
    use(settings, "plain")
    store = a_store(make_roadmaps, "sqlite")
    execute(store, "CREATE TABLE checkpoints (thread_id TEXT, thread_ts TEXT, parent_ts TEXT, checkpoint BLOB)")
    execute(store, f"INSERT INTO checkpoints VALUES ('{INCIDENT}', 'x', NULL, 'x')")
    vars(store).pop("tables", None)
    with pytest.raises(StoreUnavailable, match="of another version"):
        recover(store)
    check: Any = operation_called("roadmaps.check_recovery", store)
    (report,) = check.task_reports()
    assert "checkpoint_unreadable" in {problem.code for problem in report.problems}
    assert "no_checkpoint" not in {problem.code for problem in report.problems}


@pytest.mark.parametrize("url", ["nonsense", "mysql://a/b", "postgresql://127.0.0.1:1/x", "sqlite:////nowhere/x.db"])
def test_invalid_checkpoint_urls_are_refused(make_roadmaps: Any, settings: Any, url: str) -> None:
    use(settings, "plain")
    store = a_store(make_roadmaps, "sqlite")
    settings.ROADMAPS_CHECKPOINT_URL = url
    with pytest.raises(StoreUnavailable, match="ROADMAPS_CHECKPOINT_URL") as refused:
        recover(store)
    assert "\n" not in str(refused.value)
    assert not Run.objects.exists()


def test_pool_parameters_in_the_checkpoint_url(make_roadmaps: Any, settings: Any, postgres: Any, notes: Path) -> None:
    use(settings, "async_factory")
    store = a_store(make_roadmaps, "sqlite")
    url = postgres.create_database("checkpoints")
    command = [sys.executable, "-m", "tests.support.platform_worker", url, "async_factory", INCIDENT]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "GRAPH_ACCIDENT": "kill curriculum"}, check=False)
    settings.ROADMAPS_CHECKPOINT_URL = f"{url}{'&' if '?' in url else '?'}pool_max=3&pool_timeout=5"
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert nodes_run(notes) == list(workflows.NODES)


@pytest.mark.parametrize("graph", ["plain", "async_factory"])
def test_checkpoints_behind_a_pooler(
    make_roadmaps: Any, settings: Any, postgres: Any, tmp_path: Path, graph: str, notes: Path
) -> None:
    """In transaction mode, no statement may stay prepared on a connection that another client gets next."""
    use(settings, graph)
    store = a_store(make_roadmaps, "sqlite", "one", "other")
    url = postgres.create_database("checkpoints")
    for task in ("one", "other"):
        command = [sys.executable, "-m", "tests.support.platform_worker", url, graph, task]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "GRAPH_ACCIDENT": "kill curriculum"}, check=False)
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o711)  # PgBouncer runs as another user
    pooler = Pooler(tmp_path, psycopg.conninfo.conninfo_to_dict(postgres.dsn)["port"])
    try:
        name = urlsplit(url).path
        settings.ROADMAPS_CHECKPOINT_URL = f"postgresql://postgres@127.0.0.1:{pooler.port}{name}?pooler=transaction"
        for task in ("one", "other"):
            assert recover(store, task).reasons["changed"] == {"recovered": 1}
    finally:
        pooler.close()
    assert nodes_run(notes).count("tutorials") == 2


# --- the first call's values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_configurable_values_are_restored(make_roadmaps: Any, settings: Any, engine: str, notes: Path) -> None:
    use(settings, "configured")
    store = a_store(make_roadmaps, engine)
    begin(store, "configured", accident="kill curriculum", given='{"tenant": "acme", "level": 3}')
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert notes.read_text().splitlines()[-1] == "tell acme 3"


# --- work that was left in a queue ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_queued_work_does_not_become_failed(make_roadmaps: Any, settings: Any, engine: str) -> None:
    """The last node leaves its work in a queue. Parts without content become failed only after a while."""
    use(settings, "hands_over")
    store = a_store(make_roadmaps, engine, complete=False)
    begin(store, "hands_over", accident="kill curriculum")
    run = recover(store)
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"generating": 1})
    one, other = concepts_of(store)
    assert (one["content_status"], one["quiz_status"]) == ("completed", "completed")
    assert (other["content_status"], other["quiz_status"]) == ("pending", "pending")
    task = dump(store)["roadmap_tasks"][INCIDENT]
    assert (task["status"], task["failed_concepts"]) == ("processing", None)
    assert recover(store).total == 0, "active, because the work was handed over just now"
    execute(store, f"UPDATE roadmap_tasks SET updated_at = '{minutes_ago(45)}'")
    before = dump(store)
    assert plan_whole(operation_called("roadmaps.sync_results", store)).reasons["skipped"] == {"generating": 1}, (
        "its checkpoint is recent"
    )
    assert dump(store) == before
    settings.ROADMAPS_STUCK_AFTER_MINUTES = 0
    run = recover(store)
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"recovered": 1})
    task = dump(store)["roadmap_tasks"][INCIDENT]
    assert (task["status"], concepts_of(store)[1]["quiz_status"]) == ("partial_failure", "failed")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("table", ["tutorial_metadata", "resource_recommendation_metadata", "quiz_metadata"])
def test_new_content_keeps_a_task_active(make_roadmaps: Any, settings: Any, engine: str, table: str) -> None:
    """A worker of the queue does not change the task. Its content rows show that it is active."""
    use(settings, "plain")
    store = a_store(make_roadmaps, engine, complete=False)
    begin(store, "plain", accident="kill curriculum")
    execute(store, f"UPDATE {table} SET generated_at = '{minutes_ago(20)}'")
    before = dump(store)
    check: Any = operation_called("roadmaps.check_recovery", store)
    assert [report.problems for report in check.task_reports()] == [()]
    for name in ("roadmaps.sync_results", "roadmaps.fail_unrecoverable", NAME):
        assert plan_whole(operation_called(name, store)).total == 0, name
    assert recover(store, INCIDENT).reasons["skipped"] == {"moves": 1}
    assert dump(store) == before
    forced = sync(store, INCIDENT, force=True)
    assert forced.reasons["changed"] == {"generating": 1}
    assert [one["quiz_status"] for one in concepts_of(store)] == ["completed", "pending"]
    assert dump(store)["roadmap_tasks"][INCIDENT]["status"] == "processing"


def concepts_of(store: Store) -> list[dict[str, Any]]:
    document = json.loads(dump(store)["roadmap_metadata"][f"r-{INCIDENT}"]["framework_data"])
    return document["stages"][0]["modules"][0]["concepts"]  # type: ignore[no-any-return]


# --- repeated hours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_repeated_time_counts_as_the_later_one(make_roadmaps: Any, settings: Any, engine: str) -> None:
    """In New York, clocks go back from 02:00 to 01:00 (06:00 UTC) on 1 November 2026."""
    settings.ROADMAPS_TIME_ZONE = ZoneInfo("America/New_York")
    settings.TASK_RECOVERY_MAX_AGE_HOURS = 10_000
    maker = Maker()
    times = {"first": "01:10", "second": "01:50", "before": "00:50", "gap": "02:30"}
    for task, text in times.items():
        day = "2026-03-08" if task == "gap" else "2026-11-01"
        maker.roadmap(f"r-{task}", [concept("a")])
        maker.task(task, f"r-{task}", created_at=f"{day} {text}:00", updated_at=f"{day} {text}:00")
    store = make_roadmaps(engine, maker.rows)
    expected = {
        datetime(2026, 11, 1, 5, 55, tzinfo=UTC): {"before", "gap"},  # 01:55 for the first time
        datetime(2026, 11, 1, 6, 35, tzinfo=UTC): {"before", "gap"},  # 01:35 for the second time
        datetime(2026, 11, 1, 6, 55, tzinfo=UTC): {"before", "gap", "first"},
        datetime(2026, 11, 1, 7, 25, tzinfo=UTC): {"before", "gap", "first", "second"},
    }
    for as_of, stuck in expected.items():
        operation: Any = operation_called("roadmaps.sync_results", store)
        operation.as_of = as_of
        assert set(operation.queryset().values_list("pk", flat=True)) == stuck, as_of
        check: Any = operation_called("roadmaps.check_recovery", store)
        check.as_of = as_of
        found = {
            report.task.task_id for report in check.task_reports() if "stuck" in {one.code for one in report.problems}
        }
        assert found == stuck, as_of
        assert set(active_tasks(operation, list(times))) == set(times) - stuck


# --- from the shell ----------------------------------------------------------------------------------------------


def test_from_the_shell(make_roadmaps: Any, tmp_path: Path, empty_console: Path) -> None:
    """Invalid URLs and missing settings are refused in one sentence. A recovery prints its result as JSON."""
    store = a_store(make_roadmaps, "sqlite")
    begin(store, "async_factory", accident="kill curriculum")
    variables = {
        "ROADMAPS_WORKFLOW_GRAPH": "tests.support.workflows.async_factory",
        "GRAPH_NOTES": os.environ["GRAPH_NOTES"],
    }
    shell = Shell(tmp_path / "console", empty_console, variables)
    at = ("--db-path", str(store.path))
    shell.variables["ROADMAPS_CHECKPOINT_URL"] = "postgresql://127.0.0.1:1/x?pool_max=x"
    for command in (("recover_task", INCIDENT, "--yes"), ("check_task_recovery_status", INCIDENT)):
        assert "pool_max" in shell.refused(*command, *at)
    shell.variables["ROADMAPS_CHECKPOINT_URL"] = "postgresql://127.0.0.1:1/x?pool_max=3"
    assert "ROADMAPS_CHECKPOINT_URL: 127.0.0.1:1/x cannot be reached" in shell.refused("recover_task", INCIDENT, *at)
    shell.variables["ROADMAPS_CHECKPOINT_URL"] = ""
    retry = ("run", "roadmaps.retry_failed_concepts", "--keys", INCIDENT, "--execute", "--yes")
    assert "ROADMAPS_RETRY_URL" in shell.refused(*retry, *at)
    assert "curriculum, which had not finished" in shell.run("recover_task", INCIDENT, "--dry-run", *at).stdout
    done = shell.json("recover_task", INCIDENT, "--yes", *at)
    assert (done["status"], done["reasons"]["changed"]) == ("succeeded", {"recovered": 1})
