"""The status of an execution, from the live cache, then `task_statuses`, then its newest test record, in each store.

The first layer that knows the execution answers. The others raise its progress, end it where they know that it ended,
and add results. A layer that fails is logged and skipped (see docs/platforms/records.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from django.core.cache import caches
from django.db import DatabaseError, InterfaceError
from django.db.models import Case, F, Max, QuerySet, When
from django.db.models.functions import Cast, Length
from django.urls import reverse
from django.utils.connection import ConnectionProxy
from django.utils.translation import gettext as _

from opsconsole.jsontext import Unreadable, encode
from opsconsole.stores.errors import first_line
from opsconsole.stores.fields import RawTextField
from opsconsole.stores.router import aliases_of
from opsconsole.stores.store import Store, StoreUnavailable
from tasks.records.models import ExecutionStatus, RawDocumentField, Stage, TaskStatus, TestRecord
from tasks.records.summaries import MAX_BYTES, decode_document

logger = logging.getLogger("opsconsole.executions")

INLINE_BYTES = 1024 * 1024  # longer results are linked, not included
LIVE_SECONDS = 24 * 3600  # lifetime of a live entry; the tables keep the status
PLATFORM = "records"
LIVE, STATUSES, RECORDS = "live", "task_statuses", "test_records"
PARTS = ("results", "detailed_results")
UNAVAILABLE = (DatabaseError, InterfaceError, StoreUnavailable)

cache = ConnectionProxy(caches, "live")


def live_key(execution_id: str) -> str:
    return f"execution:{execution_id}"


class LayerStatus(NamedTuple):
    """The status of one execution in one layer."""

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
    def complete(self) -> bool:
        """Return whether another layer has nothing to add."""
        return self.ended and (self.status == ExecutionStatus.FAILED or bool(self.results))


@dataclass
class StatusResult:
    """Answers by execution, and the executions that several stores know or that an unavailable layer may know."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    ambiguous: dict[str, list[str]] = field(default_factory=dict)  # execution → stores
    unavailable: frozenset[str] = frozenset()
    not_asked: list[str] = field(default_factory=list)  # the live layer and stores


class LinkedDocument(NamedTuple):
    """A document that is too long to include."""

    part: str

    def link(self, execution_id: str, store: str) -> dict[str, str]:
        query = {"store": store} if store else None
        return {"url": reverse(f"api:{self.part}", kwargs={"execution_id": execution_id}, query=query)}


def get_statuses(execution_ids: Sequence[str], stores: Sequence[Store]) -> StatusResult:
    """Return the status of each execution that a layer knows, with one query per layer and store.

    An execution that several stores know is several executions with the same id. It has no answer.
    """
    inline = INLINE_BYTES // max(len(execution_ids), 1)
    live: dict[str, LayerStatus] = {}
    unanswered: set[str] = set()
    not_asked: dict[str, None] = {}
    try:
        live, unreadable = _live(execution_ids, inline)
        unanswered.update(unreadable)
        not_asked.update(dict.fromkeys([LIVE] if unreadable else []))
    except Exception as error:  # noqa: BLE001  # a cache raises the errors of its client library
        _skip(error, LIVE)
        unanswered.update(execution_ids)
        not_asked[LIVE] = None
    wanted = [one for one in execution_ids if one not in live or not live[one].complete]
    known: dict[str, dict[str, list[LayerStatus]]] = {}  # execution → store → statuses
    for store, (layer, read) in product(stores, _TABLES) if wanted else ():
        try:
            store.require_file()  # SQLite would create it
            for execution_id, status in read(store, wanted, inline):
                known.setdefault(execution_id, {}).setdefault(store.alias, []).append(status)
        except UNAVAILABLE as error:
            _skip(error, f"{layer} of {store.alias}")
            unanswered.update(wanted)
            not_asked[store.alias] = None
    result = StatusResult(not_asked=list(not_asked))
    for one in execution_ids:
        of_stores = known.get(one, {})
        if len(of_stores) > 1:
            result.ambiguous[one] = list(of_stores)
        elif of_stores or one in live:
            first = [live[one]] if one in live else []
            found = next(iter(of_stores), "")
            result.answers[one] = _answer(one, [*first, *of_stores.get(found, [])], found)
    result.unavailable = frozenset(unanswered - result.answers.keys() - result.ambiguous.keys())
    return result


def why_unknown(execution_id: str, ambiguous: Sequence[str], not_asked: Sequence[str]) -> str:
    """Return why an execution has no answer. The stores in `ambiguous` know it."""
    values = {"id": execution_id, "stores": ", ".join(ambiguous), "sources": ", ".join(not_asked)}
    if ambiguous:
        return _("Several stores know execution %(id)s: %(stores)s. Choose one of them.") % values
    if not_asked:
        text = _("A data source is unavailable, so execution %(id)s could not be looked up. Not asked: %(sources)s.")
        return text % values
    return _("Execution %(id)s does not exist.") % values


def _skip(error: Exception, layer: str) -> None:
    logger.warning("Querying %s failed: %s", layer, first_line(error))


def _answer(execution_id: str, known: Sequence[LayerStatus], store: str) -> dict[str, Any]:
    """Merge the statuses of an execution. The answer names the store if the platform has several."""
    named = store if len(aliases_of(PLATFORM)) > 1 else ""
    state = next((one for one in known if one.ended), known[0])
    parts: dict[str, Any] = {}
    for part in PARTS:
        value: Any = next((getattr(one, part) for one in known if getattr(one, part)), [])
        parts[part] = value.link(execution_id, named) if isinstance(value, LinkedDocument) else value
    return {
        "task_id": execution_id,
        "progress": max(one.progress for one in known),
        "stage": state.stage,
        "status": state.status,
        "is_completed": state.is_completed,
        "created_at": next((one.created_at for one in known if one.created_at), None),
        **parts,
        "source": state.source,
        **({"store": named or None} if len(aliases_of(PLATFORM)) > 1 else {}),
    }


# --- the live cache ---------------------------------------------------------------------------------------


def _live(wanted: Sequence[str], inline: int) -> tuple[dict[str, LayerStatus], list[str]]:
    """Return the statuses in the cache, and the executions whose entry is unreadable."""
    found, unreadable = {}, []
    entries = cache.get_many([live_key(one) for one in wanted])
    for one in wanted:
        entry = entries.get(live_key(one))
        if entry is None:
            continue
        try:
            found[one] = _read_live(entry, inline)
        except (ValueError, TypeError) as error:
            logger.warning("The live entry of %s is unreadable: %s", one, error)
            unreadable.append(one)
    return found, unreadable


def _read_live(entry: Any, inline: int | None) -> LayerStatus:
    """Read the platform's JSON object. A missing key has its value at the start of an execution."""
    if not isinstance(entry, Mapping):
        raise ValueError("it is not a JSON object")
    stage, status = str(entry.get("stage") or ""), str(entry.get("status") or "")
    completed = bool(entry.get("is_completed")) or Stage.COMPLETED in (stage, status)
    stage = stage or (Stage.COMPLETED.value if completed else Stage.INIT.value)
    created_at = entry.get("created_at")
    results, detailed = (_fitting(part, entry.get(part), inline) for part in PARTS)
    return LayerStatus(
        LIVE,
        _progress(entry.get("progress")),
        stage,
        status or _status(stage, completed),
        completed,
        None if created_at is None else str(created_at),
        results,
        detailed,
    )


def _fitting(part: str, value: Any, inline: int | None) -> Any:
    if value and inline is not None and len(encode(value)) > inline:
        return LinkedDocument(part)
    return value


def report(execution_id: str, values: Mapping[str, Any]) -> None:
    """Write the live entry, as a platform with a Redis does itself. Raises the errors of the cache."""
    cache.set(live_key(execution_id), dict(values), LIVE_SECONDS)


def _progress(value: Any) -> int:
    """Return a percentage from 0 to 100, or 0 if the value is not a number."""
    try:
        return min(max(int(float(value or 0)), 0), 100)
    except (ValueError, TypeError, OverflowError):
        return 0


def _status(stage: str, completed: bool) -> str:
    if stage == Stage.FAILED:
        return ExecutionStatus.FAILED.value
    return (ExecutionStatus.COMPLETED if completed else ExecutionStatus.PROCESSING).value


# --- the tables -------------------------------------------------------------------------------------------


def _statuses(store: Store, wanted: Sequence[str], inline: int) -> list[tuple[str, LayerStatus]]:
    # Some stores use enums and UUIDs in these columns.
    rows = (
        TaskStatus.objects.using(store.alias)
        .filter(task_id__in=wanted)
        .values_list(
            *(Cast(name, RawTextField()) for name in ("task_id", "stage", "is_completed")), "progress", "created_at"
        )
    )
    found = []
    for execution_id, stage, is_completed, progress, created_at in rows:
        completed, stage = str(is_completed).lower() in _TRUE, stage or Stage.INIT.value
        status = _status(stage, completed)
        found.append((execution_id, LayerStatus(STATUSES, _progress(progress), stage, status, completed, created_at)))
    return found


_TRUE = frozenset(("1", "t", "true"))


def _records(store: Store, wanted: Sequence[str], inline: int) -> list[tuple[str, LayerStatus]]:
    """Read the newest record of each execution. A record is written when the execution has ended."""
    rows = (
        _newest(store, wanted)
        .annotate(summary_length=Length("results_summary"), details_length=Length("detailed_results"))
        .values_list(
            "execution_id",
            "test_date",
            _inline("results_summary", "summary_length", inline),
            "summary_length",
            "is_summary_compressed",
            _inline("detailed_results", "details_length", inline),
            "details_length",
            "is_detailed_compressed",
        )
    )
    found = []
    for execution_id, test_date, summary, summary_length, packed, details, details_length, details_packed in rows:
        parts = _parts(
            _document("results", summary, summary_length, packed, inline),
            _document("detailed_results", details, details_length, details_packed, inline),
        )
        ended = (Stage.COMPLETED.value, ExecutionStatus.COMPLETED.value)
        found.append((str(execution_id), LayerStatus(RECORDS, 100, *ended, True, test_date, *parts)))
    return found


_TABLES = ((STATUSES, _statuses), (RECORDS, _records))


def _newest(store: Store, wanted: Sequence[str]) -> QuerySet[TestRecord]:
    records = TestRecord.objects.using(store.alias)
    newest = records.filter(execution_id__in=wanted).order_by().values("execution_id").annotate(newest=Max("pk"))
    return records.filter(pk__in=newest.values("newest"))


def _inline(column: str, length: str, limit: int) -> Case:
    """Return a document of at most `limit` stored bytes, else NULL."""
    return Case(When(**{f"{length}__lte": limit}, then=F(column)), output_field=RawDocumentField())


def _document(part: str, stored: Any, length: int | None, compressed: Any, inline: int) -> Any:
    """Return the document, a link to a long one, or None if it is missing or unreadable."""
    if stored is None:
        return LinkedDocument(part) if length else None
    try:
        return decode_document(stored, compressed, limit=inline)
    except Unreadable as error:
        if error.reason == "too_large":
            return LinkedDocument(part)
        if error.reason != "empty":
            logger.warning("%s of a test record is unreadable: %s", part, error.reason)
        return None


def _parts(summary: Any, details: Any) -> tuple[Any, Any]:
    """Return `results` and `detailed_results`, which may be keys of the summary."""
    if isinstance(summary, Mapping):
        return summary.get("results", summary), details or summary.get("detailed_results")
    if isinstance(summary, LinkedDocument):  # the details may be a key of it
        return summary, details or LinkedDocument("detailed_results")
    return summary, details


class LongDocument(NamedTuple):
    """The document that a status links to, or why there is none."""

    value: Any = None
    ambiguous: list[str] = []  # stores
    not_asked: list[str] = []


def long_document(execution_id: str, part: str, stores: Sequence[Store]) -> LongDocument:
    """Return the document that a status links to."""
    not_asked = []
    try:
        entry = cache.get(live_key(execution_id))
        value = getattr(_read_live(entry, None), part) if entry is not None else None
        if value:
            return LongDocument(value)
    except Exception as error:  # noqa: BLE001  # a cache raises the errors of its client library
        _skip(error, LIVE)
        not_asked.append(LIVE)
    rows: dict[str, Any] = {}
    for store in stores:
        try:
            store.require_file()
            row = (
                _newest(store, [execution_id])
                .values_list("results_summary", "is_summary_compressed", "detailed_results", "is_detailed_compressed")
                .first()
            )
        except UNAVAILABLE as error:
            _skip(error, f"{RECORDS} of {store.alias}")
            not_asked.append(store.alias)
            continue
        if row is not None:
            rows[store.alias] = row
    if len(rows) != 1:
        return LongDocument(ambiguous=list(rows), not_asked=not_asked)
    ((summary, packed, details, details_packed),) = rows.values()
    if part == "detailed_results" and (value := _document(part, details, None, details_packed, MAX_BYTES)):
        return LongDocument(value)
    value = _parts(_document("results", summary, None, packed, MAX_BYTES), None)[PARTS.index(part)]
    return LongDocument([] if value is None else value)
