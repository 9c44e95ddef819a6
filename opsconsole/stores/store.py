"""A store: its location, its identity, its tables and its statements."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.utils.translation import gettext as _

from opsconsole.redaction import redact
from opsconsole.stores import remedies
from opsconsole.stores.catalog import ForeignKey, Table, TriggerInfo, foreign_keys, read_tables, triggers
from opsconsole.stores.config import is_writable, sqlite
from opsconsole.stores.errors import first_line, is_unreachable, needs_password, sqlite_code, sqlstate
from opsconsole.stores.indexes import indexes_on
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import DEFAULT, alias_of, store_of
from opsconsole.stores.sqlite import RawText, tolerant_text


class StoreUnavailable(Exception):
    """A store that cannot be used. The message gives the reason and the remedy, without secrets."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(str(message)))

    store: Store | None = None  # of a database error
    error: Exception | None = None


def attach_file(store: str, path: str | Path, *, read_only: bool = False) -> Store:
    """Return the SQLite file at `path` as a store of this process. Nothing is created.

    Raise StoreUnavailable for a directory and for a missing, empty or unreadable file. The first statement reports
    a file that is not a database.
    """
    if not str(path):
        raise StoreUnavailable(_("The path is empty. Name a SQLite file."))
    real = Path(os.path.realpath(path))
    require_file(real, shown=str(path))
    writable = is_writable(real)
    if not writable and not read_only:
        raise _read_only(path)
    digest = hashlib.blake2b(str(real).encode(), digest_size=4).hexdigest()
    alias = f"{store}-{digest}{'' if writable else '-ro'}"
    if alias not in connections.settings:
        connections.settings[alias] = sqlite(real, attached=True, lock_seconds=settings.STORE_LOCK_SECONDS)
        connections.configure_settings(connections.settings)
    return Store(alias, store)


def require_file(path: Path, *, shown: str = "", remedy: str = "") -> None:
    """Refuse a path that is not a file with content.

    The file is not opened: closing it would drop the locks that SQLite holds on it in this process.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        text = _("%(path)s does not exist. %(remedy)s")
    except OSError as error:
        raise StoreUnavailable(
            _("%(path)s cannot be read: %(reason)s.") % {"path": shown or path, "reason": error.strerror}
        ) from None
    else:
        if stat.S_ISDIR(status.st_mode):
            text = _("%(path)s is a directory. Name a SQLite file.")
        elif not stat.S_ISREG(status.st_mode):
            text = _("%(path)s is not a regular file. Name a SQLite file.")
        elif not os.access(path, os.R_OK):
            text = _("%(path)s cannot be read. Change its permissions.")
        elif not status.st_size:
            text = _("%(path)s is empty and contains no database. %(remedy)s")
        else:
            return
    raise StoreUnavailable(text % {"path": shown or path, "remedy": remedy or _("Check the path.")})


def _read_only(path: Path | str) -> StoreUnavailable:
    return StoreUnavailable(
        _("%(path)s is read-only. Nothing was written. Make the file and its directory writable, or use --dry-run.")
        % {"path": path}
    )


@dataclass(frozen=True)
class Store:
    """A database. `alias` is the name in Django's settings; `platform` is empty for a store that has none."""

    alias: str
    platform: str

    @classmethod
    def called(cls, alias: str) -> Store:
        """Return the store with this alias. A file that `attach_file` has attached has the platform of its prefix."""
        name = alias.partition("-")[0]
        return cls(alias, settings.STORES.get(name, name))

    @classmethod
    def current(cls, platform: str) -> Store:
        """Return the store of a platform that `router.use` has chosen, else its first one."""
        return cls(alias_of(platform), platform)

    @property
    def is_configured(self) -> bool:
        """True if the settings declare the store, False for a file or a target of one call."""
        return self.alias == DEFAULT or self.alias in settings.STORES

    @property
    def name(self) -> str:
        """The name in records, commands and pages: the alias, or the platform of a store that is not configured."""
        return self.alias if self.is_configured else self.platform

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    @property
    def title(self) -> str:
        return store_title(self.name)

    @cached_property
    def vendor(self) -> str:
        return self.connection.vendor

    @property
    def behind_pooler(self) -> bool:
        """True if the store is reached through a pooler in transaction mode."""
        return bool(connections.settings[self.alias]["OPTIONS"].get("pooler"))

    @property
    def managed(self) -> bool:
        """True if the console creates the tables."""
        return self.is_configured and self.alias not in settings.ATTACHED_STORES

    @property
    def path(self) -> Path | None:
        """The SQLite file, None for PostgreSQL."""
        if self.vendor != "sqlite":
            return None
        name = str(self.connection.settings_dict["NAME"])
        if name.startswith("file:"):
            from urllib.parse import unquote

            name = unquote(name.removeprefix("file:").partition("?")[0])
        return Path(name)

    @property
    def location(self) -> str:
        """The file, or host and database, without the password."""
        if self.path is not None:
            return str(self.path)
        config = self.connection.settings_dict
        host = config["HOST"] or config["OPTIONS"].get("host") or "localhost"
        port = config["PORT"] or config["OPTIONS"].get("port")
        named = f"?schema={self.schema}" if config["OPTIONS"].get("own_schema") else ""
        return f"{host}{f':{port}' if port else ''}/{config['NAME']}{named}"

    @property
    def schema(self) -> str:
        """The schemas of a PostgreSQL store, from the search path."""
        path: str = self.connection.settings_dict["OPTIONS"]["settings"]["search_path"]
        return path.removesuffix(", pg_temp")

    def identity(self) -> str:
        """Return the identity of the database, which does not depend on the address.

        For a file it is real path, device and inode, so that a replaced file differs. For PostgreSQL it is system
        identifier, oid and schema. Raise StoreUnavailable if the database does not answer.
        """
        if self.path is None:
            try:
                return self.learn_identity(self.query)
            except DatabaseError as error:
                raise self.unusable(error) from error
        real = Path(os.path.realpath(self.path))
        try:
            status = real.stat()
        except OSError:
            raise StoreUnavailable(_("%(path)s does not exist. Check the path.") % {"path": real}) from None
        return f"sqlite:{real}:{status.st_dev}:{status.st_ino}"

    def learn_identity(self, query: Callable[[str], list[Any]]) -> str:
        """Query the identity from the server, and keep it for `known_identity`."""
        found = _identities[self.alias, self.location] = _server_identity(query)
        return found

    def known_identity(self) -> str | None:
        """Return the identity that this process knows without a query to the server, else None."""
        if self.path is None:
            return _identities.get((self.alias, self.location))
        try:
            return self.identity()
        except StoreUnavailable:
            return None

    def require_file(self) -> None:
        """Refuse a missing or empty SQLite file. Opening it would create it."""
        if self.path is not None:
            require_file(self.path, remedy=_("Run `python manage.py setup` first.") if self.managed else "")

    def size(self) -> int:
        """Return the size in bytes: of the file with its log, or of the PostgreSQL database."""
        if self.path is not None:
            files = (Path(f"{self.path}{suffix}") for suffix in ("", "-wal"))
            return sum(file.stat().st_size for file in files if file.exists())
        return int(self.query("SELECT pg_database_size(current_database())")[0][0])

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Table name → table, from the catalog of the database."""
        self.require_file()
        return read_tables(self)

    @cached_property
    def foreign_keys(self) -> list[ForeignKey]:
        """Every foreign key of the database, in all schemas."""
        return foreign_keys(self)

    def triggers(self, table: str, event: str) -> list[TriggerInfo]:
        """Return the active triggers and rules of `table` that fire on INSERT, UPDATE or DELETE."""
        if table not in self._triggers:
            self._triggers[table] = triggers(self, self.tables[table])
        return [one for one in self._triggers[table] if event in one.events]

    @cached_property
    def _triggers(self) -> dict[str, list[TriggerInfo]]:
        return {}

    def is_parent(self, key: ForeignKey, table: str) -> bool:
        """Return whether `key` refers to `table`."""
        return key.parent_oid in self.tables[table].family if self.vendor == "postgresql" else key.parent == table

    def key_columns(self, table: str) -> tuple[str, ...]:
        """Return the columns that identify a row of `table`: the key of the model, else a unique key of the table."""
        if key := self._key(table):
            return key
        raise StoreUnavailable(
            _("%(table)s of %(location)s has no key that identifies its rows. Add a primary key or a unique index.")
            % {"table": table, "location": self.location}
        )

    def has_key(self, table: str) -> bool:
        """Return whether `table` has a key."""
        return bool(self._key(table))

    def _key(self, table: str) -> tuple[str, ...]:
        model = self._known.get(table)
        if model is not None and model._meta.pk.column in self.tables[table]:
            return (str(model._meta.pk.column),)
        return self.tables[table].identity

    @cached_property
    def _known(self) -> dict[str, type[Model]]:
        return {model._meta.db_table: model for model in self.models()}

    def models(self) -> list[type[Model]]:
        """Return the models whose tables the store should have."""
        return [model for model in apps.get_models(include_auto_created=True) if store_of(model) == self.platform]

    @contextmanager
    def keyset_planner_hints(self) -> Iterator[None]:
        """Make PostgreSQL read batches by the index of the key.

        Its planner does not know how many rows are in scope. If it expects too few, it scans and sorts the whole
        table for every batch.
        """
        if self.vendor != "postgresql":
            yield
            return
        with transaction.atomic(using=self.alias), self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),"
                " set_config('enable_bitmapscan', 'off', true),"
                " set_config('max_parallel_workers_per_gather', '0', true)"
            )
            yield

    @contextmanager
    def text_factory(self, decode: Callable[[bytes], Any]) -> Iterator[None]:
        """Read texts of a SQLite file by `decode` instead of `tolerant_text`.

        The driver's own `str` is the fastest. It raises an error for a text that is not UTF-8, see `is_undecodable`.
        """
        connection = self.connection
        if connection.vendor != "sqlite":
            yield
            return
        connection.ensure_connection()
        before, connection.connection.text_factory = connection.connection.text_factory, decode
        try:
            yield
        finally:
            connection.connection.text_factory = before

    def can_store(self, text: str) -> bool:
        """Return whether a text column can hold `text`. Lone surrogates never fit, U+0000 not on PostgreSQL."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return False
        return self.vendor != "postgresql" or "\x00" not in text

    def normalize(self, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """Return values as `rows.read` returns them: on PostgreSQL as text."""
        return values if values is None or self.vendor == "sqlite" else tuple(map(text_of, values))

    def missing(self) -> list[str]:
        """Return each `table` and `table.column` of the models that the store is missing."""
        return remedies.find_missing(self, {model: _columns(model) for model in self.models()}).names

    def unknown(self) -> list[str]:
        """Return the tables and columns that the models do not know. The console does not change them."""
        if not self.platform:
            return []
        known = {model._meta.db_table: set(_columns(model)) for model in self.models()}
        own = ("django_migrations", "schema_version")
        indexes = tuple(f"{name}_" for name in self.virtual_tables())  # tables that hold their content
        return [
            name
            for table, columns in sorted(self.tables.items())
            for name in ([table] if table not in known else [f"{table}.{c}" for c in columns if c not in known[table]])
            if table not in own and not table.startswith(indexes)
        ]

    def virtual_tables(self) -> list[str]:
        """Return the virtual tables of SQLite, such as full-text indexes. Their module may be missing."""
        if self.vendor != "sqlite":
            return []
        rows = self.query("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage = 0")
        return [str(row[0]) for row in rows]

    def indexes_on(self, table: str, columns: Iterable[str]) -> list[str]:
        """Return the names of the indexes of `table` that contain one of `columns`."""
        return indexes_on(self, table, columns)

    def has_checks(self, table: str) -> bool:
        """Return whether a SQLite table declares a CHECK. Older rows may violate it."""
        rows = self.query("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = %s COLLATE NOCASE", [table])
        return "CHECK" in str(rows[0][0] if rows else "").upper()

    def is_indexed_by_rowid(self, table: str) -> bool:
        """Return whether a virtual table of SQLite, such as a full-text index, may refer to rows by their rowid."""
        rows = self.query("SELECT sql FROM sqlite_master WHERE type = 'table' AND rootpage = 0")
        return any(table.lower() in str(sql).lower() for (sql,) in rows)

    def version(self) -> str | None:
        """Return the newest version in `schema_version`."""
        return max(self.versions(), key=_dotted, default=None)

    def versions(self) -> list[str]:
        """Return the versions in `schema_version`, an empty list if the platform keeps none."""
        if "version" not in self.tables.get("schema_version", {}):
            return []
        return [str(version) for (version,) in self.query("SELECT version FROM schema_version")]

    def require(self, needs: dict[type[Model], Iterable[str]]) -> None:
        """Refuse a store without the tables and columns that an operation needs."""
        missing = remedies.find_missing(self, needs)
        if missing.names and (sentence := remedies.closed_schema(self)):
            raise StoreUnavailable(sentence)
        if missing.names:
            raise StoreUnavailable(remedies.sentence(self, missing))

    def require_writable(self) -> None:
        """Refuse a read-only or locked store: take the write lock and release it."""
        try:
            if self.path is not None:
                if not is_writable(self.path):
                    raise _read_only(self.path)
                with transaction.atomic(using=self.alias):
                    pass
            elif self.query("SELECT current_setting('transaction_read_only')")[0][0] == "on":
                raise StoreUnavailable(
                    _("%(location)s is read-only. Nothing was written. Use a writable database.")
                    % {"location": self.location}
                )
        except DatabaseError as error:
            raise self.unusable(error) from error

    def unusable(self, error: Exception) -> StoreUnavailable:
        """Return the error to raise for a driver's error."""
        reason = first_line(error)
        code, state = sqlite_code(error), sqlstate(error)
        if state == "42P01" and not self.connection.in_atomic_block and (sentence := remedies.closed_schema(self)):
            return StoreUnavailable(sentence)
        primary = None if code is None else code & 0xFF
        if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} or state == "55P03":
            text = _("%(location)s is locked by another process. Nothing was written. Try again later.")
        elif primary == sqlite3.SQLITE_READONLY or state == "25006":
            text = _("%(location)s is read-only. Nothing was written. Use a writable database.")
        elif primary == sqlite3.SQLITE_NOTADB:
            text = _("%(location)s is not a SQLite database. Check the path.")
        elif primary == sqlite3.SQLITE_CORRUPT:
            text = _("%(location)s is damaged (%(reason)s). Restore a backup first.")
        elif "startup parameter" in reason:  # a pooler reports no code
            text = _(
                "%(location)s refuses start-up options (%(reason)s), like a connection pooler in transaction "
                "mode. Add pooler=transaction to its URL."
            )
        elif state == "57014" or primary == sqlite3.SQLITE_INTERRUPT:
            text = _("A statement on %(location)s took too long and was stopped: %(reason)s. Try again later.")
        elif needs_password(error) and self.is_configured:
            text = _("%(location)s requires a password. Set %(variable)s.")
        elif is_unreachable(error):
            text = _("%(location)s cannot be reached: %(reason)s")
        else:
            text = _("%(location)s refused a statement: %(reason)s")
        variable = ("" if self.alias == DEFAULT else f"{self.alias.upper()}_") + "DATABASE_PASSWORD"
        found = StoreUnavailable(text % {"location": self.location, "reason": reason, "variable": variable})
        found.store, found.error = self, error
        return found

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a statement. `%s` is a parameter; any other `%` is doubled."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, list(values))
            return list(cursor.fetchall())

    def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement and return its row count."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, list(values))
            return int(cursor.rowcount)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Execute a statement once for each of `rows` and return the total row count."""
        with self.connection.cursor() as cursor:
            cursor.executemany(sql, rows)
            return int(cursor.rowcount)


def _server_identity(query: Callable[[str], list[Any]]) -> str:
    """Return the identity of a PostgreSQL database.

    If the role cannot execute `pg_control_system()`, the address of the server replaces the system identifier.
    """
    ((permitted, address, port, database, schema),) = query(_SERVER)
    server = query("SELECT system_identifier FROM pg_control_system()")[0][0] if permitted else f"{address}:{port}"
    return f"postgresql:{server}:{database}:{schema}"


_identities: dict[tuple[str, str], str] = {}  # alias and location → identity
_SERVER = """
    SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE'),
           CASE WHEN inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = '::1' THEN ''
                ELSE COALESCE(host(inet_server_addr()), '') END,
           current_setting('port'), (SELECT oid FROM pg_database WHERE datname = current_database()),
           COALESCE(current_schema(), '')
"""


def text_of(value: Any) -> str | None:
    """Return a value as PostgreSQL's text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, RawText):
        return tolerant_text(value)
    if isinstance(value, bytes | memoryview):
        return f"\\x{bytes(value).hex()}"
    return str(value)


def all_stores() -> Iterator[Store]:
    """Yield the console's own database and every store, in the order of the settings."""
    yield Store(DEFAULT, DEFAULT)
    yield from map(Store.called, settings.STORES)


def unknown_store(name: str, *, own: bool = True) -> str:
    """Return that no store is called `name`, and what the stores are called: with `own`, also `default`."""
    names = ", ".join(store.alias for store in all_stores() if own or store.alias != DEFAULT)
    return _("No store is called %(name)s. The stores are: %(names)s.") % {"name": name, "names": names}


def failed_store() -> Store | None:
    """Return the store whose connection in this thread had an error, or None."""
    for connection in connections.all(initialized_only=True):
        if connection.alias != DEFAULT and connection.errors_occurred:
            return Store.called(connection.alias)
    return None


def _columns(model: type[Model]) -> list[str]:
    return [str(field.column) for field in model._meta.concrete_fields]


def _dotted(version: str) -> tuple[int, ...]:
    """Return a version as numbers. `49` and `v66` mean 0.49 and 0.66."""
    parts = version.removeprefix("v").split(".")
    return tuple(int(part) if part.isdigit() else -1 for part in (["0", *parts] if len(parts) == 1 else parts))
