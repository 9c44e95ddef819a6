"""LangGraph's savers as the console uses them: they make no tables, and build only types that are allowed."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import ormsgpack
from django.utils.translation import gettext as _
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Send

from opsconsole.jsontext import Unreadable
from opsconsole.stores.store import Store
from roadmaps import checkpoint_tables
from roadmaps.serialized import ARRAY, SNAPSHOT, Decoder, Inert


class Restricted(JsonPlusSerializer):
    """Reads LangGraph's safe types and those of the graph's state, and raises for all others.

    The library's own allow-list would hand out what such an object was made from, and say nothing.
    """

    def __init__(self, types: frozenset[tuple[str, str]]) -> None:
        super().__init__(allowed_msgpack_modules=tuple(types))
        self.types = types

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        try:
            return Decoder(self.types, build).load(*data)
        except Unreadable as error:
            raise Unreadable(_("The checkpoint can't be read: %(reason)s.") % {"reason": error}) from None


def build(code: int, inert: Inert) -> Any:
    """The object that an allowed type and its payload stand for. Raises where it can't be made as it was."""
    if code == SNAPSHOT:
        empty = JsonPlusSerializer().loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(SNAPSHOT, b"\xc0"))))
        return type(empty)(inert.payload)
    if code == ARRAY:
        return _array(*inert.payload)
    if code == -1:
        from langchain_core.load.load import load

        return load(inert.payload, allowed_objects="core")
    made = getattr(importlib.import_module(inert.module), inert.name)
    payload = inert.payload
    if code == -2:
        return made(*(payload.get("args") or ()), **(payload.get("kwargs") or {}))
    if made is Send and code == 1:
        return Send(*payload[:2], **({"timeout": payload[2]} if len(payload) > 2 else {}))
    if code == 0:
        return made(payload)
    if code == 1:
        return made(*payload)
    if code == 3:
        return made.fromisoformat(payload)
    if code == 2:
        return made(**payload)
    try:
        return made(**payload)
    except Exception:  # noqa: BLE001  # a model that no longer was what its own rules say when it was written
        return made.model_construct(**payload) if hasattr(made, "model_construct") else made.construct(**payload)


def _array(kind: str, shape: Any, order: Any, data: bytes) -> Any:
    import numpy  # type: ignore[import-not-found]

    return numpy.frombuffer(data, dtype=numpy.dtype(kind)).reshape(shape, order=order)


# --- the savers: `setup` belongs to the platform ----------------------------------------------------------------


class _Sqlite(SqliteSaver):
    def setup(self) -> None:
        pass


class _AsyncSqlite(AsyncSqliteSaver):
    async def setup(self) -> None:
        pass


class _Postgres(PostgresSaver):
    def setup(self) -> None:
        pass


class _AsyncPostgres(AsyncPostgresSaver):
    async def setup(self) -> None:
        pass


def unconnected(vendor: str, *, is_async: bool = False) -> Any:
    """A saver to make a graph with, not to run it."""
    classes: dict[tuple[str, bool], Any] = {
        ("sqlite", False): _Sqlite,
        ("sqlite", True): _AsyncSqlite,
        ("postgresql", False): _Postgres,
        ("postgresql", True): _AsyncPostgres,
    }
    return classes[vendor, is_async](None, serde=Restricted(frozenset()))


@contextmanager
def saver(where: Store) -> Iterator[Any]:
    with checkpoint_tables.connection(where) as connection:
        yield _Postgres(connection) if where.path is None else _Sqlite(connection)


@asynccontextmanager
async def async_saver(where: Store) -> AsyncIterator[Any]:
    async with checkpoint_tables.async_connection(where) as connection:
        yield _AsyncPostgres(connection) if where.path is None else _AsyncSqlite(connection)
