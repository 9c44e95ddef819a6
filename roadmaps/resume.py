"""Resuming interrupted workflows, with the platform's own graph or through its resume endpoint."""

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
from roadmaps.langgraph import Position, Shape, graph_config
from roadmaps.models import RoadmapTask
from roadmaps.serialized import STANDARD
from roadmaps.times import is_recent, stored_time

TIMEOUT = (10.0, 600.0, 600.0, 600.0)  # connect, read, write, pool
POLL_SECONDS = 5.0


class NotConfigured(StoreUnavailable):
    """No graph and no endpoint is configured, or the graph cannot be imported."""


class ResumeFailed(Exception):
    """The workflow could not be resumed, for the reason in the message."""


def require_backend(store: Store) -> Shape | None:
    """Return the shape of the graph, if there is one. Raise StoreUnavailable if no workflow can be resumed."""
    if not settings.ROADMAPS_WORKFLOW_GRAPH and not settings.ROADMAPS_RESUME_URL:
        raise NotConfigured(
            _(
                "Resuming workflows is not configured. Set ROADMAPS_WORKFLOW_GRAPH to the platform's compiled graph, "
                "or ROADMAPS_RESUME_URL to its resume endpoint."
            )
        )
    checkpoint_tables.require(store, writes=bool(settings.ROADMAPS_WORKFLOW_GRAPH))
    return shape(store) if settings.ROADMAPS_WORKFLOW_GRAPH else None


def resume(store: Store, task_id: str, position: Position) -> bool:
    """Resume a workflow from its last checkpoint, until its end or an interrupt. Raise the errors of its nodes.

    Return whether the nodes ran in this process: the last one may then have left work in a queue. The endpoint answers
    when the task is done.
    """
    if settings.ROADMAPS_WORKFLOW_GRAPH:
        _by_graph(store, task_id, position)
        return True
    _by_endpoint(store, task_id, position)
    return False


# --- the graph -----------------------------------------------------------------------------------------------


def shape(store: Store) -> Shape:
    """Return the shape of the graph, which is created and not run. Raise NotConfigured."""
    found = _import_graph()
    try:
        return _shape_of(store, found)
    except StoreUnavailable:
        raise
    except Exception as error:
        raise _no_graph(found, error) from error


def _shape_of(store: Store, found: Any) -> Shape:
    if not _is_async_factory(found):
        graph = _create(store, found)
    else:
        vendor = checkpoint_tables.place(store).vendor

        async def create() -> Any:
            from roadmaps import savers

            return await _create_async(found, savers.unconnected(vendor, is_async=True))

        graph = _in_loop(create())
    return Shape(graph, state_types(graph))


def known_shape(store: Store) -> Shape | None:
    """Return the shape of the graph, None if it cannot be imported. A check then knows less of a checkpoint."""
    try:
        return shape(store) if settings.ROADMAPS_WORKFLOW_GRAPH else None
    except NotConfigured:
        return None


def _by_graph(store: Store, task_id: str, position: Position) -> None:
    """Run the nodes that are left. If one raises an error, its last checkpoint remains.

    Each checkpoint is written before the next node starts, so that a worker that dies loses no finished node.
    """
    from roadmaps import savers

    found = _import_graph()
    config = graph_config(task_id, position.configurable)
    graph = None if _is_async_factory(found) else _create(store, found)
    where = checkpoint_tables.place(store)
    if graph is not None and not _needs_loop(graph):
        with savers.saver(where) as saver:
            _run(_with_saver(graph, saver), saver, config, position)
        return

    async def run() -> None:
        async with savers.async_saver(where) as saver:
            created = graph if graph is not None else await _create_async(found, saver)
            await _run_async(_with_saver(created, saver), saver, config, position)

    _in_loop(run())


def _run(graph: Any, saver: Any, config: dict[str, Any], position: Position) -> None:
    if position.routers:
        graph.bulk_update_state(config, [_router_input(graph, saver.get_tuple(config), position)])
    for _finished in graph.stream(None, config, stream_mode="updates", durability="sync"):
        pass


async def _run_async(graph: Any, saver: Any, config: dict[str, Any], position: Position) -> None:
    if position.routers:
        await graph.abulk_update_state(config, [_router_input(graph, await saver.aget_tuple(config), position)])
    async for _finished in graph.astream(None, config, stream_mode="updates", durability="sync"):
        pass


def _router_input(graph: Any, found: Any, position: Position) -> list[Any]:
    """Return the result of the last node as a state update, so that only its conditional edge runs again.

    LangGraph takes a node for finished if its conditional edge raised an error, and would end there.
    """
    from langgraph.types import StateUpdate

    router = position.routers[0]
    refusal = ResumeFailed(
        _("The conditional edge after %(node)s raised %(error)s and cannot run again alone. No node has run.")
        % {"node": router.name or "?", "error": router.error}
    )
    values: dict[str, Any] = {}
    tasks = set()
    for task, channel, value in found.pending_writes or ():
        if channel in langgraph.CONTROL_CHANNELS or channel.startswith(("branch:", "join:", "__pregel")):
            continue
        if channel in values or channel not in graph.channels:
            raise refusal
        tasks.add(task)
        values[channel] = value
    # The results of other nodes of the same step would be lost.
    if len(position.routers) > 1 or position.nodes or router.name not in graph.nodes or len(tasks) > 1:
        raise refusal
    return [StateUpdate(values.get("__root__", values), router.name)]


def _import_graph() -> Any:
    """Return the object at the dotted path: a graph, compiled or not, or a factory. Raise NotConfigured."""
    path = settings.ROADMAPS_WORKFLOW_GRAPH
    try:
        return import_string(path)
    except Exception as error:
        raise NotConfigured(
            _("ROADMAPS_WORKFLOW_GRAPH: %(path)s cannot be imported: %(reason)s") % {"path": path, "reason": error}
        ) from error


def _is_async_factory(found: Any) -> bool:
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None))  # noqa: B004


def _create(store: Store, found: Any) -> Any:
    """Return the compiled graph of what the dotted path names."""
    from roadmaps import savers

    created = _call(found, lambda: savers.unconnected(checkpoint_tables.place(store).vendor))
    if inspect.isawaitable(created):  # from a plain function that returns a coroutine
        created = _in_loop(_awaited(created))
    return _compiled(created)


async def _create_async(found: Any, saver: Any) -> Any:
    return _compiled(await _awaited(_call(found, lambda: saver)))


async def _awaited(created: Any) -> Any:
    return await created if inspect.isawaitable(created) else created


def _call(found: Any, saver: Callable[[], Any]) -> Any:
    """Return a graph unchanged. Call a factory with a checkpointer, or without if it takes no argument."""
    if hasattr(found, "stream") or hasattr(found, "compile"):
        return found
    if not callable(found):
        raise _no_graph(found)
    try:
        needed = [one for one in inspect.signature(found).parameters.values() if one.kind is not one.VAR_KEYWORD]
        return found(saver()) if needed else found()
    except Exception as error:
        raise _no_graph(found, error) from error


def _compiled(created: Any) -> Any:
    if not hasattr(created, "stream") and hasattr(created, "compile"):
        created = created.compile()
    if not hasattr(created, "stream") or not hasattr(created, "channels"):
        raise _no_graph(created)
    return created


def _no_graph(found: Any, error: Exception | None = None) -> NotConfigured:
    reason = f"{type(error).__name__}: {error}" if error else _("its type is %s") % type(found).__name__
    return NotConfigured(
        _("ROADMAPS_WORKFLOW_GRAPH: %(path)s does not return a graph (%(reason)s).")
        % {"path": settings.ROADMAPS_WORKFLOW_GRAPH, "reason": reason}
    )


def _with_saver(graph: Any, saver: Any) -> Any:
    """Return a copy of the graph that reads and writes through a saver of the console, which restricts types."""
    from roadmaps.savers import Restricted

    saver.serde = Restricted(state_types(graph))
    return graph.copy(update={"checkpointer": saver})


def _needs_loop(graph: Any) -> bool:
    """Return whether a node or a router can only be awaited."""
    return (
        any(_is_async(one) for node in graph.nodes.values() for one in (node.bound, *node.writers))
        or any(_is_async(branch.path) for branch in _branches(graph))
        or any(_needs_loop(sub) for _name, sub in graph.get_subgraphs() if hasattr(sub, "channels"))
    )


def _branches(graph: Any) -> Iterator[Any]:
    for branches in getattr(getattr(graph, "builder", None), "branches", {}).values():
        yield from branches.values()


def _is_async(runnable: Any) -> bool:
    if getattr(runnable, "afunc", None) is not None and getattr(runnable, "func", None) is None:
        return True
    return any(_is_async(step) for step in getattr(runnable, "steps", None) or ())


def _in_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a separate event loop, even if this thread already runs one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


# --- the types of a graph's state ---------------------------------------------------------------------------------


def state_types(graph: Any) -> frozenset[tuple[str, str]]:
    """Return module and name of every type in the annotations of the graph's state and of its subgraphs."""
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
    """Return the type behind `type X = …`."""
    return getattr(annotation, "__value__", None) if type(annotation).__name__ == "TypeAliasType" else None


def _is_library(cls: type) -> bool:
    """Return whether a class belongs to a library, so that its subclasses may be unrelated to the graph."""
    return cls.__module__.partition(".")[0] in {"pydantic", "langchain_core", "langgraph", "typing_extensions"}


def _hints(cls: type) -> Mapping[str, Any]:
    """Return the annotations of a class, from its library if they cannot be evaluated."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001  # names that no longer exist
        fields: Any = getattr(cls, "model_fields", None) or {}
        if dataclasses.is_dataclass(cls):
            return {one.name: one.type for one in dataclasses.fields(cls)}
        return {name: getattr(one, "annotation", None) for name, one in fields.items()}


# --- the endpoint ------------------------------------------------------------------------------------------------


def _by_endpoint(store: Store, task_id: str, position: Position) -> None:
    """Ask the platform to resume a task. After 202, wait for it; any other success means that the task is done."""
    body = {"task_id": task_id, "checkpoint_id": position.checkpoint_id}
    accepted = post(settings.ROADMAPS_RESUME_URL, body, f"{task_id}:{position.checkpoint_id}", _("The resume endpoint"))
    if accepted:
        _wait(store, task_id)


def post(url: str, document: dict[str, Any], key: str, name: str) -> bool:
    """Send a signed POST to the platform. Return whether it answered 202. Raise ResumeFailed."""
    body = orjson.dumps(document)
    timestamp = str(int(timezone.now().timestamp()))
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, TIMESTAMP: timestamp}
    if settings.ROADMAPS_RESUME_SECRET:
        headers[SIGNATURE] = signature(settings.ROADMAPS_RESUME_SECRET, timestamp, body)
    import httpx  # the import is slow, and few runs need it

    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ResumeFailed(
            _("%(endpoint)s cannot be reached: %(reason)s") % {"endpoint": name, "reason": first_line(error)}
        ) from error
    if not answer.is_success:
        raise ResumeFailed(_("%(endpoint)s answered %(status)d.") % {"endpoint": name, "status": answer.status_code})
    return answer.status_code == httpx.codes.ACCEPTED


def _wait(store: Store, task_id: str) -> None:
    """Wait until the platform has ended the task. Give up when neither the task nor its content changes any more."""
    accepted_at = timezone.now()
    rows = RoadmapTask.objects.using(store.alias).filter(pk=task_id)
    while True:
        status, text, roadmap = rows.values_list("status", "updated_at", "roadmap_id").get()
        if status != RoadmapTask.Status.PROCESSING:
            return
        generated = contents(store, [roadmap])[roadmap].last_generated() if roadmap else None
        changed = max(accepted_at, stored_time(text) or accepted_at, generated or accepted_at)
        if not is_recent(changed, timezone.now()):
            raise ResumeFailed(_("The platform accepted the task and has not changed it since."))
        time.sleep(POLL_SECONDS)
