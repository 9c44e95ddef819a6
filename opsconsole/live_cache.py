"""The cache that `CACHE_URL` names: in memory, or a Redis that others write to, too.

Keys are theirs (`execution:…`, without Django's prefix and version), values JSON.
"""

from __future__ import annotations

from typing import Any

MOST_ENTRIES = 10_000  # in memory; a status is some kilobytes
TIMEOUT_SECONDS = 0.5  # a poll has other layers to ask


def plain_key(key: str, prefix: str, version: int) -> str:
    return f"{prefix}{key}"


def live_cache(config: dict[str, Any]) -> dict[str, Any]:
    """Django's settings of the cache, from a parsed URL (`env.cache_url`)."""
    options = dict(config.get("OPTIONS") or {})
    if config["BACKEND"].endswith("RedisCache"):
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        config = {**config, "BACKEND": "opsconsole.live_redis.LiveRedisCache"}
        options = {
            "serializer": "opsconsole.live_redis.JSONSerializer",
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 1),  # at once and once: after its restart the pooled connection is stale
            **options,
        }
    elif config["BACKEND"].endswith("LocMemCache"):
        options.setdefault("MAX_ENTRIES", MOST_ENTRIES)
    return {**config, "KEY_FUNCTION": "opsconsole.live_cache.plain_key", "OPTIONS": options}
