"""Incidents: all open findings of one cause in one store, from detection to resolution.

The findings of checks and the rows that wait for a repair form incidents. Scans, measurements and the ends of runs
update them. People own, acknowledge, snooze, ignore, comment on and resolve them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import transaction
from django.db.models import Case, Count, F, Max, Min, OuterRef, Q, QuerySet, Subquery, TextField, Value, When
from django.db.models.functions import Concat
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine import findings, messages, registry
from opsconsole.engine.audit_log import Actor, record
from opsconsole.engine.causes import Cause
from opsconsole.engine.checks import Check
from opsconsole.engine.models import Event, Finding, Incident, IncidentQuerySet, IncidentState, Run
from opsconsole.engine.operation import Operation, Priority
from opsconsole.engine.requirements import required_columns
from opsconsole.engine.seals import serialised
from opsconsole.formatting import format_number
from opsconsole.stores.platforms import store_title
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store

logger = logging.getLogger(__name__)

PORTION = 500  # incidents or keys per statement
KEPT_HISTORY = 200  # entries
MAX_COMMENT = 10_000  # characters
MAX_LINK = 500  # characters
RECHECKED_KEYS = 1_000  # written rows; after a larger run the checks scan the whole store
MAX_SNOOZE = timedelta(days=90)
_RANK = {priority: rank for rank, priority in enumerate(Priority.values)}


class IncidentRefused(Exception):
    """The action is not possible. The message states the reason and the remedy."""


class Seen(NamedTuple):
    """The open findings or rows of one cause, as they are now."""

    source: str  # the check or operation that describes the cause
    priority: str
    size: int  # findings or rows
    since: datetime
    last: datetime  # when a check or a count has seen them last
    table: str = ""
    data: Mapping[str, Any] = {}


# --- from findings and figures to incidents ------------------------------------------------------------------


def refresh(run: Run) -> None:
    """Update the incidents of a store from its open findings."""
    groups = (
        Finding.objects.filter(identity=run.identity, resolved_at=None)
        .order_by()
        .values("cause", "cause_subject", "operation")
        .annotate(
            rank=Min(Case(*(When(priority=priority, then=rank) for priority, rank in _RANK.items()))),
            count=Count(Concat("table", Value(" "), "key", output_field=TextField()), distinct=True),
            since=Min("found_at"),
            last=Max("seen_at"),
            table=Min("table"),
            example=Min("pk"),
        )
    )
    counted = {cls.problem.code for cls in registry.problem_operations().values() if cls.problem is not None}
    groups = groups.exclude(cause__in=counted)  # `save_count` handles them
    seen: dict[tuple[str, str], Seen] = {}
    examples: dict[tuple[str, str], int] = {}
    for group in sorted(groups, key=lambda group: (group["rank"], group["operation"])):
        place = group["cause"], group["cause_subject"]
        before = seen.get(place)
        # Two checks may report the same problem. The incident has the larger count.
        count = max(group["count"], before.size if before else 0)
        since = min(group["since"], before.since) if before else group["since"]
        last = max(group["last"], before.last) if before else group["last"]
        worst = Priority.values[group["rank"]]
        source, priority = (before.source, before.priority) if before else (group["operation"], worst)
        seen[place] = Seen(source, priority, count, since, last, group["table"])
        examples.setdefault(place, group["example"])
    data = _data_of(list(examples.values()))
    seen = {place: one._replace(data=data.get(examples[place], {})) for place, one in seen.items()}
    _update_incidents(
        run.store, run.identity, seen, Incident.objects.filter(identity=run.identity, is_count=False), run
    )
    _link_findings(run.identity)


def _data_of(pks: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return finding → its data, which the titles of incidents use."""
    found: dict[int, dict[str, Any]] = {}
    for start in range(0, len(pks), PORTION):
        found |= dict(Finding.objects.filter(pk__in=pks[start : start + PORTION]).values_list("pk", "data"))
    return found


def _link_findings(identity: str) -> None:
    """Set the incident of the findings that have none, or whose cause has changed."""
    own = Incident.objects.filter(
        identity=OuterRef("identity"), cause=OuterRef("cause"), subject=OuterRef("cause_subject")
    )
    loose = Finding.objects.filter(identity=identity, resolved_at=None).filter(
        Q(incident=None) | ~Q(incident__cause=F("cause")) | ~Q(incident__subject=F("cause_subject"))
    )
    loose.update(incident=Subquery(own.values("pk")[:1]))


def save_count(store: str, identity: str, cls: type[Operation], count: int, run: Run | None = None) -> None:
    """Save the number of rows that wait for the repair `cls`. Zero resolves the incident."""
    cause = cls.problem
    if cause is None:
        raise TypeError(f"{cls.name} declares no problem.")
    now = timezone.now()
    seen = {(cause.code, ""): Seen(cls.name, cause.priority, count, now, now, cls.model._meta.db_table)}
    mine = Incident.objects.filter(identity=identity, cause=cause.code, is_count=True)
    _update_incidents(store, identity, seen if count else {}, mine, run, is_count=True)


def _update_incidents(
    store: str,
    identity: str,
    seen: Mapping[tuple[str, str], Seen],
    mine: QuerySet[Incident],
    run: Run | None,
    *,
    is_count: bool = False,
) -> None:
    """Create, update, resolve and reopen incidents to match `seen`. `mine` are the existing ones that it concerns."""
    now = timezone.now()
    new, changed = [], []
    with serialised("incidents"):
        _resolve_replaced(store, identity, now, run)
        known = {(one.cause, one.subject): one for one in mine.filter(resolved_at=None)}
        known |= _resolved(mine, seen.keys() - known.keys())
        for place, one in seen.items():
            incident = known.get(place)
            if incident is not None and incident.resolved_at is not None and one.last <= incident.resolved_at:
                continue  # a person resolved it, and no check has looked for it since
            if incident is None:
                incident = Incident(
                    store=store, identity=identity, cause=place[0], subject=place[1], opened_at=one.since
                )
                incident.is_count = is_count
                incident.seen_at = now
                new.append(incident)
                _add_history(incident, "opened", now, one.size, run)
            elif not _reopen_or_resize(incident, one, now, run) and _describes(incident, one):
                continue
            else:
                changed.append(incident)
            incident.source, incident.priority, incident.table = one.source, one.priority, one.table
            incident.count, incident.data = one.size, dict(one.data)
        for place, incident in known.items():
            if place not in seen:
                changed.append(incident)
                incident.resolved_at, incident.resolved_run = now, run
                _add_history(incident, "resolved", now, 0, run)
        news = [incident for incident in (*new, *changed) if _is_news(incident)]
        for incident in news:
            incident.history[-1]["reported"] = True
        Incident.objects.bulk_create(new, batch_size=PORTION)
        Incident.objects.bulk_update(changed, _UPDATED, batch_size=PORTION)
        mine.filter(resolved_at=None).update(seen_at=now)
        _announce(news)


def _resolve_replaced(store: str, identity: str, now: datetime, run: Run | None) -> None:
    """Resolve the incidents of the database that the store used before. No scan would do so."""
    replaced = list(Incident.objects.filter(store=store, resolved_at=None).exclude(identity=identity))
    for incident in replaced:
        incident.resolved_at, incident.resolved_run = now, run
        _add_history(incident, "replaced", now, 0, run)
    Incident.objects.bulk_update(replaced, ("resolved_at", "resolved_run", "history"), batch_size=PORTION)


def _resolved(mine: QuerySet[Incident], places: Collection[tuple[str, str]]) -> dict[tuple[str, str], Incident]:
    """Return the resolved incidents of these causes and subjects."""
    found: dict[tuple[str, str], Incident] = {}
    subjects = sorted({subject for _cause, subject in places})
    for start in range(0, len(subjects), PORTION):
        resolved = mine.filter(subject__in=subjects[start : start + PORTION]).exclude(resolved_at=None)
        found |= {(one.cause, one.subject): one for one in resolved if (one.cause, one.subject) in places}
    return found


def _describes(incident: Incident, seen: Seen) -> bool:
    """Return whether the incident already has these values."""
    saved = incident.source, incident.priority, incident.count, incident.table, incident.data
    return saved == (seen.source, seen.priority, seen.size, seen.table, dict(seen.data))


_UPDATED = (
    "source",
    "priority",
    "table",
    "count",
    "previous_count",
    "data",
    "opened_at",
    "resolved_at",
    "resolved_run",
    "came_back",
    "acknowledged_at",
    "snoozed_until",
    "ignored_above",
    "history",
)


def _reopen_or_resize(incident: Incident, seen: Seen, now: datetime, run: Run | None) -> bool:
    """Note what has changed since the incident was seen last. Return False if nothing has."""
    if incident.resolved_at is not None:
        undone = run is not None and run.parent_id is not None and incident.resolved_run_id == run.parent_id
        incident.resolved_at = incident.resolved_run = None
        incident.previous_count = None
        if undone:
            _add_history(incident, "reopened", now, seen.size, run)  # the undo restores the state before the run
            return True
        incident.opened_at = now
        incident.came_back += 1
        incident.acknowledged_at = incident.snoozed_until = incident.ignored_above = None
        _add_history(incident, "came_back", now, seen.size, run)
        return True
    if seen.size == incident.count:
        return False
    incident.previous_count = incident.count
    _add_history(incident, "grew" if seen.size > incident.count else "shrank", now, seen.size, run)
    return True


def _add_history(incident: Incident, what: str, at: datetime, count: int, run: Run | None) -> None:
    entry = {"at": at.isoformat(), "event": what, "count": count, "run": run.pk if run is not None else None}
    incident.history = [*incident.history, entry][-KEPT_HISTORY:]


# --- alerts ------------------------------------------------------------------------------------------------------


def _announce(news: Sequence[Incident], who: str = "") -> None:
    """Send one message per incident and change of state."""
    with messages.language_of_messages():
        messages.send_all([_message(incident, who) for incident in news])


def _message(incident: Incident, who: str) -> messages.Message:
    entry = incident.history[-1]
    kind = messages.KINDS[_KINDS[entry["event"]]]
    is_over = incident.resolved_at is not None
    cause = cause_of(incident)
    facts = [_("Store: %(store)s") % {"store": store_title(incident.store)}]
    if who:
        facts.append(messages.by(who))
    if is_over:
        facts.append(_("It was open since %(time)s.") % {"time": messages.time_text(incident.opened_at)})
    return messages.Message(
        kind,
        f"{incident.pk}/{entry['event']}/{entry['at']}",
        {"title": title_of(incident)},
        reverse("incident", args=[incident.pk]),
        since=incident.resolved_at or incident.opened_at,
        facts=facts,
        advice="" if is_over or cause is None or cause.repairs else str(cause.advice),
        to=messages.addresses(incident.owner),
    )


_KINDS = {
    "opened": "incident_opened",
    "came_back": "incident_came_back",
    "reopened": "incident_came_back",  # an undo restored the problem
    "reopened_by_hand": "incident_came_back",
    "grew": "incident_grew",
    "resolved": "incident_resolved",
    "resolved_by_hand": "incident_resolved",
}


def _is_news(incident: Incident) -> bool:
    """Return whether the last change is worth an alert. A hidden incident and a low priority are not."""
    if incident.priority == Priority.PERIODIC or incident.state in {IncidentState.SNOOZED, IncidentState.IGNORED}:
        return False
    entry = incident.history[-1]
    if entry.get("reported"):
        return False
    if entry["event"] == "grew":
        counts = [one["count"] for one in incident.history[:-1] if one.get("reported")]
        return bool(entry["count"] >= 2 * (counts[-1] if counts else 1))
    return entry["event"] in _KINDS


# --- after a run -----------------------------------------------------------------------------------------------


def recheck(run: Run, operation: Operation) -> None:
    """Update the findings and counts that a run may have changed."""
    if run.attached_path:
        return
    if isinstance(operation, Check):
        refresh(run)
        return
    if not run.changed and run.incident is None:
        return
    written = operation.writes
    store = operation.store
    if operation.perform is not None:  # an action may have changed the schema
        store = Store(store.alias, store.platform)
    checks = [(check, _rules_to_repeat(run, operation, check)) for check in _checks_of(run, store)]
    if any(rules for _check, rules in checks):
        # A repair that found its rows gone or already repaired has written none.
        has_written = operation.perform is None and run.changed
        rows = _written_rows(run) if has_written else _selected_rows(operation)
        for check, rules in checks:
            _recheck(run, check, rules, rows)
        refresh(run)
    for counting in registry.problem_operations().values():
        if counting.store_alias == operation.store.platform and _reads(counting, operation.store, written):
            save_count(run.store, run.identity, counting, counting(operation.store).queryset().count(), run)


def _checks_of(run: Run, store: Store) -> list[Check]:
    """Return the checks that have scanned this store before. A run does not start other checks."""
    names = set(Finding.objects.filter(identity=run.identity).order_by().values_list("operation", flat=True).distinct())
    found = (registry.operations().get(name) for name in sorted(names))
    checks = [cls for cls in found if cls is not None and issubclass(cls, Check)]
    return [cls(store, {"store": store.alias} if "store" in cls.Params.base_fields else {}) for cls in checks]


def _rules_to_repeat(run: Run, operation: Operation, check: Check) -> Sequence[str]:
    """Return the rules whose findings the run may have changed: all, or those that the operation repairs."""
    if _reads(type(check), operation.store, operation.writes):
        return check.item_names()
    repaired = {cause.code for cause in check.causes.values() if operation.name in cause.repairs}
    found = Finding.objects.filter(identity=run.identity, operation=check.name, resolved_at=None, cause__in=repaired)
    rules = set(found.order_by().values_list("question", flat=True).distinct())
    return [rule for rule in check.item_names() if rule in rules]


def _selected_rows(operation: Operation) -> dict[str, list[Key]] | None:
    """Return table → keys of the selected rows; None if the operation had no selection."""
    keys = operation.selection.keys
    return None if keys is None or len(keys) > RECHECKED_KEYS else {operation.model._meta.db_table: list(keys)}


def _reads(cls: type[Operation], store: Store, written: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the operation reads a table whose rows were deleted or inserted, or a column that was written."""
    for model, columns in required_columns(cls(store)).items():
        names = written.get(model._meta.db_table)
        if names is not None and (not names or set(names) & set(columns)):
            return True
    return False


def _written_rows(run: Run) -> dict[str, list[Key]] | None:
    """Return table → keys of the rows that the run wrote; None if there are too many."""
    found: dict[str, list[Key]] = {}
    total = 0
    for batch in run.batches.filter(rows__gt=0).order_by("number").iterator(chunk_size=10):
        for write in batch.writes:
            keys = [row[0] for row in write.rows]
            found.setdefault(write.table, []).extend(keys)
            total += len(keys)
        if total > RECHECKED_KEYS:
            return None
    return found


def _recheck(run: Run, check: Check, rules: Sequence[str], written: Mapping[str, Sequence[Key]] | None) -> None:
    """Run rules again: for the subjects of the written rows where the check names them, else for the whole store."""
    if not rules:
        return
    subjects = check.subjects_of(written) if written is not None else None
    check.chosen = subjects
    for rule in rules:
        findings.scan(run, check, rule, subjects)


# --- reading ----------------------------------------------------------------------------------------------------


def cause_of(incident: Incident) -> Cause | None:
    """Return the declared cause, or None if no operation declares it any more."""
    cls = registry.operations().get(incident.source)
    return None if cls is None else cls.cause_called(incident.cause)


def title_of(incident: Incident) -> str:
    """Return the title of an incident, in the current language."""
    cause = cause_of(incident)
    if cause is None:
        return incident.cause.replace("_", " ")
    values = {**incident.data, "number": incident.count, "count": format_number(incident.count)}
    values["subject"] = incident.subject
    try:
        return str(cause.title % values)
    except (KeyError, TypeError, ValueError):  # an older version saved the data without this value
        return incident.cause.replace("_", " ")


def advice_for(incident: Incident) -> str:
    """Return what a person can do where no repair is possible."""
    cause = cause_of(incident)
    return "" if cause is None else str(cause.advice)


def incidents_of_row(identity: str, table: str, key: Any) -> IncidentQuerySet:
    """Return the incidents with a finding about this row, newest first."""
    found = Finding.objects.filter(identity=identity, table=table, key=str(key))
    return Incident.objects.filter(pk__in=found.exclude(incident=None).values("incident")).order_by("-pk")


def others_of_same_row(incident: Incident) -> list[Incident]:
    """Return the other open incidents of the same row, worst first."""
    if not incident.subject:
        return []
    same = Incident.objects.filter(identity=incident.identity, table=incident.table, subject=incident.subject)
    return list(same.filter(resolved_at=None).exclude(pk=incident.pk).worst_first())


def timeline(incident: Incident) -> list[dict[str, Any]]:
    """Return the events of an incident, oldest first: changes of its count, actions of people, runs."""
    entries: list[dict[str, Any]] = [
        {"at": datetime.fromisoformat(one["at"]), "event": one["event"], "count": one["count"], "run": one["run"]}
        for one in incident.history
        if not one["event"].endswith("_by_hand")  # their events name the account
    ]
    for event in Event.objects.filter(incident=incident).order_by("pk"):
        entries.append({"at": event.at, "event": event.verb, "who": event.who, "detail": event.detail})
    runs = list(incident.runs.values_list("pk", flat=True))  # a join would read all events
    for event in Event.objects.filter(run__in=runs).order_by("pk"):
        entries.append(
            {"at": event.at, "event": event.verb, "who": event.who, "run": event.run_id, "detail": event.detail}
        )
    return sorted(entries, key=lambda entry: entry["at"])


# --- actions of people -------------------------------------------------------------------------------------------


def get(pk: int) -> Incident:
    """Return an incident. Raises IncidentRefused."""
    incident = Incident.objects.select_related("owner").filter(pk=pk).first()
    if incident is None:
        raise IncidentRefused(_("Incident %(number)d does not exist. See `incidents list`.") % {"number": pk})
    return incident


def assign(incident: Incident, actor: Actor, owner: User | None) -> None:
    """Set or remove the owner."""
    _save(incident, actor, "assigned", owner=owner, detail={"owner": owner.get_username() if owner else ""})


def acknowledge(incident: Incident, actor: Actor) -> None:
    """Record that the account works on the incident. Without an owner, the account becomes the owner."""
    _require_open(incident)
    owner = incident.owner or actor.user
    _save(
        incident,
        actor,
        "acknowledged",
        acknowledged_at=timezone.now(),
        snoozed_until=None,
        ignored_above=None,
        owner=owner,
    )


def snooze(incident: Incident, actor: Actor, until: datetime) -> None:
    """Hide the incident from lists and alerts until a time."""
    _require_open(incident)
    now = timezone.now()
    if not now < until <= now + MAX_SNOOZE:
        raise IncidentRefused(
            _("The end of the snooze is out of range. Choose a time within the next %(days)d days.")
            % {"days": MAX_SNOOZE.days}
        )
    _save(
        incident,
        actor,
        "snoozed",
        snoozed_until=until,
        ignored_above=None,
        detail={"until": until.isoformat(timespec="minutes")},
    )


def ignore(incident: Incident, actor: Actor, percent: int) -> None:
    """Hide the incident until it has grown by `percent`."""
    _require_open(incident)
    if not 1 <= percent <= 10_000:
        raise IncidentRefused(_("%(value)s is out of range. Enter a percentage from 1 to 10000.") % {"value": percent})
    limit = incident.count + incident.count * percent // 100
    _save(incident, actor, "ignored", ignored_above=limit, snoozed_until=None, detail={"until_grows": percent})


def comment(incident: Incident, actor: Actor, text: str) -> None:
    """Add a comment to the timeline."""
    if not text.strip():
        raise IncidentRefused(_("The comment is empty. Enter a text."))
    _save(incident, actor, "commented", detail={"text": text.strip()[:MAX_COMMENT]})


def link(incident: Incident, actor: Actor, url: str) -> None:
    """Link the incident to a ticket; an empty address removes the link."""
    url = url.strip()
    if url:
        try:
            URLValidator(schemes=("http", "https"))(url)
        except ValidationError:
            raise IncidentRefused(
                _("%(url)s is not a web address. Enter one that starts with https://.") % {"url": url}
            ) from None
    if len(url) > MAX_LINK:
        raise IncidentRefused(
            _("The address has %(count)d characters. Enter one with at most %(limit)d.")
            % {"count": len(url), "limit": MAX_LINK}
        )
    _save(incident, actor, "linked", link=url, detail={"link": url})


def resolve(incident: Incident, actor: Actor) -> None:
    """Resolve the incident manually. The next scan that still finds the problem reopens it."""
    with _latest(incident):
        _require_open(incident)
        now = timezone.now()
        _add_history(incident, "resolved_by_hand", now, incident.count, None)
        is_hidden = not _is_news(incident)
        _save(incident, actor, "resolved", resolved_at=now, resolved_run=None, history=incident.history)
        if not is_hidden:
            _announce([incident], actor.name)


def reopen(incident: Incident, actor: Actor) -> None:
    """Revert an acknowledgement, a snooze, an ignore or a manual resolution."""
    with _latest(incident):
        if incident.resolved_at is not None and incident.history[-1]["event"] != "resolved_by_hand":
            raise IncidentRefused(_("A scan resolved this incident. It reopens when a scan finds the problem again."))
        was_resolved = incident.resolved_at is not None
        if was_resolved:
            _add_history(incident, "reopened_by_hand", timezone.now(), incident.count, None)
        _save(
            incident,
            actor,
            "reopened",
            resolved_at=None,
            acknowledged_at=None,
            snoozed_until=None,
            ignored_above=None,
            history=incident.history,
        )
        if was_resolved and _is_news(incident):
            _announce([incident], actor.name)


@contextmanager
def _latest(incident: Incident) -> Iterator[None]:
    """Reload an incident and exclude scans and other people, because its page may be old."""
    with serialised("incidents"):
        incident.refresh_from_db()
        yield


def _require_open(incident: Incident) -> None:
    if incident.resolved_at is not None:
        raise IncidentRefused(_("Incident %(number)d is already resolved. Reopen it first.") % {"number": incident.pk})


def _save(incident: Incident, actor: Actor, verb: str, *, detail: Mapping[str, Any] = {}, **fields: Any) -> None:
    with transaction.atomic():
        for name, value in fields.items():
            setattr(incident, name, value)
        if fields:
            incident.save(update_fields=tuple(fields))
        record(None, f"incident_{verb}", actor, incident=incident, **detail)


# --- lists --------------------------------------------------------------------------------------------------------


def newest_scan(identities: Collection[str]) -> dict[str, datetime]:
    """Return identity → the end of its newest scan."""
    names = [name for name, cls in registry.operations().items() if issubclass(cls, Check)]
    scans = Run.objects.filter(operation__in=names, identity__in=identities, finished_at__isnull=False).order_by()
    return dict(scans.values_list("identity").annotate(newest=Max("finished_at")))
