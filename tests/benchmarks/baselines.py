"""The alternatives to the console: one UPDATE of the whole table, and a script that works row by row."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tests.support.payloads import PROCESSED_KEYS, SOURCE_KEYS

if TYPE_CHECKING:
    from tests.benchmarks.stores import Location

BATCH = 1_000


def _sqlite_value(key: str) -> str:
    """Return SQL for the value of a key: a text that is not blank, the digits of a number, else NULL."""
    path = f"payload, '$.{key}'"
    text = f"json_extract({path})"
    return (
        f"CASE json_type({path}) WHEN 'text' THEN CASE WHEN trim({text}) <> '' THEN {text} END "
        f"WHEN 'integer' THEN payload -> '$.{key}' WHEN 'real' THEN payload -> '$.{key}' END"
    )


def _sqlite_column(column: str, keys: tuple[str, ...]) -> str:
    values = ", ".join(map(_sqlite_value, keys))
    found = f"CASE WHEN trim(payload, char(9, 10, 13, 32)) <> '' THEN COALESCE({values}) END"
    return f"{column} = COALESCE({column}, {found}, CAST(created_at AS TEXT))"


SQLITE_UPDATE = f"""
UPDATE task_audits
SET {_sqlite_column("source_event_ts", SOURCE_KEYS)},
    {_sqlite_column("supervisor_processed_at", PROCESSED_KEYS)}
WHERE event_type LIKE '%SUPERVISOR%'
  AND (source_event_ts IS NULL OR supervisor_processed_at IS NULL)
  AND (payload IS NULL OR trim(payload, char(9, 10, 13, 32)) = ''
       OR (json_valid(payload) AND json_type(payload) = 'object'))
"""


def _postgres_column(column: str, keys: tuple[str, ...]) -> str:
    values = (
        f"CASE jsonb_typeof(doc -> '{key}') WHEN 'string' THEN "
        f"CASE WHEN doc ->> '{key}' ~ '\\S' THEN doc ->> '{key}' END WHEN 'number' THEN doc ->> '{key}' END"
        for key in keys
    )
    return f"COALESCE({column}, {', '.join(values)}, CASE WHEN doc IS NOT NULL THEN created_at::text END)"


# PostgreSQL 15 has no IS JSON, and a cast raises an error, so the test needs a function with an exception block.
POSTGRES_FUNCTION = """
CREATE FUNCTION pg_temp.object_of(payload text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE doc jsonb;
BEGIN
    IF payload IS NULL OR payload !~ '\\S' THEN RETURN '{}'; END IF;
    doc := payload::jsonb;
    RETURN CASE WHEN jsonb_typeof(doc) = 'object' THEN doc END;
EXCEPTION WHEN others THEN RETURN NULL;
END $$
"""
POSTGRES_UPDATE = f"""
UPDATE task_audits
SET (source_event_ts, supervisor_processed_at) = (
    SELECT {_postgres_column("source_event_ts", SOURCE_KEYS)},
           {_postgres_column("supervisor_processed_at", PROCESSED_KEYS)}
    FROM (SELECT pg_temp.object_of(payload::text) AS doc OFFSET 0) AS parsed)
WHERE event_type ILIKE '%SUPERVISOR%' AND (source_event_ts IS NULL OR supervisor_processed_at IS NULL)
"""


def one_update(location: Location) -> tuple[float, float | None]:
    """Execute the UPDATE and return (seconds, processor seconds), including the WAL checkpoint.

    The processor seconds of a server are not known.
    """
    start, used = time.perf_counter(), time.process_time()
    if location.engine == "sqlite":
        with closing(sqlite3.connect(location.address, isolation_level=None)) as connection:
            connection.executescript("PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=5000")
            connection.execute(SQLITE_UPDATE)
    else:
        with psycopg.connect(location.address, autocommit=True) as connection:
            connection.execute(POSTGRES_FUNCTION)
            connection.execute(POSTGRES_UPDATE)
    cpu = time.process_time() - used
    return time.perf_counter() - start, cpu if location.engine == "sqlite" else None


@dataclass(frozen=True)
class Rescan:
    """The result of the row-by-row script: `seconds` for all rows, measured or projected."""

    seconds: float
    measured_seconds: float
    reached: int
    rows: int

    @property
    def projected(self) -> bool:
        """Return whether the time limit ended the script."""
        return self.reached < self.rows


def _times(payload: str | None) -> tuple[str | None, str | None] | None:
    """Return the two times of a payload, or None if it is not an object."""
    try:
        document = json.loads(payload, parse_float=str, parse_int=str) if payload and payload.strip() else {}
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None

    def first(keys: tuple[str, ...]) -> str | None:
        values = (document.get(key) for key in keys)
        return next((value for value in values if isinstance(value, str) and value.strip()), None)

    return first(SOURCE_KEYS), first(PROCESSED_KEYS)


def _holds(value: str) -> bool:
    """Return whether both engines can store the text."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def row_by_row(location: Location, rows: int, limit: float) -> Rescan:
    """Fill like a simple script: select the first 1,000 NULL rows, update each by key, commit, and repeat.

    Each batch scans all finished rows, so the time grows with the square of the rows. Stop after `limit` seconds and
    project the rest with `time = a · rows + b · rows²`. An OFFSET skips rows that cannot be filled; without it the
    script would never end.
    """
    sqlite = location.engine == "sqlite"
    mark, like = ("?", "LIKE") if sqlite else ("%s", "ILIKE")
    select = (
        "SELECT audit_id, CAST(payload AS TEXT), CAST(created_at AS TEXT), source_event_ts, "
        "supervisor_processed_at "
        f"FROM task_audits WHERE event_type {like} {mark} "
        "AND (source_event_ts IS NULL OR supervisor_processed_at IS NULL) "
        f"ORDER BY audit_id LIMIT {BATCH} OFFSET {mark}"
    )
    update = "UPDATE task_audits SET source_event_ts = ?, supervisor_processed_at = ? WHERE audit_id = ?"
    update = update.replace("?", mark)
    connection: Any = sqlite3.connect(location.address) if sqlite else psycopg.connect(location.address)
    reached = invalid = 0
    seen: list[tuple[int, float]] = []
    start = time.perf_counter()
    with closing(connection):
        cursor = connection.cursor()
        if sqlite:
            cursor.execute("PRAGMA synchronous=NORMAL")
        while found := cursor.execute(select, ("%SUPERVISOR%", invalid)).fetchall():
            for audit_id, payload, created_at, source, processed in found:
                times = _times(payload)
                values = times and (source or times[0] or created_at, processed or times[1] or created_at)
                if values and all(value and _holds(value) for value in values):
                    cursor.execute(update, (*values, audit_id))
                else:
                    invalid += 1
            connection.commit()
            reached += len(found)
            seen.append((reached, time.perf_counter() - start))
            if seen[-1][1] > limit:
                break
    measured = time.perf_counter() - start
    return Rescan(measured if reached >= rows else _project(seen, rows), measured, reached, rows)


def _project(seen: list[tuple[int, float]], rows: int) -> float:
    """Return the seconds for `rows` rows, by least squares of `a·n + b·n²` through the measured (rows, seconds)."""
    s2, s3, s4 = (float(sum(n**power for n, _ in seen)) for power in (2, 3, 4))
    t1, t2 = (sum(n**power * seconds for n, seconds in seen) for power in (1, 2))
    determinant = s2 * s4 - s3 * s3
    b = max((s2 * t2 - s3 * t1) / determinant, 0.0) if determinant > 0 else 0.0
    a = (t1 - b * s3) / s2
    return a * rows + b * rows * rows
