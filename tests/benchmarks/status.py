"""What a status costs over a view that answers a constant of its size: 16 clients, the server included."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.command import ROOT
from tests.support.postgres import Server
from tests.support.records import execution, statements
from tests.support.redis import NoRedis, RedisServer

CLIENTS = 16
WORKERS, THREADS = 2, 3  # as docs/production.md starts the web server
LIVE = 10_000
ASKED = 2.0
ADDRESS = "/api/v1/executions/{}/status"
PATH = ADDRESS.format("7f3c2a1e-0000-4000-8000-%012d")
CONSTANTS = {"constant": "/constant", "constant behind the token": "/api/v1/constant"}
RESULTS = [
    {"model": f"model-{place}", "rank": place, "score": 81.5, "answer": "reliable, well made, fairly priced. " * 3}
    for place in range(11)
]
SUMMARY = json.dumps({"execution_id": "ID", "results": RESULTS}, separators=(",", ":"))


def measure(
    engine: str, cache: Path, server: Server | None, rows: int, report: Any, *, rounds: int, seconds: float
) -> None:
    """One table of figures; views take turns within a round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="status-", dir=cache)))
        url = _store(engine, folder, server, rows)
        environment = {
            **os.environ,
            "OPSCONSOLE_ENV_FILE": os.devnull,
            "OPSCONSOLE_DATA_DIR": str(folder / "data"),
            "RECORDS_DATABASE_URL": url,
            "RECORDS_ATTACHED": "true",
        }
        live = _live(folder, stack, environment)
        token = _token(environment)
        processes = WORKERS if live else 1  # what is live is in one process's memory, without a Redis
        port = stack.enter_context(_server(environment, workers=processes))
        views = {**CONSTANTS, "test_records": PATH, "task_statuses": PATH.replace("7f3c", "8f3c")}
        if live:
            views["live"] = PATH.replace("7f3c", "9f3c")
        ids = {"live": LIVE}
        found: dict[str, list[dict[str, Any]]] = {view: [] for view in views}
        for number in range(-1, rounds):
            for view, path in views.items():
                job = {
                    "port": port,
                    "path": path,
                    "ids": ids.get(view, rows // 2),
                    "token": token,
                    "clients": CLIENTS,
                    "processes": processes,
                }
                said = _load({**job, "seconds": seconds if number >= 0 else 2})
                if number >= 0:  # the first round warms up
                    found[view].append(said)
        report.table(
            f"status of one of {rows:,} executions, {engine}, {CLIENTS} clients, {rounds} rounds of {seconds:g} s",
            list(_lines(found)),
        )
        if engine == "postgresql" and server is not None:
            server.drop_database("records_status")


def _lines(found: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    def typical(view: str, name: str) -> float:
        return float(statistics.median(one[name] for one in found[view]))

    for view, rounds in found.items():
        line: dict[str, Any] = {
            "what": view,
            "bytes": rounds[0]["sizes"][1],
            "requests/s": [one["requests"] / one["seconds"] for one in rounds],
            "p50, ms": [one["p50"] for one in rounds],
            "p99, ms": [one["p99"] for one in rounds],
        }
        for constant in CONSTANTS:
            times = (
                "–"
                if view in CONSTANTS
                else " / ".join(f"{typical(view, name) / typical(constant, name):.2f}" for name in ("p50", "p99"))
            )
            line[f"× {constant} (p50 / p99)"] = times
        line["asked"] = "" if view in CONSTANTS else f"≤ {ASKED:g}"
        yield line


def _load(job: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.load", json.dumps(job)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    if set(said["statuses"]) != {"200"}:
        raise RuntimeError(f"{job['path']} answered {said['statuses']}")
    return said | {"seconds": job["seconds"]}


# --- what is measured -------------------------------------------------------------------------------------


def _rows(rows: int) -> Iterator[tuple[Any, ...]]:
    for number in range(rows):
        yield number + 1, 1, "brand", SUMMARY.replace("ID", execution(number)).encode(), execution(number)
    for number in range(rows):  # the results of those whose status is in task_statuses
        found = execution(number).replace("7f3c", "8f3c")
        yield rows + number + 1, 1, "brand", SUMMARY.replace("ID", found).encode(), found


def _statuses(rows: int) -> Iterator[tuple[Any, ...]]:
    for number in range(rows):
        yield execution(number).replace("7f3c", "8f3c"), 100, "completed", True


COLUMNS = ("id", "user_id", "brand_name", "results_summary", "execution_id")
STATUS_COLUMNS = ("task_id", "progress", "stage", "is_completed")


def _store(engine: str, folder: Path, server: Server | None, rows: int) -> str:
    """Half of the records have a row in `task_statuses`, too; `rows` records in all."""
    half = rows // 2
    if engine == "sqlite":
        path = folder / "records.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN")
            for statement in statements(sqlite=True):
                connection.execute(statement)
            for table, columns, content in _content(half):
                marks = ", ".join("?" * len(columns))
                connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", content)
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode=WAL")
        return f"sqlite:///{path}"
    assert server is not None
    url = server.create_database("records_status")
    with psycopg.connect(url, autocommit=True) as pg:
        for statement in statements(sqlite=False):
            pg.execute(statement)
        with pg.cursor() as cursor:
            for table, columns, content in _content(half):
                with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                    for row in content:
                        copy.write_row(row)
        pg.execute("VACUUM ANALYZE test_records")
        pg.execute("VACUUM ANALYZE task_statuses")
        pg.execute("CHECKPOINT")  # nothing of it is left to write while it is measured
    return url


def _content(half: int) -> Iterator[tuple[str, tuple[str, ...], Iterator[tuple[Any, ...]]]]:
    yield "test_records", COLUMNS, _rows(half)
    yield "task_statuses", STATUS_COLUMNS, _statuses(half)


def _live(folder: Path, stack: ExitStack, environment: dict[str, str]) -> bool:
    """A Redis that holds some executions, where there is one to be started."""
    try:
        server = RedisServer(folder)
    except NoRedis as error:
        sys.stderr.write(f"live layer not measured: {error}\n")
        return False
    stack.callback(server.stop)
    environment["CACHE_URL"] = server.url
    entry = {"progress": 100, "stage": "completed", "status": "completed", "is_completed": True, "results": RESULTS}
    client = server.client
    for number in range(LIVE):
        found = execution(number).replace("7f3c", "9f3c")
        client.set(f"execution:{found}", json.dumps({"task_id": found, "created_at": "2026-02-23", **entry}))
    return True


def _token(environment: dict[str, str]) -> str:
    """Sets the console up; a viewer's token."""
    subprocess.run([sys.executable, "manage.py", "setup"], cwd=ROOT, env=environment, check=True, capture_output=True)
    script = (
        "from django.contrib.auth.models import Group, User; from opsconsole.accounts.models import Token;"
        "user = User.objects.create_user('poller'); user.groups.set(Group.objects.filter(name='Viewers'));"
        "print(Token.make(user, 'bench'))"
    )
    shell = [sys.executable, "manage.py", "shell", "--no-imports", "-c", script]
    done = subprocess.run(shell, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


@contextmanager
def _server(environment: dict[str, str], *, workers: int) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "gunicorn", "tests.benchmarks.constant:application", "--bind", f"127.0.0.1:{port}"),
        *("--worker-class", "gthread", "--workers", str(workers), "--threads", str(THREADS)),
        *("--keep-alive", "60", "--log-level", "warning", "--no-control-socket"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()
