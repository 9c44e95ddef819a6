"""Connections to SQLite stores, and texts that are not UTF-8."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any


class RawText(bytes):
    """A text that is not UTF-8, as bytes."""


def exact_text(value: bytes) -> str | RawText:
    """Return the text of a column without losing a byte."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return RawText(value)


RAW_KEY = "\ue000raw:"  # begins with a private-use character
LOG_BYTES = 1 << 26  # to which SQLite cuts the file of a longer write-ahead log when it begins at the start again


class UndecodableText(str):
    """A text that is not UTF-8, with its invalid bytes as `\\xff`. It is never valid JSON."""

    raw: bytes

    def as_key(self) -> str:
        """Return the text as a key, for cursors, plans and failed rows."""
        return f"{RAW_KEY}{self.raw.hex()}"


def tolerant_text(value: bytes) -> str:
    """Return the text of a column. Invalid bytes make it an UndecodableText."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        text = UndecodableText(value.decode("utf-8", "backslashreplace"))
        text.raw = value
        return text


PROGRESS_STEPS = 100_000  # between two checks of the time
PATTERN_BYTES = 1_000  # of LIKE and GLOB: they compare the pattern at each place of the value


def stop_at(wrapper: Any, deadline: float) -> None:
    """Interrupt the statements of a connection from `deadline` on, a time of `time.monotonic()`.

    SQLite has no statement timeout. It checks the time between the steps of a statement, not within a function.
    """
    wrapper.opsconsole_deadline = deadline
    handler = None if deadline == math.inf else lambda: time.monotonic() > deadline
    wrapper.connection.set_progress_handler(handler, PROGRESS_STEPS)


@contextmanager
def reader(wrapper: Any, *, value_bytes: int, seconds: float) -> Iterator[Any]:
    """Open a separate connection for statements of a user: it refuses writes, and limits time and memory.

    The length of each value is limited, because it also limits the time of each function.
    """
    deadline = min(getattr(wrapper, "opsconsole_deadline", math.inf), time.monotonic() + seconds)
    own = wrapper.copy()
    try:
        with own.cursor() as cursor, closing(sqlite3.connect(":memory:", check_same_thread=False)) as memory:
            driver = own.connection
            driver.text_factory = exact_text
            for name in ("printf", "format"):
                driver.create_function(name, -1, _printf(memory), deterministic=True)
            for connection in (driver, memory):
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, value_bytes)
            driver.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES)
            stop_at(own, deadline)
            cursor.execute("PRAGMA query_only = ON")
            yield cursor
    finally:
        own.close()


def _printf(memory: sqlite3.Connection) -> Callable[..., Any]:
    """Return the function printf() of SQLite with an error instead of NULL if its result is too long."""

    def printf(*values: Any) -> Any:
        marks = ", ".join("?" * len(values))
        try:
            ((text,),) = memory.execute(f"SELECT printf({marks})", values)  # parameters
        except sqlite3.DataError:
            raise OverflowError from None
        if text is None and values and values[0] is not None:
            raise OverflowError
        return text

    return printf


def prepare_connection(sender: Any, connection: Any, **kwargs: Any) -> None:
    """Set what a connection to a SQLite store needs. No setting changes the file.

    A store in WAL mode is written with `synchronous=NORMAL`, like by its platform. Its journal mode stays.
    """
    if connection.vendor != "sqlite" or connection.alias == "default":
        return
    connection.connection.text_factory = tolerant_text
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA cache_size=-16000")  # KiB; a run is slower with less, and not faster with more
        if connection.settings_dict["NAME"].startswith("file:"):
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone()[0] == "wal":
                cursor.execute("PRAGMA synchronous=NORMAL")
                cursor.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
