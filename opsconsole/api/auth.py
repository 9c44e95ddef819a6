"""Who asks: a token in `Authorization: Bearer …`, or the console's own session. Whoever asks needs the right.

Accounts behind tokens, with their rights, are remembered for a moment: clients that poll would ask for little else.
This process forgets them with the first change that it makes itself, any other after `REMEMBERED_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import DatabaseError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from ninja.errors import AuthenticationError, AuthorizationError
from ninja.security import HttpBearer
from ninja.security import SessionAuth as NinjaSessionAuth

from opsconsole.accounts.models import Scope, Token, digest


def access(permission: str = "") -> list[Callable[[HttpRequest], Any]]:
    """The `auth` of a router or an operation: accounts with this permission, by token or session."""
    return [TokenAuth(permission), SessionAuth(permission)]


class TokenAuth(HttpBearer):
    """A token that is not good is refused, whatever the session says. The account is `request.user`."""

    def __init__(self, permission: str) -> None:
        super().__init__()
        self.permission = permission

    def __call__(self, request: HttpRequest) -> Any:
        """As its parent does, but `request.headers` would name all headers anew for the one that is asked for."""
        scheme, _space, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        return self.authenticate(request, token) if scheme.lower() == self.openapi_scheme else None

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        found = _valid(token)
        if found is None:
            raise AuthenticationError(message=_("This token is not known, was revoked, or has expired."))
        if not Scope(found.scope).allows(self.permission):
            raise AuthorizationError(message=_("The scope of this token does not allow this."))
        request.user = user = found.user
        if self.permission not in found.rights:
            _permitted(user, self.permission)
            found.rights.add(self.permission)
        return user


class Remembered(NamedTuple):
    """A token's active account, and the rights that it was found to have."""

    until: float
    scope: str
    expires_at: datetime | None
    user: Any
    rights: set[str]


def account_of(token: str) -> Any:
    """Return the active account of a token that is good and has all its rights; None for any other text."""
    found = _valid(token)
    return found.user if found is not None and found.scope == Scope.FULL else None


def _valid(token: str) -> Remembered | None:
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


class SessionAuth(NinjaSessionAuth):
    """Somebody who is signed in to the console. What changes something needs the CSRF token, too."""

    def __init__(self, permission: str) -> None:
        super().__init__()
        self.permission = permission

    def __call__(self, request: HttpRequest) -> Any:
        if not request.user.is_authenticated:
            return None  # before the CSRF check: who sends no login is told to send one
        return _permitted(super().__call__(request), self.permission)


def _permitted(user: Any, permission: str) -> Any:
    if permission and not user.has_perm(permission):
        raise AuthorizationError(message=_("This account lacks the right %(right)s.") % {"right": permission})
    return user
