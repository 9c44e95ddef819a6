"""The platform's worker as a process: it creates LangGraph's tables and runs a graph until its end or an accident.

python -m tests.support.platform_worker ADDRESS GRAPH THREAD [CONFIGURABLE] [RESUME]
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import sys
from typing import Any

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from tests.support import workflows

ASYNC = ("of_async_nodes", "async_factory", "routed_async")


def given(answer: str) -> Any:
    return Command(resume=answer) if answer else workflows.FIRST


def begin(address: str, name: str, config: Any, answer: str) -> None:
    cls: Any = PostgresSaver if "://" in address else SqliteSaver
    with cls.from_conn_string(address) as saver:
        saver.setup()
        found = getattr(workflows, name)
        if callable(found):
            found = found(saver) if inspect.signature(found).parameters else found()
        graph = found.compile() if hasattr(found, "compile") else found
        graph = graph.copy(update={"checkpointer": saver})
        graph.invoke(given(answer), config, durability="sync")


async def begin_async(address: str, name: str, config: Any, answer: str) -> None:
    cls: Any = AsyncPostgresSaver if "://" in address else AsyncSqliteSaver
    async with cls.from_conn_string(address) as saver:
        await saver.setup()
        graph = getattr(workflows, name)(saver)
        graph = await graph if inspect.isawaitable(graph) else graph
        await graph.ainvoke(given(answer), config, durability="sync")


def main(address: str, name: str, thread: str, configurable: str = "{}", answer: str = "") -> None:
    config = {"configurable": {"thread_id": thread, **json.loads(configurable)}}
    with contextlib.suppress(RuntimeError):  # the accident
        if name in ASYNC:
            asyncio.run(begin_async(address, name, config, answer))
        else:
            begin(address, name, config, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
