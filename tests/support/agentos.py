"""AgentOS stores for tests and benchmarks, created without Django.

They have the tables of the platform and audits of every kind that occurs in production.

    made = create_sqlite(folder / "store.db", 10_000)
    made = create_postgres(url, 10_000, payload_type="jsonb")
    for audit in read_sqlite(folder / "store.db"): …

The same seed gives the same rows. 5,000,000 audits take a few minutes, because payloads are templates and a row only
needs its two times.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import NamedTuple

import psycopg
from psycopg import sql

from tests.support import payloads
from tests.support.payloads import KINDS, PAYLOAD_TYPES, PROCESSED, SOURCE, PayloadType

COLUMNS = (
    "audit_id",
    "task_id",
    "repo_id",
    "level",
    "event_type",
    "payload",
    "created_at",
    "decision_id",
    "source_event_ts",
    "supervisor_processed_at",
    "verdict_id",
)
#: Column of `task_audits` → the version that added it. The documents only date the two columns of v21; the other
#: versions are a choice of this module.
ADDED_IN = {
    "repo_id": "0.10.0",
    "decision_id": "0.20.0",
    "source_event_ts": "0.21.0",
    "supervisor_processed_at": "0.21.0",
    "verdict_id": "0.22.0",
}
CURRENT_VERSION = "0.25.0"

# --- rows ---------------------------------------------------------------------------------

SUPERVISOR_EVENTS = (
    "SUPERVISOR_ALLOWED",
    "SUPERVISOR_PAUSED",
    "SUPERVISOR_BLOCKED",
    "SUPERVISOR_RETRY_RECOMMENDED",
    "SUPERVISOR_DECISION",
    "SUPERVISOR_DECISION_APPLIED",
    "SUPERVISOR_ERROR",
)
ODD_SUPERVISOR_EVENTS = (
    "supervisor_decision",
    "Supervisor_Paused",
    "legacy.superVisor",
    "PRE-SUPERVISOR-CHECK",
)
OTHER_EVENTS = (
    "TASK_CREATED",
    "TASK_STATE_CHANGED",
    "TOOL_CALLED",
    "GUARDIAN_VERDICT",
    "SUPERVISE",
    "super_visor",
    "MESSAGE_SENT",
    "COMMIT_LINKED",
    "任务完成",
)
OTHER_PAYLOADS = (payloads.plain, payloads.plain, payloads.noisy_object, payloads.nested_only)
SHARE_IN_SCOPE = 0.4
#: The styles of `created_at`, see `_created_at`. The type of PostgreSQL allows fewer.
SQLITE_STYLES: tuple[str, ...] = ("space", "space", "space", "iso", "iso", "zone", "odd", "epoch")
POSTGRES_STYLES: tuple[str, ...] = ("space", "iso", "tenths")
LAP = 20_000  # rows until the templates repeat, in another order
FIRST_MOMENT = datetime(2025, 11, 1, tzinfo=UTC)
SECONDS_APART = 5
TASK_AUDITS = 50  # audits per task

_CLOCK = [(FIRST_MOMENT + timedelta(seconds=second)).strftime("%H:%M:%S") for second in range(86_400)]
_DAYS = [(FIRST_MOMENT + timedelta(days=day)).strftime("%Y-%m-%d") for day in range(1_000)]


class Shape(NamedTuple):
    """A row without its key and its times."""

    kind: str
    event_type: str
    payload: str | None
    created_at: str | None  # a style, see `_created_at`
    source: str | None  # None: NULL; "": empty text; anything else: the row's own time
    processed: str | None
    level: str
    repo_id: str | None
    decided: bool

    @property
    def in_scope(self) -> bool:
        """Return whether the row is in the scope of the backfill."""
        return self.kind != "other"


class Audit(NamedTuple):
    """A stored audit as text, the input of `tests.support.reference_backfill.expected_rows`."""

    audit_id: int
    event_type: str
    payload: str | bytes | None
    created_at: str | None
    source_event_ts: str | None
    supervisor_processed_at: str | None


@dataclass
class Made:
    """The contents of a new store. `kinds` counts the audits in scope by kind."""

    rows: int = 0
    in_scope: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def shapes(count: int, *, seed: int = 1, holds: PayloadType = "text", sqlite: bool = True) -> list[Shape]:
    """Return `count` shapes in random order, 40 % of them in scope, with every kind if `count` is large enough."""
    rng = Random(seed)
    kinds = {
        name: kind for name, kind in KINDS.items() if PAYLOAD_TYPES.index(kind.holds) <= PAYLOAD_TYPES.index(holds)
    }
    wanted = round(count * SHARE_IN_SCOPE)
    names = list(kinds) if wanted >= len(kinds) else []
    names += rng.choices(list(kinds), [kind.weight for kind in kinds.values()], k=wanted - len(names))
    events: tuple[str, ...]
    styles = SQLITE_STYLES if sqlite else POSTGRES_STYLES
    result = []
    for index in range(count):
        name = names[index] if index < wanted else "other"
        filled = index < wanted + round(count * 0.15)
        if name != "other":
            source, processed = rng.choice(((None, None),) * 3 + ((None, "own"), ("own", None)))
            events = ODD_SUPERVISOR_EVENTS if rng.random() < 0.04 else SUPERVISOR_EVENTS
            payload = kinds[name].build(rng)
        elif filled:
            source, processed = ("", "own") if rng.random() < 0.01 else ("own", "own")
            events, payload = SUPERVISOR_EVENTS, payloads.variants(rng)
        else:
            source, processed = ("own", None) if rng.random() < 0.02 else (None, None)
            events, payload = OTHER_EVENTS, rng.choice(OTHER_PAYLOADS)(rng)
        has_time = name == "other" or kinds[name].created_at
        result.append(
            Shape(
                name,
                rng.choice(events),
                payload,
                rng.choice(styles) if has_time else None,
                source,
                processed,
                rng.choice(("info", "info", "info", "warning", "error")),
                rng.choice((None, *(f"repo-{number:02d}" for number in range(20)))),
                rng.random() < 0.2,
            )
        )
    rng.shuffle(result)
    return result


def _created_at(style: str | None, day: str, clock: str, number: int) -> str | int | None:
    """Return `created_at` in one of the styles that occur in deployed stores."""
    match style:
        case None:
            return None
        case "space":
            return f"{day} {clock}"
        case "iso":
            return f"{day}T{clock}.{number * 7919 % 1_000_000:06d}"
        case "tenths":
            return f"{day} {clock}.{number % 10}"
        case "zone":
            return f"{day}T{clock}Z"
        case "odd":
            return f"2026-02-30 {clock}.10"
        case _:
            return 1_769_000_000 + number


def _laps(count: int, seed: int, holds: PayloadType, made: Made, *, sqlite: bool) -> Iterator[list[tuple[object, ...]]]:
    """Yield rows of `COLUMNS` in lists of up to `LAP`, and count them in `made`."""
    lap = shapes(min(count, LAP), seed=seed, holds=holds, sqlite=sqlite)
    rng = Random(seed)
    for start in range(0, count, LAP):
        if start:
            rng.shuffle(lap)
        rows: list[tuple[object, ...]] = []
        for number, shape in enumerate(islice(lap, count - start), start):
            second = number * SECONDS_APART
            day, clock = _DAYS[second // 86_400], _CLOCK[second % 86_400]
            later = second + 2
            source = f"{day}T{clock}.{number * 7919 % 1_000_000:06d}"
            processed = f"{_DAYS[later // 86_400]}T{_CLOCK[later % 86_400]}.{number * 104_729 % 1_000_000:06d}"
            payload = shape.payload
            if payload:
                payload = payload.replace(SOURCE, source).replace(PROCESSED, processed)
            rows.append(
                (
                    number + 1 + number // 997 * 3,  # the keys of deployed stores have gaps, too
                    f"01TASK{number // TASK_AUDITS:020d}",
                    shape.repo_id,
                    shape.level,
                    shape.event_type,
                    payload,
                    _created_at(shape.created_at, day, clock, number),
                    f"01DECISION{number:016d}" if shape.decided else None,
                    shape.source and source,
                    shape.processed and processed,
                    None,
                )
            )
            if shape.in_scope:
                made.in_scope += 1
                made.kinds[shape.kind] += 1
        made.rows += len(rows)
        yield rows


# --- the tables ------------------------------------------------------------------------------------

#: The documented definitions (docs/platforms/agentos.md). `{…}` differs between the engines.
TABLES = {
    "tasks": """CREATE TABLE tasks (
        task_id TEXT PRIMARY KEY, title TEXT NOT NULL, status TEXT DEFAULT 'created', session_id TEXT,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        created_by TEXT, metadata TEXT, route_plan_json TEXT, requirements_json TEXT,
        selected_instance_id TEXT, router_version TEXT)""",
    "guardian_verdicts": """CREATE TABLE guardian_verdicts (
        id TEXT PRIMARY KEY, task_id TEXT NOT NULL, triggered_by TEXT NOT NULL, policy_json TEXT NOT NULL,
        decision TEXT NOT NULL, reasons_json TEXT, created_at TEXT NOT NULL)""",
    "supervisor_inbox": """CREATE TABLE supervisor_inbox (
        id TEXT PRIMARY KEY, task_id TEXT NOT NULL, event_type TEXT NOT NULL, event_ts TEXT NOT NULL,
        payload_json TEXT, status TEXT DEFAULT 'pending', processed_at TEXT, created_at TEXT NOT NULL)""",
    "schema_version": """CREATE TABLE schema_version (
        version TEXT PRIMARY KEY, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)""",
    # An undocumented table, which the console must not change.
    "task_runs": """CREATE TABLE task_runs (
        run_id {key}, task_id TEXT NOT NULL REFERENCES tasks(task_id), lease_until TEXT, state BLOB_TYPE)""",
}
AUDIT_COLUMNS = {
    "audit_id": "{key}",
    "task_id": "TEXT NOT NULL",
    "repo_id": "TEXT",
    "level": "TEXT DEFAULT 'info'",
    "event_type": "TEXT NOT NULL",
    "payload": "{payload}",
    "created_at": "TIMESTAMP DEFAULT CURRENT_TIMESTAMP",
    "decision_id": "TEXT",
    "source_event_ts": "TEXT",
    "supervisor_processed_at": "TEXT",
    "verdict_id": "TEXT",
}
#: Index → (its columns, the SQL after `ON task_audits`).
INDEXES: dict[str, tuple[tuple[str, ...], str]] = {
    "idx_task_audits_task": ((), "(task_id)"),
    "idx_task_audits_level": ((), "(level)"),
    "idx_task_audits_event": ((), "(event_type)"),
    "idx_task_audits_created": ((), "(created_at DESC)"),
    "idx_task_audits_repo": (("repo_id",), "(repo_id)"),
    "idx_task_audits_task_repo": (("repo_id",), "(task_id, repo_id)"),
    "idx_task_audits_repo_created": (("repo_id",), "(repo_id, created_at DESC)"),
    "idx_task_audits_decision": (("decision_id",), "(decision_id) WHERE decision_id IS NOT NULL"),
    "idx_task_audits_event_created": ((), "(event_type, created_at DESC)"),
    "idx_task_audits_source_ts": (
        ("source_event_ts",),
        "(source_event_ts) WHERE source_event_ts IS NOT NULL",
    ),
    "idx_task_audits_decision_lag": (
        ("source_event_ts", "supervisor_processed_at"),
        "(source_event_ts, supervisor_processed_at) "
        "WHERE source_event_ts IS NOT NULL AND supervisor_processed_at IS NOT NULL",
    ),
    "idx_task_audits_event_source_ts": (
        ("source_event_ts",),
        "(event_type, source_event_ts) WHERE source_event_ts IS NOT NULL",
    ),
}
#: The indexes on columns that the backfill writes.
WRITTEN_INDEXES = tuple(name for name, (needs, _) in INDEXES.items() if "source_event_ts" in needs)
UNIQUE_INDEX = "idx_task_audits_decision"
TASK_INDEXES = {
    "idx_tasks_status": "(status)",
    "idx_tasks_session": "(session_id)",
    "idx_tasks_created": "(created_at DESC)",
}


def _number(version: str) -> tuple[int, ...]:
    """Return a dotted version as numbers, for sorting."""
    return tuple(map(int, version.split(".")))


def _columns(version: str, columns: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the columns of `task_audits` at a version, or exactly `columns`."""
    if columns is not None:
        return tuple(name for name in COLUMNS if name in columns)
    return tuple(name for name in COLUMNS if _number(ADDED_IN.get(name, "0")) <= _number(version))


def _statements(columns: tuple[str, ...], payload_type: str, *, sqlite: bool) -> list[str]:
    """Return the CREATE TABLE statements. PostgreSQL gets its foreign key after the load."""
    key = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGSERIAL PRIMARY KEY"
    lines = [f"{name} {AUDIT_COLUMNS[name].format(key=key, payload=payload_type)}" for name in columns]
    if sqlite:
        lines.append("FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE")
    tables = [ddl.format(key=key).replace("BLOB_TYPE", "BLOB" if sqlite else "BYTEA") for ddl in TABLES.values()]
    return [*tables, f"CREATE TABLE task_audits ({', '.join(lines)})"]


def index_statements(columns: tuple[str, ...] = COLUMNS) -> list[str]:
    """Return the CREATE INDEX statements of the documented and deployed indexes on these columns."""
    return [
        f"CREATE {'UNIQUE ' if name == UNIQUE_INDEX else ''}INDEX {name} ON task_audits {rest}"
        for name, (needs, rest) in INDEXES.items()
        if set(needs) <= set(columns)
    ] + [f"CREATE INDEX {name} ON tasks {rest}" for name, rest in TASK_INDEXES.items()]


def _small_tables(rows: int, version: str) -> Iterator[tuple[str, tuple[str, ...], list[tuple[object, ...]]]]:
    """Yield (table, columns, rows) of all tables except the audits. One task has no audits."""
    moment = "2026-01-20 10:00:00"
    states = ("created", "running", "completed")
    yield (
        "tasks",
        ("task_id", "title", "status", "created_at", "updated_at"),
        [
            (f"01TASK{number:020d}", f"任务 {number}", states[number % 3], moment, moment)
            for number in range(rows // TASK_AUDITS + 1)
        ],
    )
    yield (
        "guardian_verdicts",
        ("id", "task_id", "triggered_by", "policy_json", "decision", "created_at"),
        [
            (f"01VERDICT{number:017d}", f"01TASK{0:020d}", "SUPERVISOR_DECISION", "{}", decision, moment)
            for number, decision in enumerate(("approve", "reject", "warn"))
        ],
    )
    yield (
        "supervisor_inbox",
        ("id", "task_id", "event_type", "event_ts", "payload_json", "created_at"),
        [
            (f"01INBOX{number:019d}", f"01TASK{0:020d}", "TASK_CREATED", moment, '{"n": 1.50}', moment)
            for number in range(5)
        ],
    )
    newest = _number(version)[1]
    # In an order in which neither text order nor time shows the newest version.
    yield (
        "schema_version",
        ("version", "applied_at"),
        [(f"0.{number}.0", moment) for number in sorted(range(1, newest + 1), key=lambda number: -(number % 7))],
    )
    yield (
        "task_runs",
        ("task_id", "lease_until", "state"),
        [(f"01TASK{0:020d}", moment, bytes(range(256))) for _ in range(3)],
    )


# --- the stores ------------------------------------------------------------------------------------


def create_sqlite(
    path: Path | str,
    rows: int,
    *,
    seed: int = 1,
    version: str = CURRENT_VERSION,
    indexes: bool = True,
    columns: tuple[str, ...] | None = None,
) -> Made:
    """Create a store file in WAL mode with `rows` audits. The file must not exist.

    A `version` below 0.21.0 omits later columns (`ADDED_IN`), `columns` names the columns, and `indexes=False` omits
    all indexes except those of the keys.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(path)
    chosen, made = _columns(version, columns), Made()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # No other client uses the file yet, and an incomplete file is useless.
        connection.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-400000; PRAGMA threads=2;"
            "BEGIN;" + ";".join(_statements(chosen, "TEXT", sqlite=True))
        )
        for table, names, values in _small_tables(rows, version):
            marks = ", ".join("?" * len(names))
            connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values)
        insert = f"INSERT INTO task_audits ({', '.join(chosen)}) VALUES ({', '.join('?' * len(chosen))})"
        pick = itemgetter(*map(COLUMNS.index, chosen))
        for lap in _laps(rows, seed, "text", made, sqlite=True):
            connection.executemany(insert, lap if chosen == COLUMNS else map(pick, lap))
        connection.execute("COMMIT")
        if indexes:
            for statement in index_statements(chosen):
                connection.execute(statement)
        connection.execute("PRAGMA journal_mode=WAL")
    return made


def create_postgres(
    url: str,
    rows: int,
    *,
    payload_type: PayloadType = "text",
    seed: int = 1,
    version: str = CURRENT_VERSION,
    indexes: bool = True,
    columns: tuple[str, ...] | None = None,
    schema: str | None = None,
) -> Made:
    """Create the tables with `rows` audits in an empty database, or in a new `schema` of it.

    The types `json` and `jsonb` only get payloads that they can store (`Kind.holds`).
    """
    chosen, made = _columns(version, columns), Made()
    with psycopg.connect(url) as connection:
        if schema:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
        for statement in _statements(chosen, payload_type, sqlite=False):
            connection.execute(statement)
        with connection.cursor() as cursor:
            for table, names, values in _small_tables(rows, version):
                with cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN") as copy:
                    for value in values:
                        copy.write_row(value)
            pick = itemgetter(*map(COLUMNS.index, chosen))
            with cursor.copy(f"COPY task_audits ({', '.join(chosen)}) FROM STDIN") as copy:
                for lap in _laps(rows, seed, payload_type, made, sqlite=False):
                    for row in lap:
                        copy.write_row(pick(row))
        connection.execute("SELECT setval(pg_get_serial_sequence('task_audits', 'audit_id'), %s)", [max(rows * 2, 1)])
        for statement in index_statements(chosen) if indexes else ():
            connection.execute(statement)
        connection.execute(
            "ALTER TABLE task_audits ADD CONSTRAINT task_audits_task_id_fkey "
            "FOREIGN KEY (task_id) REFERENCES tasks(task_id) ON DELETE CASCADE"
        )
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE task_audits")
        connection.execute("VACUUM ANALYZE tasks")
    return made


def read_sqlite(path: Path | str) -> Iterator[Audit]:
    """Yield every audit in key order with its stored values. Both backfilled columns must exist."""
    query = (
        "SELECT audit_id, event_type, payload, CAST(created_at AS TEXT), source_event_ts, "
        "supervisor_processed_at FROM task_audits ORDER BY audit_id"
    )
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        # A wrong result may not be UTF-8. The test shows it instead of raising an error.
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        yield from map(Audit._make, connection.execute(query))


def read_postgres(url: str, *, schema: str | None = None) -> Iterator[Audit]:
    """Yield every audit in key order with its values as text. Both backfilled columns must exist."""
    table = sql.Identifier(schema, "task_audits") if schema else sql.Identifier("task_audits")
    query = sql.SQL(
        "SELECT audit_id, event_type, payload::text, created_at::text, source_event_ts, "
        "supervisor_processed_at FROM {} ORDER BY audit_id"
    ).format(table)
    with psycopg.connect(url) as connection, connection.cursor("audits") as cursor:
        yield from map(Audit._make, cursor.execute(query))
