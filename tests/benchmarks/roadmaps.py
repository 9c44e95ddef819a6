"""Measures the check of all roadmaps against a bare loop that reads the same rows in batches and compares them.

`python -m tests.benchmarks.roadmaps [--roadmaps N] [--rounds N] [--engines sqlite,postgresql] [--share-broken PERCENT]`
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import orjson
import psycopg

from tests.benchmarks.stores import own_server
from tests.support.postgres import NoServer
from tests.support.roadmaps import TABLES

ASKED = 1.5
CONCEPTS, GENERATED, BATCH = 30, 27, 500
ROOT = Path(__file__).resolve().parents[2]
FILLING = "x" * 120  # documents of about 20 kB


def rows_of(number: int, broken: bool) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Return a roadmap with its task, framework and 27 of 30 contents. If `broken`, the framework refers to none."""
    roadmap = f"roadmap-{number:06d}"
    concepts = []
    for place in range(CONCEPTS):
        key = f"{roadmap}-c{place:02d}"
        made = place < GENERATED
        said = "pending" if broken else "completed" if made else "failed"
        there = made and not broken
        concepts.append(
            {
                "concept_id": key,
                "name": f"Concept {place}",
                "description": FILLING,
                "estimated_hours": 1.5,
                "keywords": ["one", "two"],
                "content_status": said,
                "tutorial_id": f"t-{key}" if there else None,
                "content_ref": f"https://content/{key}" if there else None,
                "content_version": "v1",
                "resources_status": said,
                "resources_id": f"r-{key}" if there else None,
                "resources_count": 4 if there else 0,
                "quiz_status": said,
                "quiz_id": f"q-{key}" if there else None,
                "quiz_questions_count": 5 if there else 0,
            }
        )
        if made:
            at = "2026-01-01 10:00:00"
            yield (
                "tutorial_metadata",
                (f"t-{key}", key, roadmap, "t", "s", f"https://content/{key}", "completed", 1, at),
            )
            yield "resource_recommendation_metadata", (f"r-{key}", key, roadmap, "[]", 4, at)
            yield "quiz_metadata", (f"q-{key}", key, roadmap, "[]", 5, at)
    stages = [
        {"stage_id": f"s{s}", "modules": [{"module_id": f"m{s}", "concepts": concepts[s * 10 : s * 10 + 10]}]}
        for s in range(3)
    ]
    failed = json.dumps({"count": 3, "concept_ids": [one["concept_id"] for one in concepts[GENERATED:]]})
    yield "roadmap_metadata", (roadmap, "title", json.dumps({"roadmap_id": roadmap, "stages": stages}))
    status = "processing" if broken else "partial_failure"
    yield "roadmap_tasks", (f"task-{number:06d}", roadmap, status, "creation", "2026-01-01 11:00:00", failed)


COLUMNS = {
    "roadmap_tasks": ("task_id", "roadmap_id", "status", "task_type", "updated_at", "failed_concepts"),
    "roadmap_metadata": ("roadmap_id", "title", "framework_data"),
    "tutorial_metadata": (
        "tutorial_id",
        "concept_id",
        "roadmap_id",
        "title",
        "summary",
        "content_url",
        "content_status",
        "content_version",
        "generated_at",
    ),
    "resource_recommendation_metadata": (
        "id",
        "concept_id",
        "roadmap_id",
        "resources",
        "resources_count",
        "generated_at",
    ),
    "quiz_metadata": ("quiz_id", "concept_id", "roadmap_id", "questions", "total_questions", "generated_at"),
}


def connect(address: str) -> Any:
    return psycopg.connect(address) if "://" in address else sqlite3.connect(address)


def make(address: str, roadmaps: int, share_broken: float) -> None:
    mark = "%s" if "://" in address else "?"
    with closing(connect(address)) as connection:
        cursor = connection.cursor()
        for table, columns in TABLES.items():
            declared = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
            cursor.execute(f"CREATE TABLE {table} ({declared.replace('JSON', 'TEXT' if mark == '?' else 'JSON')})")
        for first in range(0, roadmaps, 200):
            found: dict[str, list[tuple[Any, ...]]] = {}
            for number in range(first, min(first + 200, roadmaps)):
                for table, row in rows_of(number, number % 100 < share_broken):
                    found.setdefault(table, []).append(row)
            for table, rows in found.items():
                names = COLUMNS[table]
                sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))})"
                cursor.executemany(sql, rows)
        for table in ("tutorial_metadata", "resource_recommendation_metadata", "quiz_metadata"):
            cursor.execute(f"CREATE INDEX {table}_roadmap ON {table} (roadmap_id, concept_id)")
        connection.commit()


def bare_loop(address: str) -> int:
    """Run a simple script: batches of roadmaps, one IN query per table, dictionaries, comparisons."""
    sqlite = "://" not in address
    chosen = "IN (SELECT value FROM json_each(?))" if sqlite else "= ANY (%s)"
    mark = "?" if sqlite else "%s"
    wrong, after = 0, ""
    with closing(connect(address)) as connection:
        cursor = connection.cursor()
        while True:
            cursor.execute(
                f"SELECT t.task_id, t.status, t.updated_at, m.roadmap_id, CAST(m.framework_data AS TEXT)"
                f" FROM roadmap_tasks t JOIN roadmap_metadata m ON m.roadmap_id = t.roadmap_id"
                f" WHERE t.task_id > {mark} ORDER BY t.task_id LIMIT {BATCH}",
                [after],
            )
            batch = cursor.fetchall()
            if not batch:
                return wrong
            after = batch[-1][0]
            keys: Any = [row[3] for row in batch]
            keys = json.dumps(keys) if sqlite else keys
            tutorials, resources, quizzes = {}, {}, {}
            cursor.execute(
                "SELECT roadmap_id, concept_id, tutorial_id, CAST(generated_at AS TEXT), content_status, content_url,"
                f" content_version FROM tutorial_metadata WHERE roadmap_id {chosen}",
                [keys],
            )
            for roadmap, concept, key, at, status, url, version in cursor:
                if status == "completed":
                    tutorials[roadmap, concept] = (key, at, url, version)
            cursor.execute(
                "SELECT roadmap_id, concept_id, id, CAST(generated_at AS TEXT), resources_count"
                f" FROM resource_recommendation_metadata WHERE roadmap_id {chosen}",
                [keys],
            )
            for roadmap, concept, key, at, count in cursor:
                resources[roadmap, concept] = (key, at, count)
            cursor.execute(
                "SELECT roadmap_id, concept_id, quiz_id, CAST(generated_at AS TEXT), total_questions"
                f" FROM quiz_metadata WHERE roadmap_id {chosen}",
                [keys],
            )
            for roadmap, concept, key, at, count in cursor:
                quizzes[roadmap, concept] = (key, at, count)
            for _task, _status, _at, roadmap, text in batch:
                for stage in orjson.loads(text)["stages"]:
                    for module in stage["modules"]:
                        for one in module["concepts"]:
                            place = roadmap, one["concept_id"]
                            for rows, status_key, reference in (
                                (tutorials, "content_status", "tutorial_id"),
                                (resources, "resources_status", "resources_id"),
                                (quizzes, "quiz_status", "quiz_id"),
                            ):
                                row = rows.get(place)
                                said = one[status_key] == "completed"
                                wrong += said != (row is not None) or (row is not None and one[reference] != row[0])


def timed(command: list[str], **variables: str) -> tuple[float, float]:
    """Return the seconds and the peak memory (MB) of a process."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def measure(address: str, rounds: int, data: str) -> None:
    engine = "postgresql" if "://" in address else "sqlite"
    url = address if "://" in address else f"sqlite:///{address}"
    variables = {"ROADMAPS_DATABASE_URL": url, "ROADMAPS_ATTACHED": "true", "OPSCONSOLE_DATA_DIR": data}
    subprocess.run(
        [sys.executable, "manage.py", "setup"],
        cwd=ROOT,
        env={**os.environ, **variables},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    check = [sys.executable, "manage.py", "check_task_recovery_status", "--all", "--json"]
    found: dict[str, list[tuple[float, float]]] = {"loop": [], "check": []}
    for _round in range(rounds):
        found["loop"].append(timed([sys.executable, "-m", "tests.benchmarks.roadmaps", "--loop", address]))
        found["check"].append(timed(check, **variables))
    loop, ours = (statistics.median(seconds for seconds, _peak in found[name]) for name in ("loop", "check"))
    peak = max(peak for _seconds, peak in found["check"])
    print(
        f"{engine}: bare loop {loop:.2f} s, check of all {ours:.2f} s: {ours / loop:.2f} times (asked {ASKED});"
        f" peak of the check {peak:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roadmaps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--share-broken", type=float, default=5)
    parser.add_argument("--loop", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(bare_loop(options.loop), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsconsole-bench-")))
        folder.chmod(0o711)
        for engine in options.engines.split(","):
            address = str(folder / "roadmaps.db")
            if engine == "postgresql":
                try:
                    address = stack.enter_context(own_server(folder)).create_database("roadmaps")
                except NoServer as error:
                    print(f"postgresql: {error.reason}")
                    continue
            make(address, options.roadmaps, options.share_broken)
            measure(address, options.rounds, str(folder / f"console-{engine}"))


if __name__ == "__main__":
    main()
