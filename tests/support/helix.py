"""HELIX stores, created without code of the console, and an independent model of dirty data."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg

JOB = ("PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED")
TASK = ("PENDING", "ASSIGNED", "IN_PROGRESS", "COMPLETED", "FAILED", "RETRYING")
MOMENT = "2025-07-08 10:00:00.123456+00"


@dataclass
class Task:
    status: str
    retries: int = 0
    artifacts: int = 0


@dataclass
class Job:
    status: str
    tasks: list[Task] = field(default_factory=list)
    session: str | None = None


def ddl(vendor: str, *, enums: bool = True, keys: bool = True, triggers: bool = True) -> list[str]:
    """Return the platform's tables, with foreign keys and with the triggers of updated_at if wanted."""
    postgres = vendor == "postgresql"
    serial, stamp, document = (
        ("SERIAL PRIMARY KEY", "TIMESTAMPTZ", "JSONB")
        if postgres
        else ("INTEGER PRIMARY KEY AUTOINCREMENT", "TIMESTAMP", "TEXT")
    )
    job_type, task_type = ("job_status", "task_status") if postgres and enums else ("TEXT", "TEXT")
    to_jobs = " REFERENCES jobs (id) ON DELETE CASCADE" if keys else ""
    to_tasks = " REFERENCES tasks (id) ON DELETE CASCADE" if keys else ""
    statements = []
    if postgres and enums:
        statements += [
            f"CREATE TYPE job_status AS ENUM {JOB!r}",
            f"CREATE TYPE task_status AS ENUM {TASK!r}",
        ]
    statements += [
        f"CREATE TABLE jobs (id {serial}, status {job_type} NOT NULL, initial_request {document} NOT NULL,"
        f" session_id VARCHAR(255), created_at {stamp}, updated_at {stamp}, completed_at {stamp}, error_message TEXT,"
        " tenant TEXT DEFAULT 'acme')",  # a column unknown to the console
        f"CREATE TABLE tasks (id {serial}, job_id INTEGER{to_jobs}, agent_id VARCHAR(50) NOT NULL,"
        f" status {task_type} NOT NULL, input_data {document} NOT NULL, output_data {document}, error_log TEXT,"
        f" retry_count INTEGER NOT NULL DEFAULT 0, assigned_at {stamp}, started_at {stamp}, completed_at {stamp},"
        f" created_at {stamp}, updated_at {stamp})",
        f"CREATE TABLE artifacts (id {serial}, task_id INTEGER{to_tasks}, name VARCHAR(100) NOT NULL,"
        f" schema_id VARCHAR(100) NOT NULL, payload {document} NOT NULL, created_at {stamp},"
        " CONSTRAINT artifacts_task_id_name_key UNIQUE (task_id, name))",
        "CREATE INDEX jobs_by_status ON jobs (status)",
        "CREATE INDEX tasks_by_status ON tasks (status)",
        "CREATE INDEX tasks_by_job ON tasks (job_id)",
        "CREATE VIEW pending_tasks AS SELECT id, job_id, agent_id FROM tasks WHERE status = 'PENDING'",
    ]
    if postgres:
        statements.append(
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.updated_at = CURRENT_TIMESTAMP; RETURN NEW; END $$"
        )
    for table in ("jobs", "tasks") if triggers else ():
        statements.append(
            f"CREATE TRIGGER touch_{table} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION touch()"
            if postgres
            else f"CREATE TRIGGER touch_{table} AFTER UPDATE ON {table} WHEN NEW.updated_at IS OLD.updated_at "
            f"BEGIN UPDATE {table} SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id; END"
        )
    return statements


def rows(jobs: Sequence[Job]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Return insert statements, with ids from 1 in each table."""
    task_id = artifact_id = 0
    for job_id, job in enumerate(jobs, 1):
        request = json.dumps({"chat_input": f"job {job_id}", "n": 1.50})
        yield (
            "INSERT INTO jobs (id, status, initial_request, session_id, created_at, updated_at) VALUES (?,?,?,?,?,?)",
            (job_id, job.status, request, job.session, MOMENT, MOMENT),
        )
        for task in job.tasks:
            task_id += 1
            done = MOMENT if task.status == "COMPLETED" else None
            output = json.dumps({"answer": task_id}) if done else None
            yield (
                "INSERT INTO tasks (id, job_id, agent_id, status, input_data, output_data, retry_count, assigned_at,"
                " started_at, completed_at, created_at, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (task_id, job_id, "AGENT_1", task.status, "{}", output, task.retries, done, done, done, MOMENT, MOMENT),
            )
            for number in range(task.artifacts):
                artifact_id += 1
                yield (
                    "INSERT INTO artifacts (id, task_id, name, schema_id, payload, created_at) VALUES (?,?,?,?,?,?)",
                    (artifact_id, task_id, f"creative_brief_{number}", "v1", '{"b": 1, "a": [1.50, null]}', MOMENT),
                )


def orphan(artifact: int, task: int) -> tuple[str, tuple[Any, ...]]:
    """Return an artifact of a missing task."""
    sql = "INSERT INTO artifacts (id, task_id, name, schema_id, payload, created_at) VALUES (?,?,?,?,?,?)"
    return sql, (artifact, task, "creative_brief", "v1", "{}", MOMENT)


def create(vendor: str, url: str, statements: Sequence[str], inserts: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
    if vendor == "sqlite":
        with closing(sqlite3.connect(url)) as connection:
            for statement in statements:
                connection.execute(statement)
            for sql, values in inserts:
                connection.execute(sql, values)
            connection.commit()
        return
    with psycopg.connect(url) as pg:
        for statement in statements:
            pg.execute(statement)
        for sql, values in inserts:
            pg.execute(sql.replace("?", "%s"), values)
        for table in ("jobs", "tasks", "artifacts"):
            pg.execute(f"SELECT setval('{table}_id_seq', 1000000)")


# --- an independent model of types A to F ----------------------------------------------------------------


def expected(jobs: Sequence[Job], max_retries: int = 3) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """Return (type, job) -> tasks and artifacts, from the documented types and without code of the console."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    task_id = artifact_id = 0
    for job_id, job in enumerate(jobs, 1):
        numbered = []
        for task in job.tasks:
            task_id += 1
            artifacts = [artifact_id + n + 1 for n in range(task.artifacts)]
            artifact_id += task.artifacts
            numbered.append((task_id, task, artifacts))

        def add(
            code: str, chosen: list[tuple[int, Task, list[int]]], *, with_artifacts: bool, job: int = job_id
        ) -> None:
            if chosen:
                artifacts = [a for _i, _t, owned in chosen for a in owned] if with_artifacts else []
                found[code, job] = ([i for i, _t, _a in chosen], artifacts)

        failed = [entry for entry in numbered if entry[1].status == "FAILED"]
        add("A", [e for e in numbered if e[1].status == "COMPLETED" and not e[2]], with_artifacts=False)
        add("B", [e for e in failed if e[2]], with_artifacts=True)
        open_ = [e for e in numbered if e[1].status not in ("COMPLETED", "FAILED") and e[2]]
        add("F", open_, with_artifacts=True)
        if job.status == "IN_PROGRESS":
            add("C" if len(failed) == len(numbered) else "E", failed, with_artifacts=False)
            add("D", [e for e in failed if e[1].retries >= max_retries], with_artifacts=False)
    return found


def one_of_each() -> list[Job]:
    """Return jobs 1 to 6 with one of the types A to F each, and healthy jobs 7 to 9."""
    done = Task("COMPLETED", artifacts=1)
    return [
        Job("IN_PROGRESS", [done, Task("COMPLETED"), Task("PENDING")], session="s-1"),
        Job("FAILED", [done, Task("FAILED", 1, artifacts=1)], session="s-1"),
        Job("IN_PROGRESS", [Task("FAILED", 1), Task("FAILED", 2)]),
        Job("IN_PROGRESS", [done, Task("FAILED", 3)]),
        Job("IN_PROGRESS", [done, Task("FAILED", 1), Task("PENDING")], session="s-2"),
        Job("IN_PROGRESS", [done, Task("RETRYING", 1, artifacts=2)]),
        Job("COMPLETED", [done, done], session="s-3"),
        Job("IN_PROGRESS", [done, Task("IN_PROGRESS", 1)]),
        Job("PENDING"),
    ]


def many(count: int, seed: int = 0) -> list[Job]:
    """Return random jobs, of which about half are dirty."""
    chance = random.Random(seed)
    return [
        Job(
            chance.choice(JOB),
            [
                Task(chance.choice(TASK), chance.randrange(5), chance.choice((0, 0, 1, 2)))
                for _ in range(chance.randrange(5))
            ],
            session=chance.choice((None, "s-1", "s-2")),
        )
        for _ in range(count)
    ]


def with_failed_tasks(count: int, seed: int = 0) -> list[Job]:
    """Return jobs in progress with failed tasks, among others."""
    chance = random.Random(seed)
    jobs = many(count // 3, seed)
    for _ in range(count - len(jobs)):
        failed = [Task("FAILED", chance.randrange(5)) for _ in range(1 + chance.randrange(2))]
        others = [Task(chance.choice(("COMPLETED", "PENDING")), 0, 1) for _ in range(chance.randrange(3))]
        jobs.append(Job("IN_PROGRESS", [*failed, *others]))
    return jobs
