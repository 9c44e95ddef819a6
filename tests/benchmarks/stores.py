"""The measured stores: created once in the cache directory, and copied for each measurement."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tests.support import agentos
from tests.support.postgres import start_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from tests.support.postgres import Server
    from tests.support.reference_backfill import Engine

SEED = 20_260_128
#: Part of the names in the cache. Increase it when the output of the generator changes.
EDITION = 1
SERVER_SETTINGS = (
    "fsync = on",
    "full_page_writes = on",
    "shared_buffers = '256MB'",
    "effective_cache_size = '1GB'",
)


@dataclass(frozen=True)
class Location:
    """The location of a store: the path of a file, or a PostgreSQL URL."""

    engine: Engine
    address: str


@dataclass(frozen=True)
class Size:
    """The size of a base store: all audits, and the audits in scope."""

    rows: int
    in_scope: int


class Stores(ABC):
    """The base stores of one engine and their copies."""

    engine: Engine

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def base(self, rows: int) -> Size:
        """Create the base store of `rows` audits unless it is in the cache."""
        record = self.cache / f"{self._name(rows)}.json"
        if record.exists() and self._exists(rows):
            return Size(**json.loads(record.read_text()))
        made = self._make(rows)
        size = Size(made.rows, made.in_scope)
        record.write_text(json.dumps(asdict(size)))
        return size

    def _name(self, rows: int) -> str:
        return f"agentos_{self.engine}_{rows}_{EDITION}"

    @contextmanager
    def copy(self, rows: int, *, written_indexes: bool = True) -> Iterator[Location]:
        """Yield a copy of the base store that is in the page cache and completely written to disk."""
        location = self._copy(rows)
        try:
            if not written_indexes:
                self.execute(location, *(f"DROP INDEX {name}" for name in agentos.WRITTEN_INDEXES))
            os.sync()
            yield location
        finally:
            self._drop(location)

    @contextmanager
    def done(self) -> Iterator[Location]:
        """Yield a store of 10 audits with nothing to do, to measure the start-up of a command."""
        self.base(10)
        with self.copy(10) as location:
            self.execute(location, "UPDATE task_audits SET source_event_ts = 'x', supervisor_processed_at = 'x'")
            yield location

    @abstractmethod
    def execute(self, location: Location, *statements: str) -> None:
        """Execute statements outside of any measurement."""

    @abstractmethod
    def _exists(self, rows: int) -> bool: ...

    @abstractmethod
    def _make(self, rows: int) -> agentos.Made: ...

    @abstractmethod
    def _copy(self, rows: int) -> Location: ...

    @abstractmethod
    def _drop(self, location: Location) -> None: ...


class SqliteStores(Stores):
    """Files in the cache folder."""

    engine = "sqlite"

    def _path(self, rows: int) -> Path:
        return self.cache / f"{self._name(rows)}.db"

    def _exists(self, rows: int) -> bool:
        return self._path(rows).exists()

    def _make(self, rows: int) -> agentos.Made:
        half = self._path(rows).with_suffix(".half")
        half.unlink(missing_ok=True)
        made = agentos.create_sqlite(half, rows, seed=SEED)
        half.replace(self._path(rows))
        return made

    def _copy(self, rows: int) -> Location:
        target = self.cache / "copy.db"
        self._drop(Location("sqlite", str(target)))
        shutil.copyfile(self._path(rows), target)
        return Location("sqlite", str(target))

    def _drop(self, location: Location) -> None:
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(location.address + suffix):
                os.unlink(location.address + suffix)

    def execute(self, location: Location, *statements: str) -> None:
        with closing(sqlite3.connect(location.address, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)


@contextmanager
def own_server(cache: Path) -> Iterator[Server]:
    """Start a server with the durable settings that the documents of the platform require."""
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir=cache) as folder:
        os.chmod(folder, 0o755)  # another account runs the server
        server = start_server(Path(folder))
        try:
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                for setting in SERVER_SETTINGS:
                    connection.execute(f"ALTER SYSTEM SET {setting}")
            server.stop()
            server.start()
            yield server
        finally:
            server.close()


def new_databases(engine: str, folder: Path, stack: ExitStack) -> Callable[[str], str]:
    """Return a function that returns the address of a new database with a name. A server runs until the stack ends."""
    if engine == "postgresql":
        return stack.enter_context(own_server(folder)).create_database
    return lambda name: str(folder / f"{name}.db")


class PostgresStores(Stores):
    """Databases of a server. `CREATE DATABASE … TEMPLATE` copies them."""

    engine = "postgresql"

    def __init__(self, cache: Path, server: Server) -> None:
        super().__init__(cache)
        self.server = server
        self.own = Location("postgresql", server.dsn)

    def _exists(self, rows: int) -> bool:
        with psycopg.connect(self.server.dsn) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self._name(rows)])
            return found.fetchone() is not None

    def _make(self, rows: int) -> agentos.Made:
        half = f"{self._name(rows)}_half"
        made = agentos.create_postgres(self.server.create_database(half), rows, seed=SEED)
        self.execute(
            self.own,
            f"DROP DATABASE IF EXISTS {self._name(rows)} WITH (FORCE)",
            f"ALTER DATABASE {half} RENAME TO {self._name(rows)}",
        )
        return made

    def _copy(self, rows: int) -> Location:
        self.execute(
            self.own,
            "DROP DATABASE IF EXISTS agentos_copy WITH (FORCE)",
            # The default strategy writes through the WAL, which takes several times as long for a large copy.
            f"CREATE DATABASE agentos_copy TEMPLATE {self._name(rows)} STRATEGY file_copy",
            "CHECKPOINT",
        )
        return Location("postgresql", self.server.url("agentos_copy"))

    def _drop(self, location: Location) -> None:
        self.execute(self.own, "DROP DATABASE IF EXISTS agentos_copy WITH (FORCE)")

    def execute(self, location: Location, *statements: str) -> None:
        with psycopg.connect(location.address, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
