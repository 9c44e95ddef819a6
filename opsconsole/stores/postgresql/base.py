"""Django's engine for PostgreSQL with the settings of `opsconsole.stores.connection`, and a pool that fails at once."""

from __future__ import annotations

import time
from typing import Any

from django.db.backends.postgresql import base
from psycopg_pool import PoolTimeout

from opsconsole.stores import connection

RETRY_SECONDS = 0.1
SLOW_SECONDS, RETRY_AFTER_SECONDS = 1.0, 5.0
_unanswered: dict[str, tuple[float, str]] = {}  # alias → time of the next attempt, and the last error


def raw_parameters(wrapper: Any) -> dict[str, Any]:
    """Return Django's parameters for a connection, without the settings of the store."""
    found: dict[str, Any] = base.DatabaseWrapper.get_connection_params(wrapper)
    return found


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        return connection.parameters(super().get_connection_params())

    def _configure_timezone(self, connection: Any) -> bool:
        """Do nothing: the settings of the store contain the time zone."""
        return False

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Wait up to `pool_timeout` for a connection of the pool. If the server is unreachable, fail at once.

        The pool alone would let every thread of the web server wait for a server that is down. A server that took
        long to fail is not tried again for some seconds. Raise the errors of connecting.
        """
        pool = self.pool
        if pool is None:
            return super().get_new_connection(conn_params)
        until, reason = _unanswered.get(self.alias, (0.0, ""))
        if time.monotonic() < until:
            raise self.Database.OperationalError(reason)
        patience = self.settings_dict["OPTIONS"]["pool"]["timeout"]
        pool.timeout, deadline = RETRY_SECONDS, time.monotonic() + patience
        while True:
            try:
                return super().get_new_connection(conn_params)
            except PoolTimeout:
                if time.monotonic() > deadline:
                    raise PoolTimeout(f"no connection became free in {patience:g} s") from None
                if not pool.get_stats()["pool_size"]:
                    self._try_server(conn_params or self.get_connection_params())

    def _try_server(self, conn_params: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            self.Database.connect(**conn_params).close()
        except self.Database.OperationalError as error:
            if time.monotonic() - began > SLOW_SECONDS:
                _unanswered[self.alias] = time.monotonic() + RETRY_AFTER_SECONDS, str(error)
            raise
