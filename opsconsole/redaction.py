"""Removal of the settings' secrets from pages, logs, errors, events and messages."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from django.conf import settings

HIDDEN = "***"
SHORTEST = 6  # a shorter value occurs in ordinary words
# `scheme://user:password@`, and `password=…` as in a connection string or a query.
_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/?#:@'\"<>]*:)[^\s/'\"<>]*(?=@)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<before>\b(?:ssl)?(?:password|passwd|passphrase|secret|token|api_?key|access_?key)=)"
    r"(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s&;,'\"<>)]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return a sentence or a report without the settings' secrets and without passwords in any address."""
    text = hide_secrets(text)
    for pattern in (_IN_URL, _NAMED):
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def hide_secrets(text: str) -> str:
    """Return a text of a store without the settings' secrets. Nothing else in it changes."""
    for form, pattern in _patterns(_values()):
        if form in text:
            text = pattern.sub(HIDDEN, text)
    return text


def redact_all(value: Any) -> Any:
    """Return a JSON value with all its texts redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(part) for part in value]
    return value


def redact_line(logger: Any, name: str, line: str) -> str:
    """Redact a line of the log, as the last processor of structlog."""
    return redact(line)


def shown_url(url: str) -> str:
    """Return an address for display, without path and query, which may contain secrets."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    rest = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{rest}"


def _values() -> tuple[str, ...]:
    """Return the current values of the settings that contain secrets."""
    from django.db import connections

    found = [settings.SECRET_KEY, getattr(settings, "EMAIL_HOST_PASSWORD", "")]
    for name in settings.SECRET_VARIABLES:
        value = getattr(settings, name, "") or os.environ.get(name, "")
        found += value if isinstance(value, list) else [value]
    for config in connections.settings.values():
        # A password that equals the name of the user or the database is not secret, and occurs in many sentences.
        if config.get("PASSWORD") not in {config.get("USER"), config.get("NAME"), config.get("HOST")}:
            found.append(config.get("PASSWORD"))
    return tuple(str(value) for value in found if value)


def _in_value(value: str) -> Iterator[str]:
    """Yield the secrets in a variable's value: all of it, or the secret parts of an address."""
    if "://" not in value:
        yield value
        return
    try:
        parts = urlsplit(value)
        user, password = parts.username, unquote(parts.password or "")
    except ValueError:
        yield value
        return
    if password not in {user, parts.hostname, parts.path.strip("/")}:
        yield password
    yield from (text for name, text in parse_qsl(parts.query) if _NAMED.match(f"{name}=x"))
    if value in settings.ALERT_CHANNELS:
        yield value
        host = f"{parts.hostname}" if "." in f"{parts.hostname}" else ""  # without a dot, it is a token of the service
        yield from (part for part in re.split(r"[/?&=@:;,#]", value) if _is_token(part) and part.lower() != host)
    if parts.scheme in {"http", "https"}:
        yield from (text for _name, text in parse_qsl(parts.query))
        yield from filter(_is_token, parts.path.split("/"))


def _is_token(text: str) -> bool:
    return len(text) >= 16 or (len(text) >= 8 and any(character.isdigit() for character in text))


@lru_cache(maxsize=16)
def _patterns(values: tuple[str, ...]) -> list[tuple[str, re.Pattern[str]]]:
    """Return the forms of the secrets in text, URLs, HTML, Python and JSON, longest first."""
    forms = {
        form
        for secret in chain.from_iterable(map(_in_value, values))
        if len(secret) >= SHORTEST
        for form in (
            secret,
            quote(secret, safe=""),
            quote(secret),
            html.escape(secret),
            repr(secret)[1:-1],
            json.dumps(secret)[1:-1],
        )
    }
    ordered = sorted(forms, key=len, reverse=True)
    return [(form, re.compile(rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])")) for form in ordered]
