"""Measure commands that only list, and pages: `python -m tests.benchmarks.lists --help`.

Each figure is the median of `--repeat` requests of Django's test client, after a first request that does not count,
with the lowest and the highest one. The time is that of the whole request, with its database. The number of queries
must not depend on the number of rows. The size is that of the compressed response.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.console import Console as Terminal
from rich.table import Table

from tests.benchmarks.page_rows import FILL, fill, fill_console
from tests.benchmarks.stores import own_server

ASKED_MS, ASKED_KB = 250, 60
PAGES = {
    "dashboard": "/admin/",
    "trends": "/admin/dashboard/trends/",
    "runs": "/admin/operations/run/",
    "runs, one status": "/admin/operations/run/?status=succeeded",
    "findings": "/admin/operations/finding/",
    "findings, open": "/admin/operations/finding/?state=open",
    "findings, resolved": "/admin/operations/finding/?state=resolved",
    "findings, one priority": "/admin/operations/finding/?priority=periodic",
    "findings, by subject": "/admin/operations/finding/?q=task_audits.task_id+T77",
    "incidents": "/admin/operations/incident/",
    "events": "/admin/operations/event/",
    "events, one verb": "/admin/operations/event/?verb=confirmed",
    "audits": "/admin/audits/taskaudit/",
    "audits, due": "/admin/audits/taskaudit/?due=audits.backfill_decision_fields",
    "audits, filled": "/admin/audits/taskaudit/?decision_times=filled",
    "audits, one level": "/admin/audits/taskaudit/?level=info",
    "test records, due": "/admin/records/testrecord/?due=records.backfill_execution_ids",
    "memory, due": "/admin/agentos/memoryitem/?due=agentos.clean_memory_items",
    "tasks": "/admin/agentos/task/",
    "tasks, one status": "/admin/agentos/task/?status=running",
    "tasks, by key": "/admin/agentos/task/?q=T7",
    "tasks, one day": "/admin/agentos/task/?created_at_from=2020-01-01",
    "a task's page": "/admin/agentos/task/T7/change/",
    "lineage": "/admin/agentos/tasklineage/",
    "dependencies": "/admin/agentos/taskdependency/",
    "artifacts": "/admin/agentos/taskartifactref/",
    "projects, counted": "/admin/agentos/project/",
    "memory": "/admin/agentos/memoryitem/",
    "memory, a word": "/admin/agentos/memoryitem/?q=word7",
    "sessions": "/admin/agentos/webuisession/",
    "a session's page": "/admin/agentos/webuisession/S7/change/",
    "messages": "/admin/agentos/webuimessage/",
    "messages, page 10": "/admin/agentos/webuimessage/?p=10",
    "jobs": "/admin/helix/helixjob/",
    "a job's page": "/admin/helix/helixjob/77/change/",
    "test records": "/admin/records/testrecord/",
    "roadmap tasks": "/admin/roadmaps/roadmaptask/",
    "find a number": "/admin/find/?q=77",
    "find a key": "/admin/find/?q=T777",
    "find a session": "/admin/find/?q=S777",
    "find nothing": "/admin/find/?q=49961d40-0cac-4255-abba-adad0b901056",
    "search a word": "/admin/search/?q=word7",
}


class Measured(NamedTuple):
    """The requests of one page."""

    milliseconds: list[float]
    queries: int
    kilobytes: float

    @property
    def is_slow(self) -> bool:
        return statistics.median(self.milliseconds) > ASKED_MS


def measure(client: Any, pages: dict[str, str], repeat: int) -> dict[str, Measured]:
    from django.db import connections

    queries = 0

    def counted(execute: Any, *arguments: Any) -> Any:
        nonlocal queries
        queries += 1
        return execute(*arguments)

    found = {}
    with ExitStack() as stack:
        for connection in connections.all():
            stack.enter_context(connection.execute_wrapper(counted))
        for name, page in pages.items():
            took = []
            for _turn in range(repeat + 1):
                queries, start = 0, time.perf_counter()
                answer = client.get(page, headers={"accept-encoding": "gzip"})
                took.append((time.perf_counter() - start) * 1000)
                assert answer.status_code in {200, 302}, (page, answer.status_code)
            found[name] = Measured(took[1:], queries, len(answer.content) / 1000)
    return found


def show(engine: str, figures: dict[int, dict[str, Measured]]) -> None:
    """Print the figures of all pages at all sizes."""
    asked = f"asked: ≤ {ASKED_MS} ms and ≤ {ASKED_KB} kB"
    table = Table(box=SIMPLE, title=f"{engine}: time of a request in ms, queries, and kB as sent; {asked}")
    for column in ("page", *(f"{rows:,} rows" for rows in figures), "queries", "kB", "missed"):
        table.add_column(column, justify="left" if column in {"page", "missed"} else "right")
    for page, last in list(figures.values())[-1].items():
        sizes = [of[page] for of in figures.values()]
        queries = list(dict.fromkeys(one.queries for one in sizes))
        misses = {"time": last.is_slow, "size": last.kilobytes > ASKED_KB, "queries": len(queries) > 1}
        table.add_row(
            page,
            *(_spread(one.milliseconds, 0) for one in sizes),
            " to ".join(map(str, queries)),
            f"{last.kilobytes:.0f}",
            ", ".join(name for name, missed in misses.items() if missed),
        )
    Terminal(width=120).print(table)


def commands(repeat: int) -> None:
    """Print the seconds of the processor and the peak memory of commands that only list."""
    table = Table(box=SIMPLE, title="commands")
    for column in ("command", "processor s", "asked", "peak MB", "asked"):
        table.add_column(column)
    for words in (("--help",), ("runs", "list"), ("operations",)):
        used = [_used(words) for _ in range(repeat + 1)][1:]
        seconds, peaks = [one[0] for one in used], [one[1] for one in used]
        table.add_row(" ".join(words), _spread(seconds, 2), "≤ 0.7", _spread(peaks, 0), "≤ 75")
    Terminal(width=100).print(table)


def _used(words: tuple[str, ...]) -> tuple[float, float]:
    """Run a command. Return its seconds of the processor and its peak memory in megabytes."""
    # A process of its own, because the peak of all children is reported.
    code = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, 'manage.py', *sys.argv[1:]], check=True,"
        " stdout=subprocess.DEVNULL); used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    said = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True).stdout
    seconds, peak = said.split()
    return float(seconds), int(peak) / 1000


def _spread(figures: list[float], digits: int) -> str:
    return f"{statistics.median(figures):.{digits}f} ({min(figures):.{digits}f}–{max(figures):.{digits}f})"


@contextmanager
def addresses(engine: str, folder: Path) -> Iterator[dict[str, str]]:
    """Yield the variables with the addresses of the stores and of the console."""
    if engine == "sqlite":
        yield {}
        return
    with own_server(folder) as server:
        found = {f"{store.upper()}_DATABASE_URL": server.create_database(f"lists_{store}") for store in FILL}
        yield found | {"DATABASE_URL": server.create_database("lists_console")}


@contextmanager
def console(engine: str) -> Iterator[Any]:
    """Set up a console with empty stores. Yield a client that is logged in as a superuser."""
    with tempfile.TemporaryDirectory(prefix="opsconsole-lists-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with addresses(engine, folder) as variables:
            os.environ |= variables | {
                "OPSCONSOLE_ENV_FILE": os.devnull,
                "OPSCONSOLE_DATA_DIR": str(folder),
                "DJANGO_SETTINGS_MODULE": "opsconsole.settings",
                "ALLOWED_HOSTS": "testserver",
            }
            import django

            django.setup()
            from django.contrib.auth.models import User
            from django.core.management import call_command
            from django.db import connections
            from django.test import Client

            with Path(os.devnull).open("w") as nowhere:
                call_command("setup", stdout=nowhere)
            client = Client()
            client.force_login(
                User.objects.create_superuser("bench"), backend="django.contrib.auth.backends.ModelBackend"
            )
            yield client
            connections.close_all()


def fill_all(engine: str, rows: int) -> dict[str, str]:
    """Fill the stores and the console. Return all pages."""
    from django.db import connections

    start = time.monotonic()
    for store, tables in FILL.items():
        fill(connections[store], rows, tables)
    pages = PAGES | fill_console(rows // 2, rows)
    print(f"{engine}: {rows:,} rows in each table after {time.monotonic() - start:.0f} s")
    return pages


def run(engine: str, sizes: list[int], repeat: int) -> None:
    with console(engine) as client:
        figures = {rows: measure(client, fill_all(engine, rows), repeat) for rows in sizes}
        show(engine, figures)
        commands(repeat)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lists", description=__doc__)
    parser.add_argument("engine", choices=("sqlite", "postgresql"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    run(options.engine, options.rows, options.repeat)


if __name__ == "__main__":
    main()
