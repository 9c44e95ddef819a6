"""A small workflow of a platform: four nodes that each note that they ran, and content at the end.

`ROADMAPS_WORKFLOW_GRAPH=tests.support.graphs.make` names it, and `GRAPH_NOTES` the file of notes. The node that
`GRAPH_ACCIDENT` names raises an error or kills its process.
"""

from __future__ import annotations

import operator
import os
import signal
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

NODES = ("intent", "curriculum", "tutorials", "quizzes")


class Work(TypedDict):
    done: Annotated[list[str], operator.add]


def _node(name: str) -> Any:
    def run(work: Work) -> dict[str, list[str]]:
        accident, _, node = os.environ.get("GRAPH_ACCIDENT", "").partition(" ")
        if node == name and accident == "raise":
            raise RuntimeError("the model is overloaded")
        if node == name and accident == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        with Path(os.environ["GRAPH_NOTES"]).open("a") as notes:
            notes.write(f"{name}\n")
        return {"done": [name]}

    return run


def make(checkpointer: Any) -> Any:
    builder: Any = StateGraph(Work)
    for name in NODES:
        builder.add_node(name, _node(name))
    for one, other in zip((START, *NODES), (*NODES, END), strict=True):
        builder.add_edge(one, other)
    return builder.compile(checkpointer=checkpointer)


broken = 7
