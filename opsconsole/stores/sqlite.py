"""What a SQLite connection to a store needs beyond its settings."""

from __future__ import annotations

from typing import Any


def tolerant_text(value: bytes) -> str:
    """Text of a column; bytes that are no UTF-8 become `\\xff`, which is showable and never valid JSON."""
    return value.decode("utf-8", "backslashreplace")


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
