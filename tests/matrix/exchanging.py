"""Copies of odd stores into the other engine, and imports into odd stores."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from django.db import DatabaseError
from tablib import Dataset

from opsconsole.backups.models import TableCopy
from opsconsole.console.store_import_export import problems_of, resource_of
from opsconsole.engine.models import GivenRows, Run, Status
from opsconsole.stores.rows import RowsChanged
from opsconsole.stores.store import Store
from tasks.agentos.models import MemoryItem
from tests.matrix.harness import CATALOGUE, Dump, Place, Row, close_readers, copied, differences, dump, filled, moment
from tests.matrix.judging import REFUSALS, Refused, Wrong, check_refusal, columns_of, failures, limited, run_operation
from tests.matrix.kinds import CLEAN_MEMORY, PAST, Kind
from tests.matrix.oddities import ALONE, FILLS, TEXTUAL, Oddity
from tests.matrix.stores import Stores

COPY = replace(CLEAN_MEMORY, name="copy", operation="backups.copy_store", event="UPDATE")
IMPORT = replace(CLEAN_MEMORY, name="import", operation="operations.write_rows", event="UPDATE", column="content")
KNOWN = ("memory_items", "task_audits", "tasks", "schema_version")
VARIABLE = "AGENTOS_NEW_DATABASE_URL"


def is_about(kind: Kind, oddity: Oddity) -> bool:
    """Return whether an oddity also matters for a copy or an import."""
    about = set(oddity.kinds)
    if kind is COPY and oddity.name.startswith(("trigger", "rule")):  # triggers that fire on writes
        return False
    if not about or set(TEXTUAL) <= about:
        return True
    return set(FILLS if kind is IMPORT else ALONE) <= about


# --- copy ------------------------------------------------------------------------------------------------------------


def examine_copy(stores: Stores, oddity: Oddity) -> str:
    """Return the outcome, `exact` or `refused`. Raise Wrong for any other."""
    with limited():
        place = stores.make(COPY, oddity)
        with _target(stores, place) as target:
            return _examine_copy(stores, place, target, oddity)


@contextmanager
def _target(stores: Stores, place: Place) -> Iterator[Place]:
    """Yield the alias of an empty database of the other engine."""
    close_readers()  # the previous target has the same name
    if place.sqlite:
        address = stores.server.create_database("matrix_target")
        target = Place("postgresql", address)
    else:
        path = Path(stores.folder / "target.db")
        path.unlink(missing_ok=True)
        target, address = Place("sqlite", str(path)), f"sqlite:///{path}"
    with patch.dict(os.environ, {VARIABLE: address}):
        yield target


def _examine_copy(stores: Stores, place: Place, target: Place, oddity: Oddity) -> str:
    start, names = dump(place), stores.names(COPY, place)
    words = [[filled(word, names)] for word in oddity.words] or [[]]  # any of them
    try:
        stores.attach(COPY, place, oddity, by_url=True)
        run, advice = run_operation(None, COPY.operation, store="agentos", to="agentos_new")
    except (Refused, *REFUSALS) as refusal:
        if arrived := {table: rows for table, rows in dump(target).items() if rows and table != CATALOGUE}:
            raise Wrong(f"refused ({refusal}) after it had copied {list(arrived)}") from refusal
        check_refusal(str(refusal), place, start, words, oddity.works)
        return "refused"
    if told := differences(dump(place), start):
        raise Wrong(f"the source has changed: {told}")
    source = _mine(start, oddity)
    failed = dict(run.failed_items.values_list("label", "error"))
    said = f"{advice} {run.error} {failed} {_left(run)}".replace("\\", "")
    absent = list(_absent(source, dump(target), said, set(failed)))
    if absent and run.status == Status.SUCCEEDED:
        raise Wrong(f"the copy succeeded without {absent}")
    if not absent and run.status != Status.SUCCEEDED:
        raise Wrong(f"everything has arrived, but the copy is {run.status}: {said}")
    lost = [one for one in absent if one.startswith("row of") and one.split()[2] in KNOWN]
    if oddity.works and not place.sqlite and lost:
        raise Wrong(f"rows were left out that must arrive: {lost}")
    return "exact"


def _mine(tables: Dump, oddity: Oddity) -> Dump:
    prefix = f"{oddity.schema}." if oddity.schema else ""
    return {name.removeprefix(prefix): rows for name, rows in tables.items() if name.startswith(prefix)}


def _left(run: Run) -> str:
    return json.dumps(list(TableCopy.objects.filter(run=run).values_list("table", "left")), ensure_ascii=False)


INTERNAL = re.compile(r"^sqlite_|_(data|idx|content|docsize|config)$|\.")


def _absent(source: Dump, target: Dump, said: str, failed: set[str]) -> Iterator[str]:
    """Yield what was not copied and was reported. Raise Wrong for anything unreported or different."""
    for table, rows in source.items():
        if table == CATALOGUE or INTERNAL.search(table):
            continue
        if table in failed or re.search(rf"\b{re.escape(table)} \(\d", said):
            yield f"rows of {table}"
            continue
        if table not in target:
            if table.lower() not in said.lower():
                raise Wrong(f"the table {table} was not copied, and no message reports it: {said}")
            yield f"table {table}"
            continue
        there = {name for row in target[table] for name in row}
        columns = {name for row in rows for name in row} - {"rowid", "partition"}
        for column in sorted(columns - there) if target[table] else ():
            if column.lower() not in said.lower():
                raise Wrong(f"the column {table}.{column} was not copied, and no message reports it: {said}")
            yield f"column {table}.{column}"
        yield from _absent_rows(table, rows, target[table], sorted(columns & there), said)


def _absent_rows(table: str, rows: list[Row], found: list[Row], columns: list[str], said: str) -> Iterator[str]:
    left = list(found)
    for row in rows:
        like = next((other for other in left if all(_same(row[name], other[name]) for name in columns)), None)
        if like is not None:
            left.remove(like)
            continue
        keys = [_shown(row[name]) for name in ("id", "audit_id", "task_id", "version") if name in row]
        if not any(key.replace("\\", "") in said for key in keys):
            raise Wrong(f"a row of {table} was not copied exactly: {row}; there is {left[:3]}, and {said}")
        yield f"row of {table} {keys[0]}"
    if left:
        raise Wrong(f"{table} has rows that the source has not: {left}")


def _shown(key: Any) -> str:
    """Return a key as the list of rows that were left out shows it."""
    return "NULL" if key is None else re.sub("[\udc80-\udcff]", lambda byte: f"x{ord(byte[0]) - 0xDC00:02x}", str(key))


def _same(value: Any, other: Any) -> bool:
    """Return whether the values of the two engines are equal."""
    if value is None or other is None:
        return value is other
    if isinstance(value, bytes) or isinstance(other, bytes):
        return _hex(value) == _hex(other)
    one, two = str(value), str(other)
    if one == two:
        return True
    if not (isinstance(value, str) and isinstance(other, str)):
        return _number(one) is not None and _number(one) == _number(two)
    return bool(moment(one) == moment(two))


def _hex(value: Any) -> str:
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _number(text: str) -> float | None:
    try:
        return float({"true": "1", "false": "0"}.get(text, text))
    except ValueError:
        return None


# --- import --------------------------------------------------------------------------------------------------------

HEADERS = ("id", "scope", "type", "content", "created_at", "updated_at", "sources")
FILE = (
    ("mem0", "project", "decision", "changed", PAST, PAST, None),
    ("mem1", "project", "decision", "changed %s ''", PAST, PAST, None),
    ("mem9", "task", "constraint", "new", PAST, PAST, "s"),
)
MADE = {"confidence": 0.5, "use_count": 0, "retention_type": "project", "auto_cleanup": 1}


def examine_import(stores: Stores, oddity: Oddity) -> str:
    """Return the outcome, `exact` or `refused`. Raise Wrong for any other."""
    with limited():
        return _examine_import(stores, oddity)


def _examine_import(stores: Stores, oddity: Oddity) -> str:
    place = stores.make(IMPORT, oddity)
    start, names = dump(place), stores.names(IMPORT, place)
    words = [[filled(word, names)] for word in oddity.words] or [[]]  # any of them
    try:
        _import(stores.attach(IMPORT, place, oddity, by_url=True, attached=False))
    except (Refused, *REFUSALS) as refusal:
        check_refusal(str(refusal), place, start, words, oddity.works and not oddity.fails)
        return "refused"
    may_differ = columns_of([oddity], "touched", names) + columns_of([oddity], "derived", names)
    found = dump(place)
    if told := differences(found, _imported(start, found, place, oddity), but=may_differ):
        raise Wrong(f"the import is not exact: {told[:6]}")
    return "exact"


def _import(store: Store) -> None:
    """Import like the page: check the file, then write the rows by a run."""
    resource = resource_of(MemoryItem)()
    try:
        result = resource.import_data(Dataset(*FILE, headers=HEADERS), dry_run=True, rollback_on_validation_errors=True)
    except DatabaseError as error:
        raise Refused(str(store.unusable(error))) from error
    if problems := problems_of(result):
        raise Refused(" ".join(f"{where} {what}" for where, what in problems))
    try:
        digest = GivenRows.keep(resource.writes(result))
    except RowsChanged as error:
        raise Refused(" ".join(map(str, error.refused.values()))) from error
    run, _advice = run_operation(None, IMPORT.operation, store="agentos", table="memory_items", rows=digest)
    if run.status != Status.SUCCEEDED or run.changed != len(FILE):
        raise Wrong(f"what was tried was not written: {run.status}, {failures(run)}, {run.reasons}, {run.error}")


def _imported(start: Dump, found: Dump, place: Place, oddity: Oddity) -> Dump:
    """Return the expected tables: the rows of the file replace existing rows. The database fills new rows."""
    tables = copied(start)
    mine = f"{oddity.schema}.memory_items" if oddity.schema else "memory_items"
    for table in {mine, "odd_real", "remote.memory_items"} & set(tables):  # behind a view, or a foreign table
        _import_into(tables, table, oddity, found, place)
    return tables


def _import_into(tables: Dump, table: str, oddity: Oddity, found: Dump, place: Place) -> None:
    rows = [row for one in (table, *oddity.children) for row in tables[one]]
    for values in FILE:
        given: Row = dict(zip(HEADERS, values, strict=True))
        mine = [row for row in rows if str(row["id"]) == given["id"]]
        for row in mine[:1]:  # the file can mean only one row
            row.update(given)
        if not mine:
            made = MADE if place.sqlite else {name: str(value) for name, value in MADE.items()}
            new = [row for row in found[table] if str(row["id"]) == given["id"]]
            tables[table] += [{**row, **made, **given} for row in new[:1]] or [given]
