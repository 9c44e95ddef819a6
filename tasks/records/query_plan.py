"""The query plan of a lookup by execution id, and its time compared with a scan."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from django.db import models, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Cast

from opsconsole.engine.keyset import with_keys
from opsconsole.jsontext import Unreadable
from opsconsole.stores.rows import is_numbered, plain_key
from opsconsole.stores.store import Store
from tasks.records.models import TestRecord
from tasks.records.summaries import execution_id

INDEX = "idx_test_records_execution_id"
BATCH_BYTES = 8 * 1024 * 1024  # of stored summaries in memory at once, or one larger summary
SAMPLED = 1_000
PATIENCE_SECONDS = 1.0


class StoredBytes(models.Func):
    """The stored size of a column, which the engine knows without reading the document."""

    arity = 1
    output_field = models.BigIntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, function="LENGTH", **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, function="OCTET_LENGTH", **extra)


def stored_bytes(store: Store) -> StoredBytes:
    """Return the expression for this store. PostgreSQL cannot measure json without a cast."""
    json = store.tables["test_records"]["results_summary"].base in {"json", "jsonb"}
    return StoredBytes(Cast("results_summary", models.TextField()) if json else F("results_summary"))


def within_bytes(store: Store, records: QuerySet[Any]) -> list[int]:
    """Return the first keys of `records` whose summaries fit into `BATCH_BYTES`, and at least one key."""
    keys: list[int] = []
    room = BATCH_BYTES
    for key, size in records.values_list("pk", stored_bytes(store)):
        room -= size or 0
        if keys and room < 0:
            break
        keys.append(key)
    return keys


class Lookup(NamedTuple):
    """The plan and the time of a lookup, and the estimated time of a scan of all summaries."""

    plan: str
    seconds: float
    scan_seconds: float


def look_up(store: Store, records: int) -> Lookup:
    """Measure a lookup in a store of `records` rows. Estimate the scan from the newest ones."""
    started = time.perf_counter()
    rows = TestRecord.objects.using(store.alias).order_by("-pk")
    sample = with_keys(rows, [plain_key(key) for key in within_bytes(store, rows[:SAMPLED])])
    wanted, read = "none", 0
    for summary, compressed in sample.values_list("results_summary", "is_summary_compressed"):
        with suppress(Unreadable):
            found = execution_id(summary, compressed)
            wanted = found if store.can_store(found) else wanted
        read += 1
        if time.perf_counter() - started > PATIENCE_SECONDS:
            break
    scan = (time.perf_counter() - started) * records / read if read else 0.0
    plan = plan_of(store, wanted)
    return Lookup(plan, _seconds(store, wanted), scan)


def _newest(store: Store) -> str:
    """Return the lookup's SQL without its columns.

    `id + 0` keeps PostgreSQL from walking the primary key backwards when it assumes that an id is frequent.
    """
    key = "id + 0" if is_numbered(store, "test_records") else "id"
    return f"FROM test_records WHERE execution_id = %s ORDER BY {key} DESC LIMIT 1"  # constants


def _seconds(store: Store, wanted: str) -> float:
    """Return the time of one lookup: the best of three attempts, unless they are slow."""
    best = float("inf")
    begun = time.perf_counter()
    for _attempt in range(3):
        started = time.perf_counter()
        with store.connection.cursor() as cursor:
            cursor.execute(f"SELECT id {_newest(store)}", [wanted])  # a constant
            cursor.fetchall()
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() - begun > PATIENCE_SECONDS:
            break
    return best


def plan_of(store: Store, wanted: str = "none", *, possible: bool = False) -> str:
    """Return the plan in the database's words. `possible` makes PostgreSQL prefer the index even for few rows."""
    with transaction.atomic(using=store.alias), store.connection.cursor() as cursor:
        if store.vendor == "sqlite":
            # Only a new statement after a read notices an index that another connection has created.
            cursor.execute("SELECT 1 FROM test_records LIMIT 1")
            cursor.fetchall()
            cursor.execute(f"EXPLAIN QUERY PLAN SELECT id {_newest(store)} -- {time.monotonic_ns()}", [wanted])
            return _in_short(row[-1] for row in cursor.fetchall())
        if possible:
            cursor.execute("SELECT set_config('enable_seqscan', 'off', true)")
        cursor.execute(f"EXPLAIN (COSTS OFF) SELECT id {_newest(store)}", [wanted])
        return _in_short(row[0].replace("->", "").strip() for row in cursor.fetchall())


def _in_short(steps: Iterable[str]) -> str:
    """Join the steps that find rows. Leave out those that sort the few rows found."""
    return "; ".join(step for step in steps if not step.startswith(("USE TEMP", "Limit", "Sort")))


def is_by_index(plan: str) -> bool:
    """Return whether a plan uses an index on execution_id.

    SQLite prints `SEARCH … (execution_id=?)`, PostgreSQL `Index Cond: (execution_id = …)`.
    """
    return "(execution_id=?" in plan or "Index Cond: (execution_id =" in plan
