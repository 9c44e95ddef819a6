"""Threads that share the work of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from socket import SHUT_RDWR, socket
from typing import Any, ParamSpec, TypeVar

from django.db import connections
from django.utils import timezone, translation

from opsconsole.stores.store import Store

CANCEL_SECONDS = 2.0
_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class StoreThread(ThreadPoolExecutor):
    """A thread with its own connections. Each call has the chosen store, the language and the time zone of its caller.

    Django keeps language and time zone per thread. A copied context does not carry them.
    """

    def __init__(self, name: str, store: Store) -> None:
        super().__init__(1, name)
        self._store = store
        self._connection: Any = None  # of the thread to the store

    def submit(
        self, call: Callable[_Given, _Result], /, *args: _Given.args, **options: _Given.kwargs
    ) -> Future[_Result]:
        language, zone = translation.get_language(), timezone.get_current_timezone()

        def with_settings() -> _Result:
            self._connection = self._store.connection
            with translation.override(language), timezone.override(zone):
                return call(*args, **options)

        return super().submit(copy_context().run, with_settings)

    def cancel(self) -> None:
        """Cancel the statement that the store executes for this thread, and disconnect from PostgreSQL.

        Otherwise a server that does not answer blocks the thread, and the process cannot end.
        """
        driver = self._connection and self._connection.connection
        if driver is not None and self._store.vendor == "sqlite":
            driver.interrupt()
        elif driver is not None:
            with suppress(Exception):  # the server may be out of reach
                driver.cancel_safe(timeout=CANCEL_SECONDS)
            with socket(fileno=os.dup(driver.fileno())) as connected:
                connected.shutdown(SHUT_RDWR)

    def close_connections(self) -> None:
        self.submit(connections.close_all).result()

    def close(self) -> None:
        if self._connection is not None:
            self.close_connections()
        self.shutdown()
