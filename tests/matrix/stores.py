"""Stores of the matrix: a prepared file or database for each platform, and copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from opsconsole.stores.store import Store, attach_file
from tests.conftest import attach_url, forget_attached
from tests.matrix.harness import Place, apply, close_readers, create, filled
from tests.matrix.kinds import Kind
from tests.matrix.oddities import Oddity
from tests.support.pooler import Pooler
from tests.support.postgres import Server, copy_strategy

ROLE = "matrix_role"


class Stores:
    """A factory of stores with oddities. Each new store replaces an earlier one."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.pooler: Pooler | None = None
        self._prepared: dict[tuple[str, str, str], Place] = {}
        self._used = 0
        self._superuser = psycopg.connect(server.dsn, autocommit=True)
        self._strategy = copy_strategy(self._superuser)
        with suppress(
            psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation
        ):  # another worker may create it at the same time
            self._superuser.execute(f"CREATE ROLE {ROLE} LOGIN")

    def make(self, kind: Kind, *oddities: Oddity) -> Place:
        """Create a store with its oddities."""
        engine = oddities[0].engine
        encoding = next((one.encoding for one in oddities if one.encoding != "UTF8"), "UTF8")
        base = self._base(kind, engine, encoding)
        self._used += 1
        if engine == "sqlite":
            place = Place(engine, str(self.folder / f"store-{self._used}.db"))
            shutil.copyfile(base.address, place.address)
        else:
            name = f"matrix_{self._used % 2}"
            place = Place(engine, self._copy(name, urlsplit(base.address).path[1:]))
        for one in oddities:
            apply(place, one.makes, self.names(kind, place))
        return place

    def names(self, kind: Kind, place: Place) -> dict[str, str]:
        """Return the value of each `<name>` in statements of oddities."""
        url = urlsplit(place.address)
        database = url.path[1:]
        where = {"database": f'"{database}"', "database_text": f"'{database}'", "port": str(url.port), "role": ROLE}
        return kind.names() | (where if not place.sqlite else {"role": ROLE})

    def attach(self, kind: Kind, place: Place, *oddities: Oddity, attached: bool = True, by_url: bool = False) -> Store:
        """Attach the store to the console."""
        if place.sqlite:
            if not by_url:
                return attach_file(kind.platform, place.address)
            return attach_url(kind.platform, f"sqlite:///{place.address}", attached=attached)
        url = urlsplit(place.address)
        role = ROLE if any(one.role for one in oddities) else url.username
        port = url.port
        if any(one.pooler for one in oddities):
            self.pooler = self.pooler or Pooler(self.folder, url.port, [ROLE])
            port = self.pooler.port
            self._leave_behind(f"postgresql://{role}@{url.hostname}:{port}{url.path}", place, kind, oddities)
        options = [one.url for one in oddities if one.url]
        for schema in {one.schema for one in oddities if one.schema}:
            path = f'"{schema}"'.replace(" ", "\\ ")
            options.append(f"options={quote(f'-c search_path={path}')}")
        query = f"?{'&'.join(options)}" if options else ""
        address = f"postgresql://{role}@{url.hostname}:{port}{url.path}{query}"
        return attach_url(kind.platform, address, attached=attached)

    def _leave_behind(self, address: str, place: Place, kind: Kind, oddities: Sequence[Oddity]) -> None:
        """Execute the statements of another client in the pooler's connection that the console will get."""
        with psycopg.connect(address, autocommit=True, prepare_threshold=None) as connection:
            for statement in [text for one in oddities for text in one.leaves]:
                connection.execute(filled(statement, self.names(kind, place)))

    def close(self) -> None:
        forget_attached()
        close_readers()
        self._superuser.close()
        if self.pooler is not None:
            self.pooler.close()

    def _base(self, kind: Kind, engine: str, encoding: str) -> Place:
        key = (kind.platform, engine, encoding)
        if key not in self._prepared:
            name = f"matrix_{kind.platform}_{encoding.lower().replace('-', '')}"
            if engine == "sqlite":
                place = Place(engine, str(self.folder / f"{name}.db"))
                encoded = [f"PRAGMA encoding = '{encoding}'"] if encoding != "UTF8" else []
                apply(place, encoded, {})
            else:
                place = Place(engine, self._empty(name, encoding))
            create(place, [*(encoded if engine == "sqlite" else ()), *kind.base(engine)])
            self._prepared[key] = place
        return self._prepared[key]

    def _empty(self, name: str, encoding: str) -> str:
        return self._create(
            name, "template0", f"ENCODING '{encoding}' LOCALE '{'C.UTF-8' if encoding == 'UTF8' else 'C'}'"
        )

    def _copy(self, name: str, template: str) -> str:
        forget_attached()
        close_readers()
        return self._create(name, template, "")

    def _create(self, name: str, template: str, options: str) -> str:
        names = sql.Identifier(f"{name}{self.server.suffix}"), sql.Identifier(template)
        self._superuser.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(names[0]))
        statement = sql.SQL(f"CREATE DATABASE {{}} TEMPLATE {{}} {options} {self._strategy}")
        self._superuser.execute(statement.format(*names))
        return self.server.url(name)


@contextmanager
def opened(folder: Path, server: Server) -> Iterator[Stores]:
    stores = Stores(folder, server)
    try:
        yield stores
    finally:
        stores.close()
