"""Commands that are killed, stopped, frozen, out of disk space or without a server.

Every test runs commands as separate processes with a separate data folder, and reads the store with a plain client.
`tests.support.reference_backfill` computes the expected rows.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from opsconsole.stores.store import attach_file
from tests.audits.test_backfill_decision_fields import expected
from tests.conftest import forget_attached
from tests.support import agentos, forking
from tests.support.plain_client import Tables, dump

ROOT = Path(__file__).resolve().parents[2]
BACKFILL = "backfill_audit_decision_fields"
INTERRUPTED = 130


class Process:
    """A running command."""

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: Path, **options: Any) -> None:
        self.out, self.err = ((folder / f"{name}-{time.monotonic_ns()}").open("w+") for name in ("out", "err"))
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            **options,
        )

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Return exit code, printed JSON and standard error."""
        try:
            code = self.process.wait(timeout=90)
        finally:
            self.process.kill()
            self.process.wait()
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        return code, json.loads(texts[0] or "{}"), texts[1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


class Console:
    """A console with its own databases and one attached AgentOS store."""

    def __init__(self, folder: Path, store_url: str, *, console_url: str = "") -> None:
        self.folder = folder
        self.path = folder / "data" / "default.sqlite3"
        self.console_url = console_url
        self.store_url = store_url
        self.environment = os.environ | {"OPSCONSOLE_DATA_DIR": str(folder / "data")}
        for name in ("DATABASE_URL", "AGENTOS_DATABASE_URL", "HELIX_DATABASE_URL", "RECORDS_DATABASE_URL"):
            self.environment.pop(name, None)
        self.where = []
        if store_url.startswith("/"):
            self.where = ["--db-path", store_url]
        else:
            self.environment |= {"AGENTOS_DATABASE_URL": store_url, "AGENTOS_ATTACHED": "true"}
        if console_url:
            self.environment["DATABASE_URL"] = console_url
        self.processes: list[Process] = []

    def start(self, *arguments: str, accident: dict[str, Any] | None = None, **options: Any) -> Process:
        command = [sys.executable, "-m", "tests.support.fault_injection", json.dumps(accident or {}), *arguments]
        process = Process(command, self.environment, self.folder, **options)
        self.processes.append(process)
        return process

    def backfill(self, *arguments: str, **options: Any) -> Process:
        return self.start(BACKFILL, *self.where, "--batch-size", "20", "--json", *arguments, **options)

    def finish(self) -> tuple[int, dict[str, Any], str]:
        """Run the backfill until it ends."""
        return self._whole(BACKFILL, *self.where, "--batch-size", "20")

    def undo(self, run: int) -> tuple[int, dict[str, Any], str]:
        return self._whole("run", "operations.undo_run", "--run", str(run), "--execute", "--yes")

    def _whole(self, *words: str) -> tuple[int, dict[str, Any], str]:
        done = forking.run("manage.py", [*words, "--json"], self.environment)
        return done.returncode, json.loads(done.stdout or "{}"), done.stderr

    def ask(self, sql: str) -> list[Any]:
        """Query the console's own database."""
        if self.console_url:
            with psycopg.connect(self.console_url, autocommit=True) as connection:
                cursor = connection.execute(sql)
                return cursor.fetchall() if cursor.description else []
        with closing(sqlite3.connect(self.path, timeout=20, isolation_level=None)) as database:
            return database.execute(sql).fetchall()

    def wait_for_batches(self, count: int = 1) -> None:
        until(lambda: self.ask(f"SELECT 1 FROM operations_run WHERE batches_done >= {count} AND status = 'running'"))

    def dump(self) -> Tables:
        if self.store_url.startswith("/"):
            store = attach_file("agentos", self.store_url)
        else:
            from tests.conftest import attach_url

            store = attach_url("agentos", self.store_url)
        try:
            return dump(store)
        finally:
            forget_attached()

    @property
    def vendor(self) -> str:
        return "sqlite" if self.store_url.startswith("/") else "postgresql"

    def close(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
                process.process.wait()
            process.out.close()
            process.err.close()


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


@pytest.fixture
def console(tmp_path: Path, request: pytest.FixtureRequest, empty_console: Path) -> Iterator[Console]:
    """Set up a console and a store with 1,000 audits. The parameter is the engine."""
    engine = getattr(request, "param", "sqlite")
    url = str(tmp_path / "store.db")
    if engine == "sqlite":
        agentos.create_sqlite(url, 1_000, seed=3)
    else:
        url = request.getfixturevalue("postgres").create_database("crash")
        agentos.create_postgres(url, 1_000, seed=3)
    (tmp_path / "data").mkdir()
    console = Console(tmp_path, url)
    shutil.copyfile(empty_console, console.path)
    yield console
    console.close()
    if engine != "sqlite":
        request.getfixturevalue("postgres").drop_database("crash")


both = pytest.mark.parametrize("console", ["sqlite", "postgresql"], indirect=True)


def check_done(console: Console, ended: tuple[int, dict[str, Any], str], before: Tables) -> dict[str, Any]:
    """Check that every row equals the reference, is counted once, and is undone exactly."""
    code, result, said = ended
    assert code == 0, said
    after = expected(deepcopy(before), console.vendor)
    assert console.dump() == after
    changed = sum(before["task_audits"][key] != after["task_audits"][key] for key in before["task_audits"])
    assert (result["status"], result["changed"], result["failed"]) == ("succeeded", changed, 0)
    assert result["total"] == result["changed"] + result["invalid"] == 400
    assert console.ask("SELECT COUNT(*) FROM operations_run") == [(1,)]
    assert console.ask("SELECT COUNT(*) FROM operations_lock") == [(0,)]
    code, undone, said = console.undo(result["run"])
    assert (code, undone["changed"], undone["invalid"]) == (0, changed, 0), said
    assert console.dump() == before
    return result


@both
@pytest.mark.parametrize(
    "point", ["within the image's commit", "after the image", "while writing", "after the store's commit"]
)
def test_killed_at_the_worst_moments(console: Console, point: str) -> None:
    before = console.dump()
    code, _, said = console.backfill(accident={"at": point, "call": 4, "signal": "SIGKILL"}).end()
    assert code == -signal.SIGKILL, said
    assert console.dump() != before
    check_done(console, console.finish(), before)


@both
def test_killed_again_and_again(console: Console) -> None:
    before = console.dump()
    rng = random.Random()
    seed = rng.randrange(10**6)
    rng.seed(seed)
    killed = 0
    for _ in range(4):
        process = console.backfill("--batch-size", "5")
        done = console.ask("SELECT COALESCE(MAX(batches_done), 0) FROM operations_run")[0][0]
        try:
            console.wait_for_batches(done + 1)
        except AssertionError:
            break
        time.sleep(rng.random() * 0.05)
        process.signal(signal.SIGKILL)
        killed += process.end()[0] == -signal.SIGKILL
    assert killed >= 3, f"seed {seed}"
    check_done(console, console.finish(), before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(console: Console, number: signal.Signals) -> None:
    before = console.dump()
    process = console.backfill()
    console.wait_for_batches()
    process.signal(number)
    code, result, said = process.end()
    assert (code, result["status"]) == (INTERRUPTED, "interrupted"), said
    assert 0 < result["changed"] < 400
    assert console.ask("SELECT COUNT(*) FROM operations_batch WHERE NOT committed") == [(0,)]
    result = check_done(console, console.backfill("--batch-size", "50").end(), before)


def test_two_commands_at_once_and_a_frozen_process(console: Console) -> None:
    """The second command names the run of the first. After the lease it takes over, and the first is fenced."""
    before = console.dump()
    first = console.backfill(accident={"at": "after the image", "call": 4, "signal": "SIGSTOP"})
    until(lambda: psutil.Process(first.process.pid).status() == psutil.STATUS_STOPPED)
    code, _, said = console.finish()
    run = console.ask("SELECT id FROM operations_run")[0][0]
    assert (code, said.count("\n")) == (2, 1)
    assert f"Run {run}" in said
    console.ask("UPDATE operations_run SET lease_until = '2020-01-01 00:00:00'")
    ended = console.finish()
    after = console.dump()
    first.signal(signal.SIGCONT)
    code, _, said = first.end()
    assert code == 2, said
    assert "taken over" in said
    assert console.dump() == after
    assert console.ask("SELECT status, COUNT(*) FROM operations_run GROUP BY status") == [("succeeded", 1)]
    assert console.ask("SELECT COUNT(*) FROM operations_batch WHERE NOT committed") == [(0,)]
    check_done(console, ended, before)


@pytest.mark.parametrize("limit", ["pages", "file size"])
def test_full_disk(console: Console, limit: str) -> None:
    """A full disk for the console's database or for all files stops the run, which resumes later."""
    before = console.dump()
    if limit == "pages":
        pages = console.ask("PRAGMA page_count")[0][0]
        process = console.backfill(accident={"pages": pages + 2})
    else:
        most = console.path.stat().st_size
        with Path(console.store_url).open("rb") as file:
            most = max(most, os.fstat(file.fileno()).st_size)
        process = console.backfill(
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        )
    code, _, said = process.end()
    assert code == INTERRUPTED, said
    assert "Traceback" not in said.rpartition("Interrupted")[2]
    halfway = console.dump()
    assert halfway != before
    half = sum(halfway["task_audits"][key] != row for key, row in before["task_audits"].items())
    assert 0 < half < 380
    check_done(console, console.finish(), before)


def test_locked_store(console: Console) -> None:
    """The run waits while another process holds the write lock longer than the busy timeout."""
    before = console.dump()
    process = console.backfill()
    console.wait_for_batches()
    with closing(sqlite3.connect(console.store_url, isolation_level=None, timeout=20)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        waited = time.monotonic()
        until(lambda: console.ask("SELECT 1 FROM operations_run WHERE waiting LIKE '%locked%'"), seconds=20)
        assert time.monotonic() - waited > 3
        holder.execute("ROLLBACK")
    check_done(console, process.end(), before)


def test_a_replaced_file(console: Console) -> None:
    """Undo and resume refuse another file. The same command starts a run on the new database."""
    before = console.dump()
    code, _, said = console.backfill(accident={"at": "after the image", "call": 4, "signal": "SIGKILL"}).end()
    run = console.ask("SELECT id FROM operations_run")[0][0]
    store = Path(console.store_url)
    content = store.read_bytes()
    original = store.rename(store.with_suffix(".moved"))
    for suffix in ("-wal", "-shm"):
        if Path(f"{store}{suffix}").exists():
            Path(f"{store}{suffix}").rename(f"{original}{suffix}")
    agentos.create_sqlite(store, 1_000, seed=4)
    other = console.dump()
    code, _, said = console.undo(run)
    assert (code, said.count("\n")) == (2, 1)
    assert "is not the database" in said
    assert console.dump() == other
    assert content
    for suffix in ("", "-wal", "-shm"):
        Path(f"{store}{suffix}").unlink(missing_ok=True)
        if Path(f"{original}{suffix}").exists():
            Path(f"{original}{suffix}").rename(f"{store}{suffix}")
    check_done(console, console.finish(), before)


def test_server_is_gone(tmp_path: Path, own_postgres: Any, empty_console: Path) -> None:
    """The store's PostgreSQL is unreachable during the run: too long, then briefly."""
    url = own_postgres.create_database("store")
    agentos.create_postgres(url, 1_000, seed=3)
    (tmp_path / "data").mkdir()
    console = Console(tmp_path, url)
    shutil.copyfile(empty_console, console.path)
    try:
        before = console.dump()
        process = console.backfill(accident={"patience": 1})
        console.wait_for_batches()
        own_postgres.stop(immediate=True)
        code, _, said = process.end()
        assert code == INTERRUPTED, said
        assert console.ask("SELECT status FROM operations_run") == [("interrupted",)]
        own_postgres.start()
        assert console.dump() != before
        process = console.backfill()
        console.wait_for_batches(console.ask("SELECT batches_done FROM operations_run")[0][0] + 1)
        own_postgres.stop(immediate=True)
        time.sleep(1.5)
        own_postgres.start()
        check_done(console, process.end(), before)
    finally:
        console.close()


def test_everything_on_postgresql(tmp_path: Path, own_postgres: Any) -> None:
    """Console and store share a server. The process is killed between the two commits, then disconnected."""
    url = own_postgres.create_database("store")
    agentos.create_postgres(url, 1_000, seed=3, payload_type="jsonb")
    console = Console(tmp_path, url, console_url=own_postgres.create_database("console"))
    try:
        setup = console.start("setup")
        assert setup.process.wait() == 0
        before = console.dump()
        code, _, said = console.backfill(accident={"at": "after the image", "call": 4, "signal": "SIGKILL"}).end()
        assert code == -signal.SIGKILL, said
        process = console.backfill()
        console.wait_for_batches(6)
        own_postgres.stop(immediate=True)
        time.sleep(0.5)
        own_postgres.start()
        check_done(console, process.end(), before)
    finally:
        console.close()
