"""Stores of execution records as their platform creates them, with summaries of every kind."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

if TYPE_CHECKING:
    from opsconsole.stores.store import Store


class Kind(NamedTuple):
    """A summary, its compression flag, and the expected outcome: the id, or the reason why it has none."""

    summary: str | bytes | None
    flag: int | None
    outcome: str
    is_id: bool


def execution(number: int) -> str:
    return f"7f3c2a1e-0000-4000-8000-{number:012d}"


def summary(number: int, **more: Any) -> str:
    return json.dumps({"brand": "青岚", "execution_id": execution(number), **more}, ensure_ascii=False)


def kinds(number: int) -> list[Kind]:
    """Return one summary of each kind, with ids from `number`."""
    text = summary(number, results=[{"model": "m", "execution_id": "nested"}])
    packed = gzip.compress(text.encode())
    found = execution(number)
    deep = "[" * 30_000
    return [
        Kind(text, 0, found, True),
        Kind(text.encode(), 0, found, True),
        Kind(packed, 1, found, True),
        Kind(packed, 0, found, True),  # the bytes are gzip, although the flag is not set
        Kind(text, 1, found, True),  # the bytes are not gzip, although the flag is set
        Kind(packed + gzip.compress(b"  "), None, found, True),  # two gzip members
        Kind(f"\n {text}\r\n", None, found, True),
        Kind('{"execution_id": "first", "execution_id": "last"}', 0, "last", True),
        Kind('{"a": "\\ud800", "execution_id": "beside a surrogate"}', 0, "beside a surrogate", True),
        Kind(json.dumps({"x": "y" * 1_500_000, "execution_id": "long"}), 0, "long", True),
        Kind('{"execution_id": " kept as it is "}', 0, " kept as it is ", True),
        Kind(None, 0, "empty", False),
        Kind("", 0, "empty", False),
        Kind(b" \n", 0, "empty", False),
        Kind("{'execution_id': 'x'}", 0, "broken_json", False),
        Kind(text[:-9], 0, "broken_json", False),
        Kind('{"execution_id": "x", "n": NaN}', 0, "broken_json", False),
        Kind(f'{{"execution_id": "x", "n": {deep}', 0, "too_deep", False),
        Kind(packed[:-12], 1, "broken_gzip", False),
        Kind(packed[:20] + b"\0\0\0\0" + packed[24:], 1, "broken_gzip", False),
        Kind(b"no gzip at all", 1, "broken_gzip", False),
        Kind(gzip.compress(b"\xff\xfe\x00"), 1, "not_text", False),
        Kind(b"\xff\xfe\x00", 0, "not_text", False),
        Kind("[1, 2]", 0, "not_an_object", False),
        Kind('"execution_id"', 0, "not_an_object", False),
        Kind('{"brand": "x"}', 0, "no_execution_id", False),
        Kind('{"execution_id": null}', 0, "no_execution_id", False),
        Kind('{"execution_id": 17}', 0, "no_execution_id", False),
        Kind('{"execution_id": "  "}', 0, "no_execution_id", False),
        Kind('{"results": [{"execution_id": "nested"}]}', 0, "no_execution_id", False),
        Kind(json.dumps({"execution_id": "x" * 501}), 0, "no_execution_id", False),
    ]


BOMB = gzip.compress(b'{"execution_id": "bomb", "x": "' + b"0" * (70 << 20) + b'"}', compresslevel=9)


def rows(count: int, *, seed: int = 3) -> Iterator[tuple[int, Kind, str | None]]:
    """Return (key, kind, existing execution id), in an order that mixes the kinds in every batch."""
    rng = Random(seed)
    pool: list[Kind] = []
    for number in range(count):
        if not pool:
            pool = [kind for kind in kinds(number) if len(kind.summary or "") < 100_000 or number < 40]
            rng.shuffle(pool)
        kind = pool.pop()
        yield number + 1 + number // 50 * 3, kind, (f"old-{number}" if rng.random() < 0.15 else None)


def statements(*, sqlite: bool, column: bool = True, index: bool = True) -> list[str]:
    """Return the tables of the platform, and an undocumented one."""
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "SERIAL PRIMARY KEY"
    blob, false = ("BLOB", "0") if sqlite else ("BYTEA", "FALSE")
    made = [
        f"""CREATE TABLE test_records (id {key}, user_id INTEGER NOT NULL, brand_name TEXT NOT NULL,
            test_date TIMESTAMP DEFAULT CURRENT_TIMESTAMP, ai_models_used TEXT, questions_used TEXT, overall_score REAL,
            total_tests INTEGER, results_summary {blob}, detailed_results {blob},
            is_summary_compressed INTEGER DEFAULT 0, is_detailed_compressed INTEGER DEFAULT 0
            {", execution_id TEXT" if column else ""})""",
        f"""CREATE TABLE task_statuses (id {key}, task_id TEXT UNIQUE NOT NULL, progress INTEGER DEFAULT 0,
            stage TEXT NOT NULL, status_text TEXT, is_completed BOOLEAN DEFAULT {false},
            created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)""",
        f"CREATE TABLE user_preferences (id {key}, user_id INTEGER, preference_value {blob})",
    ]
    if column and index:
        made.append("CREATE INDEX idx_test_records_execution_id ON test_records (execution_id)")
    return made


INSERT = (
    "INSERT INTO test_records (id, user_id, brand_name, results_summary, is_summary_compressed, execution_id) "
    "VALUES (?, 1, '青岚', ?, ?, ?)"
)


class Client:
    """A connection of the platform in autocommit mode. Statements have `?` for values."""

    def __init__(self, connection: Any, *, sqlite: bool) -> None:
        self.connection, self.sqlite = connection, sqlite

    def execute(self, sql: str, values: Any = ()) -> list[Any]:
        cursor = self.connection.execute(sql if self.sqlite else sql.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []

    def add(self, key: int, kind: Kind, stands: str | None = None) -> None:
        document = kind.summary
        if not self.sqlite and isinstance(document, str):
            document = document.encode(errors="surrogatepass")
        if self.execute("SELECT 1 FROM test_records WHERE id = ?", [key]):
            raise KeyError(key)
        self.execute(INSERT, [key, document, kind.flag, stands])


Maker = Callable[..., tuple["Store", Client]]


@pytest.fixture
def make_records(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Return a function that attaches stores and returns (store, client)."""
    from opsconsole.stores.store import attach_file
    from tests.conftest import attach_url, forget_attached

    closers: list[Any] = []
    names: list[str] = []

    def make(
        engine: str,
        content: Any = (),
        *,
        column: bool = True,
        index: bool = True,
        by_url: bool = False,
        alias: str = "records",
    ) -> tuple[Store, Client]:
        sqlite = engine == "sqlite"
        place = len(closers)
        if sqlite:
            path = tmp_path / f"records-{place}.db"
            connection: Any = sqlite3.connect(path, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
        else:
            server = request.getfixturevalue("postgres")
            names.append(f"records_{place}")
            url = server.create_database(names[-1])
            connection = psycopg.connect(url, autocommit=True)
        client = Client(connection, sqlite=sqlite)
        closers.append(connection)
        for statement in statements(sqlite=sqlite, column=column, index=index):
            client.execute(statement)
        for row in content:
            client.add(*row)
        if not sqlite:
            client.execute("ANALYZE")
            return attach_url(alias, url, platform="records"), client
        if by_url:
            return attach_url(alias, f"sqlite:///{path}", platform="records"), client
        return attach_file("records", path), client

    yield make
    for connection in closers:
        connection.close()
    forget_attached()
    for name in names:
        request.getfixturevalue("postgres").drop_database(name)
