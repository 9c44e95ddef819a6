"""Threads that share the work of a run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from django.db import connections
from django.utils import timezone, translation

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class StoreThread(ThreadPoolExecutor):
    """A thread with its own connections. Each call has the chosen store, the language and the time zone of its caller.

    Django keeps language and time zone per thread. A copied context does not carry them.
    """

    def __init__(self, name: str) -> None:
        super().__init__(1, name)

    def submit(
        self, call: Callable[_Given, _Result], /, *args: _Given.args, **options: _Given.kwargs
    ) -> Future[_Result]:
        language, zone = translation.get_language(), timezone.get_current_timezone()

        def with_settings() -> _Result:
            with translation.override(language), timezone.override(zone):
                return call(*args, **options)

        return super().submit(copy_context().run, with_settings)

    def close_connections(self) -> None:
        self.submit(connections.close_all).result()

    def close(self) -> None:
        self.close_connections()
        self.shutdown()
