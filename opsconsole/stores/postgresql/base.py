"""Django's engine for PostgreSQL, with the settings of `opsconsole.stores.connection` and a pool that costs little."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any

from django.db.backends.postgresql import base
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from opsconsole.stores import connection
from opsconsole.stores.postgresql.prompt import LOOK_SECONDS, rows

SLOW_SECONDS, LEFT_ALONE_SECONDS = 1.0, 5.0
_unanswered: dict[str, tuple[float, str]] = {}  # alias → until when its server is left alone, and what it failed with


def check(connection: Connection) -> None:
    """Raises what psycopg raises, where the server has closed the connection: then there is something to be read.

    That may as well be a notice, so only then the server is asked. Each page would ask it for nothing else.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        ConnectionPool.check_connection(connection)


def raw_parameters(wrapper: Any) -> dict[str, Any]:
    """Return Django's own parameters for a connection, before the settings of the store are put in."""
    found: dict[str, Any] = base.DatabaseWrapper.get_connection_params(wrapper)
    return found


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        return connection.parameters(super().get_connection_params())

    def _configure_timezone(self, connection: Any) -> bool:
        """Nothing: every connection has its time zone from the start, and a pooler's must not keep one."""
        return False

    @property
    def pool(self) -> ConnectionPool | None:
        known: ConnectionPool | None = self._connection_pools.get(self.alias)  # type: ignore[attr-defined]
        if known is None:
            known = super().pool
            if known is not None:
                known._check = check  # Django names a check of its own
                known.timeout = LOOK_SECONDS  # so often whoever waits looks whether there is a server
                known.reconnect_timeout = 0  # whoever comes next tries again
        return known

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Waits as long as `pool_timeout` says for what others give back, and not for a server that can't be reached.

        The pool alone would wait, and every thread of the web server with it. Raises what connecting raises. A server
        that took long to fail is not asked again for some seconds.
        """
        pool = self.pool
        if pool is None:
            return super().get_new_connection(conn_params)
        until, reason = _unanswered.get(self.alias, (0.0, ""))
        if time.monotonic() < until:
            raise self.Database.OperationalError(reason)
        patience = self.settings_dict["OPTIONS"]["pool"]["timeout"]
        deadline = time.monotonic() + patience
        while True:
            try:
                return super().get_new_connection(conn_params)
            except PoolTimeout:
                if time.monotonic() > deadline:
                    raise PoolTimeout(f"nobody gave a connection back in {patience:g} s") from None
                if not pool.get_stats()["pool_size"]:  # nor is it trying to get one
                    self._try_server(conn_params or self.get_connection_params())

    def _try_server(self, conn_params: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            self.Database.connect(**conn_params).close()
        except self.Database.OperationalError as error:
            if time.monotonic() - began > SLOW_SECONDS:
                _unanswered[self.alias] = time.monotonic() + LEFT_ALONE_SECONDS, str(error)
            raise

    def prompt_rows(
        self, sql: str, values: Sequence[Any], *, seconds: float, prepare: bool = False
    ) -> list[tuple[Any, ...]]:
        """The rows of a statement that the processes of the web server ask again and again, in `seconds` or not at all.

        The pool gives a connection for it alone: making it Django's for the whole request would cost as much.
        """
        pool = self.pool
        with self.wrap_database_errors:
            if self.settings_dict["OPTIONS"].get("pooler"):  # neither prepared statements nor a session's settings
                with self.cursor() as cursor:
                    cursor.execute(sql, values)
                    return list(cursor.fetchall())
            if pool is None or self.connection is not None:
                self.ensure_connection()
                return rows(self.connection, sql, values, seconds=seconds, prepare=prepare)
            lent = self.get_new_connection({})
            try:
                return rows(lent, sql, values, seconds=seconds, prepare=prepare)
            finally:
                pool.putconn(lent)
