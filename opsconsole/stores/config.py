"""Django's settings for a database, from its URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.core.exceptions import ImproperlyConfigured

from opsconsole.env import SQLITE

OWN_POSTGRESQL = "opsconsole.stores.postgresql"

# See docs/platforms/agentos.md. Django enables foreign keys.
MANAGED_PRAGMAS = "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA journal_size_limit=67108864;"


# A value must have the same text form whenever it is read or written. Otherwise an undo restores other values.
FIXED = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "default_transaction_isolation": "read committed",
    "row_security": "off",  # a query that cannot see every row is an error
}
SCHEMA = "public"
LOCK_SECONDS = 5.0
STATEMENT_TIMEOUT, WEB_STATEMENT_TIMEOUT = "1h", "30s"
CONNECT_SECONDS, WEB_CONNECT_SECONDS = 10, 3
_OPTION = re.compile(r"(?:-c\s*|--)([\w.]+)=((?:\\.|[^\\\s])*)|(\S+)")
_SPECIAL, _ESCAPED = re.compile(r"([\\ ])"), r"\\\1"


def settings_of(options: str, *, web: bool, lock_seconds: float = LOCK_SECONDS) -> dict[str, str]:
    """Return the settings of a connection. `options` is the URL's, in libpq's notation.

    Raise ImproperlyConfigured for what is not `-c name=value`.
    """
    given: dict[str, str] = {}
    for name, value, other in _OPTION.findall(options):
        if other:
            raise ImproperlyConfigured(
                f"options in a database URL holds {other!r}. Write it as -c name=value, and a space in a value as "
                r"%5C%20, a backslash and a space."
            )
        given[name.replace("-", "_")] = re.sub(r"\\(.)", r"\1", value)
    known = {name.lower() for name in FIXED} | {"search_path"}
    own = {name: value for name, value in given.items() if name.lower() not in known}
    path = next((value for name, value in given.items() if name.lower() == "search_path"), "") or SCHEMA
    if "pg_temp" not in path:
        path = f"{path}, pg_temp"  # else a temporary table comes before the table of the same name
    defaults = {
        "jit": "off",  # compiling a query of the catalogue takes longer than answering it
        "lock_timeout": f"{lock_seconds * 1000:.0f}ms",
        "statement_timeout": WEB_STATEMENT_TIMEOUT if web else STATEMENT_TIMEOUT,
    }
    return {**defaults, **own, **FIXED, "search_path": path}


def startup_options(settings: Mapping[str, str]) -> str:
    """Return the settings as libpq's `options`."""
    return " ".join(f"-c {name}={_SPECIAL.sub(_ESCAPED, value)}" for name, value in settings.items())


def sqlite(path: Path | str, *, attached: bool, lock_seconds: float = LOCK_SECONDS) -> dict[str, Any]:
    """Return Django's settings for a SQLite file.

    An attached file is opened with `mode=rw`, which does not create a missing file, and without any PRAGMA that would
    change the file permanently.
    """
    name = str(path)
    options: dict[str, Any] = {"transaction_mode": "IMMEDIATE", "timeout": lock_seconds}
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
    """Return whether a SQLite file and its directory, where SQLite creates the log, are writable.

    Root can write to every file. A file without any write bit counts as read-only for root too.
    """
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) and bool(path.stat().st_mode & 0o222)


def _mode(path: Path) -> str:
    if not path.exists() or is_writable(path):
        return "mode=rw"
    # Without `immutable`, a reader would create a log next to the file.
    log = Path(f"{path}-wal")
    return "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"


def database(
    config: dict[str, Any], *, password: str, attached: bool, pool: bool, lock_seconds: float = LOCK_SECONDS
) -> dict[str, Any]:
    """Return Django's settings from a parsed URL (`env.database_url`), `pool_…` parameters included.

    `pool` is for web processes only. Other processes keep one connection for a minute.
    `lock_seconds` limits how long a statement waits for a lock.
    """
    if config["ENGINE"] == SQLITE:
        return sqlite(config["NAME"], attached=attached, lock_seconds=lock_seconds)
    options: dict[str, Any] = dict(config.get("OPTIONS", {}))
    pool_options = {
        "min_size": options.pop("pool_min", 0),
        "max_size": options.pop("pool_max", 30),
        "timeout": options.pop("pool_timeout", 30.0),
        "max_lifetime": options.pop("pool_lifetime", 3600.0),
        "reconnect_timeout": 0,  # the next request tries again
    }
    if pool:
        options["pool"] = pool_options
    options.setdefault("pooler", "")
    given = str(options.pop("options", ""))
    options["own_schema"] = "search_path" in given
    options["settings"] = settings_of(given, web=pool, lock_seconds=lock_seconds)
    options.setdefault("application_name", "opsconsole")
    options.setdefault("connect_timeout", WEB_CONNECT_SECONDS if pool else CONNECT_SECONDS)
    return {
        **config,
        "ENGINE": OWN_POSTGRESQL,
        "PASSWORD": password or config.get("PASSWORD", ""),
        "OPTIONS": options,
        "CONN_MAX_AGE": 0 if pool else 60,
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": bool(options["pooler"]),  # one outlives its transaction
    }
