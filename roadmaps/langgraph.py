"""The positions of LangGraph workflows, read from their checkpoints as data.

A checkpoint can name any callable of any module, and LangGraph's own serializer imports and calls it. This module
reads the rows by SQL and decodes them without importing, calling or creating anything that a row names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.utils.translation import gettext as _

from opsconsole.jsontext import Unreadable
from opsconsole.stores.store import Store
from opsconsole.timestamps import parse_timestamp
from roadmaps.checkpoint_tables import IN_BLOBS, NoCheckpoints, Read, only_path, outdated, place, reader
from roadmaps.serialized import Decoder, Inert, plain

# Channels of pending writes that record what happened to a node.
ERROR, ERROR_SOURCE, INTERRUPT, RESUME = "__error__", "__error_source_node__", "__interrupt__", "__resume__"
CONTROL_CHANNELS = frozenset((ERROR, ERROR_SOURCE, INTERRUPT, RESUME))
SENDS = "__pregel_tasks"
NO_TASK = "00000000-0000-0000-0000-000000000000"
START = "__start__"

THREADS_AT_ONCE = 50


# --- positions -------------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A node that runs next."""

    name: str
    error: str = ""  # that it raised the last time
    finished: bool = False  # it does not run again; only its result is applied


@dataclass(slots=True)
class Position:
    """The position of a workflow at its newest checkpoint."""

    checkpoint_id: str
    step: int | None = None
    at: datetime | None = None
    nodes: tuple[Node, ...] = ()  # that run next
    waits_at: tuple[str, ...] = ()  # nodes that wait for a person
    routers: tuple[Node, ...] = ()  # finished nodes whose conditional edge raised an error
    answered: bool = False  # a person has answered, and no node has run since
    configurable: dict[str, Any] = field(default_factory=dict)  # values of the first call
    unreadable: str = ""  # why the checkpoint cannot be read

    @property
    def is_finished(self) -> bool:
        return not (self.nodes or self.waits_at or self.routers or self.unreadable)


def graph_config(task_id: str, configurable: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return LangGraph's config for a task, whose thread has the same identifier."""
    return {"configurable": {**(configurable or {}), "thread_id": task_id, "checkpoint_ns": ""}}


def threads_with_checkpoint(store: Store, task_ids: Iterable[str]) -> dict[str, datetime | None]:
    """Return task -> time of its newest checkpoint, for the tasks that have one. It takes one statement."""
    wanted = list(task_ids)
    if not wanted:
        return {}
    try:
        with reader(store) as (read, missing):
            newest = "NULL" if "checkpoints.checkpoint_id" in missing else "MAX(checkpoint_id)"
            sql = f"SELECT thread_id, {newest} FROM checkpoints WHERE thread_id {{in}} GROUP BY thread_id"  # noqa: S608
            return {thread: _written_at(key) for thread, key in read(sql, [wanted])}
    except NoCheckpoints:
        return {}


def positions(store: Store, task_ids: Iterable[str], shape: Shape | None = None) -> dict[str, Position]:
    """Return task -> position of its workflow, for the tasks that have a checkpoint.

    `shape` is that of the platform's graph, if it is known.
    """
    wanted = list(task_ids)
    found: dict[str, Position] = {}
    if not wanted:
        return found
    try:
        with reader(store) as (read, missing):
            if missing and not only_path(missing):
                there = read("SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id {in}", [wanted])
                return {thread: Position("", unreadable=outdated(place(store), missing)) for (thread,) in there}
            for start in range(0, len(wanted), THREADS_AT_ONCE):
                found |= _positions(read, wanted[start : start + THREADS_AT_ONCE], shape)
    except NoCheckpoints:
        return {}
    return found


def position(store: Store, task_id: str, shape: Shape | None = None) -> Position | None:
    """Return the position of one workflow, None if it has no checkpoint."""
    return positions(store, [task_id], shape).get(task_id)


def _written_at(checkpoint_id: Any) -> datetime | None:
    """Return the time in a checkpoint's id, which is a UUID of version 6: 100 ns ticks since 1582."""
    try:
        found = UUID(checkpoint_id)
        if found.version != 6:
            return None
        ticks = (found.int >> 80) << 12 | (found.int >> 64) & 0xFFF
        return datetime(1582, 10, 15, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None


# --- the platform's graph -------------------------------------------------------------------------------------


class Shape:
    """The parts of a compiled graph that a plan needs: triggers of its nodes, interrupts, and types of its state."""

    def __init__(self, graph: Any, types: frozenset[tuple[str, str]]) -> None:
        self.types = types
        self.channels: Mapping[str, Any] = graph.channels
        self.triggers = {name: tuple(node.triggers) for name, node in graph.nodes.items()}
        self.before, self.after = graph.interrupt_before_nodes, graph.interrupt_after_nodes
        self.subgraphs = {name: Shape(sub, types) for name, sub in graph.get_subgraphs() if hasattr(sub, "channels")}

    def available(self, channel: str, value: Any) -> bool:
        """Return whether a channel with this value triggers its node. A join may still wait for other nodes."""
        spec = self.channels.get(channel)
        try:
            return bool(spec is None or spec.from_checkpoint(plain(value)).is_available())
        except Exception:  # noqa: BLE001  # the platform may define its own channels
            return True


def _available(channel: str, value: Any) -> bool:
    """Return the same without a graph, by the names that a StateGraph gives its channels."""
    if channel.startswith("join:"):
        waited_for = set(channel.split(":")[1].split("+"))
        return isinstance(found := plain(value), set) and found == waited_for
    return True


def _target(channel: str) -> str | None:
    """Return the node that a channel of this name triggers, in any version of LangGraph."""
    first, *rest = channel.split(":")
    if channel == START:
        return START
    if (first == "start" and rest) or (first == "branch" and len(rest) in {2, 3}) or (first == "join" and rest):
        return rest[-1]
    return None


# --- reading the rows ------------------------------------------------------------------------------------------


class _Head(NamedTuple):
    """A checkpoint: its row and its blobs."""

    thread: str
    namespace: str
    key: str
    parent: str | None
    content: dict[str, Any]
    metadata: dict[str, Any]
    values: dict[str, Any]  # channel -> value, for channels that have one
    unreadable: str = ""  # why the rest is empty

    @property
    def place(self) -> tuple[str, str, str]:
        return self.thread, self.namespace, self.key


def _positions(read: Read, wanted: list[str], shape: Shape | None) -> dict[str, Position]:
    decoder = Decoder(shape.types if shape else None)
    by_thread: dict[str, list[_Head]] = {}
    for head in _heads(read, decoder, _NEWEST, [wanted]):
        by_thread.setdefault(head.thread, []).append(head)
    first = dict(read(_FIRST, [wanted]))
    found: dict[str, Position] = {}
    readable: dict[str, list[_Head]] = {}
    for thread, heads in by_thread.items():
        root = next((head for head in heads if head.namespace == ""), None)
        if root is None:
            found[thread] = Position(heads[0].key, unreadable=_("only a subgraph has a checkpoint"))
            continue
        # Older checkpoints of subgraphs belong to earlier steps.
        current = [root, *(head for head in heads if head is not root and head.key > root.key)]
        broken = next((head for head in current if head.unreadable), None)
        if broken is not None:
            found[thread] = Position(broken.key, unreadable=broken.unreadable)
        else:
            readable[thread] = current
    writes = _writes(read, decoder, {head.place for heads in readable.values() for head in heads})
    for thread, (root, *subgraphs) in readable.items():
        try:
            position = _Thread(read, decoder, subgraphs, writes).position(root, shape)
            position.configurable = _configurable(_document(first.get(thread))) | _configurable(root.metadata)
        except Unreadable as error:
            position = Position(root.key, unreadable=str(error))
        found[thread] = position
    return found


class _Thread:
    """The newest checkpoints of a thread's subgraphs, and the pending writes of all its graphs."""

    def __init__(
        self, read: Read, decoder: Decoder, subgraphs: list[_Head], writes: dict[tuple[str, str, str], _Pending]
    ) -> None:
        self.read, self.decoder, self.subgraphs, self.writes = read, decoder, subgraphs, writes

    def position(self, head: _Head, shape: Shape | None, *, answered: bool = False) -> Position:
        """Return the position of one graph. `answered`: a person has answered the graph that contains it."""
        pending = self.writes.get(head.place, [])
        if isinstance(pending, str):
            raise Unreadable(pending)
        due = _due(head, shape) + self._sends(head)
        by_task: dict[str, list[_Write]] = {}
        for write in pending:
            by_task.setdefault(write.task, []).append(write)
        answered |= any(write.channel == RESUME for write in by_task.pop(NO_TASK, ()))
        started = {task: _Started(writes) for task, writes in by_task.items()}
        step, at = head.metadata.get("step"), parse_timestamp(str(head.content.get("ts")))
        position = Position(head.key, step if isinstance(step, int) else None, at, answered=answered)
        interrupted = [task for task in started.values() if task.interrupted]
        unclear = len(interrupted) > 1 or any(task.answered for task in interrupted)
        if interrupted and (unclear or not answered):
            position.waits_at = tuple(task.node(due) or "?" for task in interrupted)
            return position
        nodes, routers = [], []
        left = dict(started)
        for name, path in due:
            key = next((key for key, task in left.items() if task.path and task.path.startswith(path)), None)
            task = left.pop(key) if key is not None else None
            if task is not None and task.router_failed:
                routers.append(Node(name, task.error))
            else:
                nodes.append(Node(name, task.error if task else "", bool(task and task.has_output)))
        routers += [Node("", task.error) for task in left.values() if task.router_failed]
        position.routers = tuple(routers)
        below = self._below(head, [node.name for node in nodes if not node.finished], shape, answered=answered)
        if waits_at := [name for subgraph in below for name in subgraph.waits_at]:
            position.waits_at = tuple(waits_at)
        elif not pending and (stops := self._stops(head, [name for name, _path in due], shape)):
            position.waits_at = stops
        else:
            position.nodes = tuple(nodes)
            position.routers += tuple(router for subgraph in below for router in subgraph.routers)
        return position

    def _below(self, head: _Head, names: list[str], shape: Shape | None, *, answered: bool) -> list[Position]:
        """Return the positions of these nodes' subgraphs. Their checkpoints are younger than that of the graph."""
        found = []
        depth = head.namespace.count("|") + 1 if head.namespace else 0
        for name in names:
            prefix = f"{head.namespace}|{name}:" if head.namespace else f"{name}:"
            for one in self.subgraphs:
                if f"{one.namespace}:".startswith(prefix) and one.namespace.count("|") == depth and one.key > head.key:
                    below = self.position(one, shape.subgraphs.get(name) if shape else None, answered=answered)
                    below.waits_at = tuple(f"{name}/{node}" for node in below.waits_at)
                    below.routers = tuple(Node(f"{name}/{router.name}", router.error) for router in below.routers)
                    found.append(below)
        return found

    def _stops(self, head: _Head, due: list[str], shape: Shape | None) -> tuple[str, ...]:
        """Return the nodes of static interrupts, before or after which the graph stops."""
        if shape is None or not due or not _has_news(head):
            return ()
        before = tuple(name for name in due if shape.before == "*" or name in shape.before)
        if before or not shape.after or head.parent is None:
            return tuple(name for name in before if name != START)
        parents = _heads(self.read, self.decoder, _BY_KEY, [head.thread, head.namespace, head.parent])
        parent = next((one for one in parents if not one.unreadable), None)
        ran = [name for name, _path in _due(parent, shape) + self._sends(parent)] if parent else []
        return tuple(name for name in ran if (shape.after == "*" or name in shape.after) and name != START)

    def _sends(self, head: _Head) -> list[tuple[str, str]]:
        """Return the tasks that nodes have sent to others, each with the start of the path of its writes."""
        sent = head.values.get(SENDS)
        if int(head.content.get("v") or 1) < 4 and not sent:
            sent = head.content.get("pending_sends") or (
                [
                    self.decoder.load(type_, data)
                    for type_, data in self.read(_SENT, [head.thread, head.namespace, head.parent])
                ]
                if head.parent
                else []
            )
        found = []
        for number, one in enumerate(sent if isinstance(sent, list) else ()):
            if not (isinstance(one, Inert) and one.name == "Send" and one.payload):
                raise Unreadable(_("a node sent an invalid task to another node"))
            name = one.payload[0] if isinstance(one.payload, list) else one.payload.get("node")
            found.append((str(name), f"~__pregel_push, {number:010d}"))
        return found


class _Write(NamedTuple):
    """A pending write of a task to a channel."""

    task: str
    path: str
    channel: str
    text: str  # of an error


_Pending = list[_Write] | str  # the writes, or why they cannot be read


class _Started:
    """The state of a task of LangGraph, by its pending writes."""

    def __init__(self, writes: list[_Write]) -> None:
        channels = {write.channel for write in writes}
        self.path = next((write.path for write in writes if write.path), "")
        self.has_output = bool(channels - CONTROL_CHANNELS)
        self.answered = RESUME in channels
        self.interrupted = INTERRUPT in channels and not self.has_output
        self.error = next((write.text for write in writes if write.channel == ERROR), "")
        # A node with a result and an error: its conditional edge raised the error. LangGraph takes it for finished.
        self.router_failed = self.has_output and ERROR in channels and ERROR_SOURCE not in channels

    def node(self, due: list[tuple[str, str]]) -> str:
        return next((name for name, path in due if self.path.startswith(path)), "") if self.path else ""


def _due(head: _Head, shape: Shape | None) -> list[tuple[str, str]]:
    """Return the nodes that run next: a channel that triggers them was written since they last ran."""
    versions, seen = head.content["channel_versions"], head.content["versions_seen"]
    triggers: dict[str, set[str]] = {name: set(found) for name, found in shape.triggers.items()} if shape else {}
    for channel in versions:
        node = _target(channel)
        if node is not None and (shape is None or node in shape.triggers):
            triggers.setdefault(node, set()).add(channel)
    available = shape.available if shape else _available
    due = []
    for name, channels in triggers.items():
        had = seen.get(name) or {}
        for channel in channels & set(versions) & set(head.values):
            if _newer(versions[channel], had.get(channel)) and available(channel, head.values[channel]):
                due.append((name, f"~__pregel_pull, {name}"))
                break
    if not due and int(head.content.get("v") or 1) < 3 and set(head.values) & set(triggers):
        raise Unreadable(_("it was written by a version of LangGraph with other edges"))
    return due


def _newer(version: Any, seen: Any) -> bool:
    if seen is None:
        return True
    try:
        return bool(version > seen)
    except TypeError:
        raise Unreadable(_("its versions cannot be compared")) from None


def _has_news(head: _Head) -> bool:
    """Return whether anything was written since the graph last passed an interrupt."""
    seen = head.content["versions_seen"].get(INTERRUPT) or {}
    return any(_newer(version, seen.get(channel)) for channel, version in head.content["channel_versions"].items())


_OF_LANGGRAPH = frozenset(("source", "step", "parents", "writes", "run_id", "thread_id", "created_by", "score"))


def _configurable(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of the first call's config. The savers keep plain values in the metadata."""
    return {
        key: value
        for key, value in (metadata or {}).items()
        if isinstance(value, str | int | float | bool)
        and key not in _OF_LANGGRAPH
        and not key.startswith(("__", "langgraph_", "checkpoint_", "ls_"))
    }


# The newest checkpoint of every graph of a thread, or one checkpoint by its key.
_NEWEST = """
    SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, {type}, {checkpoint}, {metadata}
    FROM checkpoints c WHERE c.thread_id {in} AND c.checkpoint_id = (SELECT MAX(n.checkpoint_id)
    FROM checkpoints n WHERE n.thread_id = c.thread_id AND n.checkpoint_ns = c.checkpoint_ns)
"""
_BY_KEY = """
    SELECT c.thread_id, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, {type}, {checkpoint}, {metadata}
    FROM checkpoints c WHERE c.thread_id = %s AND c.checkpoint_ns = %s AND c.checkpoint_id = %s
"""
_FIRST = """
    SELECT c.thread_id, {metadata} FROM checkpoints c WHERE c.thread_id {in} AND c.checkpoint_ns = ''
    AND c.checkpoint_id = (SELECT MIN(n.checkpoint_id) FROM checkpoints n
    WHERE n.thread_id = c.thread_id AND n.checkpoint_ns = '')
"""
_PENDING = """
    SELECT w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, {path}, w.channel, w.type, w.{value}
    FROM {writes} w JOIN checkpoints c USING (thread_id, checkpoint_ns, checkpoint_id)
    WHERE c.thread_id {in} AND c.checkpoint_id = (SELECT MAX(n.checkpoint_id)
    FROM checkpoints n WHERE n.thread_id = c.thread_id AND n.checkpoint_ns = c.checkpoint_ns)
    ORDER BY w.task_id, w.idx
"""
_SENT = """
    SELECT w.type, w.{value} FROM {writes} w WHERE w.thread_id = %s AND w.checkpoint_ns = %s AND w.checkpoint_id = %s
    AND w.channel = '__pregel_tasks' ORDER BY {path}, w.task_id, w.idx
"""
_BLOBS = """
    SELECT b.thread_id, b.checkpoint_ns, b.channel, b.type, b.blob FROM checkpoint_blobs b
    JOIN unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS w (thread_id, checkpoint_ns, channel, version)
    USING (thread_id, checkpoint_ns, channel, version)
"""


def _heads(read: Read, decoder: Decoder, sql: str, params: Sequence[Any]) -> list[_Head]:
    """Read checkpoints with their values. PostgreSQL keeps values other than numbers and texts in blobs."""
    found: list[_Head] = []
    versions: list[tuple[str, str, str, str]] = []  # of the blobs
    for thread, namespace, key, parent, type_, data, metadata in read(sql, params):
        try:
            content = _checkpoint(_document(data) if type_ == IN_BLOBS else decoder.load(type_, data))
            values = dict(content["channel_values"])
            found.append(_Head(thread, namespace, key, parent, content, _document(metadata), values))
        except Unreadable as error:
            found.append(_Head(thread, namespace, key, parent, {}, {}, {}, str(error)))
            continue
        if type_ == IN_BLOBS:
            versions += [(thread, namespace, name, str(one)) for name, one in content["channel_versions"].items()]
    blobs: dict[tuple[str, str], dict[str, Any]] = {}
    errors: dict[tuple[str, str], str] = {}
    for thread, namespace, channel, type_, data in read(_BLOBS, list(zip(*versions, strict=True))) if versions else ():
        try:
            if type_ != "empty":
                blobs.setdefault((thread, namespace), {})[channel] = decoder.load(type_, data)
        except Unreadable as error:
            errors[thread, namespace] = str(error)
    for head in found:
        head.values.update(blobs.get((head.thread, head.namespace), {}))
    return [
        head._replace(unreadable=head.unreadable or errors.get((head.thread, head.namespace), "")) for head in found
    ]


def _checkpoint(found: Any) -> dict[str, Any]:
    """Return the content of a checkpoint after a check of its form."""
    if not isinstance(found, dict):
        raise Unreadable(_("it is not a checkpoint"))
    content = {"channel_values": {}, "channel_versions": {}, "versions_seen": {}, **found}
    if not (
        all(isinstance(content[name], dict) for name in ("channel_values", "channel_versions", "versions_seen"))
        and all(isinstance(seen, dict) for seen in content["versions_seen"].values())
        and isinstance(content.get("v", 1), int)
    ):
        raise Unreadable(_("it is not a checkpoint"))
    return content


def _writes(read: Read, decoder: Decoder, wanted: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], _Pending]:
    """Read the pending writes of these checkpoints. Every value is decoded, and only errors are kept."""
    found: dict[tuple[str, str, str], _Pending] = {}
    rows = read(_PENDING, [sorted({thread for thread, _namespace, _key in wanted})]) if wanted else ()
    for thread, namespace, key, task, path, channel, type_, data in rows:
        place = (thread, namespace, key)
        pending = found.setdefault(place, [])
        if place not in wanted or isinstance(pending, str):
            continue
        try:
            value = decoder.load(type_, data)
            pending.append(_Write(task, path or "", channel, str(value)[:500] if channel == ERROR else ""))
        except Unreadable as error:
            found[place] = str(error)
    return found


def _document(text: Any) -> dict[str, Any]:
    """Return a document that LangGraph stores as JSON in every version."""
    try:
        found = json.loads(bytes(text) if isinstance(text, memoryview) else text) if text else {}
    except (ValueError, RecursionError, TypeError):
        raise Unreadable(_("its metadata is not valid JSON")) from None
    if not isinstance(found, dict):
        raise Unreadable(_("its metadata is not valid JSON"))
    return found
