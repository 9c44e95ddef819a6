"""Measure `cleanup_dirty_data scan` against the same rules as bare SQL: `python -m tests.benchmarks.dirty_data`.

Within a round both take turns on the same warm store. The start-up, measured on a store without jobs, is subtracted
from the seconds of the command. `asked` is the goal of the project: 1.5 times the bare SQL.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.__main__ import Report, _asked, _say
from tests.benchmarks.command import Console, RunRefused
from tests.benchmarks.stores import Location, own_server
from tests.support import helix
from tests.support.postgres import NoServer, Server

ASKED = 1.5
TASKS = 10  # of each job
SCANS: dict[str, tuple[str, ...]] = {"scan --dry-run": ("--dry-run",), "scan": ()}
# One job in a thousand shows each type, as `job % 1000`.
JOBS = """
INSERT INTO jobs (id, status, initial_request, session_id, created_at, updated_at)
SELECT n, {job_type}CASE WHEN n % 1000 IN (1, 3, 4, 5, 6) OR n % 5 = 0 THEN 'IN_PROGRESS' ELSE 'COMPLETED' END{end},
    '{{"chat_input": "a campaign"}}', 'session-' || (n % 500), '2025-07-08 10:00:00', '2025-07-08 10:00:00'
FROM {numbers}
"""
STATUS = """
    CASE WHEN (n - 1) / 10 % 1000 = 2 OR (n % 10 = 0 AND (n - 1) / 10 % 1000 IN (1, 3, 4)) THEN 'FAILED'
         WHEN n % 10 = 0 AND (n - 1) / 10 % 1000 = 5 THEN 'RETRYING' ELSE 'COMPLETED' END
"""
TASK_ROWS = f"""
INSERT INTO tasks (id, job_id, agent_id, status, input_data, retry_count, created_at, updated_at)
SELECT n, (n - 1) / 10 + 1, 'AGENT_' || (n % 5 + 1), {{task_type}}{STATUS}{{end}}, '{{{{}}}}',
    CASE WHEN n % 10 = 0 AND (n - 1) / 10 % 1000 = 3 THEN 3 ELSE 0 END, '2025-07-08 10:00:00', '2025-07-08 10:00:00'
FROM {{numbers}}
"""
ARTIFACTS = """
INSERT INTO artifacts (id, task_id, name, schema_id, payload, created_at)
SELECT n, n, 'creative_brief', 'v1', '{{"title": "a brief of some length, as they are"}}', '2025-07-08 10:00:00'
FROM {numbers} WHERE NOT ((n - 1) / 10 % 1000 = 2 OR (n % 10 = 0 AND (n - 1) / 10 % 1000 IN (0, 3, 4)))
"""
NUMBERS = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s)",
    "postgresql": "(SELECT n FROM generate_series(1, {count}) AS g(n)) AS s",
}

# The same rules as hand-written SQL, with the rows that each one concerns.
QUESTIONS = (
    "SELECT t.id, t.job_id FROM tasks t WHERE t.status = 'COMPLETED'"
    " AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.task_id = t.id)",
    "SELECT a.id, a.task_id FROM artifacts a LEFT JOIN tasks t ON t.id = a.task_id WHERE t.id IS NULL"
    " OR t.status = 'FAILED'",
    "SELECT t.job_id FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE j.status = 'IN_PROGRESS' GROUP BY t.job_id"
    " HAVING COUNT(*) = SUM(CASE WHEN t.status = 'FAILED' THEN 1 ELSE 0 END)",
    "SELECT t.id, t.job_id FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE j.status = 'IN_PROGRESS'"
    " AND t.status = 'FAILED' AND t.retry_count >= 3",
    "SELECT t.job_id FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE j.status = 'IN_PROGRESS' GROUP BY t.job_id"
    " HAVING SUM(CASE WHEN t.status = 'FAILED' THEN 1 ELSE 0 END) BETWEEN 1 AND COUNT(*) - 1",
    "SELECT a.id, a.task_id FROM artifacts a JOIN tasks t ON t.id = a.task_id"
    " WHERE t.status IN ('PENDING', 'ASSIGNED', 'IN_PROGRESS', 'RETRYING')",
)


@contextmanager
def connected(location: Location) -> Iterator[Any]:
    if location.engine == "sqlite":
        with closing(sqlite3.connect(location.address)) as connection:
            yield connection
    else:
        with psycopg.connect(location.address, autocommit=True) as pg:
            yield pg


def fill(location: Location, jobs: int) -> None:
    postgres = location.engine == "postgresql"
    numbers = NUMBERS[location.engine]
    casts = {
        "job_type": "(" if postgres else "",
        "task_type": "(" if postgres else "",
    }
    with connected(location) as connection:
        for statement in helix.ddl(location.engine):
            connection.execute(statement)
        for sql, count, type_ in (
            (JOBS, jobs, "job_status"),
            (TASK_ROWS, jobs * TASKS, "task_status"),
            (ARTIFACTS, jobs * TASKS, ""),
        ):
            end = f")::{type_}" if postgres else ""
            connection.execute(sql.format(numbers=numbers.format(count=count), end=end, **casts))
        if not postgres:
            connection.commit()
        connection.execute("ANALYZE")
        if not postgres:
            connection.commit()


def bare(location: Location) -> float:
    with connected(location) as connection:
        started = time.monotonic()
        for sql in QUESTIONS:
            connection.execute(sql).fetchall()
        return time.monotonic() - started


def scanned(console: Console, location: Location, *flags: str) -> tuple[float, dict[str, int]]:
    ran = console.call(location, "helix", "cleanup_dirty_data", "scan", "--json", *flags)
    return ran.seconds, ran.said["counts"]


def measure(engine: str, full: Location, empty: Location, options: argparse.Namespace, report: Report) -> None:
    _say(f"{engine}: making {options.jobs:,} jobs, {options.jobs * TASKS:,} tasks and as many artifacts")
    fill(full, options.jobs)
    fill(empty, 0)
    seconds: dict[str, list[float]] = {"bare SQL": []}
    for name in SCANS:
        seconds |= {f"start-up of {name}": [], name: []}
    counts: dict[str, int] = {}
    with Console() as console:
        console.set_up()
        for turn in range(options.repeat):
            _say(f"{engine}: round {turn + 1}")
            seconds["bare SQL"].append(bare(full))
            for name, flags in SCANS.items():
                seconds[f"start-up of {name}"].append(scanned(console, empty, *flags)[0])
                took, counts = scanned(console, full, *flags)
                seconds[name].append(took)
    rows = []
    for name, figures in seconds.items():
        if name not in SCANS:
            rows.append({"what": name, "raw s": figures, "net s": figures, "× bare SQL": [], "asked": ""})
            continue
        start_up = statistics.median(seconds[f"start-up of {name}"])
        net = [figure - start_up for figure in figures]
        ratio = [own / one for own, one in zip(net, seconds["bare SQL"], strict=True)]
        kept = _asked(ASKED, ratio, most=True)
        rows.append({"what": name, "raw s": figures, "net s": net, "× bare SQL": ratio, "asked": kept})
    found = ", ".join(f"{code} {count:,}" for code, count in counts.items())
    report.table(f"{engine}: dirty data of {options.jobs:,} jobs; found {found}", rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.dirty_data", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="ten tasks and up to ten artifacts each; 100,000")
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; 3")
    parser.add_argument("--postgres", metavar="URL", help="a superuser's; else a server is started")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    report = Report(options.json)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsconsole-bench-")))
        for engine in options.engines.split(","):
            try:
                if engine == "sqlite":
                    places = [Location("sqlite", str(folder / f"{name}.db")) for name in ("full", "empty")]
                else:
                    server = Server(options.postgres) if options.postgres else stack.enter_context(own_server(folder))
                    places = [Location("postgresql", server.create_database(f"helix_{n}")) for n in ("full", "empty")]
                measure(engine, places[0], places[1], options, report)
            except (NoServer, RunRefused) as error:
                _say(f"{engine}: {error}")


if __name__ == "__main__":
    main()
