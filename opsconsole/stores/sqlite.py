"""Connections to SQLite stores, and texts that are not UTF-8."""

from __future__ import annotations

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


def prepare_connection(sender: Any, connection: Any, **kwargs: Any) -> None:
    """Set what a connection to a SQLite store needs. No setting changes the file.

    A store in WAL mode is written with `synchronous=NORMAL`, like by its platform. Its journal mode stays.
    """
    if connection.vendor != "sqlite" or connection.alias == "default":
        return
    connection.connection.text_factory = tolerant_text
    with connection.cursor() as cursor:
        cursor.execute(
            "PRAGMA cache_size=-32000"
        )  # KiB; with the default of 2 MB every batch reads the same pages again
        if connection.settings_dict["NAME"].startswith("file:"):
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone()[0] == "wal":
                cursor.execute("PRAGMA synchronous=NORMAL")
                cursor.execute("PRAGMA journal_size_limit=67108864")
