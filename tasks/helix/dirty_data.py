"""Types A to F of HELIX's dirty data, in SQL and for a single job. docs/platforms/helix.md describes them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models.expressions import RawSQL
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Priority
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store
from tasks.helix.models import HelixArtifact, HelixJob, HelixTask

TYPE_LABELS = {
    "A": _("completed task without an artifact"),
    "B": _("artifacts of a failed or missing task"),
    "C": _("job in progress whose tasks have all failed"),
    "D": _("job in progress with a failed task without retries left"),
    "E": _("job in progress with some failed tasks"),
    "F": _("artifacts of a task that still has to run"),
}
OPEN_STATUSES = ("PENDING", "ASSIGNED", "IN_PROGRESS", "RETRYING")
FETCHED_ROWS = 2_000

# Each query returns (job, its status, task, artifact). Literals take the type of their column, which is an enum on
# PostgreSQL. NOT EXISTS and GROUP BY are fast without an index; NOT IN, or EXISTS per job, may never end.
_FAILED_SHARE = """
    SELECT t.job_id, 'IN_PROGRESS', t.id, NULL FROM tasks AS t
    WHERE t.status = 'FAILED' AND t.job_id IN (
        SELECT c.job_id FROM tasks AS c JOIN jobs AS j ON j.id = c.job_id WHERE j.status = 'IN_PROGRESS'
        GROUP BY c.job_id HAVING {condition}
    )
"""
# A subquery for the few rows found: with a join, SQLite's planner would start with all artifacts. For type F,
# CROSS JOIN prevents that; PostgreSQL treats it like any other join.
_JOB_STATUS = "(SELECT CAST(j.status AS TEXT) FROM jobs AS j WHERE j.id = t.job_id)"
_FAILED = "SUM(CASE WHEN c.status = 'FAILED' THEN 1 ELSE 0 END)"
QUERIES = {
    "A": """
        SELECT t.job_id, {job_status}, t.id, NULL FROM tasks AS t
        WHERE t.status = 'COMPLETED' AND NOT EXISTS (SELECT 1 FROM artifacts AS a WHERE a.task_id = t.id)
    """,
    "B": """
        SELECT t.job_id, {job_status}, a.task_id, a.id FROM artifacts AS a LEFT JOIN tasks AS t ON t.id = a.task_id
        WHERE t.id IS NULL OR t.status = 'FAILED'
    """,
    "C": _FAILED_SHARE.format(condition=f"COUNT(*) = {_FAILED}"),
    "D": """
        SELECT t.job_id, 'IN_PROGRESS', t.id, NULL FROM tasks AS t JOIN jobs AS j ON j.id = t.job_id
        WHERE t.status = 'FAILED' AND t.retry_count >= {max_retries} AND j.status = 'IN_PROGRESS'
    """,
    "E": _FAILED_SHARE.format(condition=f"{_FAILED} BETWEEN 1 AND COUNT(*) - 1"),
    "F": """
        SELECT t.job_id, {job_status}, a.task_id, a.id FROM tasks AS t CROSS JOIN artifacts AS a
        WHERE a.task_id = t.id AND t.status IN ('PENDING', 'ASSIGNED', 'IN_PROGRESS', 'RETRYING')
    """,
}

NEEDS: dict[Any, tuple[str, ...]] = {
    HelixJob: ("id", "status", "session_id", "updated_at"),
    HelixTask: ("id", "job_id", "status", "retry_count", "updated_at"),
    HelixArtifact: ("id", "task_id", "name"),
}


class Row(NamedTuple):
    """A row of a query."""

    job: int | None
    job_status: str | None
    task: int | None
    artifact: int | None


def query(code: str) -> str:
    sql = QUERIES[code].replace("{max_retries}", str(settings.HELIX_MAX_RETRY_COUNT))
    return sql.replace("{job_status}", _JOB_STATUS)


def find(store: Store, code: str, jobs: Collection[int] | None = None) -> Iterator[Row]:
    """Yield the rows of one type's query, of all jobs or of these."""
    sql = query(code)
    values: list[Any] = []
    if jobs is not None:
        among_jobs = among(store, list(jobs))
        sql = f"SELECT * FROM ({sql}) AS found WHERE job_id IN ({among_jobs.sql})"  # noqa: S608
        values = list(among_jobs.params)
    with store.connection.cursor() as cursor:
        cursor.execute(sql, values)
        while rows := cursor.fetchmany(FETCHED_ROWS):
            yield from map(Row._make, rows)


def dirty_jobs(codes: Sequence[str] = tuple(QUERIES)) -> RawSQL:
    """Return the jobs with a finding of these types, for an `__in` lookup."""
    return RawSQL(" UNION ".join(f"SELECT {code}.job_id FROM ({query(code)}) AS {code}" for code in codes), [])  # noqa: S608, S611


def orphaned_tasks(store: Store) -> list[int]:
    """Return the ids of missing tasks that still have artifacts."""
    sql = """
        SELECT DISTINCT a.task_id FROM artifacts AS a LEFT JOIN tasks AS t ON t.id = a.task_id
        WHERE t.id IS NULL AND a.task_id IS NOT NULL ORDER BY a.task_id
    """
    with store.connection.cursor() as cursor:
        cursor.execute(sql)
        return [row[0] for row in cursor.fetchall()]


def priority_of(job_status: str | None) -> str:
    """Return the priority of a finding about a job in this status. In development every finding is periodic."""
    if settings.ENVIRONMENT == "development":
        return Priority.PERIODIC.value
    return Priority.IMMEDIATE.value if job_status == "IN_PROGRESS" else Priority.PLANNED.value


def among(store: Store, keys: Sequence[Key]) -> RawSQL:
    """Return any number of keys for an `__in` lookup, as one parameter."""
    if store.vendor == "sqlite":
        return RawSQL("SELECT value FROM json_each(%s)", [json.dumps(list(keys))])
    return RawSQL("SELECT unnest(%s::bigint[])", [list(keys)])


class TaskWithArtifacts(NamedTuple):
    """A task with its artifacts."""

    row: Any
    artifacts: tuple[Any, ...]


class JobWithTasks(NamedTuple):
    """A job with its tasks and their artifacts."""

    pk: int
    row: Any
    tasks: tuple[TaskWithArtifacts, ...]

    def problems(self) -> dict[str, list[TaskWithArtifacts]]:
        """Return type -> the tasks that have it, by the same rules as in SQL."""
        failed = [task for task in self.tasks if task.row.status == "FAILED"]
        found = {
            "A": [task for task in self.tasks if task.row.status == "COMPLETED" and not task.artifacts],
            "B": [task for task in failed if task.artifacts],
            "F": [task for task in self.tasks if task.row.status in OPEN_STATUSES and task.artifacts],
        }
        if self.row.status == "IN_PROGRESS":
            found["C" if len(failed) == len(self.tasks) else "E"] = failed
            found["D"] = [task for task in failed if (task.row.retry_count or 0) >= settings.HELIX_MAX_RETRY_COUNT]
        return {code: tasks for code, tasks in sorted(found.items()) if tasks}


def jobs_with_all(
    store: Store, keys: Sequence[int], *, of_job: Sequence[str] = (), of_task: Sequence[str] = ()
) -> list[JobWithTasks]:
    """Return these jobs with their tasks and artifacts, in three statements."""
    jobs = HelixJob.objects.using(store.alias).filter(pk__in=among(store, keys)).order_by("pk")
    tasks = HelixTask.objects.using(store.alias).filter(job_id__in=among(store, keys)).order_by("pk")
    columns = ("pk", "job_id", "status", "retry_count", "updated_at", *of_task)
    found: list[Any] = list(tasks.values_list(*columns, named=True))
    artifacts = artifacts_of(store, [task.pk for task in found])
    of: dict[int, list[TaskWithArtifacts]] = {}
    for task in found:
        of.setdefault(task.job_id, []).append(TaskWithArtifacts(task, tuple(artifacts.get(task.pk, ()))))
    rows: list[Any] = list(jobs.values_list("pk", "status", "updated_at", *of_job, named=True))
    return [JobWithTasks(job.pk, job, tuple(of.get(job.pk, ()))) for job in rows]


def artifacts_of(store: Store, tasks: Sequence[int]) -> dict[int, list[Any]]:
    """Return task -> its artifacts."""
    found: dict[int, list[Any]] = {}
    rows = HelixArtifact.objects.using(store.alias).filter(task_id__in=among(store, tasks)).order_by("pk")
    for artifact in rows.values_list("pk", "task_id", "name", named=True):
        found.setdefault(artifact.task_id, []).append(artifact)
    return found
