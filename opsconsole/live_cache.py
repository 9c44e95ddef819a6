"""The cache that `CACHE_URL` names: in memory, or a Redis that others write to, too.

Keys are theirs (`execution:…`, without Django's prefix and version), values JSON.
"""

from __future__ import annotations

from typing import Any

import orjson
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.utils.functional import cached_property

MOST_ENTRIES = 10_000  # in memory; a status is some kilobytes
TIMEOUT_SECONDS = 0.5  # a poll has other layers to ask


class JSONSerializer:
    """What is no JSON comes as its bytes: whoever reads it says what that means."""

    def dumps(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def loads(self, stored: bytes) -> Any:
        try:
            return orjson.loads(stored)
        except ValueError:
            return stored


class KeptClient(RedisCacheClient):
    """Django makes a client for every call, which costs twice what asking it does."""

    @cached_property
    def _clients(self) -> dict[Any, Any]:
        return {}

    def get_client(self, key: Any = None, *, write: bool = False) -> Any:
        pool = self._get_connection_pool(write)  # type: ignore[attr-defined]
        if pool not in self._clients:
            self._clients[pool] = super().get_client(key, write=write)
        return self._clients[pool]


class LiveRedisCache(RedisCache):
    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = KeptClient


def plain_key(key: str, prefix: str, version: int) -> str:
    return f"{prefix}{key}"


def live_cache(config: dict[str, Any]) -> dict[str, Any]:
    """Django's settings of the cache, from a parsed URL (`environ.Env.cache_url`)."""
    options = dict(config.get("OPTIONS") or {})
    if config["BACKEND"].endswith("RedisCache"):
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        config = {**config, "BACKEND": f"{__name__}.LiveRedisCache"}
        options = {
            "serializer": JSONSerializer,
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 1),  # at once and once: after its restart the pooled connection is stale
            **options,
        }
    elif config["BACKEND"].endswith("LocMemCache"):
        options.setdefault("MAX_ENTRIES", MOST_ENTRIES)
    return {**config, "KEY_FUNCTION": "opsconsole.live_cache.plain_key", "OPTIONS": options}
