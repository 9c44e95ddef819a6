"""A Redis as the live layer: others write to it, and it is asked with every poll, so asking it has to cost little."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import orjson
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.utils.functional import cached_property
from redis import Connection, ConnectionPool, Redis, UnixDomainSocketConnection


class JSONSerializer:
    """What is no JSON comes as its bytes: whoever reads it says what that means."""

    def dumps(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def loads(self, stored: bytes) -> Any:
        try:
            return orjson.loads(stored)
        except ValueError:
            return stored


class _Prompt:
    """Leaves the timeout to the kernel. Python would poll before each read and write, and let other threads in."""

    def __init__(self, *, socket_timeout: float | None = None, **kwargs: Any) -> None:
        super().__init__(socket_timeout=None, **kwargs)  # type: ignore[call-arg]
        self._kernel_timeout = socket_timeout

    def _connect(self) -> socket.socket:
        connected: socket.socket = super()._connect()  # type: ignore[misc]
        if self._kernel_timeout is not None:
            seconds, rest = divmod(self._kernel_timeout, 1)
            timeval = struct.pack("@ll", int(seconds), int(rest * 1_000_000))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        return connected


class PromptConnection(_Prompt, Connection):
    """`redis://host`"""


class PromptUnixConnection(_Prompt, UnixDomainSocketConnection):
    """`redis:///path/to/socket`"""


_PROMPT = {Connection: PromptConnection, UnixDomainSocketConnection: PromptUnixConnection}


class PromptPool(ConnectionPool):
    """The address says which connection. TLS (`rediss://`) reads ahead of what is asked for: it keeps its own."""

    def __init__(self, connection_class: Any = Connection, **kwargs: Any) -> None:
        super().__init__(_PROMPT.get(connection_class, connection_class), **kwargs)


class PromptRedis(Redis):
    """Sends and reads, and tries again as its connection says. What it else would measure costs as much as asking."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        connection: Any = self.connection

        def ask() -> Any:
            connection.send_command(*args, **options)
            return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]

        return connection.retry.call_with_retry(ask, lambda error: connection.disconnect())


class KeptClient(RedisCacheClient):
    """Django makes a client for every call, which costs twice what asking it does.

    A cache belongs to one thread, so its client keeps one connection and looks for none in the pool. A process that
    was forked from this one needs its own.
    """

    def __init__(self, servers: Any, **options: Any) -> None:
        super().__init__(servers, pool_class=PromptPool, **options)

    @cached_property
    def _clients(self) -> dict[Any, Any]:
        return {}

    def get_client(self, key: Any = None, *, write: bool = False) -> Any:
        pool = self._get_connection_pool(write)  # type: ignore[attr-defined]
        mine = pool, os.getpid()
        if mine not in self._clients:
            self._clients[mine] = PromptRedis(connection_pool=pool, single_connection_client=True)
        return self._clients[mine]


class LiveRedisCache(RedisCache):
    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = KeptClient

    def validate_key(self, key: str) -> None:
        """Every key will do: Django would look at each of its characters, for the sake of memcached."""
