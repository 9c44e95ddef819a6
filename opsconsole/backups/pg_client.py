"""PostgreSQL's programs pg_dump and pg_restore. They receive the address through the environment only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from django.utils.translation import gettext as _

from opsconsole.stores.catalog import unquoted
from opsconsole.stores.store import Store, StoreUnavailable

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


class ToolFailed(Exception):
    """A PostgreSQL program failed. The message is the first line of its output."""


class Content(NamedTuple):
    """The contents of one table in a dump."""

    columns: tuple[str, ...]
    rows: int


def tool(name: str, store: Store) -> Path:
    """Return the path of a program at least as new as the server. Raise StoreUnavailable."""
    connection = store.connection
    connection.ensure_connection()
    server = int(connection.pg_version) // 10_000  # type: ignore[attr-defined]
    found = {path: _major(path) for path in _candidates(name)}
    fitting = sorted((version, path) for path, version in found.items() if version >= server)
    if fitting:
        return fitting[0][1]  # the nearest version: the server's own programs can read its output
    if found:
        text = _(
            "%(location)s runs PostgreSQL %(server)d, but the newest installed %(tool)s is version "
            "%(found)d. Install version %(server)d or newer."
        )
        values = {"found": max(found.values())}
    else:
        text = _("%(tool)s is not installed. Install the client programs of PostgreSQL %(server)d or newer.")
        values = {}
    raise StoreUnavailable(text % {"location": store.location, "server": server, "tool": name, **values})


def _candidates(name: str) -> Iterator[Path]:
    if path := shutil.which(name):
        yield Path(path)
    for pattern in FOLDERS:
        for folder in Path("/").glob(pattern.removeprefix("/")):
            if os.access(folder / name, os.X_OK):
                yield folder / name


def _major(path: Path) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0


def environment(store: Store, **changed: str) -> dict[str, str]:
    """Return the address of the store as variables of libpq: all users can see the arguments of a process.

    Raise StoreUnavailable behind a pooler in transaction mode: the programs require a session.
    """
    from psycopg.pq import Conninfo

    from opsconsole.stores.connection import connection_parameters

    if store.behind_pooler:
        raise StoreUnavailable(
            _(
                "%(location)s is behind a connection pooler in transaction mode, which cannot dump or restore. "
                "Use the URL of the server itself."
            )
            % {"location": store.location}
        )
    params = {**connection_parameters(store), **changed}
    variables = {option.keyword.decode(): option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    address = {variables[name]: str(value) for name, value in params.items() if name in variables and value}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, **address}


@contextmanager
def started(command: Sequence[str | Path], env: dict[str, str], stdin: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """Start a program and yield its output. Raise ToolFailed at the end if it returned an error."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603  # no argument comes from a user
            [str(part) for part in command],
            env=env,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            assert process.stdout is not None  # noqa: S101  # see `stdout` above
            with process.stdout:
                yield process.stdout  # type: ignore[misc]
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code:
            errors.seek(0)
            said = errors.read(4_000).decode(errors="replace").strip().splitlines()
            raise ToolFailed(said[0] if said else f"{Path(command[0]).name} ended with {code}")


_NAME = r'("(?:[^"]|"")+"|[^\s".(),]+)'
_COPY = re.compile(rf"COPY {_NAME}\.{_NAME} \((.*)\) FROM stdin;\n", re.DOTALL)
_ONE = re.compile(_NAME)
LONGEST_HEAD = 1_600 * 66  # as many columns as a table can have, with the longest names


def read_dump(lines: BinaryIO) -> dict[str, Content]:
    """Read a whole dump in SQL. Return `schema.table` → contents."""
    found: dict[str, Content] = {}
    for line in lines:
        if not line.startswith(b"COPY "):
            continue
        text = line.decode()
        while text.count('"') % 2 and len(text) < LONGEST_HEAD:  # a name continues in the next line
            text += next(lines, b"").decode() or '"'
        head = _COPY.fullmatch(text)
        if head is None:
            continue
        rows = 0
        for row in lines:
            if row == b"\\.\n":
                break
            rows += 1
        else:
            raise ToolFailed(_("the dump ends within a table"))
        columns = tuple(unquoted(one) for one in _ONE.findall(head[3]))
        found[f"{unquoted(head[1])}.{unquoted(head[2])}"] = Content(columns, rows)
    return found
