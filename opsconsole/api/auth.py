"""Authentication of the API by a bearer token or the session of the console, with a permission check."""

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
    """Return the `auth` of a router or an endpoint that requires a permission."""
    return [TokenAuth(permission), SessionAuth(permission)]


class InvalidToken(AuthenticationError):
    """A token that is unknown, revoked or expired."""


class TokenAuth(HttpBearer):
    """Bearer tokens. An invalid token is refused even if the session is valid."""

    def __init__(self, permission: str) -> None:
        super().__init__()
        self.permission = permission

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        found = valid_token(token)
        if found is None:
            raise InvalidToken(message=_("The token is unknown, revoked or expired. Create a new one."))
        if not Scope(found.scope).allows(self.permission):
            raise AuthorizationError(
                message=_("The scope of the token does not allow this request. Use a token with another scope.")
            )
        request.user = found.user
        return _permitted(found.user, self.permission)


class SessionAuth(NinjaSessionAuth):
    """Sessions of the console. A request that changes data also needs the CSRF token."""

    def __init__(self, permission: str) -> None:
        super().__init__()
        self.permission = permission

    def __call__(self, request: HttpRequest) -> Any:
        if not request.user.is_authenticated:
            return None  # before the CSRF check, so that the error asks for a login
        return _permitted(super().__call__(request), self.permission)


def _permitted(user: Any, permission: str) -> Any:
    if permission and not user.has_perm(permission):
        text = _("The account does not have the permission %(permission)s. Ask an administrator for it.")
        raise AuthorizationError(message=text % {"permission": permission})
    return user
