"""Runs of operations on odd stores, and the judgement of their results."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import DatabaseError, InterfaceError

from opsconsole.engine import lifecycle, planner
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Run, Status
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.selection import Selection
from opsconsole.stores.sqlite import RAW_KEY
from opsconsole.stores.store import Store, StoreUnavailable
from tests.matrix.harness import Dump, Place, apply, copied, differences, dump, filled, moment, reader, unclear
from tests.matrix.kinds import Kind
from tests.matrix.oddities import Oddity
from tests.matrix.stores import Stores
from tests.support.contract import TESTER, left_by, operation_called, work

REFUSALS = (StoreUnavailable, PlanRefused, RunRefused)
PATIENCE = 0.2
SECONDS = 15  # a few rows take less


class Wrong(BaseException):  # no code catches it
    """A result that is neither exact nor a refusal with its reason."""


class Unmakeable(Exception):
    """Oddities that the database refuses."""


class Refused(Exception):
    """A refusal with its reason, before anything was written."""


@contextmanager
def limited() -> Iterator[None]:
    """Fail after a time limit."""

    def over(_signal: int, _frame: Any) -> None:
        raise Wrong(f"it had not ended after {SECONDS} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def examine(stores: Stores, kind: Kind, oddity: Oddity) -> str:
    """Return the outcome, `exact` or `refused`. Raise Wrong for any other."""
    with limited():
        place = stores.make(kind, oddity)
        names = stores.names(kind, place)
        words = [[filled(word, names) for word in oddity.words]]
        return _examine(stores, kind, place, [oddity], words, oddity.works)


def examine_together(stores: Stores, kind: Kind, oddities: Sequence[Oddity]) -> str:
    """Examine several oddities at once. Any of them may be the reason of a refusal.

    Raise Unmakeable if they cannot be combined.
    """
    with limited():
        try:
            place = stores.make(kind, *oddities)
        except (
            psycopg.Error,
            sqlite3.Error,
            UnicodeEncodeError,
        ) as error:  # such an encoding does not have every letter
            raise Unmakeable from error
        names = stores.names(kind, place)
        words = [[filled(word, names)] for one in oddities for word in one.words] or [[]]
        return _examine(stores, kind, place, oddities, words, works=False)


def _examine(
    stores: Stores, kind: Kind, place: Place, oddities: Sequence[Oddity], named: list[list[str]], works: bool
) -> str:
    names = stores.names(kind, place)
    start = dump(place)
    answers = [_answer(place, one, names) for one in oddities]
    try:
        by_hand = bool(kind.chosen)  # in managed stores only
        store = stores.attach(kind, place, *oddities, attached=not by_hand, by_url=by_hand)
    except psycopg.Error as error:  # the other client of the pooler may not do it
        raise Unmakeable from error
    try:
        run, advice = run_operation(store, kind.operation, chosen=kind.chosen, **kind.params)
    except Refused as refusal:
        check_refusal(str(refusal), place, start, named, works)
        return "refused"
    except REFUSALS as refusal:
        check_refusal(str(refusal), place, start, named, works)
        return "refused"
    failed = failures(run)
    kept = dict.fromkeys(left_by(run).get("invalid", {}).get("referenced", ()), advice)  # the plan says why
    _check_result(kind, place, start, run, failed | kept, oddities, names)
    _check_status(run, failed)
    _check_failures(failed | kept, oddities, named, works, names)
    wanted = [filled(word, names) for one in oddities for word in one.names]
    if missing := [word for word in wanted if word not in advice]:
        raise Wrong(f"the plan does not name {missing}; it says: {advice}")
    store.close()
    for one in oddities:
        apply(place, one.between, names)
    if run.changed:
        _undo(store, run, place, start, oddities, named, works, advice, names)
    for one, before in zip(oddities, answers, strict=True):
        if (after := _answer(place, one, names)) != before:
            raise Wrong(f"{one.query} answers {after} instead of {before}")
    return "exact"


def _answer(place: Place, oddity: Oddity, names: Any) -> Any:
    if not oddity.query:
        return None
    with reader(place) as connection:
        return connection.execute(filled(oddity.query, names)).fetchall()


def run_operation(
    store: Store | None, name: str, /, chosen: Collection[str | int] = (), **params: Any
) -> tuple[Run, str]:
    """Plan, confirm and execute a run. Return it with the notes of the plan."""
    operation = operation_called(name, store, **params)
    try:
        planned = planner.count_outcomes(planner.plan(operation, Selection(list(chosen) or None)))
        facts = operation.checklist_facts(planned.queryset) if chosen else {}
        advice = " ".join([*planner.advice(planned), *(text for texts in facts.values() for text in texts)])
        run = lifecycle.confirm(lifecycle.create_run(planned, TESTER, batch_size=4), TESTER, background=False)
    except DatabaseError as error:
        raise Refused(str(operation.store.unusable(error))) from error  # the message that users see
    try:
        return work(run, patience=PATIENCE), advice
    except (DatabaseError, InterfaceError) as error:
        raise Refused(str(operation.store.unusable(error))) from error


def failures(run: Run) -> dict[str, str]:
    """Return key → reason of the failed rows. A statement selects rows by their place in the plan."""
    name = "label" if run.operation == "operations.change_rows" else "key"
    return {_key(key): error for key, error in run.failed_items.values_list(name, "error")}


def _key(key: Any) -> str:
    """Return a key that is not UTF-8 as the plain driver shows it."""
    if str(key).startswith(RAW_KEY):
        return bytes.fromhex(str(key).removeprefix(RAW_KEY)).decode(errors="surrogateescape")
    return str(key)


def check_refusal(sentence: str, place: Place, start: Dump, named: list[list[str]], works: bool) -> None:
    if told := differences(dump(place), start):
        raise Wrong(f"refused ({sentence}) after it had written: {told[:4]}")
    if works:
        raise Wrong(f"must work, but was refused: {sentence}")
    unclears = [unclear(sentence, words) for words in named]
    if all(unclears):
        raise Wrong(f"refused, but the sentence {unclears[0]}: {sentence}")


def _check_result(
    kind: Kind, place: Place, start: Dump, run: Run, failed: Collection[str], oddities: Iterable[Oddity], names: Any
) -> None:
    wanted = right(kind, place, start, failed, oddities, names)
    may_differ = touched(oddities, names) + columns_of(oddities, "derived", names)
    found = dump(place)
    for table, column in columns_of(oddities, "moments", names):
        for tables in (found, wanted):
            for row in tables[table]:
                row[column] = moment(row[column])
    if told := differences(found, wanted, but=may_differ):
        raise Wrong(f"the result is not exact: {told[:6]}; the run is {run.status} {run.reasons} {failed} {run.error}")


def right(kind: Kind, place: Place, start: Dump, stay: Collection[str], oddities: Iterable[Oddity], names: Any) -> Dump:
    """Return the expected tables, by the model of the kind in the configured schema."""
    tables = copied(start)
    schema = next((one.schema for one in oddities if one.schema), "")
    prefix = f"{schema}." if schema else ""
    mine = {name.removeprefix(prefix): name for name in tables if name.startswith(prefix)}
    children = [child for one in oddities for child in one.children]
    seen = {short: list(tables[name]) for short, name in mine.items()}
    for child in children:
        seen[kind.table] += tables[child]
    done = kind.right(seen, place.engine, stay)
    remaining = {id(row) for row in done[kind.table]}
    for child in children:
        tables[child] = [row for row in tables[child] if id(row) in remaining]
        done[kind.table] = [row for row in done[kind.table] if not any(row is one for one in tables[child])]
    for short, name in mine.items():
        if short not in children:
            tables[name] = done[short]
    return tables


def touched(oddities: Iterable[Oddity], names: Any) -> list[tuple[str, str]]:
    """Return the columns that triggers of the store change, and the columns that it computes from them."""
    found = columns_of(oddities, "touched", names)
    return found + (columns_of(oddities, "follows", names) if found else [])


def columns_of(oddities: Iterable[Oddity], which: str, names: Any) -> list[tuple[str, str]]:
    return [(filled(table, names), filled(column, names)) for one in oddities for table, column in getattr(one, which)]


def _check_status(run: Run, failed: Collection[str]) -> None:
    if failed and run.status == Status.SUCCEEDED:
        raise Wrong(f"rows failed and the run succeeded: {failed}")
    if not failed and run.status != Status.SUCCEEDED:
        raise Wrong(f"the result is exact, but the run is {run.status}: {run.error}")


def _check_failures(
    failed: dict[str, str], oddities: Iterable[Oddity], named: list[list[str]], works: bool, names: Any
) -> None:
    if works:
        allowed = {names["row"].strip("'")} if any(one.fails for one in oddities) else set()
        if more := {key: error for key, error in failed.items() if key not in allowed}:
            raise Wrong(f"rows failed that must work: {more}")
    for key, error in failed.items():
        if all(unclear(error, [word]) for words in named for word in words or [""]):
            raise Wrong(f"row {key} failed, but the reason names none of {named}: {error}")


def _undo(
    store: Store, run: Run, place: Place, start: Dump, oddities: Iterable[Oddity], named: list[list[str]], works: bool,
    advice: str, names: Any,
) -> None:  # fmt: skip
    before = dump(place)
    announced = "undo" in advice.lower() and any(not unclear(advice, words) for words in named)
    try:
        undone, _advice = run_operation(store, "operations.undo_run", run=run.pk)
    except (Refused, *REFUSALS) as refusal:
        if dump(place) != before:
            raise Wrong(f"the undo was refused ({refusal}) after it had written") from refusal
        if works or not announced:
            raise Wrong(f"the undo is refused, and the plan did not say so: {refusal}") from refusal
        if all(unclear(str(refusal), words) for words in named):
            raise Wrong(f"the undo is refused, but the sentence does not say why: {refusal}") from refusal
        return
    after = dump(place)
    if undone.status != Status.SUCCEEDED and announced and after == before:
        return  # each of its rows failed
    if told := differences(after, start, but=touched(oddities, names)):
        raise Wrong(f"the undo is not exact ({undone.status}, {undone.reasons}): {told[:6]}")
    if undone.status != Status.SUCCEEDED:
        raise Wrong(f"the undo is exact, but {undone.status}: {undone.error}")
