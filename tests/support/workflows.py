"""Graphs like those of platforms. Each node notes that it ran, and has the accident that `GRAPH_ACCIDENT` names.

`ROADMAPS_WORKFLOW_GRAPH=tests.support.workflows.NAME` names a graph, and `GRAPH_NOTES` the file of notes.
"""

from __future__ import annotations

import operator
import os
import signal
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel


class Level(Enum):
    BEGINNER = "beginner"


class Goal(BaseModel):
    text: str
    level: Level = Level.BEGINNER


class Review(BaseModel):
    """An approval, which is stored only as part of another model."""

    approved: bool


class Work(TypedDict):
    done: Annotated[list[str], operator.add]
    goal: NotRequired[Goal]
    reviews: NotRequired[list[Review]]
    topic: NotRequired[str]


class Outside(BaseModel):
    """A type that is not in the state."""

    text: str = ""


FIRST: dict[str, Any] = {"done": [], "goal": Goal(text="learn")}


def note(text: str) -> None:
    with Path(os.environ["GRAPH_NOTES"]).open("a") as notes:
        notes.write(f"{text}\n")


def happen(name: str) -> None:
    """Cause the accident of this node, if it is the named one."""
    accident, _, node = os.environ.get("GRAPH_ACCIDENT", "").partition(" ")
    if node == name and accident == "raise":
        raise RuntimeError(f"{name} is overloaded")
    if node == name and accident == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def node(name: str, result: Callable[[Work], dict[str, Any]] | None = None) -> Any:
    def run(work: Work) -> dict[str, Any]:
        happen(name)
        if "goal" in work:
            assert isinstance(work["goal"], Goal), work["goal"]
        note(name)
        return {"done": [name], **(result(work) if result else {})}

    return run


def async_node(name: str) -> Any:
    async def run(work: Work) -> dict[str, Any]:
        return node(name)(work)  # type: ignore[no-any-return]

    return run


def line(*names: str, make: Any = node, schema: Any = Work) -> Any:
    builder: Any = StateGraph(schema)
    for name in names:
        builder.add_node(name, make(name))
    for one, other in zip((START, *names), (*names, END), strict=True):
        builder.add_edge(one, other)
    return builder


NODES = ("intent", "curriculum", "tutorials")


def plain(checkpointer: Any) -> Any:
    return line(*NODES).compile(checkpointer=checkpointer)


not_compiled = line(*NODES)
compiled = line(*NODES).compile()


def without_parameters() -> Any:
    return line(*NODES)


def of_async_nodes(checkpointer: Any) -> Any:
    return line(*NODES, make=async_node).compile(checkpointer=checkpointer)


async def async_factory(checkpointer: Any) -> Any:
    await checkpointer.setup()  # as platforms do; the console's savers ignore it
    return line(*NODES, make=async_node).compile(checkpointer=checkpointer)


async def async_router(work: Work) -> str:
    happen("router")
    note("router")
    return "tutorials"


def router(work: Work) -> str:
    happen("router")
    note("router")
    return "tutorials"


def _routed(route: Any, make: Any) -> Any:
    builder = line("intent", "curriculum", make=make)
    builder.edges.discard(("curriculum", END))
    builder.add_node("tutorials", make("tutorials"))
    builder.add_conditional_edges("curriculum", route, ["tutorials", END])
    builder.add_edge("tutorials", END)
    return builder


def routed(checkpointer: Any) -> Any:
    return _routed(router, node).compile(checkpointer=checkpointer)


def routed_async(checkpointer: Any) -> Any:
    return _routed(async_router, async_node).compile(checkpointer=checkpointer)


def routed_beside(checkpointer: Any) -> Any:
    """Return a graph in which another node of the same step raises an error, next to the failing router."""
    builder = _routed(router, node)
    builder.add_node("beside", node("beside"))
    builder.add_edge("intent", "beside")
    return builder.compile(checkpointer=checkpointer)


def stops_before(checkpointer: Any) -> Any:
    return line(*NODES).compile(checkpointer=checkpointer, interrupt_before=["curriculum"])


def stops_after(checkpointer: Any) -> Any:
    return line(*NODES).compile(checkpointer=checkpointer, interrupt_after=["curriculum"])


def _asks(work: Work) -> dict[str, Any]:
    note("mail")
    answer = interrupt("Is this good?")
    time.sleep(0.3 if "review" in os.environ.get("GRAPH_ACCIDENT", "") else 0)  # LangGraph stores the answer
    happen("review")
    note(f"answer {answer}")
    return {"done": ["review"], "reviews": [Review(approved=answer == "yes")]}


def _reviewed() -> Any:
    builder: Any = line("intent", "curriculum")
    builder.edges.discard(("curriculum", END))
    builder.add_node("review", _asks)
    builder.add_node("tutorials", node("tutorials"))
    builder.add_edge("curriculum", "review")
    builder.add_edge("review", "tutorials")
    builder.add_edge("tutorials", END)
    return builder


def asks(checkpointer: Any) -> Any:
    return _reviewed().compile(checkpointer=checkpointer)


def _around(inner: Any) -> Any:
    builder: Any = StateGraph(Work)
    builder.add_node("before", node("before"))
    builder.add_node("inner", inner)
    builder.add_node("behind", node("behind"))
    for one, other in zip((START, "before", "inner", "behind"), ("before", "inner", "behind", END), strict=True):
        builder.add_edge(one, other)
    return builder


def asks_inside(checkpointer: Any) -> Any:
    return _around(_reviewed().compile()).compile(checkpointer=checkpointer)


def stops_inside(checkpointer: Any) -> Any:
    return _around(line(*NODES).compile(interrupt_before=["curriculum"])).compile(checkpointer=checkpointer)


def raises_inside(checkpointer: Any) -> Any:
    return _around(_routed(router, node).compile()).compile(checkpointer=checkpointer)


def nested(checkpointer: Any) -> Any:
    return _around(line(*NODES).compile()).compile(checkpointer=checkpointer)


class Topic(TypedDict):
    topic: str


def _each(topic: Topic) -> dict[str, Any]:
    happen(f"topic {topic['topic']}")
    note(f"topic {topic['topic']}")
    return {"done": [topic["topic"]]}


def spread(checkpointer: Any) -> Any:
    """Return a graph in which one node sends work to several, and another waits for them all."""
    builder: Any = StateGraph(Work)
    builder.add_node("intent", node("intent"))
    builder.add_node("each", _each, input_schema=Topic)
    builder.add_node("collect", node("collect"))
    builder.add_edge(START, "intent")
    builder.add_conditional_edges("intent", lambda work: [Send("each", {"topic": one}) for one in "abc"], ["each"])
    builder.add_edge("each", "collect")
    builder.add_edge("collect", END)
    return builder.compile(checkpointer=checkpointer)


def joined(checkpointer: Any) -> Any:
    """Return a graph with two branches of different length that join."""
    builder: Any = StateGraph(Work)
    for name in ("short", "long", "longer", "meet"):
        builder.add_node(name, node(name))
    builder.add_edge(START, "short")
    builder.add_edge(START, "long")
    builder.add_edge("long", "longer")
    builder.add_edge(["short", "longer"], "meet")
    builder.add_edge("meet", END)
    return builder.compile(checkpointer=checkpointer)


def loops(checkpointer: Any) -> Any:
    """Return a graph that loops three times by a command."""

    def round_(work: Work) -> Command[Any]:
        number = len(work["done"])
        happen(f"round {number}")
        note(f"round {number}")
        return Command(update={"done": [str(number)]}, goto="round" if number < 2 else END)

    builder: Any = StateGraph(Work)
    builder.add_node("round", round_, destinations=("round", END))
    builder.add_edge(START, "round")
    return builder.compile(checkpointer=checkpointer)


def configured(checkpointer: Any) -> Any:
    def tell(work: Work, config: RunnableConfig) -> dict[str, Any]:
        happen("tell")
        values = config["configurable"]
        note(f"tell {values.get('tenant')} {values.get('level')}")
        return {"done": ["tell"]}

    builder = line("intent", "curriculum")
    builder.edges.discard(("curriculum", END))
    builder.add_node("tell", tell)
    builder.add_edge("curriculum", "tell")
    builder.add_edge("tell", END)
    return builder.compile(checkpointer=checkpointer)


def hands_over(checkpointer: Any) -> Any:
    """Return a graph whose last node leaves its work in a queue."""

    def enqueue(work: Work) -> dict[str, Any]:
        happen("enqueue")
        note("enqueue")
        return {"done": ["enqueue"]}

    builder = line("intent", "curriculum")
    builder.edges.discard(("curriculum", END))
    builder.add_node("enqueue", enqueue)
    builder.add_edge("curriculum", "enqueue")
    builder.add_edge("enqueue", END)
    return builder.compile(checkpointer=checkpointer)


async def exploding_later(checkpointer: Any) -> Any:
    raise RuntimeError("no settings")


def incomplete(checkpointer: Any) -> Any:
    """Return a builder that cannot be compiled, because no edge leads to its node."""
    builder: Any = StateGraph(Work)
    builder.add_node("intent", node("intent"))
    return builder


def exploding(checkpointer: Any) -> Any:
    raise RuntimeError("no settings")


class Model(BaseModel):
    """A state that is a model."""

    done: Annotated[list[str], operator.add] = []
    goal: Goal | None = None


def of_a_model(checkpointer: Any) -> Any:
    def run(name: str) -> Any:
        def inner(work: Model) -> dict[str, Any]:
            happen(name)
            assert work.goal is None or isinstance(work.goal, Goal)
            note(name)
            return {"done": [name]}

        return inner

    return line(*NODES, make=run, schema=Model).compile(checkpointer=checkpointer)


def boom(*args: Any, **kwargs: Any) -> str:
    """Note that a row has called this function, which must never happen."""
    note("boom")
    return "boom"
