"""The planner: the read-only preview of an operation, made by the code that executes it."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from itertools import takewhile
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import orjson
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from opsconsole.engine import keyset
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, Operation, Risk
from opsconsole.engine.outcomes import Change, Changes, Delete, Done, Invalid, Outcome, RowChange, Skip
from opsconsole.engine.requirements import readable_columns, required_columns
from opsconsole.engine.selection import Selection, listed_rows
from opsconsole.engine.throttle import unobservable
from opsconsole.stores import preflight
from opsconsole.stores.errors import ErrorKind, classify, first_line, is_undecodable
from opsconsole.stores.router import use
from opsconsole.stores.rows import Key, Values, Write, plain_key
from opsconsole.stores.sqlite import UndecodableText, tolerant_text
from opsconsole.stores.store import Store, all_stores, unknown_store

_ADDRESS = re.compile(" at 0x[0-9a-f]+")
SHOWN_CHARACTERS = 500
SHOWN_BEFORE = 80  # characters of a long value before the first difference
BATCH_CHARACTERS = 16_000_000  # of the texts of a batch: several are in memory
FIRST_ROWS = 10  # read before the first batch, to estimate its length
MEASURED_ROWS = 50  # of a batch, to estimate the length of the next one
OUTCOMES = ("changed", "skipped", "invalid", "failed")
_Operation = TypeVar("_Operation", bound=Operation)
_NAMES: dict[type, str] = {
    **dict.fromkeys((Changes, Change, Delete, Done), "changed"),
    Skip: "skipped",
    Invalid: "invalid",
}


class PlanRefused(Exception):
    """The operation cannot be planned. The message states the reason and the remedy."""


@dataclass
class Outcomes:
    """The outcomes of a batch of rows: writes grouped by table and columns, the others by reason."""

    writes: list[Write] = field(default_factory=list)
    reasons: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in OUTCOMES})
    unchanged: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # skipped, invalid → reason → labels
    errors: list[tuple[Key, str, Exception]] = field(default_factory=list)  # key, label, what `process` raised
    amount: int = 0  # of all changes, as the button of the operation counts them

    def count(self, outcome: str) -> int:
        return sum(self.reasons[outcome].values())

    def counts(self) -> dict[str, int]:
        return {name: self.count(name) for name in OUTCOMES}


def process(operation: Operation, row: Any) -> Outcome:
    """Return the outcome of a row, with a table in each change."""
    return with_tables(operation, operation.process(row))


def with_tables(operation: Operation, outcome: Outcome) -> Outcome:
    """Return an outcome with a table in each change. A change without a table is a change of `model`."""
    if isinstance(outcome, Change | Delete):
        table = operation.model._meta.db_table
        return Changes([RowChange(table, *change[1:]) for change in outcome.rows], outcome.reason)
    return outcome


def pins_rows(operation: Operation) -> bool:
    """Return whether the plan stores a digest of each row, so that a run changes exactly these rows."""
    return operation.effective_risk() in {Risk.DELETE, Risk.EXTERNAL}


def outcomes_of(
    operation: Operation,
    rows: list[Any],
    sampler: Sampler | None = None,
    change: Callable[[Any], Outcome] | None = None,
    is_fatal: Callable[[Exception], bool] = lambda error: False,
) -> Outcomes:
    """Process each of `rows`, for the preview and for the execution.

    `change` replaces `process`. `is_fatal` returns whether an error belongs to the whole run.
    """
    found = Outcomes()
    if rows and isinstance(rows[0], Unreadable):
        return _unreadable(rows[0], sampler)
    own = operation.model._meta.db_table
    writes: dict[tuple[Any, ...], list[Any]] = {}
    changes: dict[tuple[str, ...], tuple[Callable[[Any], Values], list[Any]]] = {}  # columns → rows of `Change`
    changed: dict[str, int] = defaultdict(int)
    change = change or operation.process
    for row in rows:  # the hot path: a run calls it for each row
        try:
            outcome = change(row)
            if isinstance(outcome, Change):
                source, values = outcome.row, outcome.new
                columns = tuple(values)
                if columns not in changes:
                    changes[columns] = _values_of(columns), writes.setdefault((own, False, False, columns), [])
                old_of, written = changes[columns]
                written.append((source.pk, old_of(source), tuple(values.values())))
        except Exception as error:  # the error belongs to this row only
            if is_fatal(error):
                raise
            found.errors.append((row.pk, operation.label(row), error))
            if sampler is not None:
                sampler.keep("failed", type(error).__name__, operation, row)
            continue
        if sampler is not None:
            sampler.keep(_NAMES[type(outcome)], outcome.reason, operation, row, outcome)
        if isinstance(outcome, Change):
            changed[outcome.reason] += 1
            found.amount += 1
        elif isinstance(outcome, Changes):
            changed[outcome.reason] += 1
            found.amount += outcome.amount
            for table, key, old, new in outcome.rows:
                columns = tuple(old if new is None else new)  # type: ignore[arg-type]
                group = (table or own, old is None, new is None, columns)
                images = (None if old is None else tuple(old.values()), None if new is None else tuple(new.values()))
                writes.setdefault(group, []).append((key, *images))
        else:
            name = _NAMES[type(outcome)]
            labels = found.unchanged.setdefault(name, {}).setdefault(outcome.reason, [])
            labels.append(operation.label(row))
    # A group is empty if its only rows have failed.
    found.writes = [Write(group[0], group[3], written) for group, written in writes.items() if written]
    found.reasons["changed"] = dict(changed)
    for name, reasons in found.unchanged.items():
        found.reasons[name] = {reason: len(labels) for reason, labels in reasons.items()}
    for _key, _label, raised in found.errors:
        reason = type(raised).__name__
        found.reasons["failed"][reason] = found.reasons["failed"].get(reason, 0) + 1
    return found


def _values_of(columns: Sequence[str]) -> Callable[[Any], Values]:
    """Return a function from a row to its values of `columns`. Raises ValueError if there are none."""
    if not columns:
        raise ValueError("A Change needs a column: Change(row, column=value).")
    values = attrgetter(*columns)
    return values if len(columns) > 1 else lambda row: (values(row),)


class UnnamedKey(Exception):
    """A key that SQL cannot address exactly."""


class Unreadable(NamedTuple):
    """An unreadable row, alone in its batch: invalid because of a value, or failed because of its key."""

    pk: Key
    label: str
    error: Exception


def _unreadable(row: Unreadable, sampler: Sampler | None) -> Outcomes:
    found = Outcomes()
    if isinstance(row.error, UnnamedKey):
        outcome, reason = "failed", type(row.error).__name__
        found.errors.append((row.pk, row.label, row.error))
    else:
        outcome, reason = "invalid", "unreadable"
        found.unchanged = {outcome: {reason: [f"{row.label}: {first_line(row.error)}"]}}
    found.reasons[outcome] = {reason: 1}
    if sampler is not None:
        sampler.add(outcome, reason, row.pk, row.label)
    return found


def read_batch(operation: Operation, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
    """Return the next rows, as `Operation.fetch` does. An unreadable row comes alone, as Unreadable."""
    decode: Callable[[bytes], Any] = str  # the fastest
    while True:
        try:
            with operation.store.text_factory(decode):
                found = operation.fetch(rows, after=after, bound=bound, limit=limit)
            odd = None
            if decode is not str:
                odd = next((place for place, row in enumerate(found) if type(row.pk) is UndecodableText), None)
            if odd == 0:
                key, table = found[0].pk, operation.model._meta.db_table
                text = _(
                    "The key %(key)s of %(table)s is not UTF-8, so no statement can address the row. "
                    "The row was not changed."
                )
                return [Unreadable(plain_key(key), str(key), UnnamedKey(text % {"key": key, "table": table}))]
            return found[:odd]
        except Exception as error:
            if decode is str and is_undecodable(error):
                decode = tolerant_text
                continue
            if classify(error) != ErrorKind.ROW or not operation.selectable:
                raise
            if limit > 1:
                limit //= 2
                continue
            key = keyset.next_key(rows, after, bound)
            return [] if key is None else [Unreadable(key, str(key), error)]


class FittingBatches:
    """Batches of limited length. A batch of long rows has fewer rows."""

    def __init__(self) -> None:
        self._length: int | None = None  # characters of an average row of the last batch

    def read(self, read: Callable[[int], list[Any]], limit: int) -> list[Any]:
        """Return the rows of `read(limit)`, or fewer. `read` returns the next rows, at most as many as its argument."""
        if self._length is None and limit > FIRST_ROWS:
            self._length = _mean_length(read(FIRST_ROWS))
        rows = read(max(1, min(limit, BATCH_CHARACTERS // self._length)) if self._length else limit)
        self._length = _mean_length(rows)
        return rows


def _mean_length(rows: list[Any]) -> int:
    """Return the number of characters of an average row, as far as its columns are text or bytes."""
    measured = rows[:: max(1, len(rows) // MEASURED_ROWS)]
    values = (value for row in measured if isinstance(row, tuple) for value in row)
    return sum(len(value) for value in values if isinstance(value, str | bytes)) // max(1, len(measured))


@dataclass
class Plan:
    """A frozen operation on a store: parameters, selection, bound, statistics, counted outcomes."""

    operation: Operation
    selection: Selection
    bound: Key | None
    before: dict[str, Any]
    reasons: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in OUTCOMES})
    sample: list[dict[str, Any]] = field(default_factory=list)
    batches: int = 0
    seconds: float = 0.0
    cursor: Key | None = None  # the last counted row
    counted: bool = False
    rows_digest: str = ""  # of the pinned rows and their outcomes
    rows: dict[str, int] = field(default_factory=dict)  # table → rows that would be written
    amount: int = 0  # of all changes, in the figure of the operation's button
    pinned: list[tuple[Key, str]] = field(default_factory=list)  # key and digest of the outcome of each row
    notes: list[str] = field(default_factory=list)  # sentences about side effects of the store
    restorable: bool = True  # an undo can insert the deleted rows again

    @property
    def total(self) -> int:
        return int(self.before["in_scope"])

    @cached_property
    def queryset(self) -> QuerySet[Any]:
        """Return the rows of scope and selection. `fetch` applies the bound."""
        return selected_rows(self.operation, self.selection)

    def counts(self) -> dict[str, int]:
        return {name: sum(self.reasons[name].values()) for name in OUTCOMES}

    def digest(self) -> str:
        """Return the digest that a confirmation refers to: parameters, selection, bound, counts, and pinned rows."""
        covered = [
            self.operation.name,
            self.operation.store.identity(),
            self.operation.params,
            self.selection.as_json(),
            self.bound,
            self.total,
            self.reasons if self.counted else None,
            self.rows_digest,
            self.operation.frozen,
        ]
        return hashlib.sha256(orjson.dumps(covered, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def selected_rows(operation: Operation, selection: Selection) -> QuerySet[Any]:
    """Return the selected rows of the scope."""
    return restrict(operation.queryset(), operation, selection)


def restrict(rows: QuerySet[Any], operation: Operation, selection: Selection) -> QuerySet[Any]:
    """Return the selected rows of `rows`, and store the selection in the operation."""
    operation.selection = selection
    if selection.keys is not None:
        return operation.select(rows, selection.keys)
    if selection.query is not None:
        with use(operation.store.alias):  # a filter of the list may read the store
            shown = listed_rows(operation.model, selection.query)
        return rows.filter(pk__in=shown.using(rows.db).order_by().values("pk"))
    return rows


def plan(operation: Operation, selection: Selection = Selection()) -> Plan:  # noqa: B008  # immutable
    """Validate the store, freeze the bound and count the scope. Raises StoreUnavailable."""
    store, required = operation.store, required_columns(operation)
    store.require(required)
    preflight.require_readable(store, (model._meta.db_table for model in required))
    preflight.require_privileges(store, readable_columns(operation), [])
    targets = operation.targets()
    checked = preflight.examine(store, targets, undoable=operation.undoable) if targets else preflight.Preflight()
    operation.check_prerequisites()
    bound = operation.bound()
    before = {"in_scope": 0} if bound is None else measure(operation, selection, bound)
    obstacles = [_("This cannot be undone: %(reason)s") % {"reason": one} for one in checked.undo_obstacles]
    return Plan(operation, selection, bound, before, notes=[*checked.notes, *obstacles], restorable=not obstacles)


def measure(operation: Operation, selection: Selection, bound: Key) -> dict[str, Any]:
    """Return the statistics of the selected rows up to the bound."""
    return operation.statistics(lambda rows: keyset.up_to(restrict(rows, operation, selection), bound))


def advice(planned: Plan) -> list[str]:
    """Return the notes of the plan: the operation's own, missing indexes, unobservable signals."""
    operation = planned.operation
    sentences = list(operation.plan_notes(planned.total))
    for table, columns in operation.writes.items():
        indexes = operation.store.indexes_on(table, columns) if table in operation.store.tables else []
        if indexes:
            sentences.append(
                _(
                    "Each write also updates the indexes on the written columns of %(table)s (%(indexes)s). "
                    "Expect 40 to 60 %% of the speed without them."
                )
                % {"table": table, "indexes": ", ".join(indexes)}
            )
    return [*sentences, *planned.notes, *unobservable(operation.store)]


def count_outcomes(
    planned: Plan,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    until: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Plan], None] = lambda planned: None,
) -> Plan:
    """Count the outcomes and take samples, until the end of the scope or `until()`. Writes nothing.

    A second call continues after `planned.cursor`.
    """
    started = time.monotonic() - planned.seconds
    sampler = Sampler(planned.sample)
    for rows in walk(planned, batch_size=batch_size, after=planned.cursor):
        found = outcomes_of(planned.operation, rows, sampler, change=_pinning(planned, rows))
        merge(planned.reasons, found.reasons)
        planned.amount += found.amount
        for write in found.writes:
            planned.rows[write.table] = planned.rows.get(write.table, 0) + len(write.rows)
        planned.cursor = rows[-1].pk
        planned.batches += 1
        planned.seconds = time.monotonic() - started
        on_progress(planned)
        if until():
            break
    else:
        planned.counted = True
    planned.sample = sampler.sample()
    return planned


def _pinning(planned: Plan, rows: list[Any]) -> Callable[[Any], Outcome] | None:
    """Return a `process` that pins each row with its outcome; None if the operation pins no rows."""
    operation = planned.operation
    if not pins_rows(operation):
        return None

    def pin(row: Any, digest: str) -> None:
        planned.pinned.append((row.pk, digest))
        planned.rows_digest = hashlib.sha256(f"{planned.rows_digest} {row.pk} {digest}".encode()).hexdigest()

    def change(row: Any) -> Outcome:
        try:
            outcome = process(operation, row)
        except Exception:
            pin(row, "")
            raise
        pin(row, digest_of(outcome, row))
        return outcome

    if isinstance(rows[0], Unreadable):
        pin(rows[0], "")
    return change


def digest_of(outcome: Outcome, row: Any) -> str:
    """Return a digest of a row's outcome and the values it depends on; empty for an unchanged row."""
    if not isinstance(outcome, Changes):
        return ""
    # An action changes no rows: its outcome depends on the columns that it reads.
    depends_on: Any = outcome.rows if outcome.rows else [outcome.detail, _comparable(row)]
    document = orjson.dumps(
        [outcome.reason, depends_on], default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    )
    return hashlib.sha256(document).hexdigest()[:16]


def _comparable(value: Any) -> Any:
    """Return a value that is equal in every process: sets are sorted, objects have no address."""
    if isinstance(value, Mapping):
        return {str(key): _comparable(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(_comparable(one)) for one in value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_comparable(one) for one in value]
    if is_dataclass(value):
        return {one.name: _comparable(getattr(value, one.name)) for one in fields(value)}
    return _ADDRESS.sub("", str(value))


def drifted_rows(planned: Plan, pinned: Mapping[Key, str]) -> list[Key]:
    """Return the pinned rows that no longer exist or would have another outcome."""
    waiting = dict(pinned)
    for rows in walk(planned, batch_size=DEFAULT_BATCH_SIZE):
        for row in rows:
            if row.pk in waiting and _digest_now(planned.operation, row) == waiting[row.pk]:
                del waiting[row.pk]
    return list(waiting)


def _digest_now(operation: Operation, row: Any) -> str:
    try:
        return "" if isinstance(row, Unreadable) else digest_of(process(operation, row), row)
    except Exception:  # noqa: BLE001  # the row fails, as it did in the plan
        return ""


def walk(planned: Plan, *, batch_size: int, after: Key | None = None) -> Iterator[list[Any]]:
    """Yield the rows of a plan batch by batch, in keyset order up to the bound."""
    if planned.bound is not None:
        yield from walk_rows(planned.operation, planned.queryset, planned.bound, batch_size=batch_size, after=after)


def walk_rows(
    operation: Operation, rows: QuerySet[Any], bound: Key, *, batch_size: int, after: Key | None = None
) -> Iterator[list[Any]]:
    """Yield `rows` batch by batch, in keyset order up to the bound. A batch of long rows has fewer rows."""
    batches = FittingBatches()

    def read(limit: int) -> list[Any]:
        return read_batch(operation, rows, after=after, bound=bound, limit=limit)

    while found := batches.read(read, batch_size):
        yield found
        after = found[-1].pk


def merge(reasons: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    """Add the counts of `more` to `reasons`, in place."""
    for outcome, counts in more.items():
        target = reasons.setdefault(outcome, {})
        for reason, count in counts.items():
            target[reason] = target.get(reason, 0) + count


class Sampler:
    """A sample of about fifty rows: the first few of each kind of outcome."""

    PER_KIND = 12

    def __init__(self, entries: Iterable[dict[str, Any]] = ()) -> None:
        self._kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in entries:
            self._kinds.setdefault((entry["outcome"], entry["reason"]), []).append(entry)

    def keep(self, outcome: str, reason: str, operation: Operation, row: Any, found: Outcome | None = None) -> None:
        if len(self._kinds.get((outcome, reason), ())) < self.PER_KIND:
            whole = found and with_tables(operation, found)
            rows, detail = (whole.rows, whole.detail) if isinstance(whole, Changes) else ((), "")
            self.add(outcome, reason, row.pk, operation.label(row), rows, detail)

    def add(
        self, outcome: str, reason: str, key: Key, label: str, rows: Iterable[RowChange] = (), detail: str = ""
    ) -> None:
        """Add a row to the sample if its kind needs more."""
        kept = self._kinds.setdefault((outcome, reason), [])
        if len(kept) < self.PER_KIND:
            shown = [_shown(row) for row in rows]
            kept.append(
                {"key": key, "label": label, "outcome": outcome, "reason": reason, "rows": shown, "detail": detail}
            )

    def sample(self) -> list[dict[str, Any]]:
        chosen = [entry for kind in self._kinds.values() for entry in kind]
        return sorted(chosen, key=lambda entry: str(entry["key"]).zfill(20))


def _shown(row: RowChange) -> dict[str, Any]:
    before, after = dict(row.old or {}), dict(row.new or {})
    for name in before.keys() & after.keys():
        before[name], after[name] = _where_they_differ(before[name], after[name])
    return {
        "table": row.table,
        "key": row.key,
        "before": None if row.old is None else {name: _text(value) for name, value in before.items()},
        "after": None if row.new is None else {name: _text(value) for name, value in after.items()},
    }


def _where_they_differ(before: Any, after: Any) -> tuple[Any, Any]:
    """Return two documents from shortly before their first difference."""
    if not (isinstance(before, str) and isinstance(after, str)) or before == after:
        return before, after
    if max(len(before), len(after)) <= SHOWN_CHARACTERS:
        return before, after
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    start = sum(1 for _pair in alike) - SHOWN_BEFORE
    return (f"…{before[start:]}", f"…{after[start:]}") if start > 0 else (before, after)


def _text(value: Any) -> Any:
    """Return a value as text for display; long values are clipped. JSON has no infinite numbers."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def store_called(name: str) -> Store:
    """Return the store with this alias. Raises PlanRefused."""
    if name not in {store.alias for store in all_stores()}:
        raise PlanRefused(unknown_store(name))
    return Store.called(name)


def operation_on(cls: type[_Operation], store: Store, params: dict[str, Any]) -> _Operation:
    """Return the operation `cls` on `store`. Refuses a store of another platform."""
    operation = cls(store, params)
    wanted = getattr(cls, "store_alias", None)
    if wanted and store.platform != wanted:
        raise PlanRefused(
            _("%(operation)s works on the store %(wanted)s, not on %(store)s.")
            % {"operation": cls.name, "wanted": wanted, "store": store.alias}
        )
    return operation
