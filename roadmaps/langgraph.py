"""LangGraph's checkpoints: where a workflow stands, read as data.

A checkpoint can name any callable of any module, and LangGraph's own serializer imports and calls it. So the rows are
read by SQL and decoded here: nothing in a row is imported, called or built. `unreadable` is what can't be decoded so.
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
from roadmaps.checkpoint_tables import APART, NoCheckpoints, Read, only_path, outdated, place, reader
from roadmaps.serialized import Decoder, Inert, plain

# Names of channels in pending writes that say what happened to a node, beside what it wrote.
ERROR, ERROR_SOURCE, INTERRUPT, RESUME = "__error__", "__error_source_node__", "__interrupt__", "__resume__"
NOT_OUTPUT = frozenset((ERROR, ERROR_SOURCE, INTERRUPT, RESUME))
SENDS = "__pregel_tasks"
NO_TASK = "00000000-0000-0000-0000-000000000000"
START = "__start__"

THREADS_AT_ONCE = 50


# --- where a workflow stands ----------------------------------------------------------------------------------


class Node(NamedTuple):
    """A node whose turn it is. `error`: what it raised the last time; `finished`: only its result is to be taken up."""

    name: str
    error: str = ""
    finished: bool = False


@dataclass(slots=True)
class Position:
    """Where a workflow stands, by its newest checkpoint."""

    checkpoint_id: str
    step: int | None = None
    at: datetime | None = None
    nodes: tuple[Node, ...] = ()  # what runs next
    asks: tuple[str, ...] = ()  # nodes that wait for a person
    routers: tuple[Node, ...] = ()  # finished nodes whose conditional edge raised
    answered: bool = False  # a person has answered, and nothing has run since
    configurable: dict[str, Any] = field(default_factory=dict)  # values of the first call
    unreadable: str = ""

    @property
    def over(self) -> bool:
        return not (self.nodes or self.asks or self.routers or self.unreadable)


def config_of(task_id: str, configurable: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What LangGraph calls a config: the thread is the task."""
    return {"configurable": {**(configurable or {}), "thread_id": task_id, "checkpoint_ns": ""}}


def threads(store: Store, task_ids: Iterable[str]) -> dict[str, datetime | None]:
    """Those of the tasks that have a checkpoint, and when the newest was written: one statement."""
    wanted = list(task_ids)
    if not wanted:
        return {}
    try:
        with reader(store) as (read, lacks):
            newest = "NULL" if "checkpoints.checkpoint_id" in lacks else "MAX(checkpoint_id)"
            sql = f"SELECT thread_id, {newest} FROM checkpoints WHERE thread_id {{in}} GROUP BY thread_id"  # noqa: S608
            return {thread: _written_at(key) for thread, key in read(sql, [wanted])}
    except NoCheckpoints:
        return {}


def positions(store: Store, task_ids: Iterable[str], shape: Shape | None = None) -> dict[str, Position]:
    """Task → where its workflow stands; tasks without a checkpoint are left out. `shape`: of the platform's graph."""
    wanted = list(task_ids)
    found: dict[str, Position] = {}
    if not wanted:
        return found
    try:
        with reader(store) as (read, lacks):
            if lacks and not only_path(lacks):
                there = read("SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id {in}", [wanted])
                return {thread: Position("", unreadable=outdated(place(store), lacks)) for (thread,) in there}
            for start in range(0, len(wanted), THREADS_AT_ONCE):
                found |= _positions(read, wanted[start : start + THREADS_AT_ONCE], shape)
    except NoCheckpoints:
        return {}
    return found


def position(store: Store, task_id: str, shape: Shape | None = None) -> Position | None:
    return positions(store, [task_id], shape).get(task_id)


def _written_at(checkpoint_id: Any) -> datetime | None:
    """The ids of checkpoints are UUIDs of version 6: they begin with the time, in 100 ns since 1582."""
    try:
        found = UUID(checkpoint_id)
        if found.version != 6:
            return None
        ticks = (found.int >> 80) << 12 | (found.int >> 64) & 0xFFF
        return datetime(1582, 10, 15, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None


# --- what is known of the platform's graph --------------------------------------------------------------------


class Shape:
    """A compiled graph as far as a plan needs it: what triggers its nodes, where people are asked, and its types."""

    def __init__(self, graph: Any, types: frozenset[tuple[str, str]]) -> None:
        self.types = types
        self.channels: Mapping[str, Any] = graph.channels
        self.triggers = {name: tuple(node.triggers) for name, node in graph.nodes.items()}
        self.before, self.after = graph.interrupt_before_nodes, graph.interrupt_after_nodes
        self.below = {name: Shape(sub, types) for name, sub in graph.get_subgraphs() if hasattr(sub, "channels")}

    def available(self, channel: str, value: Any) -> bool:
        """Whether a channel that holds this value triggers anything: one that waits for several nodes may not yet."""
        spec = self.channels.get(channel)
        try:
            return bool(spec is None or spec.from_checkpoint(plain(value)).is_available())
        except Exception:  # noqa: BLE001  # a channel of the platform's own
            return True


def _available(channel: str, value: Any) -> bool:
    """The same without a graph, by the names that a StateGraph gives its channels."""
    if channel.startswith("join:"):
        waited_for = set(channel.split(":")[1].split("+"))
        return isinstance(found := plain(value), set) and found == waited_for
    return True


def _target(channel: str) -> str | None:
    """The node that a channel of this name leads to, in any version of LangGraph."""
    first, *rest = channel.split(":")
    if channel == START:
        return START
    if (first == "start" and rest) or (first == "branch" and len(rest) in {2, 3}) or (first == "join" and rest):
        return rest[-1]
    return None


# --- reading the rows ------------------------------------------------------------------------------------------


class _Head(NamedTuple):
    """A checkpoint as its row and its blobs give it."""

    thread: str
    namespace: str
    key: str
    parent: str | None
    content: dict[str, Any]
    metadata: dict[str, Any]
    values: dict[str, Any]  # by channel; those that are there


class _Broken(NamedTuple):
    """A checkpoint that can't be read."""

    thread: str
    namespace: str
    key: str
    reason: str


def _positions(read: Read, wanted: list[str], shape: Shape | None) -> dict[str, Position]:
    decoder = Decoder(shape.types if shape else None)
    by_thread: dict[str, list[_Head | _Broken]] = {}
    for one in _heads(read, decoder, _NEWEST, [wanted]):
        by_thread.setdefault(one.thread, []).append(one)
    first = dict(read(_FIRST, [wanted]))
    found: dict[str, Position] = {}
    heads: dict[str, list[_Head]] = {}
    for thread, ones in by_thread.items():
        root = next((one for one in ones if one.namespace == ""), None)
        if root is None:
            found[thread] = Position(ones[0].key, unreadable=_("only a part of the workflow left a checkpoint"))
            continue
        ones = [one for one in ones if one is root or one.key > root.key]  # what is older belongs to earlier steps
        broken = next((one for one in ones if isinstance(one, _Broken)), None)
        if broken is not None:
            found[thread] = Position(broken.key, unreadable=broken.reason)
        else:
            heads[thread] = [root, *(one for one in ones if one is not root)]  # type: ignore[list-item]
    writes = _writes(read, decoder, {(one.thread, one.namespace, one.key) for ones in heads.values() for one in ones})
    for thread, (root, *below) in heads.items():
        try:
            where = _Reading(read, decoder, below, writes).position(root, shape)
            where.configurable = _configurable(_document(first.get(thread))) | _configurable(root.metadata)
        except Unreadable as error:
            where = Position(root.key, unreadable=str(error))
        found[thread] = where
    return found


class _Reading:
    """One thread: the newest checkpoint of each of its graphs, and what is pending on it."""

    def __init__(
        self, read: Read, decoder: Decoder, below: list[_Head], writes: dict[tuple[str, str, str], list[_Write] | str]
    ) -> None:
        self.read, self.decoder, self.below, self.writes = read, decoder, below, writes

    def position(self, head: _Head, shape: Shape | None, *, answered: bool = False) -> Position:
        """`answered`: a person has answered the graph that this one is a part of."""
        pending = self.writes.get((head.thread, head.namespace, head.key), [])
        if isinstance(pending, str):
            raise Unreadable(pending)
        due = _due(head, shape) + self._sends(head)
        by_task: dict[str, list[_Write]] = {}
        for write in pending:
            by_task.setdefault(write.task, []).append(write)
        answered |= any(write.channel == RESUME for write in by_task.pop(NO_TASK, ()))
        begun = {task: _Begun(found) for task, found in by_task.items()}
        step, at = head.metadata.get("step"), parse_timestamp(str(head.content.get("ts")))
        where = Position(head.key, step if isinstance(step, int) else None, at, answered=answered)
        asked = [task for task in begun.values() if task.asks]
        unclear = len(asked) > 1 or any(task.answered for task in asked)
        if asked and (unclear or not answered):
            where.asks = tuple(_named(task.node(due)) for task in asked)
            return where
        nodes, routers = [], []
        left = dict(begun)
        for name, path in due:
            key = next((key for key, task in left.items() if task.path and task.path.startswith(path)), None)
            task = left.pop(key) if key is not None else None
            if task is not None and task.router:
                routers.append(Node(name, task.error))
            else:
                nodes.append(Node(name, task.error if task else "", bool(task and task.output)))
        routers += [Node("", task.error) for task in left.values() if task.router]
        where.routers = tuple(routers)
        below = self._below(head, [node.name for node in nodes if not node.finished], shape, answered=answered)
        asks = [name for name, one in below for name in one.asks]
        if asks:
            where.asks = tuple(asks)
        elif not pending and (stops := self._stops(head, [name for name, _path in due], shape)):
            where.asks = stops
        else:
            where.nodes = tuple(nodes)
            where.routers += tuple(router for _name, one in below for router in one.routers)
        return where

    def _below(
        self, head: _Head, names: list[str], shape: Shape | None, *, answered: bool
    ) -> list[tuple[str, Position]]:
        """Where the subgraphs of these nodes stand: their checkpoints are younger than the graph's own."""
        found = []
        for name in names:
            prefix = f"{head.namespace}|{name}:" if head.namespace else f"{name}:"
            for one in self.below:
                depth = head.namespace.count("|") + 1 if head.namespace else 0
                if f"{one.namespace}:".startswith(prefix) and one.namespace.count("|") == depth and one.key > head.key:
                    sub = self.position(one, shape.below.get(name) if shape else None, answered=answered)
                    sub.asks = tuple(f"{name}/{ask}" for ask in sub.asks)
                    sub.routers = tuple(Node(f"{name}/{router.name}", router.error) for router in sub.routers)
                    found.append((name, sub))
        return found

    def _stops(self, head: _Head, due: list[str], shape: Shape | None) -> tuple[str, ...]:
        """The nodes for which the graph stops on purpose, before or after them. Who let them pass left no trace."""
        if shape is None or not due or not _news(head):
            return ()
        before = tuple(name for name in due if shape.before == "*" or name in shape.before)
        if before or not shape.after or head.parent is None:
            return tuple(name for name in before if name != START)
        parents = _heads(self.read, self.decoder, _BY_KEY, [head.thread, head.namespace, head.parent])
        parent = next((one for one in parents if isinstance(one, _Head)), None)
        ran = [name for name, _path in _due(parent, shape) + self._sends(parent)] if parent else []
        return tuple(name for name in ran if (shape.after == "*" or name in shape.after) and name != START)

    def _sends(self, head: _Head) -> list[tuple[str, str]]:
        """Tasks that nodes have sent to others, with what their writes' path begins with."""
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
                raise Unreadable(_("what a node sends to others is not what it should be"))
            name = one.payload[0] if isinstance(one.payload, list) else one.payload.get("node")
            found.append((str(name), f"~__pregel_push, {number:010d}"))
        return found


class _Write(NamedTuple):
    """A pending write: of which task, to which channel."""

    task: str
    path: str
    channel: str
    text: str  # of an error


class _Begun:
    """What a task of LangGraph has written so far."""

    def __init__(self, writes: list[_Write]) -> None:
        channels = {write.channel for write in writes}
        self.path = next((write.path for write in writes if write.path), "")
        self.output = bool(channels - NOT_OUTPUT)
        self.answered = RESUME in channels
        self.asks = INTERRUPT in channels and not self.output
        self.error = next((write.text for write in writes if write.channel == ERROR), "")
        # A node that has written its result and raised nevertheless: LangGraph would take it for finished.
        self.router = self.output and ERROR in channels and ERROR_SOURCE not in channels

    def node(self, due: list[tuple[str, str]]) -> str:
        return next((name for name, path in due if self.path.startswith(path)), "") if self.path else ""


def _named(name: str) -> str:
    return name or "?"


def _due(head: _Head, shape: Shape | None) -> list[tuple[str, str]]:
    """The nodes whose turn it is: a channel that triggers them was written since they last ran."""
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
        raise Unreadable(_("an older LangGraph wrote it, whose edges today's does not know"))
    return due


def _newer(version: Any, seen: Any) -> bool:
    if seen is None:
        return True
    try:
        return bool(version > seen)
    except TypeError:
        raise Unreadable(_("its versions can't be compared")) from None


def _news(head: _Head) -> bool:
    """Whether anything was written since the graph was last let past a stop."""
    seen = head.content["versions_seen"].get(INTERRUPT) or {}
    return any(_newer(version, seen.get(channel)) for channel, version in head.content["channel_versions"].items())


_OF_LANGGRAPH = frozenset(("source", "step", "parents", "writes", "run_id", "thread_id", "created_by", "score"))


def _configurable(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The values that the first call was configured with: the savers keep plain ones in the metadata."""
    return {
        key: value
        for key, value in (metadata or {}).items()
        if isinstance(value, str | int | float | bool)
        and key not in _OF_LANGGRAPH
        and not key.startswith(("__", "langgraph_", "checkpoint_", "ls_"))
    }


# Heads: the newest checkpoint of every graph of a thread, or one by its key.
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


def _heads(read: Read, decoder: Decoder, sql: str, params: Sequence[Any]) -> list[_Head | _Broken]:
    """Checkpoints with their values; PostgreSQL keeps apart what is more than a number or a text."""
    found: list[_Head | _Broken] = []
    apart: dict[tuple[str, str], dict[str, Any]] = {}
    for thread, namespace, key, parent, type_, data, metadata in read(sql, params):
        try:
            content = _document(data) if type_ == APART else decoder.load(type_, data)
            if not isinstance(content, dict):
                raise Unreadable(_("it is no checkpoint"))
            content = {"channel_values": {}, "channel_versions": {}, "versions_seen": {}, **content}
            if not (
                all(isinstance(content[name], dict) for name in ("channel_values", "channel_versions", "versions_seen"))
                and all(isinstance(seen, dict) for seen in content["versions_seen"].values())
                and isinstance(content.get("v", 1), int)
            ):
                raise Unreadable(_("it is no checkpoint"))
            values = dict(content["channel_values"])
            if type_ == APART:
                apart[thread, namespace] = content["channel_versions"]
            found.append(_Head(thread, namespace, key, parent, content, _document(metadata), values))
        except Unreadable as error:
            found.append(_Broken(thread, namespace, key, str(error)))
    wanted = [
        (*place, channel, str(version)) for place, versions in apart.items() for channel, version in versions.items()
    ]
    blobs: dict[tuple[str, str], dict[str, Any] | str] = {}
    for thread, namespace, channel, type_, data in read(_BLOBS, list(zip(*wanted, strict=True))) if wanted else ():
        values_ = blobs.setdefault((thread, namespace), {})
        try:
            if isinstance(values_, dict) and type_ != "empty":
                values_[channel] = decoder.load(type_, data)
        except Unreadable as error:
            blobs[thread, namespace] = str(error)
    return [_with_blobs(one, blobs.get((one.thread, one.namespace), {})) for one in found]


def _with_blobs(one: _Head | _Broken, blobs: dict[str, Any] | str) -> _Head | _Broken:
    if isinstance(one, _Broken):
        return one
    if isinstance(blobs, str):
        return _Broken(one.thread, one.namespace, one.key, blobs)
    one.values.update(blobs)
    return one


def _writes(
    read: Read, decoder: Decoder, wanted: set[tuple[str, str, str]]
) -> dict[tuple[str, str, str], list[_Write] | str]:
    """What is pending on these checkpoints, or why it can't be read. Every value is looked at; only errors are kept."""
    found: dict[tuple[str, str, str], list[_Write] | str] = {}
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
    """A checkpoint's metadata: JSON in every version."""
    try:
        found = json.loads(bytes(text) if isinstance(text, memoryview) else text) if text else {}
    except (ValueError, RecursionError, TypeError):
        raise Unreadable(_("its metadata is broken")) from None
    if not isinstance(found, dict):
        raise Unreadable(_("its metadata is broken"))
    return found
