"""Measure the audit backfill on PostgreSQL divided among workers, against one UPDATE divided among connections.

The console's database is on the same server. Seconds are from the start of the run to its end, as the run records them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import psycopg

from tests.benchmarks.__main__ import Report
from tests.benchmarks.baselines import POSTGRES_FUNCTION, POSTGRES_UPDATE
from tests.benchmarks.command import NAME, ROOT, environment_of
from tests.benchmarks.stores import Location, PostgresStores, own_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Server

CONSOLE = "shards_console"
PROGRESS = "SELECT status, started_at, finished_at, error FROM operations_run"
FINISHED = {"succeeded", "needs_attention"}


class Hosts:
    """A new console whose database is on the server, and clusters of one worker each."""

    def __init__(self, server: Server, location: Location, data: Path) -> None:
        server.drop_database(CONSOLE)
        self.url = server.create_database(CONSOLE)
        self.environment = environment_of(data) | {
            "DATABASE_URL": self.url,
            "AGENTOS_DATABASE_URL": location.address,
            "AGENTOS_ATTACHED": "true",
            "OPSCONSOLE_WORKERS": "1",
        }
        self.call("setup")

    def call(self, *arguments: str) -> None:
        """Run a command to its end."""
        done = subprocess.run(self._line(*arguments), env=self.environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)

    @contextmanager
    def clusters(self, count: int) -> Iterator[None]:
        """Run clusters until the end of the block."""
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        started = [
            subprocess.Popen(self._line("qcluster"), env=self.environment, cwd=ROOT, **quiet) for _ in range(count)
        ]
        try:
            yield
        finally:
            for cluster in started:
                os.killpg(cluster.pid, signal.SIGKILL)
                cluster.wait()

    def execute(self, shards: int) -> float:
        """Execute the backfill and return its seconds."""
        self.call(NAME, "--background", "--shards", str(shards))
        with psycopg.connect(self.url, autocommit=True) as connection:
            while True:
                time.sleep(0.2)
                ((status, started, finished, error),) = connection.execute(PROGRESS).fetchall()
                if finished is not None:
                    if status not in FINISHED:
                        raise RuntimeError(f"{status}: {error}")
                    return float((finished - started).total_seconds())

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]


def divided_update(location: Location, connections: int) -> float:
    """Execute the UPDATE in equal ranges of keys at the same time, and return its seconds."""
    with psycopg.connect(location.address) as connection:
        ((last,),) = connection.execute("SELECT max(audit_id) FROM task_audits").fetchall()
    span = -(-last // connections)

    def update(low: int) -> None:
        with psycopg.connect(location.address, autocommit=True) as connection:
            connection.execute(POSTGRES_FUNCTION)
            connection.execute(f"{POSTGRES_UPDATE} AND audit_id > {low} AND audit_id <= {low + span}")

    threads = [Thread(target=update, args=(low,)) for low in range(0, last, span)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def main() -> None:
    """Print the seconds of one and of several workers, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shards", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="audits; 200000")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers to compare; 1 2")
    parser.add_argument("--repeat", type=int, default=2, help="rounds; 2")
    parser.add_argument("--cache", type=Path, help="folder that keeps the stores; else temporary")
    options = parser.parse_args()
    with ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsconsole-bench-")))
        server = stack.enter_context(own_server(cache))
        stores = PostgresStores(cache, server)
        stores.base(options.rows)
        seconds: dict[tuple[str, int], list[float]] = {}
        for _round in range(options.repeat):
            for count in options.workers:
                with stores.copy(options.rows) as location:
                    seconds.setdefault(("one UPDATE, connections", count), []).append(divided_update(location, count))
                with stores.copy(options.rows) as location:
                    data = cache / "shards-data"
                    hosts = Hosts(server, location, data)
                    with hosts.clusters(count):
                        seconds.setdefault(("run, workers", count), []).append(hosts.execute(count))
                    shutil.rmtree(data)
        first = options.workers[0]
        rows = [
            {
                "what": f"{what}: {count}",
                "s": took,
                f"× {first}": [one / own for one, own in zip(seconds[what, first], took, strict=True)],
                "× UPDATE": statistics.median(seconds["one UPDATE, connections", first]) / statistics.median(took),
            }
            for (what, count), took in sorted(seconds.items())
        ]
        Report(None).table(f"postgresql: {options.rows:,} audits, divided", rows)


if __name__ == "__main__":
    main()
