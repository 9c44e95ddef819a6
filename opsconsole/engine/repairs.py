"""The repairs of an incident, with a preview of their effect on exactly the rows of the incident."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson
from django.core.exceptions import ValidationError
from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine import incidents, planner, registry
from opsconsole.engine.labels import action_label, reason_label
from opsconsole.engine.models import Finding, Incident
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import STILL_WORKING
from opsconsole.engine.planner import OUTCOMES, Outcomes, PlanRefused, Sampler
from opsconsole.engine.registry import InvalidParameters
from opsconsole.engine.requirements import required_columns
from opsconsole.engine.selection import Selection
from opsconsole.formatting import format_number
from opsconsole.stores import preflight
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store, StoreUnavailable

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
JUDGED_ROWS = 200  # rows of an incident that are processed to assess a repair
BRIEFLY_JUDGED_ROWS = 50  # the same for the dashboard, which assesses the repairs of several incidents
MAX_KEYS = 10_000  # an incident with more findings is repaired by its whole scope


class Repair(NamedTuple):
    """A repair of an incident, assessed on the current rows."""

    operation: type[Operation]
    label: str  # a verb and the figure: "Sync 27 concepts"
    refusal: str  # why it is not possible; empty if it is possible
    rows: int  # processed rows that it would change or delete
    deleted: int
    is_complete: bool  # every row of the incident was processed
    sample: Sequence[dict[str, Any]] = ()  # before and after
    digest: str = ""  # of the outcomes that the page shows
    outcomes: Sequence[tuple[str, int]] = ()  # reason → processed rows, changed ones first
    processed: int = 0  # rows of the incident that were processed
    waits: bool = False  # the platform still works on the rows, so nothing is recommended yet

    @property
    def possible(self) -> bool:
        return not self.refusal

    @property
    def deletes(self) -> bool:
        return self.deleted > 0 or (not self.is_complete and self.operation.risk == Risk.DELETE)


def selection_for(incident: Incident, cls: type[Operation], *, first: int | None = None) -> Selection:
    """Return the selection of exactly the rows of the incident, by the keys of `cls.model`.

    With `first`, it contains the rows of this number of findings only.
    """
    if incident.is_count or not cls.selectable or (first is None and incident.count > MAX_KEYS):
        return Selection()
    pk = cls.model._meta.pk
    found = Finding.objects.filter(incident=incident, resolved_at=None).order_by()
    rows = found.values_list("table", "key", "data")[: first or MAX_KEYS]
    texts = sorted({key for row in rows for key in [cls.key_of_finding(*row)] if key is not None})
    keys: list[Key] = []
    for text in texts:
        try:
            keys.append(pk.to_python(text) if isinstance(pk.to_python(text), int) else text)
        except ValidationError:
            keys.append(text)
    return Selection(keys=keys)


def operation_for(incident: Incident, cls: type[Operation], store: Store | None = None) -> Operation:
    """Return the repair `cls` on the incident's store. Raises InvalidParameters, PlanRefused.

    Several repairs share `store`, so that its tables are read once.
    """
    values = {"store": incident.store} if "store" in cls.Params.base_fields else {}
    store = store or planner.store_called(incident.store)
    if store.identity() != incident.identity:
        raise PlanRefused(_("The incident belongs to another database. Check the address of the store."))
    return planner.operation_on(cls, store, registry.clean(cls, values))


def repairs_of(incident: Incident, store: Store | None = None, *, briefly: bool = False) -> list[Repair]:
    """Return the assessed repairs, the least destructive first. They share `store`."""
    cause = incidents.cause_of(incident)
    names = cause.repairs if cause is not None else ()
    known = registry.operations()
    classes = [known[name] for name in names if name in known]
    platform = Store.called(incident.store).platform
    with suppress(PlanRefused):  # each repair gives the reason
        store = store or planner.store_called(incident.store)
    fitting = (cls for cls in classes if getattr(cls, "store_alias", platform) == platform)
    return [assess(incident, cls, store=store, briefly=briefly) for cls in fitting]


def incident_of_waiting_row(identity: str, table: str, key: Key) -> Incident | None:
    """Return the active incident of the rows that wait for a repair, if this row is one of them."""
    for incident in Incident.objects.active().filter(identity=identity, table=table, is_count=True):
        cls = registry.operations().get(incident.source)
        if cls is None:
            continue
        with suppress(InvalidParameters, PlanRefused, StoreUnavailable):
            if operation_for(incident, cls).queryset().filter(pk=key).exists():
                return incident
    return None


def recommended(repairs: Sequence[Repair]) -> Repair | None:
    """Return the first possible repair; none while the platform still works on the rows."""
    if any(repair.waits for repair in repairs):
        return None
    return next((repair for repair in repairs if repair.possible), None)


def is_unchanged(incident: Incident, cls: type[Operation], digest: str) -> bool:
    """Return whether the repair would do now what it did when a page showed it. New values may contain that time."""
    since_epoch, _separator, _hash = digest.partition("_")
    try:
        as_of = EPOCH + timedelta(microseconds=int(since_epoch))
    except (ValueError, OverflowError):
        return False
    return assess(incident, cls, as_of).digest == digest


def assess(
    incident: Incident,
    cls: type[Operation],
    as_of: datetime | None = None,
    store: Store | None = None,
    *,
    briefly: bool = False,
) -> Repair:
    """Process the first rows of the incident, without writing, to see whether the repair is possible."""
    judged = BRIEFLY_JUDGED_ROWS if briefly else JUDGED_ROWS
    # The scope of a large table may be slow to read, and of a large incident the findings name enough rows.
    first = judged if briefly or incident.count > MAX_KEYS else None
    selection = selection_for(incident, cls, first=first)
    try:
        operation = operation_for(incident, cls, store)
        operation.as_of = as_of or operation.as_of
        if selection.keys is not None and not selection.keys:
            raise PlanRefused(_("The operation does not work on the rows of this incident."))
        operation.selection = selection
        operation.check_prerequisites()
        operation.store.require({model: tuple(columns) for model, columns in required_columns(operation).items()})
        if targets := operation.targets():
            preflight.examine(operation.store, targets, undoable=operation.undoable)
        bound = operation.bound()
        planned = planner.Plan(operation, selection, bound, {"in_scope": 0})
        rows = next(planner.walk(planned, batch_size=judged), [])
        sampler = Sampler()
        found = planner.outcomes_of(operation, rows, sampler)
    except (InvalidParameters, PlanRefused, StoreUnavailable) as error:
        return _impossible(cls, error)
    except (DatabaseError, InterfaceError) as error:  # a page shows the reason, and the rest of the incident
        return _impossible(cls, Store.called(incident.store).unusable(error))
    is_part = selection.keys is not None and first is not None and incident.count > first
    if is_part and not rows:
        text = _("None of the first %(count)s rows of this incident is in the scope of the operation.")
        return _impossible(cls, PlanRefused(text % {"count": format_number(judged)}))
    is_complete = not is_part and len(rows) < judged and (selection.keys is None or len(rows) >= len(selection.keys))
    return _assessed(incident, operation, rows, found, sampler, is_complete=is_complete)


def _impossible(cls: type[Operation], error: Exception) -> Repair:
    return Repair(cls, str(cls.title), str(error), 0, 0, is_complete=False)


def _assessed(
    incident: Incident, operation: Operation, rows: list[Any], found: Outcomes, sampler: Sampler, *, is_complete: bool
) -> Repair:
    cls = type(operation)
    if not found.amount:
        refusal, waits = _refusal(operation, rows, found), bool(found.reasons["skipped"].get(STILL_WORKING))
        return Repair(cls, str(cls.title), refusal, 0, 0, is_complete=is_complete, waits=waits)
    deleted = sum(len(write.rows) for write in found.writes if all(new is None for _key, _old, new in write.rows))
    count = found.amount if is_complete else max(incident.count, found.amount)
    outcomes = [[write.table, write.columns, write.rows] for write in found.writes]
    shown = orjson.dumps([cls.name, outcomes, found.reasons], default=str, option=orjson.OPT_SORT_KEYS)
    return Repair(
        cls,
        action_label(operation, count),
        "",
        sum(len(write.rows) for write in found.writes),
        deleted,
        is_complete=is_complete,
        sample=[entry for entry in sampler.sample() if entry["outcome"] == "changed"],
        outcomes=[
            (reason_label(operation, reason), count)
            for outcome in OUTCOMES
            for reason, count in found.reasons[outcome].items()
            if reason
        ],
        processed=len(rows),
        digest=f"{(operation.as_of - EPOCH) // MICROSECOND}_{hashlib.sha256(shown).hexdigest()}" if is_complete else "",
    )


def _refusal(operation: Operation, rows: list[Any], found: Outcomes) -> str:
    """Return the reason why no row would change."""
    if not rows:
        return _("No row of this incident is in the scope of the operation.")
    reasons = [(count, outcome, reason) for outcome in OUTCOMES for reason, count in found.reasons[outcome].items()]
    count, _outcome, reason = max(reasons)
    text = reason_label(operation, reason)
    return ngettext("%(count)s row: %(reason)s", "%(count)s rows: %(reason)s", count) % {
        "count": format_number(count),
        "reason": text,
    }
