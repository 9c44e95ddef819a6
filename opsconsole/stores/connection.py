"""Connections to PostgreSQL stores. All of them have the same settings.

Import this module in the functions that connect: psycopg costs 10 MB and a tenth of the start-up time of a command.

The settings replace those of the server, the database and the role: the text form of values, the search path,
row-level security, and time limits. A direct connection gets them as start-up options. A pooler in transaction mode
refuses start-up options and shares one connection between clients: there, each transaction begins with one statement
that sets them locally.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import connections
from psycopg import sql
from psycopg.pq import TransactionStatus

from opsconsole.stores.catalog import identifier
from opsconsole.stores.config import startup_options

if TYPE_CHECKING:
    from opsconsole.stores.store import Store

_DJANGO_ONLY = ("context", "cursor_factory")


def parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters for psycopg from Django's parameters for a store.

    `pooler`, `settings` and `own_schema` are the console's own (see `config.database`).
    """
    found = dict(params)
    settings, pooler = found.pop("settings", {}), found.pop("pooler", "")
    found.pop("own_schema", None)
    if not pooler:
        return {**found, "options": startup_options(settings)}
    found.pop("options", None)
    base = found.get("cursor_factory", psycopg.Cursor)
    mixin = _AsyncLocalSettings if issubclass(base, psycopg.AsyncCursor) else _LocalSettings
    found["cursor_factory"] = type("PoolerCursor", (mixin, base), {"settings_query": _set_local(settings)})
    return {**found, "prepare_threshold": None}


def connection_parameters(store: Store, cursor: type = psycopg.Cursor) -> dict[str, Any]:
    """Return the keyword arguments for `psycopg.connect` to `store`, with its settings and its password."""
    from opsconsole.stores.postgresql.base import raw_parameters

    # The wrapper of the store belongs to its thread, not to an event loop. A new wrapper opens no connection.
    found = raw_parameters(connections.create_connection(store.alias))
    return parameters({**{name: found[name] for name in found if name not in _DJANGO_ONLY}, "cursor_factory": cursor})


def connect(store: Store, **options: Any) -> psycopg.Connection[Any]:
    """Open a separate connection to a PostgreSQL store, in autocommit mode."""
    params = connection_parameters(store)
    kind = _PoolerConnection if store.behind_pooler else psycopg.Connection
    return kind.connect(**params, autocommit=True, **options)


async def connect_async(store: Store, **options: Any) -> psycopg.AsyncConnection[Any]:
    """Open a separate connection for asynchronous code, in autocommit mode."""
    params = connection_parameters(store, psycopg.AsyncCursor)
    kind = _AsyncPoolerConnection if store.behind_pooler else psycopg.AsyncConnection
    return await kind.connect(**params, autocommit=True, **options)


def platform_search_path(store: Store) -> str:
    """Return the search_path for the triggers of the store, an empty text if the connection already has it.

    The functions of triggers may name tables by the search_path of the platform's connections, which the server, the
    database or the role sets. If the URL names a search_path, it is that one.
    """
    if store.connection.settings_dict["OPTIONS"].get("own_schema"):
        return ""
    params = connection_parameters(store) | {"cursor_factory": psycopg.Cursor, "options": ""}
    ask = "SELECT current_schemas(false)::text[]"
    with store.connection.wrap_database_errors, psycopg.connect(**params, autocommit=True) as connection:
        ((schemas,),) = connection.execute(ask).fetchall()
    own = store.query(ask)[0][0]
    if schemas == own:
        return ""
    return ", ".join([*map(identifier, dict.fromkeys([*schemas, *own])), "pg_temp"])


def _set_local(settings: Mapping[str, str]) -> sql.Composed:
    calls = [
        sql.SQL("set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
        for name, value in settings.items()
    ]
    return sql.SQL("SELECT ") + sql.SQL(", ").join(calls)


class _LocalSettings:
    """A cursor that sets the settings at the begin of a transaction. In autocommit mode, each statement is one."""

    settings_query: sql.Composed
    connection: psycopg.Connection[Any]

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        return self._begun(lambda: super(_LocalSettings, self).execute(query, params, **options))  # type: ignore[misc]

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> Any:
        return self._begun(lambda: super(_LocalSettings, self).executemany(query, params_seq, **options))  # type: ignore[misc]

    def _begun(self, call: Any) -> Any:
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            return call()
        if not self.connection.autocommit:
            super().execute(self.settings_query)  # type: ignore[misc]
            return call()
        with psycopg.Connection.transaction(self.connection):
            super().execute(self.settings_query)  # type: ignore[misc]
            return call()


class _AsyncLocalSettings:
    """A cursor like `_LocalSettings` for asynchronous code."""

    settings_query: sql.Composed
    connection: psycopg.AsyncConnection[Any]

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        return await self._begun(lambda: super(_AsyncLocalSettings, self).execute(query, params, **options))  # type: ignore[misc]

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> Any:
        return await self._begun(lambda: super(_AsyncLocalSettings, self).executemany(query, params_seq, **options))  # type: ignore[misc]

    async def _begun(self, call: Any) -> Any:
        if self.connection.info.transaction_status != TransactionStatus.IDLE:
            return await call()
        if not self.connection.autocommit:
            await super().execute(self.settings_query)  # type: ignore[misc]
            return await call()
        async with psycopg.AsyncConnection.transaction(self.connection):
            await super().execute(self.settings_query)  # type: ignore[misc]
            return await call()


class _PoolerConnection(psycopg.Connection[Any]):
    """A connection that also sets the settings at the begin of explicit transactions."""

    @contextmanager
    def transaction(self, *args: Any, **options: Any) -> Iterator[psycopg.Transaction]:
        outermost = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(*args, **options) as transaction:
            if outermost:
                self.execute(self.cursor_factory.settings_query)  # type: ignore[attr-defined]
            yield transaction


class _AsyncPoolerConnection(psycopg.AsyncConnection[Any]):
    """A connection like `_PoolerConnection` for asynchronous code."""

    @asynccontextmanager
    async def transaction(self, *args: Any, **options: Any) -> AsyncIterator[psycopg.AsyncTransaction]:
        outermost = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(*args, **options) as transaction:
            if outermost:
                await self.execute(self.cursor_factory.settings_query)  # type: ignore[attr-defined]
            yield transaction
