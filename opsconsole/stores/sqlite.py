"""What a SQLite connection to a store needs beyond its settings."""

from __future__ import annotations

from typing import Any


class RawText(bytes):
    """A text of SQLite that is not UTF-8, as its bytes."""


def exact_text(value: bytes) -> str | RawText:
    """Return the text of a column without losing a byte."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return RawText(value)


RAW_KEY = "\ue000raw:"  # begins with a character that no platform uses


class UndecodableText(str):
    """A text that is not UTF-8, with `\\xff` for its odd bytes: it can be shown, and is never valid JSON."""

    raw: bytes

    def as_key(self) -> str:
        """Return the key that a cursor, a plan and a failed row keep of it."""
        return f"{RAW_KEY}{self.raw.hex()}"


def tolerant_text(value: bytes) -> str:
    """Return the text of a column."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        text = UndecodableText(value.decode("utf-8", "backslashreplace"))
        text.raw = value
        return text


def prepare_connection(sender: Any, connection: Any, **kwargs: Any) -> None:
    """A store's WAL file is written with `synchronous=NORMAL` (document 001); its journal mode is its own.

    Nothing here changes the file: each setting is this connection's.
    """
    if connection.vendor != "sqlite" or connection.alias == "default":
        return
    connection.connection.text_factory = tolerant_text
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA cache_size=-32000")  # KiB; the usual 2 MB is read anew for every batch
        if connection.settings_dict["NAME"].startswith("file:"):
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone()[0] == "wal":
                cursor.execute("PRAGMA synchronous=NORMAL")
                cursor.execute("PRAGMA journal_size_limit=67108864")
