"""Who asks: a token in `Authorization: Bearer …`, or the console's own session. Whoever asks needs the right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja.errors import AuthenticationError, AuthorizationError
from ninja.security import HttpBearer
from ninja.security import SessionAuth as NinjaSessionAuth

from opsconsole.accounts.models import Scope
from opsconsole.accounts.tokens import valid_token


def access(permission: str = "") -> list[Callable[[HttpRequest], Any]]:
    """The `auth` of a router or an operation: accounts with this permission, by token or session."""
    return [TokenAuth(permission), SessionAuth(permission)]


class TokenAuth(HttpBearer):
    """A token that is not good is refused, whatever the session says. The account is `request.user`."""

    def __init__(self, permission: str) -> None:
        super().__init__()
        self.permission = permission

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        found = valid_token(token)
        if found is None:
            raise AuthenticationError(message=_("This token is not known, was revoked, or has expired."))
        if not Scope(found.scope).allows(self.permission):
            raise AuthorizationError(message=_("The scope of this token does not allow this."))
        request.user = found.user
        return _permitted(found.user, self.permission)


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
