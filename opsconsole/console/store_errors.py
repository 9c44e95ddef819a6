"""A store that is locked, slow or down: every page says so in the same way, and waits for it a bounded time."""

from __future__ import annotations

import logging
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
from opsconsole.stores.store import Store, StoreUnavailable, failed_store

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 30.0  # of a request on a SQLite store, which has no timeout of its own
LOOK_EVERY = 100_000  # instructions of SQLite
LOCKED_SECONDS = 5.0  # for so long after a wait in vain this process takes a store to be locked
_locked_until: dict[str, float] = {}
_ATTRIBUTE = "store_patience"


class StoreTrouble:
    """Bounds how long a request waits for a store, and answers 503 where a store can't be used."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        patience = [Patience(alias) for alias in settings.STORES]
        setattr(request, _ATTRIBUTE, patience)
        try:
            with ExitStack() as stack:
                for one in patience:
                    stack.enter_context(connections[one.alias].execute_wrapper(one))
                return self.get_response(request)
        finally:
            for one in patience:
                one.end()

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, (StoreUnavailable, DatabaseError, InterfaceError)):
            return None
        store = store_in_trouble(request, error)
        if store is None and not isinstance(error, StoreUnavailable):
            return _console_in_trouble(error)
        return unusable(request, error, store)


class Patience:
    """One request's statements on one store.

    A request waits for a store's locks once: after it waited in vain, its next statements and the other requests of
    this process hardly wait, so that a locked store does not keep all threads. What a request waited for SQLite,
    whose time limit is for each statement, is taken from what it may still wait.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.error: Error | None = None  # the last one
        self._changed: Any = None  # the connection whose limits are not the usual ones
        self._deadline = 0.0
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
                self._deadline = now + STATEMENT_SECONDS
                wrapper.connection.set_progress_handler(lambda: time.monotonic() > self._deadline, LOOK_EVERY)
            if known_locked or self._changed is None or self._spent > LOCKED_LOCK_SECONDS:
                limit_lock_wait(wrapper, max(seconds - self._spent, LOCKED_LOCK_SECONDS))
            self._changed = wrapper
        elif known_locked and self._changed is None:
            limit_lock_wait(wrapper, LOCKED_LOCK_SECONDS)
            self._changed = wrapper

    def end(self) -> None:
        """Give the connection its usual limits back."""
        wrapper, self._changed = self._changed, None
        if wrapper is None:
            return
        if wrapper.vendor == "sqlite" and wrapper.connection is not None:
            wrapper.connection.set_progress_handler(None, 0)
        reset_lock_wait(wrapper)


# --- what is said -------------------------------------------------------------------------------------------


def store_in_trouble(request: HttpRequest, error: Exception) -> Store | None:
    """Return the store whose error this is, None where it is the console's own database or nobody's."""
    if isinstance(error, StoreUnavailable):
        found: Store | None = error.store or getattr(request, "store", None)
        return found
    patience: list[Patience] = getattr(request, _ATTRIBUTE, [])
    alias = next((one.alias for one in patience if one.error is error), None)
    # Otherwise it was not a statement: connecting failed, or reading the answer.
    return failed_store() if alias is None else Store(alias, alias)


def explain(error: Exception, store: Store | None) -> tuple[str, list[Blocker]]:
    """Return the sentence about an error of a store, and who locks its tables where that is the reason."""
    sentence = error if isinstance(error, StoreUnavailable) or store is None else store.unusable(error)
    cause = error.error if isinstance(error, StoreUnavailable) else error
    found = blockers(store) if store is not None and cause is not None and is_lock(cause) else []
    return str(sentence), found


def unusable(request: HttpRequest, error: Exception, store: Store | None) -> HttpResponse:
    """Return the page that says what is wrong with a store, who locks it, and what to do."""
    cause = error.error if isinstance(error, StoreUnavailable) else error
    if cause is not None and classify(cause) == ErrorKind.PERMANENT:
        logger.error("%s: %s", request.path, error, exc_info=error)
    sentence, found = explain(error, store)
    context = {
        **admin.site.each_context(request),
        "title": _("%(store)s can't be shown") % {"store": store.title} if store else _("The store can't be used"),
        "sentence": sentence,
        "blockers": found,
        "locked": cause is not None and is_lock(cause),
        "managed": store.managed if store else False,
    }
    return render(request, "console/store_unavailable.html", context, status=HTTPStatus.SERVICE_UNAVAILABLE)


def _console_in_trouble(error: Exception) -> HttpResponse | None:
    """Pages need the console's own database: where it is busy or away, a plain text says so."""
    if not connections[DEFAULT].errors_occurred or classify(error) not in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}:
        return None
    logger.error("The console's own database can't be used", exc_info=error)
    sentence = Store(DEFAULT, DEFAULT).unusable(error)
    return HttpResponse(f"{sentence}\n", content_type="text/plain; charset=utf-8", status=503)
