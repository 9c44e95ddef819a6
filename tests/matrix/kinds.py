"""The kinds of operations of the matrix: a small store for each, and a model of the right result.

`right(tables, engine, stay)` computes the result from a dump, independently of the operation. `stay` contains the keys,
as text, of rows in scope that do not change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.matrix.harness import Dump, Row
from tests.support import agentos, helix, records, reference_backfill, roadmaps

Statement = str | tuple[str, Sequence[Any]]
PAST, FUTURE = "2026-01-20 10:00:00", "2999-01-01 00:00:00"


@dataclass(frozen=True)
class Kind:
    """One operation on the store of one platform, and the names for the statements of oddities."""

    name: str
    operation: str
    platform: str
    base: Callable[[str], list[Statement]]  # engine → DDL and rows
    right: Callable[[Dump, str, Collection[str]], Dump]
    table: str  # the table of the operation
    key: str
    column: str  # written by the operation, or judged by a delete
    other: str  # a text column that the operation neither writes nor judges
    row: str  # the key of a row that changes, as SQL has it
    kept: str  # the key of a row that does not change
    event: str
    tables: tuple[str, ...]  # tables that the operation writes
    collide: str = ""  # gives two rows the same value in `column`
    params: Mapping[str, str] = field(default_factory=dict)
    chosen: tuple[str | int, ...] = ()  # the selected rows, in a managed store

    def names(self) -> dict[str, str]:
        """Return the names that replace `<table>` and the like in statements of oddities."""
        plain = ("table", "key", "column", "other", "row", "kept", "event", "collide")
        return {name: getattr(self, name) for name in plain} | {
            "Table": self.table.title(),
            "Column": self.column.title(),
            "key_type": "TEXT" if self.row.startswith("'") else "INTEGER",
        }


# --- AgentOS ---------------------------------------------------------------------------------------

MEMORY = """CREATE TABLE memory_items (
    id TEXT PRIMARY KEY, scope TEXT NOT NULL, type TEXT NOT NULL, content TEXT NOT NULL, tags TEXT, sources TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    confidence REAL DEFAULT 0.5, project_id TEXT, last_used_at TIMESTAMP, use_count INTEGER DEFAULT 0,
    retention_type TEXT DEFAULT 'project', expires_at TIMESTAMP, auto_cleanup INTEGER DEFAULT 1)"""
AUDITS = (
    ("SUPERVISOR_DECISION", '{"source_event_ts": "2026-01-20T09:59:58", "processed_at": "2026-01-20T10:00:01"}'),
    ("SUPERVISOR_PAUSED", '{"source_ts": "2026-01-20T09:59:50.500000", "timestamp": 1769000000.50}'),
    ("supervisor_allowed", "{}"),
    ("TASK_CREATED", '{"source_event_ts": "no"}'),
    ("SUPERVISOR_ERROR", None),
    ("SUPERVISOR_BLOCKED", '{"n": 1, "source_event_ts": " ", "task_created_at": "2026-01-20 08:00"}'),
    ("SUPERVISOR_DECISION", '{"processed_at": "2026-01-20T11:00:00"}'),
)
ITEMS = ((PAST, 1), (PAST, 1), (FUTURE, 1), (None, 1), (PAST, 0), ("2026-02-02 00:00:00", 1))


def _agentos(engine: str) -> list[Statement]:
    sqlite = engine == "sqlite"
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY"
    lines = [f"{name} {type_.format(key=key, payload='TEXT')}" for name, type_ in agentos.AUDIT_COLUMNS.items()]
    lines.append("FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE")
    made: list[Statement] = [agentos.TABLES[name] for name in ("tasks", "schema_version")]
    made += [f"CREATE TABLE task_audits ({', '.join(lines)})", MEMORY, *agentos.index_statements()]
    made.append("INSERT INTO schema_version VALUES ('0.25.0', '2026-01-01 00:00:00')")
    for number in range(2):
        made.append(
            (
                "INSERT INTO tasks (task_id, title, created_at, updated_at) VALUES (?, 'a task', ?, ?)",
                (f"task{number}", PAST, PAST),
            )
        )
    for number, (event, payload) in enumerate(AUDITS, 1):
        made.append(
            (
                "INSERT INTO task_audits (audit_id, task_id, event_type, payload, created_at, level) "
                "VALUES (?, ?, ?, ?, ?, 'info')",
                (number * 3, f"task{number % 2}", event, payload, f"2026-01-20 10:00:0{number}.50"),
            )
        )
    for number, (ends, cleanup) in enumerate(ITEMS):
        made.append(
            (
                "INSERT INTO memory_items (id, scope, type, content, created_at, updated_at, confidence, expires_at, "
                "auto_cleanup) VALUES (?, 'project', 'decision', ?, ?, ?, 0.1, ?, ?)",
                (f"mem{number}", json.dumps({"n": 1.50, "item": number}), PAST, PAST, ends, cleanup),
            )
        )
    if not sqlite:
        made.append("SELECT setval('task_audits_audit_id_seq', 1000)")
    return made


FIELDS = ("event_type", "payload", "created_at", "source_event_ts", "supervisor_processed_at")


def _filled(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    for row in tables["task_audits"]:
        if str(row["audit_id"]) in stay:
            continue
        values = [row[field] for field in FIELDS]
        texts = [None if value is None else value if isinstance(value, bytes) else str(value) for value in values]
        if any(_odd(text) for text in texts[:2]) or texts[0] is None:
            continue
        texts[2] = _utc(texts[2])
        for _key, outcome in reference_backfill.expected_rows([(0, *texts)], engine):  # type: ignore[list-item,arg-type]
            if not isinstance(outcome, reference_backfill.Invalid):
                row |= dict(zip(reference_backfill.KEYS, outcome, strict=True))
    return tables


def _odd(text: Any) -> bool:
    """Return whether a text is not valid UTF-8."""
    return isinstance(text, str) and any("\udc80" <= character <= "\udcff" for character in text)


def _utc(text: Any) -> Any:
    """Return a time in the documented form, None for infinity."""
    if text is None or "infinity" in text:
        return None
    return re.sub(r"\+00$", "", text)


def _cleaned(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    def goes(row: Row) -> bool:
        ends = str(row["expires_at"])
        expired = row["expires_at"] is not None and ends[:2] == "20" and str(row["auto_cleanup"]) == "1"
        return expired and str(row["id"]) not in stay

    tables["memory_items"] = [row for row in tables["memory_items"] if not goes(row)]
    return tables


# --- execution records -----------------------------------------------------------------------------


def _records(engine: str) -> list[Statement]:
    sqlite = engine == "sqlite"
    made: list[Statement] = list(records.statements(sqlite=sqlite))
    summaries: list[Any] = [
        json.dumps({"brand": "a", "execution_id": f"execution-{number}"}).encode() for number in range(5)
    ]
    for number, summary in enumerate([*summaries, b"{broken", None], 1):
        made.append(
            (
                "INSERT INTO test_records (id, user_id, brand_name, test_date, results_summary, overall_score) "
                "VALUES (?, 1, 'brand', ?, ?, 0.1)",
                (number * 2, PAST, summary),
            )
        )
    made.append(
        (
            "INSERT INTO test_records (id, user_id, brand_name, test_date, execution_id) VALUES (99, 1, 'b', ?, "
            "'stands')",
            (PAST,),
        )
    )
    made.append(
        (
            "INSERT INTO task_statuses (id, task_id, stage, created_at, updated_at) VALUES (1, 'x', 'init', ?, ?)",
            (PAST, PAST),
        )
    )
    if not sqlite:
        made.append("SELECT setval('test_records_id_seq', 1000)")
    return made


def _ids(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    for row in tables["test_records"]:
        document = row["results_summary"]
        if isinstance(document, str) and document.startswith("\\x"):
            document = bytes.fromhex(document[2:])
        try:
            found = json.loads(document)["execution_id"]
        except (ValueError, TypeError, KeyError):
            continue
        if row["execution_id"] is None and str(row["id"]) not in stay:
            row["execution_id"] = found
    return tables


# --- HELIX -----------------------------------------------------------------------------------------


def _helix(engine: str) -> list[Statement]:
    jobs = [
        helix.Job("IN_PROGRESS", [helix.Task("FAILED", 1), helix.Task("COMPLETED", artifacts=1)], session="s-1"),
        helix.Job("FAILED", [helix.Task("FAILED", 1, artifacts=2)]),
        helix.Job("COMPLETED", [helix.Task("COMPLETED", artifacts=1)]),
        helix.Job("IN_PROGRESS", [helix.Task("FAILED", 3)]),
        helix.Job("PENDING"),
    ]
    made: list[Statement] = [*helix.ddl(engine, triggers=False), *helix.rows(jobs)]
    if engine == "postgresql":
        made += [f"SELECT setval('{table}_id_seq', 1000)" for table in ("jobs", "tasks", "artifacts")]
    return made


def _without_dirty(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    artifacts, tasks, jobs = (tables[name] for name in ("artifacts", "tasks", "jobs"))
    owners = {str(row["task_id"]) for row in artifacts}

    def dirty(job: Row) -> bool:
        mine = [task for task in tasks if str(task["job_id"]) == str(job["id"])]
        finished = ("COMPLETED", "FAILED")
        return any(
            (task["status"] == "COMPLETED" and str(task["id"]) not in owners)
            or (task["status"] != "COMPLETED" and str(task["id"]) in owners)
            or (task["status"] == "FAILED" and job["status"] == "IN_PROGRESS")
            for task in mine
            if task["status"] in finished or str(task["id"]) in owners
        )

    return without_jobs(tables, {str(job["id"]) for job in jobs if dirty(job)} - set(stay))


def without_jobs(tables: Dump, gone: set[str]) -> Dump:
    tasks = {str(row["id"]) for row in tables["tasks"] if str(row["job_id"]) in gone}
    for table, column, keys in (("artifacts", "task_id", tasks), ("tasks", "id", tasks), ("jobs", "id", gone)):
        tables[table] = [row for row in tables[table] if str(row[column]) not in keys]
    return tables


def _without_chosen_jobs(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    gone = {"1", "2"} - set(stay)
    while more := {str(job["id"]) for job in tables["jobs"] if str(job.get("parent")) in gone} - gone:
        gone |= more
    return without_jobs(tables, gone)


def _without_chosen_tasks(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    for table in ("task_audits", "tasks"):
        tables[table] = [row for row in tables[table] if "task1" in stay or str(row["task_id"]).rstrip() != "task1"]
    return tables


# --- roadmaps --------------------------------------------------------------------------------------


def _roadmaps(engine: str) -> list[Statement]:
    maker = roadmaps.Maker()
    for number in range(3):
        key = f"road{number}"
        concepts = [f"{key}-c{place}" for place in range(2)]
        maker.roadmap(key, [roadmaps.concept(one) for one in concepts])
        for one in concepts[: 2 - number % 2]:
            maker.content(key, one)
        maker.task(f"task{number}", key, user_id="u")
    maker.roadmap("other", [roadmaps.concept("c")])
    maker.task("alone-completed", "other", status="completed", current_step="completed")
    json_type = "TEXT" if engine == "sqlite" else "JSONB"
    made: list[Statement] = []
    for table, columns in roadmaps.TABLES.items():
        declared = ", ".join(f"{name} {type_.replace('JSON', json_type)}" for name, type_ in columns.items())
        made.append(f"CREATE TABLE {table} ({declared})")
        for row in maker.rows[table]:
            marks = ", ".join("?" * len(row))
            values = [value.replace("“ü”", "x") if isinstance(value, str) else value for value in row.values()]
            made.append((f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", values))
    for table in ("tutorial_metadata", "resource_recommendation_metadata", "quiz_metadata"):
        made.append(f"CREATE INDEX {table}_roadmap ON {table} (roadmap_id, concept_id)")
    return made


def _synced(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    keys = {
        table: next(name for name, type_ in columns.items() if "PRIMARY KEY" in type_)
        for table, columns in roadmaps.TABLES.items()
    }
    by_key = {table: {row[key]: row for row in tables[table]} for table, key in keys.items()}
    tasks = by_key["roadmap_tasks"]
    by_key["roadmap_tasks"] = {key: row for key, row in tasks.items() if str(key) not in stay}
    roadmaps.synced(by_key, "sqlite" if engine == "sqlite" else "postgresql-jsonb")
    return tables


FILL_AUDITS = Kind(
    "fill_audits",
    "audits.backfill_decision_fields",
    "agentos",
    _agentos,
    _filled,
    "task_audits",
    "audit_id",
    "source_event_ts",
    "verdict_id",
    "6",
    "12",
    "UPDATE",
    ("task_audits",),
    "UPDATE task_audits SET payload = (SELECT payload FROM task_audits WHERE audit_id = 3) WHERE audit_id = 6",
)
CLEAN_MEMORY = Kind(
    "clean_memory",
    "agentos.clean_memory_items",
    "agentos",
    _agentos,
    _cleaned,
    "memory_items",
    "id",
    "retention_type",
    "sources",
    "'mem1'",
    "'mem3'",
    "DELETE",
    ("memory_items",),
)
FILL_IDS = Kind(
    "fill_ids",
    "records.backfill_execution_ids",
    "records",
    _records,
    _ids,
    "test_records",
    "id",
    "execution_id",
    "brand_name",
    "4",
    "99",
    "UPDATE",
    ("test_records",),
    "UPDATE test_records SET results_summary = (SELECT results_summary FROM test_records WHERE id = 2) WHERE id = 4",
)
CLEAN_JOBS = Kind(
    "clean_jobs",
    "helix.clean_dirty_jobs",
    "helix",
    _helix,
    _without_dirty,
    "jobs",
    "id",
    "session_id",
    "error_message",
    "2",
    "3",
    "DELETE",
    ("artifacts", "tasks", "jobs"),
)
SYNC = Kind(
    "sync",
    "roadmaps.sync_results",
    "roadmaps",
    _roadmaps,
    _synced,
    "roadmap_tasks",
    "task_id",
    "current_step",
    "user_id",
    "'task1'",
    "'alone-completed'",
    "UPDATE",
    ("roadmap_metadata", "roadmap_tasks"),
)
DELETE_JOBS = Kind(
    "delete_jobs",
    "operations.delete_rows",
    "helix",
    _helix,
    _without_chosen_jobs,
    "jobs",
    "id",
    "session_id",
    "error_message",
    "2",
    "3",
    "DELETE",
    ("artifacts", "tasks", "jobs"),
    params={"store": "helix", "table": "jobs"},
    chosen=(1, 2),
)
DELETE_TASKS = Kind(
    "delete_tasks",
    "operations.delete_rows",
    "agentos",
    _agentos,
    _without_chosen_tasks,
    "tasks",
    "task_id",
    "status",
    "title",
    "'task1'",
    "'task0'",
    "DELETE",
    ("task_audits", "tasks"),
    params={"store": "agentos", "table": "tasks"},
    chosen=("task1",),
)

# --- statements ------------------------------------------------------------------------------------

STAMP = "2026-02-03 04:05:06"


def _stamped(tables: Dump, engine: str, stay: Collection[str]) -> Dump:
    for row in tables["task_audits"]:
        due = row["source_event_ts"] is None and row["event_type"] not in {None, "TASK_CREATED"}
        if due and str(row["audit_id"]) not in stay:
            row["source_event_ts"] = STAMP
    return tables


UPDATE_AUDITS = replace(
    FILL_AUDITS,
    name="update_audits",
    operation="operations.change_rows",
    right=_stamped,
    params={
        "store": "agentos",
        "statement": f"UPDATE task_audits SET source_event_ts = '{STAMP}' "
        "WHERE source_event_ts IS NULL AND event_type <> 'TASK_CREATED'",
    },
)
DELETE_MEMORY = replace(
    CLEAN_MEMORY,
    name="delete_memory",
    operation="operations.change_rows",
    params={
        "store": "agentos",
        "statement": "DELETE FROM memory_items WHERE auto_cleanup = 1 AND expires_at < '2026-06-01 00:00:00'",
    },
)
RUNS = {kind.name: kind for kind in (FILL_AUDITS, CLEAN_MEMORY, FILL_IDS, CLEAN_JOBS, SYNC)}
CHOSEN = {kind.name: kind for kind in (DELETE_JOBS, DELETE_TASKS)}
# Kind → a statement on the same table. The oddities of the kind matter for it, too.
STATEMENTS = {"fill_audits": UPDATE_AUDITS, "clean_memory": DELETE_MEMORY}
