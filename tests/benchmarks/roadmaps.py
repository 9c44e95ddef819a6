"""Measure the check of all roadmaps against a bare loop: `python -m tests.benchmarks.roadmaps --help`.

The loop reads the same rows in batches and compares them. Within a round both take turns on the same warm store. The
start-up, measured on a store without roadmaps, is subtracted from the seconds of the command. `asked` is the goal of
the project: 1.5 times the loop.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import orjson
import psycopg

from tests.benchmarks.__main__ import Report, _asked, _say
from tests.benchmarks.command import Console, Ran, RunRefused
from tests.benchmarks.stores import Location, new_databases
from tests.support.postgres import NoServer
from tests.support.roadmaps import TABLES

ASKED = 1.5
CONCEPTS, GENERATED, BATCH = 30, 27, 500
CHECK = ("check_task_recovery_status", "--all", "--json")
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
        if mark == "%s":
            connection.autocommit = True
        cursor.execute("ANALYZE" if mark == "?" else "VACUUM ANALYZE")  # as autovacuum does, some minutes later


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


def measure(full: Location, empty: Location, options: argparse.Namespace, report: Report) -> None:
    _say(f"{full.engine}: making {options.roadmaps:,} roadmaps")
    make(full.address, options.roadmaps, options.share_broken)
    make(empty.address, 0, 0)
    turns: list[tuple[float, Ran, float]] = []
    with Console() as console:
        console.set_up()
        for turn in range(options.repeat):
            _say(f"{full.engine}: round {turn + 1}")
            started = time.monotonic()
            bare_loop(full.address)
            alone = time.monotonic() - started
            start_up = console.call(empty, "roadmaps", *CHECK).seconds
            turns.append((alone, console.call(full, "roadmaps", *CHECK), start_up))
    net = [ran.seconds - start_up for _alone, ran, start_up in turns]
    ratio = [own / alone for own, (alone, _ran, _start_up) in zip(net, turns, strict=True)]
    row = {
        "what": "check of all",
        "bare loop, s": [alone for alone, _ran, _start_up in turns],
        "raw s": [ran.seconds for _alone, ran, _start_up in turns],
        "net s": net,
        "× bare loop": ratio,
        "asked": _asked(ASKED, ratio, most=True),
        "peak MB": [ran.peak / 1e6 for _alone, ran, _start_up in turns],
    }
    report.table(f"{full.engine}: {options.roadmaps:,} roadmaps of {CONCEPTS} concepts", [row])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.roadmaps", description=__doc__)
    parser.add_argument("--roadmaps", type=int, default=20_000, help="with a task each; 20,000")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; 3")
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--share-broken", type=float, default=5, help="percent of frameworks without references; 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    report = Report(options.json)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsconsole-bench-")))
        folder.chmod(0o711)
        for engine in options.engines.split(","):
            try:
                address = new_databases(engine, folder, stack)
                places = [Location(engine, address(f"roadmaps_{kind}")) for kind in ("full", "empty")]
                measure(places[0], places[1], options, report)
            except (NoServer, RunRefused) as error:
                _say(f"{engine}: {error}")


if __name__ == "__main__":
    main()
