"""LangGraph's savers, changed so that they create no tables and build only allowed types."""

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
    """A serializer that builds LangGraph's safe types and those of the graph's state, and raises for all others.

    With the library's own allow-list, the payload of a forbidden object would silently take its place.
    """

    def __init__(self, types: frozenset[tuple[str, str]]) -> None:
        super().__init__(allowed_msgpack_modules=tuple(types))
        self.types = types

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        try:
            return Decoder(self.types, build).load(*data)
        except Unreadable as error:
            raise Unreadable(_("The checkpoint cannot be read: %(reason)s.") % {"reason": error}) from None


def build(code: int, inert: Inert) -> Any:
    """Build the object of an allowed type from its payload. Raise an error if that is not possible."""
    if code == SNAPSHOT:
        empty = JsonPlusSerializer().loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(SNAPSHOT, b"\xc0"))))
        return type(empty)(inert.payload)
    if code == ARRAY:
        return _array(*inert.payload)
    if code == -1:
        from langchain_core.load.load import load

        return load(inert.payload, allowed_objects="core")
    cls = getattr(importlib.import_module(inert.module), inert.name)
    payload = inert.payload
    if code == -2:
        return cls(*(payload.get("args") or ()), **(payload.get("kwargs") or {}))
    if cls is Send and code == 1:
        return Send(*payload[:2], **({"timeout": payload[2]} if len(payload) > 2 else {}))
    if code == 0:
        return cls(payload)
    if code == 1:
        return cls(*payload)
    if code == 3:
        return cls.fromisoformat(payload)
    if code == 2:
        return cls(**payload)
    try:
        return cls(**payload)
    except Exception:  # noqa: BLE001  # the object already broke its model's rules when it was stored
        return cls.model_construct(**payload) if hasattr(cls, "model_construct") else cls.construct(**payload)


def _array(kind: str, shape: Any, order: Any, data: bytes) -> Any:
    import numpy  # type: ignore[import-not-found]

    return numpy.frombuffer(data, dtype=numpy.dtype(kind)).reshape(shape, order=order)


# --- savers: `setup` creates and migrates tables, which only the platform may do --------------------------------


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
    """Return a saver that is only good for compiling a graph."""
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
