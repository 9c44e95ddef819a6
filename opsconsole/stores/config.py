"""From a database URL to Django's settings for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from opsconsole.env import SQLITE
from opsconsole.stores.connection import CONNECT_SECONDS, settings_of

OWN_POSTGRESQL = "opsconsole.stores.postgresql"

BUSY_TIMEOUT_SECONDS = 5
# Document 001: WAL, NORMAL. Django switches foreign keys on itself.
MANAGED_PRAGMAS = "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA journal_size_limit=67108864;"


def sqlite(path: Path | str, *, attached: bool) -> dict[str, Any]:
    """Settings of one SQLite file.

    An attached file is opened with `mode=rw`, so that a missing one is an error and never springs
    into being, and without any PRAGMA that would change the file for good.
    """
    name = str(path)
    options: dict[str, Any] = {"transaction_mode": "IMMEDIATE", "timeout": BUSY_TIMEOUT_SECONDS}
    if attached:
        name = f"file:{quote(name)}?{_mode(Path(path))}"
    else:
        options["init_command"] = MANAGED_PRAGMAS
    return {
        "ENGINE": SQLITE,
        "NAME": name,
        "OPTIONS": options,
        "CONN_MAX_AGE": 60,
        "TEST": {"NAME": name},
    }


def is_writable(path: Path) -> bool:
    """Whether rows of this SQLite file may be written: it, and its folder for the log beside it.

    Root may write to everything; a file without any write bit was closed on purpose all the same.
    """
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) and bool(path.stat().st_mode & 0o222)


def _mode(path: Path) -> str:
    if not path.exists() or is_writable(path):
        return "mode=rw"
    # Nobody writes to it, and without `immutable` a reader would leave a log beside it.
    log = Path(f"{path}-wal")
    return "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"


def database(config: dict[str, Any], *, password: str, attached: bool, pool: bool) -> dict[str, Any]:
    """Return Django's settings from a parsed URL (`env.database_url`), `pool_…` parameters included.

    `pool` is for web processes only; other processes keep one connection a minute or longer.
    """
    if config["ENGINE"] == SQLITE:
        return sqlite(config["NAME"], attached=attached)
    options: dict[str, Any] = dict(config.get("OPTIONS", {}))
    pool_options = {
        "min_size": options.pop("pool_min", 0),
        "max_size": options.pop("pool_max", 30),
        "timeout": options.pop("pool_timeout", 30.0),
        "max_lifetime": options.pop("pool_lifetime", 3600.0),
    }
    if pool:
        options["pool"] = pool_options
    options.setdefault("pooler", "")
    given = str(options.pop("options", ""))
    options["own_schema"] = "search_path" in given
    options["settings"] = settings_of(given, web=pool)
    options.setdefault("application_name", "opsconsole")
    options.setdefault("connect_timeout", CONNECT_SECONDS)
    return {
        **config,
        "ENGINE": OWN_POSTGRESQL,
        "PASSWORD": password or config.get("PASSWORD", ""),
        "OPTIONS": options,
        "CONN_MAX_AGE": 0 if pool else 60,
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": bool(options["pooler"]),  # one outlives its transaction
    }
