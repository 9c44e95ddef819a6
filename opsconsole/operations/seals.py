"""The seal of an entry of the audit log: an HMAC over the entry and the seal before it; its key is in no database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from django.db import connections, transaction
from django.utils.crypto import salted_hmac

SALT = "opsconsole.audit_log"  # the key is derived from SECRET_KEY


@contextmanager
def serialised(name: str) -> Iterator[None]:
    """One at a time over all processes. SQLite's IMMEDIATE transactions are so already."""
    with transaction.atomic():
        connection = connections["default"]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number_of(f"opsconsole:{name}")])
        yield


def number_of(text: str) -> int:
    """A text as PostgreSQL's 64-bit number of an advisory lock."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def seal_of(before: str, event: Any) -> str:
    """Return the seal of an entry that follows the one with the seal `before`."""
    content = [
        before,
        event.number,
        event.run_id,
        event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        event.verb,
        event.who,
        event.origin,
        _plain(event.detail),
    ]
    return salted_hmac(SALT, json.dumps(content, sort_keys=True), algorithm="sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Return a value as every database gives it back: PostgreSQL makes 1e16 a whole number."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
