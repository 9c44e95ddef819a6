"""Measure commands that only list, and pages: `python -m tests.benchmarks.lists --help`.

Each figure is the median of `--repeat` requests of Django's test client, after a first request that does not count,
with the lowest and the highest one. Times are of the processor, which other programs on the machine hardly affect. The
time that a server of PostgreSQL needs is not part of them.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console as Terminal
from rich.table import Table

from tests.benchmarks.stores import own_server

AT = "2026-01-20 10:00:00"
#: Table → its columns and, for the row n, their values in SQL that both engines know.
FILL = {
    "tasks": ("task_id, title, status, session_id", "'T' || n, 'task ' || n, 'running', 'S' || (n % 1000)"),
    "task_audits": ("task_id, event_type, payload", "'T' || n, 'SUPERVISOR_DECISION', '{}'"),
    "task_lineage": ("task_id, kind, ref_id", "'T' || n, 'intent', 'ref ' || n"),
    "task_dependency": ("task_id, depends_on_task_id", "'T' || n, 'T' || (n / 2)"),
    "task_artifact_ref": ("task_id, repo_id, ref_type, ref_value", "'T' || n, 'r', 'commit', 'c' || n"),
    "projects": ("id, path, name, tags", "'P' || n, '/srv/' || n, 'project ' || n, '[]'"),
    "memory_items": (
        "id, scope, type, content",
        "'Y' || n, 'global', 'decision', '{\"summary\": \"word' || (n % 5000) || ' and some more\"}'",
    ),
    "webui_sessions": ("session_id, user_id, created_at, updated_at", f"'S' || n, 'u' || (n % 100), '{AT}', '{AT}'"),
    "webui_messages": (
        "message_id, session_id, role, content, created_at",
        f"'M' || n, 'S' || (n / 100 + 1), 'user', 'words ' || n, '{AT}'",
    ),
}
#: The same for the other stores, which only the search by identifier reads. They are SQLite on both engines.
OTHERS = {
    "helix": {
        "jobs": ("id, initial_request, session_id", "n, 'request ' || n, 'S' || n"),
        "tasks": ("id, job_id, agent_id, input_data", "n, n, 'agent', '{}'"),
        "artifacts": ("id, task_id, name, schema_id, payload", "n, n, 'a', 's', '{}'"),
    },
    "records": {
        "test_records": ("id, user_id, brand_name, execution_id", "n, n, 'brand', 'E' || n"),
        "task_statuses": ("id, task_id, stage", "n, 'T' || n, 'init'"),
    },
    "roadmaps": {
        "roadmap_metadata": ("roadmap_id, title", "'R' || n, 'roadmap ' || n"),
        "roadmap_tasks": ("task_id, status, roadmap_id", "'T' || n, 'processing', 'R' || n"),
        "tutorial_metadata": ("tutorial_id, concept_id, roadmap_id", "'T' || n, 'c', 'R' || n"),
        "quiz_metadata": ("quiz_id, concept_id, roadmap_id", "'Q' || n, 'c', 'R' || n"),
    },
}
PAGES = {
    "dashboard": "/admin/",
    "runs": "/admin/operations/run/",
    "findings": "/admin/operations/finding/",
    "incidents": "/admin/operations/incident/",
    "tasks": "/admin/agentos/task/",
    "tasks, one status": "/admin/agentos/task/?status=running",
    "tasks, by key": "/admin/agentos/task/?q=T7",
    "tasks, one day": "/admin/agentos/task/?created_at_from=2020-01-01",
    "lineage": "/admin/agentos/tasklineage/",
    "dependencies": "/admin/agentos/taskdependency/",
    "artifacts": "/admin/agentos/taskartifactref/",
    "projects, counted": "/admin/agentos/project/",
    "memory": "/admin/agentos/memoryitem/",
    "memory, a word": "/admin/agentos/memoryitem/?q=word7",
    "sessions": "/admin/agentos/webuisession/",
    "messages": "/admin/agentos/webuimessage/",
    "messages, page 10": "/admin/agentos/webuimessage/?p=10",
    "a task's page": "/admin/agentos/task/T7/change/",
    "find a number": "/admin/find/?q=77",
    "find a key": "/admin/find/?q=T777",
    "find a session": "/admin/find/?q=S777",
    "find nothing": "/admin/find/?q=49961d40-0cac-4255-abba-adad0b901056",
    "a session's page": "/admin/agentos/webuisession/S7/change/",
}


def fill(store: Any, rows: int, tables: dict[str, tuple[str, str]] = FILL) -> None:
    series = (
        f"WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {rows})"
        if store.vendor == "sqlite"
        else f"WITH series AS (SELECT generate_series(1, {rows}) AS n)"
    )
    with store.cursor() as cursor:
        for table in reversed(tables):
            cursor.execute(f"DELETE FROM {table}")
        for table, (columns, values) in tables.items():
            cursor.execute(f"{series} INSERT INTO {table} ({columns}) SELECT {values} FROM series")
        cursor.execute("ANALYZE" if store.vendor == "sqlite" else "VACUUM ANALYZE")


def measure(client: Any, repeat: int) -> dict[str, tuple[list[float], float]]:
    """Return page → milliseconds of the processor, and kilobytes as they are sent."""
    found = {}
    for name, page in PAGES.items():
        took = []
        for _ in range(repeat + 1):
            start = time.process_time()
            answer = client.get(page)
            took.append((time.process_time() - start) * 1000)
            assert answer.status_code in {200, 302}, (page, answer.status_code)
        found[name] = took[1:], len(gzip.compress(answer.content, 6)) / 1000
    return found


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
def address(engine: str, folder: Path) -> Iterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder}/agentos.sqlite3"
        return
    with own_server(folder) as server:
        yield server.create_database("lists")


def run(engine: str, sizes: list[int], repeat: int) -> None:
    with tempfile.TemporaryDirectory(prefix="opsconsole-lists-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with address(engine, folder) as url:
            os.environ |= {
                "OPSCONSOLE_ENV_FILE": os.devnull,
                "OPSCONSOLE_DATA_DIR": str(folder),
                "AGENTOS_DATABASE_URL": url,
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
            figures = {}
            for rows in sizes:
                start = time.monotonic()
                fill(connections["agentos"], rows)
                for store, tables in OTHERS.items():
                    fill(connections[store], rows, tables)
                print(f"{engine}: {rows:,} rows in each table after {time.monotonic() - start:.0f} s")
                figures[rows] = measure(client, repeat)
            table = Table(box=SIMPLE, title=f"{engine}, ms of the processor (asked: ≤ 250), and kB sent (asked: ≤ 60)")
            for column in ("page", *(f"{rows:,} rows" for rows in sizes), "kB"):
                table.add_column(column, justify="left" if column == "page" else "right")
            for page in PAGES:
                measured = [figures[rows][page] for rows in sizes]
                table.add_row(page, *(_spread(took, 0) for took, _size in measured), f"{measured[-1][1]:.0f}")
            Terminal(width=100).print(table)
            commands(repeat)
            connections.close_all()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lists", description=__doc__)
    parser.add_argument("engine", choices=("sqlite", "postgresql"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    run(options.engine, options.rows, options.repeat)


if __name__ == "__main__":
    main()
