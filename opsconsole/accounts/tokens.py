"""The accounts behind tokens, remembered for a moment: clients that poll would ask for little else.

This process forgets them with the first change that it makes itself, any other after `REMEMBERED_SECONDS`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import DatabaseError
from django.utils import timezone

from opsconsole.accounts.models import Scope, Token, digest


class Remembered(NamedTuple):
    """A token's active account, and the rights that it was found to have."""

    until: float
    scope: str
    expires_at: datetime | None
    user: Any
    rights: set[str]


def account_of(token: str) -> Any:
    """Return the active account of a token that is good and has all its rights; None for any other text."""
    found = valid_token(token)
    return found.user if found is not None and found.scope == Scope.FULL else None


def valid_token(token: str) -> Remembered | None:
    found = _known(digest(token))
    return None if found is None or (found.expires_at is not None and found.expires_at <= timezone.now()) else found


def _known(digest: str) -> Remembered | None:
    now = time.monotonic()
    found = _remembered.get(digest)
    if found is not None and now < found.until:
        return found
    token = Token.objects.filter(digest=digest, user__is_active=True).select_related("user").first()
    if token is None:
        return None
    _note_use(token)
    if len(_remembered) >= REMEMBERED_TOKENS:
        _remembered.clear()
    found = _remembered[digest] = Remembered(now + REMEMBERED_SECONDS, token.scope, token.expires_at, token.user, set())
    return found


def _note_use(token: Token) -> None:
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > USE_NOTED_EVERY:
        with suppress(DatabaseError):  # a busy database keeps no client from its answer
            Token.objects.filter(pk=token.pk).update(last_used_at=now)


def forget(**kwargs: Any) -> None:
    """A token, an account or a right has changed."""
    _remembered.clear()


REMEMBERED_SECONDS = 2.0
USE_NOTED_EVERY = timedelta(minutes=10)
REMEMBERED_TOKENS = 1_000
_remembered: dict[str, Remembered] = {}
