"""The seals of the audit log: an HMAC over an entry and the seal before it. The key is not in the database.

AUDIT_LOG_KEY seals new entries. Seals of the former keys in AUDIT_LOG_KEY_FALLBACKS remain valid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

from django.conf import settings
from django.db import connections, transaction
from django.utils.crypto import constant_time_compare, salted_hmac

SALT = "opsconsole.audit_log"


@contextmanager
def serialised(name: str) -> Iterator[None]:
    """Open a transaction that excludes others of this name. On SQLite, IMMEDIATE transactions exclude each other."""
    with transaction.atomic():
        connection = connections["default"]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number_of(f"opsconsole:{name}")])
        yield


def number_of(text: str) -> int:
    """Return the 64-bit number of a text, for an advisory lock of PostgreSQL."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def seal_of(before: str, event: Any) -> str:
    """Return the seal of an entry that follows the one with the seal `before`."""
    return seal(_content(before, event))


def fits(before: str, event: Any) -> bool:
    """Return whether an entry that follows the seal `before` has a valid seal."""
    return event.at is not None and is_sealed(_content(before, event), event.seal)


def seal(content: Any) -> str:
    """Return the seal of a JSON value."""
    return _hmac(content, settings.AUDIT_LOG_KEY)


def is_sealed(content: Any, seal: str) -> bool:
    """Return whether the current or a former key made this seal of a JSON value."""
    keys = (settings.AUDIT_LOG_KEY, *settings.AUDIT_LOG_KEY_FALLBACKS)
    return any(constant_time_compare(seal, _hmac(content, key)) for key in keys)


def _hmac(content: Any, key: str) -> str:
    return salted_hmac(SALT, json.dumps(content, sort_keys=True), secret=key, algorithm="sha256").hexdigest()


def _content(before: str, event: Any) -> list[Any]:
    return [
        before,
        event.number,
        event.run_id,
        event.incident_id,
        event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        event.verb,
        event.who,
        event.origin,
        _plain(event.detail),
    ]


def _plain(value: Any) -> Any:
    """Return a value in the form that every database returns. PostgreSQL turns 1e16 into an integer."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
