"""Roadmaps stores like those of the platform, and an independent model of the sync.

This module uses plain drivers and dictionaries, and no code of the console.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg

Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]  # like the result of `tests.support.plain_client.dump`

AS_OF = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)  # noon in the zone of the store
NOW = "2026-03-01 12:00:00"
LONG_AGO, AT_WORK = "2026-03-01 09:15:00", "2026-03-01 11:45:00"
INCIDENT = "49961d40-0cac-4255-abba-adad0b901056"
INCIDENT_ROADMAP = "agent-performance-tuning-x5y9z2w8"
ENGINES = ("sqlite", "postgresql-json", "postgresql-jsonb")

TABLES: dict[str, dict[str, str]] = {
    "roadmap_tasks": {
        "task_id": "TEXT PRIMARY KEY",
        "user_id": "TEXT",
        "status": "TEXT",
        "current_step": "TEXT",
        "user_request": "JSON",
        "roadmap_id": "TEXT",
        "task_type": "TEXT",
        "concept_id": "TEXT",
        "content_type": "TEXT",
        "created_at": "TIMESTAMP",
        "updated_at": "TIMESTAMP",
        "completed_at": "TIMESTAMP",
        "error_message": "TEXT",
        "failed_concepts": "JSON",
        "execution_summary": "JSON",
        "priority": "INTEGER",  # unknown to the console
    },
    "roadmap_metadata": {
        "roadmap_id": "TEXT PRIMARY KEY",
        "user_id": "TEXT",
        "title": "TEXT",
        "total_estimated_hours": "REAL",
        "recommended_completion_weeks": "INTEGER",
        "framework_data": "JSON",
        "created_at": "TIMESTAMP",
        "deleted_at": "TIMESTAMP",
        "deleted_by": "TEXT",
        "task_id": "TEXT",  # in older stores
    },
    "tutorial_metadata": {
        "tutorial_id": "TEXT PRIMARY KEY",
        "concept_id": "TEXT",
        "roadmap_id": "TEXT",
        "title": "TEXT",
        "summary": "TEXT",
        "content_url": "TEXT",
        "content_status": "TEXT",
        "content_version": "INTEGER",
        "is_latest": "BOOLEAN",
        "estimated_completion_time": "INTEGER",
        "generated_at": "TIMESTAMP",
    },
    "resource_recommendation_metadata": {
        "id": "TEXT PRIMARY KEY",
        "concept_id": "TEXT",
        "roadmap_id": "TEXT",
        "resources": "JSON",
        "resources_count": "INTEGER",
        "search_queries_used": "JSON",
        "generated_at": "TIMESTAMP",
    },
    "quiz_metadata": {
        "quiz_id": "TEXT PRIMARY KEY",
        "concept_id": "TEXT",
        "roadmap_id": "TEXT",
        "questions": "JSON",
        "total_questions": "INTEGER",
        "easy_count": "INTEGER",
        "medium_count": "INTEGER",
        "hard_count": "INTEGER",
        "generated_at": "TIMESTAMP",
    },
    "user_profiles": {"user_id": "TEXT PRIMARY KEY", "settings": "JSON"},
}
WITHOUT_DELETED = ("deleted_at", "deleted_by")


def create(engine: str, address: str | Path, rows: dict[str, list[Row]], *, lacks: tuple[str, ...] = ()) -> None:
    """Create the tables with `rows` at a path or URL, without the columns of roadmap_metadata in `lacks`."""
    json_type = {"sqlite": "TEXT", "postgresql-json": "JSON", "postgresql-jsonb": "JSONB"}[engine]
    connection: Any = sqlite3.connect(address) if engine == "sqlite" else psycopg.connect(str(address))
    mark = "?" if engine == "sqlite" else "%s"
    with closing(connection):
        for table, columns in TABLES.items():
            kept = {name: type_ for name, type_ in columns.items() if table != "roadmap_metadata" or name not in lacks}
            declared = ", ".join(f"{name} {type_.replace('JSON', json_type)}" for name, type_ in kept.items())
            connection.execute(f"CREATE TABLE {table} ({declared})")
            for row in rows.get(table, ()):
                names = [name for name in row if name in kept]
                marks = ", ".join([mark] * len(names))
                sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"
                connection.execute(sql, [row[name] for name in names])
        for table in ("tutorial_metadata", "resource_recommendation_metadata", "quiz_metadata"):
            connection.execute(f"CREATE INDEX {table}_roadmap ON {table} (roadmap_id, concept_id)")
        connection.commit()


class Maker:
    """A builder of rows: roadmaps, tasks and content."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {table: [] for table in TABLES}

    def roadmap(self, key: str, concepts: list[Row], **columns: Any) -> str:
        document = {
            "roadmap_id": key,
            "title": "Roadmap “ü”",
            "total_estimated_hours": 36.5,
            "stages": [{"stage_id": "s1", "order": 1, "modules": [{"module_id": "m1", "concepts": concepts}]}],
            "later_version": {"of": ["the platform"], "keeps": None},
        }
        row = {"roadmap_id": key, "title": "x", "framework_data": json.dumps(document, ensure_ascii=False)}
        self.rows["roadmap_metadata"].append(row | columns)
        return key

    def task(self, key: str, roadmap: str | None, **columns: Any) -> str:
        row = {
            "task_id": key,
            "roadmap_id": roadmap,
            "status": "processing",
            "current_step": "content_generation",
            "task_type": "creation",
            "created_at": "2026-03-01 08:00:00",
            "updated_at": LONG_AGO,
            "user_request": '{"goal": "learn"}',
            "priority": 3,
        }
        self.rows["roadmap_tasks"].append(row | columns)
        return key

    def tutorial(self, roadmap: str, concept: str, version: int = 1, **columns: Any) -> None:
        row = {
            "tutorial_id": f"t-{roadmap}-{concept}-{version}",
            "roadmap_id": roadmap,
            "concept_id": concept,
            "content_url": f"https://content/{concept}/{version}",
            "content_status": "completed",
            "content_version": version,
            "is_latest": version == 1,  # wrong for a second version
            "generated_at": f"2026-03-01 08:1{version % 10}:00",
        }
        self.rows["tutorial_metadata"].append(row | columns)

    def resources(self, roadmap: str, concept: str, number: int = 1, **columns: Any) -> None:
        row = {
            "id": f"r-{roadmap}-{concept}-{number}",
            "roadmap_id": roadmap,
            "concept_id": concept,
            "resources": "[]",
            "resources_count": number + 2,
            "generated_at": f"2026-03-01 08:2{number % 10}:00",
        }
        self.rows["resource_recommendation_metadata"].append(row | columns)

    def quiz(self, roadmap: str, concept: str, number: int = 1, **columns: Any) -> None:
        row = {
            "quiz_id": f"q-{roadmap}-{concept}-{number}",
            "roadmap_id": roadmap,
            "concept_id": concept,
            "questions": "[]",
            "total_questions": number + 4,
            "generated_at": f"2026-03-01 08:3{number % 10}:00",
        }
        self.rows["quiz_metadata"].append(row | columns)

    def content(self, roadmap: str, concept: str) -> None:
        self.tutorial(roadmap, concept)
        self.resources(roadmap, concept)
        self.quiz(roadmap, concept)


def concept(key: str, **values: Any) -> Row:
    return {
        "concept_id": key,
        "name": f"Concept {key}",
        "keywords": ["a", "b"],
        "content_status": "pending",
        "tutorial_id": None,
        "content_ref": None,
        "resources_status": "pending",
        "resources_id": None,
        "resources_count": 0,
        "quiz_status": "pending",
        "quiz_id": None,
        "quiz_questions_count": 0,
        "note": "the platform's own",
        **values,
    }


def incident(maker: Maker) -> None:
    """Add a stuck task with 30 concepts, of which 27 have content that the framework does not refer to."""
    keys = [f"c{number:02d}" for number in range(30)]
    maker.roadmap(INCIDENT_ROADMAP, [concept(key) for key in keys])
    maker.task(INCIDENT, INCIDENT_ROADMAP)
    for key in keys[:27]:
        maker.content(INCIDENT_ROADMAP, key)


def everything(seed: int = 4, tasks: int = 48) -> dict[str, list[Row]]:
    """Return stuck tasks with content of every kind, and tasks of each kind that a sync skips."""
    maker, rng = Maker(), Random(seed)
    for number in range(tasks):
        roadmap = f"r{number:03d}"
        concepts = []
        for place in range(rng.randint(1, 4)):
            key = f"{roadmap}-c{place}"
            concepts.append(_some_concept(key, rng))
            _some_content(maker, roadmap, key, rng)
        maker.roadmap(roadmap, concepts)
        kind = rng.choice(("creation", "creation", "retry_batch"))
        maker.task(f"task{number:03d}", roadmap, task_type=kind, failed_concepts=rng.choice((None, '{"count": 9}')))
    left = {
        "alone-at-work": {"updated_at": AT_WORK},
        "alone-completed": {"status": "completed", "current_step": "completed"},
        "alone-review": {"status": "human_review_pending"},
        "alone-pending": {"status": "pending"},
        "alone-cancelled": {"status": "cancelled"},
        "alone-deleted": {},
        "alone-broken": {},
        "alone-empty": {},
        "alone-list": {},
        "alone-null": {},
    }
    for number, (key, columns) in enumerate(left.items()):
        roadmap = maker.roadmap(f"x{number}", [concept(f"x{number}-c0")])
        maker.content(roadmap, f"x{number}-c0")
        maker.task(key, roadmap, **columns)
    documents = {"x5": None, "x6": '"no', "x7": '{"stages": []}', "x8": "[1]", "x9": None}
    for row in maker.rows["roadmap_metadata"]:
        if row["roadmap_id"] == "x5":
            row["deleted_at"] = "2026-03-01 10:00:00"
        elif row["roadmap_id"] in documents:
            row["framework_data"] = documents[row["roadmap_id"]]
    maker.task("alone-without", "nowhere")
    maker.task("alone-early", None)
    maker.rows["user_profiles"].append({"user_id": "u", "settings": "{}"})
    return maker.rows


def without_broken(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the rows without frameworks that PostgreSQL's JSON types cannot store."""
    rows = deepcopy(rows)
    for row in rows["roadmap_metadata"]:
        if row["framework_data"] == '"no':
            row["framework_data"] = '"text"'
    return rows


def _some_concept(key: str, rng: Random) -> Row:
    statuses = {
        name: rng.choice(("pending", "generating", "completed", "failed"))
        for name in ("content_status", "resources_status", "quiz_status")
    }
    made = concept(key, **statuses, tutorial_id=rng.choice((None, "gone")))
    if rng.random() < 0.4:
        del made["quiz_questions_count"], made["tutorial_id"]
    return made


def _some_content(maker: Maker, roadmap: str, key: str, rng: Random) -> None:
    for version in range(1, rng.randint(1, 4)):
        maker.tutorial(roadmap, key, version, content_status=rng.choice(("completed", "completed", "failed")))
    for number in range(1, rng.randint(1, 3)):
        maker.resources(roadmap, key, number)
    for number in range(1, rng.randint(1, 3)):
        maker.quiz(roadmap, key, number)


# --- the model --------------------------------------------------------------------------------------------------


def best(rows: list[Row], roadmap: str, key: str, *order: str) -> Row | None:
    mine = [row for row in rows if row["roadmap_id"] == roadmap and row["concept_id"] == key]
    return max(mine, key=lambda row: [_ordered(row[name]) for name in order], default=None)


def _ordered(value: Any) -> Any:
    return int(value) if str(value).isdigit() else str(value)


def _number(value: Any) -> Any:
    return None if value is None else int(value)


def sync(tables: Tables, roadmap: str, document: Any) -> list[str]:
    """Write the content rows into a parsed framework. Return the failed concepts."""
    tutorials = [row for row in tables["tutorial_metadata"].values() if row["content_status"] == "completed"]
    resources = list(tables["resource_recommendation_metadata"].values())
    quizzes = list(tables["quiz_metadata"].values())
    failed = []
    for one in concepts_of(document):
        key = one["concept_id"]
        tutorial = best(tutorials, roadmap, key, "content_version", "generated_at")
        resource = best(resources, roadmap, key, "generated_at")
        quiz = best(quizzes, roadmap, key, "generated_at")
        if tutorial:
            one["content_status"] = "completed"
            one["tutorial_id"] = tutorial["tutorial_id"]
            one["content_ref"] = tutorial["content_url"]
            one["content_version"] = f"v{tutorial['content_version']}"
        if resource:
            one["resources_status"] = "completed"
            one["resources_id"] = resource["id"]
            one["resources_count"] = _number(resource["resources_count"])
        if quiz:
            one["quiz_status"] = "completed"
            one["quiz_id"] = quiz["quiz_id"]
            one["quiz_questions_count"] = _number(quiz["total_questions"])
        for row, name in ((tutorial, "content_status"), (resource, "resources_status"), (quiz, "quiz_status")):
            if row is None:
                one[name] = "failed"
        if not (tutorial and resource and quiz) and key not in failed:
            failed.append(key)
    return failed


def concepts_of(document: Any) -> list[Row]:
    return [
        one
        for stage in document["stages"]
        for module in stage["modules"]
        for one in module["concepts"]
        if isinstance(one.get("concept_id"), str)
    ]


def summary(document: Any, failed: list[str], tables: Tables, roadmap: str) -> Row:
    keys = {one["concept_id"] for one in concepts_of(document)}

    def count(table: str, **wanted: Any) -> int:
        rows = [row for row in tables[table].values() if all(row[name] == value for name, value in wanted.items())]
        return len(keys & {row["concept_id"] for row in rows if row["roadmap_id"] == roadmap})

    return {
        "tutorial_count": count("tutorial_metadata", content_status="completed"),
        "resource_count": count("resource_recommendation_metadata"),
        "quiz_count": count("quiz_metadata"),
        "failed_count": len(failed),
    }


def text(document: Any, engine: str) -> str:
    """Return a document as the text of its column."""
    if engine == "postgresql-jsonb":
        document = _sorted(document)
    return json.dumps(document, ensure_ascii=False)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key.encode()))}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def synced(tables: Tables, engine: str) -> Tables:
    """Return the tables after a sync of every stuck task."""
    for key, task in tables["roadmap_tasks"].items():
        row = tables["roadmap_metadata"].get(task["roadmap_id"])
        if key.startswith("alone-") or row is None:
            continue
        document = json.loads(row["framework_data"])
        failed = sync(tables, task["roadmap_id"], document)
        row["framework_data"] = text(document, engine)
        named = {"count": len(failed), "concept_ids": failed} if failed else None
        task |= {
            "status": "partial_failure" if failed else "completed",
            "current_step": "content_generation" if failed else "completed",
            "failed_concepts": named and text(named, engine),
            "execution_summary": text(summary(document, failed, tables, task["roadmap_id"]), engine),
            "updated_at": NOW,
            "completed_at": NOW,
        }
    return tables


def minutes_ago(minutes: float) -> str:
    """Return a time of the store (UTC+8) before the current time."""
    return f"{datetime.now(UTC) + timedelta(hours=8, minutes=-minutes):%Y-%m-%d %H:%M:%S}"
