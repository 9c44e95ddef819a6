"""Lookup of valid tokens."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from opsconsole.accounts.models import Scope, Token, digest

USE_NOTED_EVERY = timedelta(minutes=10)


def valid_token(secret: str) -> Token | None:
    """Return the valid token of an active account and record its use."""
    now = timezone.now()
    tokens = Token.objects.filter(digest=digest(secret), user__is_active=True).select_related("user")
    token = tokens.filter(Q(expires_at=None) | Q(expires_at__gt=now)).first()
    if token is not None and (token.last_used_at is None or now - token.last_used_at > USE_NOTED_EVERY):
        with suppress(DatabaseError):  # recording the use must not fail the request
            Token.objects.filter(pk=token.pk).update(last_used_at=now)
    return token


def account_of(secret: str) -> Any:
    """Return the account of a valid token with full scope, or None."""
    token = valid_token(secret)
    return token.user if token is not None and token.scope == Scope.FULL else None
