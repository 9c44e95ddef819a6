"""A process that inserts 200 audits per second during a run, one per transaction, and records their latencies."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tests.benchmarks.command import ROOT

if TYPE_CHECKING:
    from tests.benchmarks.stores import Location

RATE = 200  # audits per second


def main(engine: str, address: str) -> None:
    """Insert until standard input ends. Then print [started, ended, succeeded] of each insert, in seconds."""
    sqlite = engine == "sqlite"
    connection: Any
    if sqlite:
        connection = sqlite3.connect(address, isolation_level=None, timeout=5)
        connection.executescript("PRAGMA busy_timeout=5000; PRAGMA synchronous=NORMAL")
    else:
        connection = psycopg.connect(address, autocommit=True)
    marks = ", ".join(["?" if sqlite else "%s"] * 7)
    insert = (
        "INSERT INTO task_audits (task_id, repo_id, level, event_type, payload, source_event_ts, "
        f"supervisor_processed_at) VALUES ({marks})"
    )
    moment = "2026-11-20T10:00:00.000000"
    payload = json.dumps({"source_event_ts": moment, "supervisor_processed_at": moment, "reason": "x" * 400})
    values = (f"01TASK{0:020d}", "repo-01", "info", "SUPERVISOR_DECISION", payload, moment, moment)
    failures = (sqlite3.OperationalError, psycopg.OperationalError)
    seen: list[tuple[float, float, bool]] = []
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    due = time.monotonic()
    while not over.is_set():
        # Missed inserts are not made up for: a burst of quick inserts would hide the slow ones.
        due = max(due + 1 / RATE, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))
        started = time.monotonic()
        try:
            connection.execute(insert, values)
            well = True
        except failures:
            well = False
        seen.append((started, time.monotonic(), well))
    connection.close()
    json.dump(seen, sys.stdout)


@dataclass(frozen=True)
class Latency:
    """Latencies in milliseconds.

    `queued_p99` also counts the inserts that were due while another insert waited, with the rest of that wait.
    """

    p50: float
    p99: float
    worst: float
    queued_p99: float
    inserts: int
    failed: int


class Neighbour:
    """The running process: `with Neighbour(location) as neighbour: …`, then `neighbour.latency(from, to)`."""

    def __init__(self, location: Location) -> None:
        self._seen: list[tuple[float, float, bool]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, location.engine, location.address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Neighbour:
        assert self._process.stdout is not None
        self._process.stdout.readline()
        time.sleep(1)  # its first inserts warm up connection and caches
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self._process.communicate()
        self._seen = json.loads(out)

    def latency(self, start: float, end: float) -> Latency:
        """Return the latencies of the inserts that were active between two monotonic times."""
        during = [row for row in self._seen if row[1] > start and row[0] < end]
        took = sorted((row[1] - row[0]) * 1000 for row in during)
        beat = 1000 / RATE
        queued = sorted(own - missed * beat for own in took for missed in range(int(own / beat) + 1))
        return Latency(
            _rank(took, 0.5),
            _rank(took, 0.99),
            _rank(took, 1),
            _rank(queued, 0.99),
            len(during),
            sum(not row[2] for row in during),
        )


def _rank(values: list[float], share: float) -> float:
    """Return the value at a share of a sorted list."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:3])
