"""How an interrupted workflow goes on: through the platform's own graph, or at its resume endpoint."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import time
import typing
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import orjson
from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from opsconsole.engine.notifications import SIGNATURE, TIMESTAMP, signature
from opsconsole.stores.errors import first_line
from opsconsole.stores.store import Store, StoreUnavailable
from roadmaps import checkpoint_tables, langgraph
from roadmaps.content import contents
from roadmaps.langgraph import Position, Shape, config_of
from roadmaps.models import RoadmapTask
from roadmaps.serialized import STANDARD
from roadmaps.times import moved_at, stuck_before

TIMEOUT = (10.0, 600.0, 600.0, 600.0)  # connect, read, write, pool: an endpoint that resumes may take long to answer
POLL_SECONDS = 5.0


class NotConfigured(StoreUnavailable):
    """Neither a graph nor an endpoint is known, or the graph can't be had."""


class ResumeFailed(Exception):
    """The workflow did not go on. The message says why."""


def require_backend(store: Store) -> Shape | None:
    """Refuse before anything starts; the graph's shape, where there is a graph. Raises StoreUnavailable."""
    if not settings.ROADMAPS_WORKFLOW_GRAPH and not settings.ROADMAPS_RESUME_URL:
        raise NotConfigured(
            _(
                "An interrupted workflow can't go on from here: set ROADMAPS_WORKFLOW_GRAPH to the platform's compiled "
                "graph, or ROADMAPS_RESUME_URL to its resume endpoint. Nothing was changed."
            )
        )
    checkpoint_tables.require(store, writes=bool(settings.ROADMAPS_WORKFLOW_GRAPH))
    return shape(store) if settings.ROADMAPS_WORKFLOW_GRAPH else None


def resume(store: Store, task_id: str, position: Position) -> bool:
    """From the last checkpoint to the end, or to where a person is asked. Raises whatever fails.

    Whether nodes have run here: the last may have handed its work to a queue. The endpoint says itself when it is done.
    """
    if settings.ROADMAPS_WORKFLOW_GRAPH:
        _by_graph(store, task_id, position)
        return True
    _by_endpoint(store, task_id, position)
    return False


# --- the graph -----------------------------------------------------------------------------------------------


def shape(store: Store) -> Shape:
    """The graph as plans need it; it is made, and not run. Raises NotConfigured."""
    found = _found()
    try:
        return _shape_of(store, found)
    except StoreUnavailable:
        raise
    except Exception as error:
        raise _no_graph(found, error) from error


def _shape_of(store: Store, found: Any) -> Shape:
    vendor = checkpoint_tables.place(store).vendor

    async def make() -> Any:
        from roadmaps import savers

        return await _made(found, savers.unconnected(vendor, is_async=True))

    return _shape(_in_loop(make()) if _is_async_factory(found) else _made_at_once(store, found))


def known_shape(store: Store) -> Shape | None:
    """The same for checks: without a graph that can be had, less is known of a checkpoint."""
    try:
        return shape(store) if settings.ROADMAPS_WORKFLOW_GRAPH else None
    except NotConfigured:
        return None


def _by_graph(store: Store, task_id: str, position: Position) -> None:
    """Node by node; what is finished is not run again. A graph that raises leaves its last checkpoint.

    Each checkpoint is written before the next node begins: otherwise a worker that dies would lose the last one.
    """
    from roadmaps import savers

    found = _found()
    config = config_of(task_id, position.configurable)
    graph = None if _is_async_factory(found) else _made_at_once(store, found)
    if graph is not None and not _needs_loop(graph):
        with savers.saver(checkpoint_tables.place(store)) as saver:
            _go_on(_with(graph, saver), saver, config, position)
        return
    where = checkpoint_tables.place(store)

    async def run() -> None:
        async with savers.async_saver(where) as saver:
            made = graph if graph is not None else await _made(found, saver)
            await _go_on_async(_with(made, saver), saver, config, position)

    _in_loop(run())


def _go_on(graph: Any, saver: Any, config: dict[str, Any], position: Position) -> None:
    if position.routers:
        graph.bulk_update_state(config, [_again(graph, saver.get_tuple(config), position)])
    for _finished in graph.stream(None, config, stream_mode="updates", durability="sync"):
        pass


async def _go_on_async(graph: Any, saver: Any, config: dict[str, Any], position: Position) -> None:
    if position.routers:
        await graph.abulk_update_state(config, [_again(graph, await saver.aget_tuple(config), position)])
    async for _finished in graph.astream(None, config, stream_mode="updates", durability="sync"):
        pass


def _again(graph: Any, found: Any, position: Position) -> list[Any]:
    """The results of a step's nodes, to be handed on once more: its routers run again, and no node does.

    LangGraph takes a node whose router raised for finished, and would end there.
    """
    from langgraph.types import StateUpdate

    router = position.routers[0]
    refusal = ResumeFailed(
        _("The conditional edge behind %(node)s raised %(error)s, and it can't be run again alone: nothing was run.")
        % {"node": router.name or "?", "error": router.error}
    )
    values: dict[str, Any] = {}
    tasks = set()
    for task, channel, value in found.pending_writes or ():
        if channel in langgraph.NOT_OUTPUT or channel.startswith(("branch:", "join:", "__pregel")):
            continue
        if channel in values or channel not in graph.channels:
            raise refusal
        tasks.add(task)
        values[channel] = value
    # Other nodes of the same step would be lost.
    if len(position.routers) > 1 or position.nodes or router.name not in graph.nodes or len(tasks) > 1:
        raise refusal
    return [StateUpdate(values.get("__root__", values), router.name)]


def _found() -> Any:
    """What the dotted path names: a graph, compiled or not, or a function that makes one. Raises NotConfigured."""
    path = settings.ROADMAPS_WORKFLOW_GRAPH
    try:
        return import_string(path)
    except Exception as error:
        raise NotConfigured(
            _("ROADMAPS_WORKFLOW_GRAPH: %(path)s can't be imported: %(reason)s") % {"path": path, "reason": error}
        ) from error


def _is_async_factory(found: Any) -> bool:
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None))  # noqa: B004


def _made_at_once(store: Store, found: Any) -> Any:
    from roadmaps import savers

    made = _call(found, lambda: savers.unconnected(checkpoint_tables.place(store).vendor))
    if inspect.isawaitable(made):  # a plain function that hands out a coroutine
        made = _in_loop(_awaited(made))
    return _compiled(made)


async def _made(found: Any, saver: Any) -> Any:
    made = _call(found, lambda: saver)
    return _compiled(await made if inspect.isawaitable(made) else made)


async def _awaited(made: Any) -> Any:
    return await made


def _call(found: Any, saver: Callable[[], Any]) -> Any:
    """A factory takes a checkpointer, or nothing."""
    if hasattr(found, "stream") or hasattr(found, "compile"):
        return found
    if not callable(found):
        raise _no_graph(found)
    try:
        needed = [one for one in inspect.signature(found).parameters.values() if one.kind is not one.VAR_KEYWORD]
        return found(saver()) if needed else found()
    except Exception as error:
        raise _no_graph(found, error) from error


def _compiled(made: Any) -> Any:
    if not hasattr(made, "stream") and hasattr(made, "compile"):
        made = made.compile()
    if not hasattr(made, "stream") or not hasattr(made, "channels"):
        raise _no_graph(made)
    return made


def _no_graph(found: Any, error: Exception | None = None) -> NotConfigured:
    reason = f"{type(error).__name__}: {error}" if error else _("it is of type %s") % type(found).__name__
    return NotConfigured(
        _("ROADMAPS_WORKFLOW_GRAPH: %(path)s makes no graph (%(reason)s).")
        % {"path": settings.ROADMAPS_WORKFLOW_GRAPH, "reason": reason}
    )


def _with(graph: Any, saver: Any) -> Any:
    """Whatever checkpointer it brings: it reads through ours, which builds only allowed types."""
    saver.serde = _serializer(graph)
    return graph.copy(update={"checkpointer": saver})


def _serializer(graph: Any) -> Any:
    from roadmaps.savers import Restricted

    return Restricted(state_types(graph))


def _shape(graph: Any) -> Shape:
    return Shape(graph, state_types(graph))


def _needs_loop(graph: Any) -> bool:
    """Whether a node or a router can only be awaited."""
    return (
        any(_only_awaited(one) for node in graph.nodes.values() for one in (node.bound, *node.writers))
        or any(_only_awaited(branch.path) for branch in _branches(graph))
        or any(_needs_loop(sub) for _name, sub in graph.get_subgraphs() if hasattr(sub, "channels"))
    )


def _branches(graph: Any) -> Iterator[Any]:
    for branches in getattr(getattr(graph, "builder", None), "branches", {}).values():
        yield from branches.values()


def _only_awaited(runnable: Any) -> bool:
    if getattr(runnable, "afunc", None) is not None and getattr(runnable, "func", None) is None:
        return True
    return any(_only_awaited(step) for step in getattr(runnable, "steps", None) or ())


def _in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """In an event loop of its own, also where this thread has one already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


# --- the types of a graph's state ---------------------------------------------------------------------------------


def state_types(graph: Any) -> frozenset[tuple[str, str]]:
    """Module and name of every type in the annotations of the graph's state, and of its subgraphs'."""
    found: set[type] = set()
    seen: list[Any] = []
    for schema in _schemas(graph):
        _collect(schema, found, seen)
    return frozenset((one.__module__, one.__name__) for one in found)


def _schemas(graph: Any) -> Iterator[Any]:
    builder = getattr(graph, "builder", None)
    for holder in (builder, *getattr(builder, "nodes", {}).values(), *_branches(graph)):
        for name in ("state_schema", "input_schema", "output_schema", "context_schema"):
            yield getattr(holder, name, None)
    for channel in graph.channels.values():
        yield getattr(channel, "ValueType", None)
        yield getattr(channel, "UpdateType", None)
    for _name, sub in graph.get_subgraphs():
        if hasattr(sub, "channels"):
            yield from _schemas(sub)


def _collect(annotation: Any, found: set[type], seen: list[Any]) -> None:
    if annotation is None or any(annotation is one for one in seen):
        return
    seen.append(annotation)
    for part in (*typing.get_args(annotation), getattr(annotation, "__supertype__", None), _alias(annotation)):
        if typing.get_origin(annotation) is not typing.Literal:
            _collect(part, found, seen)
    if isinstance(annotation, typing.TypeVar):
        for part in (annotation.__bound__, *annotation.__constraints__):
            _collect(part, found, seen)
    if not isinstance(annotation, type):
        return
    is_standard = annotation.__module__.partition(".")[0] in STANDARD
    if not is_standard or (issubclass(annotation, Enum) and annotation is not Enum):
        if not typing.is_typeddict(annotation):
            found.add(annotation)
        for part in _hints(annotation).values():
            _collect(part, found, seen)
        if not _is_library(annotation):
            subclasses: list[type] = type.__subclasses__(annotation)
            for below in subclasses:
                _collect(below, found, seen)


def _alias(annotation: Any) -> Any:
    """What `type X = …` stands for."""
    return getattr(annotation, "__value__", None) if type(annotation).__name__ == "TypeAliasType" else None


def _is_library(cls: type) -> bool:
    """A base class of a library, whose subclasses may be anybody's."""
    return cls.__module__.partition(".")[0] in {"pydantic", "langchain_core", "langgraph", "typing_extensions"}


def _hints(cls: type) -> Mapping[str, Any]:
    """A class's annotations; those that can't be evaluated are known to its library, or not at all."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001  # names of a place that is gone
        fields: Any = getattr(cls, "model_fields", None) or {}
        if dataclasses.is_dataclass(cls):
            return {one.name: one.type for one in dataclasses.fields(cls)}
        return {name: getattr(one, "annotation", None) for name, one in fields.items()}


# --- the endpoint ------------------------------------------------------------------------------------------------


def _by_endpoint(store: Store, task_id: str, position: Position) -> None:
    """202: the platform goes on by itself, and is waited for. Any other success: it is done."""
    body = {"task_id": task_id, "checkpoint_id": position.checkpoint_id}
    accepted = post(settings.ROADMAPS_RESUME_URL, body, f"{task_id}:{position.checkpoint_id}", _("The resume endpoint"))
    if accepted:
        _wait(store, task_id)


def post(url: str, document: dict[str, Any], key: str, name: str) -> bool:
    """A signed POST to the platform; whether it answered 202. Raises ResumeFailed."""
    body = orjson.dumps(document)
    timestamp = str(int(timezone.now().timestamp()))
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, TIMESTAMP: timestamp}
    if settings.ROADMAPS_RESUME_SECRET:
        headers[SIGNATURE] = signature(settings.ROADMAPS_RESUME_SECRET, timestamp, body)
    import httpx  # slow to import, and few runs need it

    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ResumeFailed(
            _("%(endpoint)s can't be reached: %(reason)s") % {"endpoint": name, "reason": first_line(error)}
        ) from error
    if not answer.is_success:
        raise ResumeFailed(_("%(endpoint)s answered %(status)d.") % {"endpoint": name, "status": answer.status_code})
    return answer.status_code == httpx.codes.ACCEPTED


def _wait(store: Store, task_id: str) -> None:
    """Until the platform says that the task is over, or moves neither it nor its content any more."""
    asked = timezone.now()
    rows = RoadmapTask.objects.using(store.alias).filter(pk=task_id)
    while True:
        status, text, roadmap = rows.values_list("status", "updated_at", "roadmap_id").get()
        if status != RoadmapTask.Status.PROCESSING:
            return
        made = contents(store, [roadmap])[roadmap].moved() if roadmap else None
        if max(asked, moved_at(text) or asked, made or asked) < stuck_before(timezone.now()):
            raise ResumeFailed(_("The platform took the task and has not moved it since."))
        time.sleep(POLL_SECONDS)
