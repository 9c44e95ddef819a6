"""How far a run is: asked of the live layer, then of `task_statuses`, then of the newest test record (document 002).

The first layer that knows gives the answer; the others raise its progress, end it where they know of its end, and
bring results that it lacks. A layer that can't be asked is logged and skipped, and what it may know stays open. One
that took long to fail is left alone for a while, so that it holds up few.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from django.core.cache import caches
from django.db import Error, OperationalError
from django.urls import reverse
from django.utils.connection import ConnectionProxy

from opsconsole.api.endpoints import as_json
from opsconsole.stores.config import LOCK_SECONDS
from opsconsole.stores.errors import first_line
from opsconsole.stores.store import Store, StoreUnusable
from tasks.records.models import ExecutionStatus, Stage
from tasks.records.summaries import LARGEST, Unreadable, document

logger = logging.getLogger("opsconsole.executions")

INLINE_BYTES = 1024 * 1024  # longer results are linked, not sent along
LIVE_SECONDS = 24 * 3600  # after that the tables have it
TABLES_SECONDS = LOCK_SECONDS  # PostgreSQL is waited for as long as SQLite
DOCUMENT_SECONDS = 30  # it may be 50 MB
SLOW_SECONDS = 1.0  # who fails after this is left alone
PAUSE_SECONDS = 10.0
LIVE, STATUSES, RECORDS = "live", "task_statuses", "test_records"
TABLES = (STATUSES, RECORDS)
PARTS = ("results", "detailed_results")


cache = ConnectionProxy(caches, "live")


def live_key(execution_id: str) -> str:
    return f"execution:{execution_id}"


class Known(NamedTuple):
    """What one layer knows of one execution."""

    source: str
    progress: int
    stage: str
    status: str
    is_completed: bool
    created_at: str | None
    results: Any = None
    detailed_results: Any = None

    @property
    def ended(self) -> bool:
        return self.is_completed or self.status == ExecutionStatus.FAILED

    @property
    def settled(self) -> bool:
        """Nothing that another layer knows could add to this."""
        return self.ended and (self.status == ExecutionStatus.FAILED or bool(self.results))


@dataclass
class Asked:
    """Answers by execution, and the executions that a layer may know which could not be asked."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    open: frozenset[str] = frozenset()


class TooLong(NamedTuple):
    """Results that are linked."""

    part: str

    def link(self, execution_id: str) -> dict[str, str]:
        return {"url": reverse(f"api:{self.part}", kwargs={"execution_id": execution_id})}


def ask(execution_ids: Sequence[str], store: Store | None = None) -> Asked:
    """The live layer once, then the tables once, whatever the number of executions."""
    store = store or Store("records", "records")
    inline = INLINE_BYTES // max(len(execution_ids), 1)
    unanswered: set[str] = set()
    found: dict[str, Known] = {}
    try:
        found, broken = _live(execution_ids, inline)
        unanswered.update(broken)
    except Exception as error:  # noqa: BLE001  # whatever it is, the next layer answers
        _skip(error, LIVE)
        unanswered.update(execution_ids)
    known = {execution_id: [one] for execution_id, one in found.items()}
    wanted = [one for one in execution_ids if one not in found or not found[one].settled]
    if wanted:
        stored, all_answered = _tables(store, wanted, inline)
        for execution_id, one in stored:
            known.setdefault(execution_id, []).append(one)
        if not all_answered:
            unanswered.update(wanted)
    answers = {one: _answer(one, known[one]) for one in execution_ids if one in known}
    return Asked(answers, frozenset(unanswered - answers.keys()))


def _skip(error: Exception, *layers: str) -> None:
    logger.warning("%s can't be asked: %s", " and ".join(layers), first_line(error))


def _skip_tables(error: Exception, tables: tuple[str, ...], began: float) -> None:
    """And leaves them alone, where they took long to fail."""
    _skip(error, *tables)
    now = time.monotonic()
    for table in tables:
        if now - began >= SLOW_SECONDS:
            _left_alone[table] = now + PAUSE_SECONDS
        else:
            _left_alone.pop(table, None)


def _may_be_asked(table: str) -> bool:
    """Not while it is left alone; then somebody tries it, and the others still pass it by."""
    now = time.monotonic()
    if now < _left_alone.get(table, 0):
        return False
    if table in _left_alone:
        _left_alone[table] = now + PAUSE_SECONDS
    return True


_left_alone: dict[str, float] = {}  # until when


def _unreachable(store: Store, error: Exception) -> bool:
    """Whether the error is the whole database's: not there, or locked (SQLite). A broken connection is given up."""
    if isinstance(error, StoreUnusable):
        return True
    connection = store.connection
    if not connection.in_atomic_block:
        connection.close_if_unusable_or_obsolete()
    if getattr(error.__cause__, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
        return True
    if not isinstance(error, OperationalError) or connection.connection is not None:
        return False
    state = getattr(error.__cause__, "sqlstate", None)  # PostgreSQL's, where it is there to answer
    return state is None or state.startswith(_GONE)


def _answer(execution_id: str, known: Sequence[Known]) -> dict[str, Any]:
    first = known[0]
    state = next((one for one in known if one.ended), first) if not first.ended else first
    parts: dict[str, Any] = {}
    for part in PARTS:
        value: Any = next((getattr(one, part) for one in known if getattr(one, part)), [])
        parts[part] = value.link(execution_id) if isinstance(value, TooLong) else value
    return {
        "task_id": execution_id,
        "progress": max(one.progress for one in known),
        "stage": state.stage,
        "status": state.status,
        "is_completed": state.is_completed,
        "created_at": next((one.created_at for one in known if one.created_at), None),
        **parts,
        "source": state.source,
    }


# --- the live layer ---------------------------------------------------------------------------------------


def _live(wanted: Sequence[str], inline: int) -> tuple[dict[str, Known], list[str]]:
    """What the cache holds, and the executions whose entry can't be read."""
    keys = [live_key(one) for one in wanted]
    entries = cache.get_many(keys) if len(keys) > 1 else {keys[0]: cache.get(keys[0])}  # costs less
    found, broken = {}, []
    for one, key in zip(wanted, keys, strict=True):
        entry = entries.get(key)
        if entry is None:
            continue
        try:
            found[one] = _read_live(entry, inline)
        except (ValueError, TypeError) as error:
            logger.warning("the live entry of %s can't be read: %s", one, error)
            broken.append(one)
    return found, broken


def _read_live(entry: Any, inline: int | None) -> Known:
    """The platform writes a JSON object; missing keys are what they are at the start."""
    values = orjson.loads(entry) if isinstance(entry, str | bytes) else entry
    if not isinstance(values, Mapping):
        raise ValueError("it is no object")
    stage = str(values.get("stage") or "")
    status = str(values.get("status") or "")
    completed = bool(values.get("is_completed")) or Stage.COMPLETED in (stage, status)
    stage = stage or (Stage.COMPLETED.value if completed else Stage.INIT.value)
    created_at = values.get("created_at")
    results, detailed = (_fitting(part, values.get(part), inline) for part in PARTS)
    return Known(
        LIVE,
        _progress(values.get("progress")),
        stage,
        status or _status(stage, completed),
        completed,
        None if created_at is None else str(created_at),
        results,
        detailed,
    )


def _fitting(part: str, value: Any, inline: int | None) -> Any:
    if value and inline is not None and len(as_json(value)) > inline:
        return TooLong(part)
    return value


def report(execution_id: str, values: Mapping[str, Any]) -> None:
    """Write the live entry, as the platform itself does where it has a Redis. Raises what the cache raises."""
    cache.set(live_key(execution_id), dict(values), LIVE_SECONDS)


def _progress(value: Any) -> int:
    """0 … 100, whatever stands there."""
    try:
        return min(max(int(float(value or 0)), 0), 100)
    except (ValueError, TypeError, OverflowError):
        return 0


def _status(stage: str, completed: bool) -> str:
    if stage == Stage.FAILED:
        return ExecutionStatus.FAILED.value
    return (ExecutionStatus.COMPLETED if completed else ExecutionStatus.PROCESSING).value


# --- the tables -------------------------------------------------------------------------------------------


def _tables(store: Store, wanted: Sequence[str], inline: int) -> tuple[list[tuple[str, Known]], bool]:
    """What the tables know, a status before a record, and whether both could be asked.

    One statement asks both; where it fails, each is asked by itself, and the other one answers.
    """
    seconds: float = TABLES_SECONDS
    if not _left_alone:
        began = time.monotonic()
        try:
            return _select(store, TABLES, wanted, inline, seconds), True
        except Exception as error:  # noqa: BLE001  # as above
            if _unreachable(store, error):
                _skip_tables(error, TABLES, began)
                return [], False
            logger.info("the tables are asked one by one: %s", error)
        if time.monotonic() - began >= seconds:
            seconds = SLOW_SECONDS  # one of them is to blame
    found, all_answered = [], True
    for table in TABLES:
        if not _may_be_asked(table):
            all_answered = False
            continue
        began = time.monotonic()
        try:
            found += _select(store, (table,), wanted, inline, seconds)
            _left_alone.pop(table, None)
        except Exception as error:  # noqa: BLE001
            all_answered = False
            whole = _unreachable(store, error)
            _skip_tables(error, TABLES if whole else (table,), began)
            if whole:
                break
    return found, all_answered


def _select(
    store: Store, tables: tuple[str, ...], wanted: Sequence[str], inline: int, seconds: float
) -> list[tuple[str, Known]]:
    sql = _sql(tables, len(wanted), inline)
    prepare = len(tables) > 1 and len(wanted) == 1
    rows = _rows(store, sql, [*wanted] * len(tables), seconds=seconds, prepare=prepare)
    rows.sort(key=itemgetter(0))  # a UNION promises no order
    return [(execution_id, _READERS[place](values, inline)) for place, execution_id, *values in rows]


@functools.lru_cache
def _sql(tables: tuple[str, ...], wanted: int, inline: int) -> str:
    """Of every table: its place in TABLES, the execution, and as many columns as the others give."""
    marks = ", ".join(["%s"] * wanted)
    newest = (
        "= (SELECT MAX(id + 0) FROM test_records WHERE execution_id = %s)"  # + 0: not by the key's index from its end
        if wanted == 1
        else f"IN (SELECT MAX(id) FROM test_records WHERE execution_id IN ({marks}) GROUP BY execution_id)"  # noqa: S608
    )
    documents = ", ".join(
        f"CASE WHEN LENGTH({column}) <= {inline} THEN {column} END, LENGTH({column}), {flag}"
        for column, flag in _COLUMNS.values()
    )
    selects = {
        STATUSES: (
            "SELECT 0, CAST(task_id AS TEXT), CAST(created_at AS TEXT), progress, CAST(stage AS TEXT), "  # noqa: S608
            f"is_completed, NULL, NULL, NULL, NULL, NULL, NULL FROM task_statuses WHERE task_id IN ({marks})"
        ),
        RECORDS: (
            f"SELECT 1, CAST(execution_id AS TEXT), CAST(test_date AS TEXT), NULL, NULL, NULL, {documents} "  # noqa: S608
            f"FROM test_records WHERE id {newest}"
        ),
    }
    return " UNION ALL ".join(selects[table] for table in tables)


def _status_row(values: Sequence[Any], inline: int) -> Known:
    created_at, progress, stage, is_completed, *_ = values
    completed = str(is_completed) in _TRUE
    stage = stage or Stage.INIT.value
    return Known(STATUSES, _progress(progress), stage, _status(stage, completed), completed, created_at)


def _record_row(values: Sequence[Any], inline: int) -> Known:
    """A record is written when its run has ended: it is complete, whatever else is known."""
    test_date, _, _, _, summary, summary_length, packed, details, details_length, details_packed = values
    parts = _parts(
        _document("results", summary, summary_length, packed, inline),
        _document("detailed_results", details, details_length, details_packed, inline),
    )
    return Known(RECORDS, 100, *_ENDED, True, test_date, *parts)


_ENDED = (Stage.COMPLETED.value, ExecutionStatus.COMPLETED.value)
_READERS = (_status_row, _record_row)


def _document(part: str, stored: Any, length: int | None, compressed: Any, inline: int) -> Any:
    """The document, a link where it is too long, None where there is none that can be read."""
    if stored is None:
        return TooLong(part) if length else None
    try:
        return document(stored, compressed, limit=inline)
    except Unreadable as error:
        if error.reason == "too_large":
            return TooLong(part)
        if error.reason != "empty":
            logger.warning("%s of a test record can't be read: %s", part, error.reason)
        return None


def _parts(summary: Any, details: Any) -> tuple[Any, Any]:
    """`results` and `detailed_results`: the summary's own keys of these names, where it has them."""
    if isinstance(summary, Mapping):
        return summary.get("results", summary), details or summary.get("detailed_results")
    if isinstance(summary, TooLong):  # they may be in there: the link says
        return summary, details or TooLong("detailed_results")
    return summary, details


def long_document(execution_id: str, part: str) -> tuple[Any, bool]:
    """What `part` of an answer links to, and whether every layer that could have it was asked. None: nobody has."""
    store, asked = Store("records", "records"), True
    try:
        entry = cache.get(live_key(execution_id))
        value = getattr(_read_live(entry, None), part) if entry is not None else None
        if value:
            return value, asked
    except Exception as error:  # noqa: BLE001  # as above
        _skip(error, LIVE)
        asked = False
    if not _may_be_asked(RECORDS):
        return None, False
    began = time.monotonic()
    columns = ", ".join(f"{column}, {flag}" for column, flag in _COLUMNS.values())
    sql = f"SELECT {columns} FROM test_records WHERE execution_id = %s ORDER BY id + 0 DESC LIMIT 1"  # noqa: S608
    try:
        rows = _rows(store, sql, [execution_id], seconds=DOCUMENT_SECONDS)
    except (Error, StoreUnusable) as error:
        _skip_tables(error, (RECORDS,), began)
        _unreachable(store, error)
        return None, False
    _left_alone.pop(RECORDS, None)
    if not rows:
        return None, asked
    summary, packed, details, details_packed = rows[0]
    if part == "detailed_results" and (value := _document(part, details, None, details_packed, LARGEST)):
        return value, asked
    value = _parts(_document("results", summary, None, packed, LARGEST), None)[PARTS.index(part)]
    return ([] if value is None else value), asked


def _rows(store: Store, sql: str, values: Sequence[Any], *, seconds: float, prepare: bool = False) -> list[Any]:
    """`seconds` and `prepare` are for web processes on PostgreSQL."""
    connection = store.connection
    if prompt_rows := getattr(connection, "prompt_rows", None):
        return list(prompt_rows(sql, values, seconds=seconds, prepare=prepare))
    if connection.connection is None:
        store.require_file()  # opening it would make it
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


_GONE = ("08", "57P")  # the connection was lost; the server shuts down, crashed or starts
_TRUE = frozenset(("True", "1", "true", "t"))
_COLUMNS = {
    "results": ("results_summary", "is_summary_compressed"),
    "detailed_results": ("detailed_results", "is_detailed_compressed"),
}
