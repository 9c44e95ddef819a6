"""Time limits and error pages for stores that are locked, slow or down."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db import DatabaseError, InterfaceError, connections
from django.db.utils import Error
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from opsconsole.stores.errors import ErrorKind, classify, is_lock
from opsconsole.stores.locks import LOCKED_LOCK_SECONDS, Blocker, blockers, limit_lock_wait, reset_lock_wait
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.sqlite import stop_at
from opsconsole.stores.store import Store, StoreUnavailable, failed_store

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 30.0  # of a request on a SQLite store; SQLite does not have a statement timeout
LOCKED_SECONDS = 5.0  # how long a process treats a store as locked after a lock timeout
_locked_until: dict[str, float] = {}
_ATTRIBUTE = "store_wait_limits"


class StoreErrorMiddleware:
    """Middleware that limits how long a request waits for a store, and answers 503 if a store is unavailable."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        limits = [WaitLimit(alias) for alias in settings.STORES]
        setattr(request, _ATTRIBUTE, limits)
        try:
            with ExitStack() as stack:
                for one in limits:
                    stack.enter_context(connections[one.alias].execute_wrapper(one))
                return self.get_response(request)
        finally:
            for one in limits:
                one.end()

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, (StoreUnavailable, DatabaseError, InterfaceError)):
            return None
        store = failing_store(request, error)
        if store is None and not isinstance(error, StoreUnavailable):
            return _console_unavailable(error)
        return store_error_page(request, error, store)


class WaitLimit:
    """The time limits of the statements of one request on one store.

    After a lock timeout, later statements and other requests of the process wait only briefly, so that a locked store
    does not block all threads. SQLite limits each statement, so the time already spent shortens the next limit.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.error: Error | None = None
        self._changed: Any = None  # the connection with changed limits
        self._spent = 0.0

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        started = time.monotonic()
        self._limit(context["connection"], started)
        try:
            return execute(sql, params, many, context)
        except Error as error:
            self.error = error
            if is_lock(error):
                _locked_until[self.alias] = time.monotonic() + LOCKED_SECONDS
            raise
        finally:
            self._spent += time.monotonic() - started

    def _limit(self, wrapper: Any, now: float) -> None:
        """Set the limits of the connection for the next statement."""
        known_locked = now < _locked_until.get(self.alias, 0.0)
        seconds = LOCKED_LOCK_SECONDS if known_locked else settings.STORE_LOCK_SECONDS
        if wrapper.vendor == "sqlite":
            if self._changed is None:
                stop_at(wrapper, now + STATEMENT_SECONDS)
            if known_locked or self._changed is None or self._spent > LOCKED_LOCK_SECONDS:
                limit_lock_wait(wrapper, max(seconds - self._spent, LOCKED_LOCK_SECONDS))
            self._changed = wrapper
        elif known_locked and self._changed is None:
            limit_lock_wait(wrapper, LOCKED_LOCK_SECONDS)
            self._changed = wrapper

    def end(self) -> None:
        """Restore the usual limits of the connection."""
        wrapper, self._changed = self._changed, None
        if wrapper is None:
            return
        if wrapper.vendor == "sqlite" and wrapper.connection is not None:
            stop_at(wrapper, math.inf)
        reset_lock_wait(wrapper)


# --- responses -------------------------------------------------------------------------------------------


def failing_store(request: HttpRequest, error: Exception) -> Store | None:
    """Return the store that raised an error, or None if it was the console's own database or is not known."""
    if isinstance(error, StoreUnavailable):
        found: Store | None = error.store or getattr(request, "store", None)
        return found
    limits: list[WaitLimit] = getattr(request, _ATTRIBUTE, [])
    alias = next((one.alias for one in limits if one.error is error), None)
    # Connecting and fetching rows do not pass the wrapper.
    return failed_store() if alias is None else Store.called(alias)


def explain(error: Exception, store: Store | None) -> tuple[str, list[Blocker]]:
    """Return the message for an error of a store and the transactions that lock it."""
    sentence = error if isinstance(error, StoreUnavailable) or store is None else store.unusable(error)
    cause = error.error if isinstance(error, StoreUnavailable) else error
    found = blockers(store) if store is not None and cause is not None and is_lock(cause) else []
    return str(sentence), found


def store_error_page(request: HttpRequest, error: Exception, store: Store | None) -> HttpResponse:
    """Return the error page of a store: the message, the blocking transactions and the remedy."""
    cause = error.error if isinstance(error, StoreUnavailable) else error
    if cause is not None and classify(cause) == ErrorKind.PERMANENT:
        logger.error("%s: %s", request.path, error, exc_info=error)
    sentence, found = explain(error, store)
    context = {
        **admin.site.each_context(request),
        "title": _("%(store)s is unavailable") % {"store": store.title} if store else _("The store is unavailable"),
        "sentence": sentence,
        "blockers": found,
        "locked": cause is not None and is_lock(cause),
        "managed": store.managed if store else False,
    }
    return render(request, "console/store_unavailable.html", context, status=HTTPStatus.SERVICE_UNAVAILABLE)


def _console_unavailable(error: Exception) -> HttpResponse | None:
    """Return a plain-text 503 if the console's own database is unavailable, because pages require it."""
    if not connections[DEFAULT].errors_occurred or classify(error) not in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}:
        return None
    logger.error("The console's own database is unavailable", exc_info=error)
    sentence = Store(DEFAULT, DEFAULT).unusable(error)
    return HttpResponse(f"{sentence}\n", content_type="text/plain; charset=utf-8", status=503)
