"""Sessions with an absolute and an idle limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessionStore
from django.http import HttpRequest, HttpResponse

STARTED, USED, ADDRESS, BROWSER = "started_at", "used_at", "address", "browser"
NOTED_SECONDS = 60
# Open pages poll these URLs, so they do not count as use of the session.
LIVE = {"run-live", "dashboard-live"}


class SessionStore(DatabaseSessionStore):
    @classmethod
    def get_model_class(cls) -> Any:
        from opsconsole.accounts.models import Session

        return Session

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        session: Any = super().create_model_instance(data)
        session.user_id = data.get("_auth_user_id")
        session.address, session.browser = data.get(ADDRESS, ""), data.get(BROWSER, "")
        session.started_at, session.used_at = _from_epoch(data.get(STARTED)), _from_epoch(data.get(USED))
        return session


def _from_epoch(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def begin(request: HttpRequest, **kwargs: Any) -> None:
    """Store the start time, the address and the browser in a new session."""
    request.session[STARTED] = time.time()
    _note(request)


def _note(request: HttpRequest) -> None:
    request.session[USED] = time.time()
    request.session[ADDRESS] = request.META.get("REMOTE_ADDR", "")
    request.session[BROWSER] = request.META.get("HTTP_USER_AGENT", "")[:200]


class SessionLimitsMiddleware:
    """Middleware that ends sessions at their absolute and idle limits."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *args: Any) -> None:
        if settings.SESSION_COOKIE_NAME not in request.COOKIES or not request.user.is_authenticated:
            return
        if STARTED not in request.session:
            begin(request)
        now, session = time.time(), request.session
        idle = now - session[USED]
        if now - session[STARTED] > settings.SESSION_HOURS * 3600 or idle > settings.SESSION_IDLE_HOURS * 3600:
            logout(request)
        elif idle > NOTED_SECONDS and getattr(request.resolver_match, "url_name", "") not in LIVE:
            _note(request)
