"""Django's engine for PostgreSQL with a pool that asks a connection how it is without a round trip."""

from __future__ import annotations

import select

from django.db.backends.postgresql import base
from psycopg import Connection
from psycopg_pool import ConnectionPool


def check(connection: Connection) -> None:
    """Raises what psycopg raises, where the server has closed the connection: then there is something to be read.

    That may as well be a notice, so only then the server is asked. Each page would ask it for nothing else.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        ConnectionPool.check_connection(connection)


class DatabaseWrapper(base.DatabaseWrapper):
    @property
    def pool(self) -> ConnectionPool | None:
        known: ConnectionPool | None = self._connection_pools.get(self.alias)  # type: ignore[attr-defined]
        if known is None:
            known = super().pool
            if known is not None:
                known._check = check  # Django names a check of its own
        return known
