"""The audit log: actors, new entries, and the verification of the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from opsconsole.engine.models import Event, Incident, Run, Trigger
from opsconsole.engine.seals import fits
from opsconsole.escaping import for_terminal
from opsconsole.formatting import format_number
from opsconsole.jsontext import plain_json

SHOWN = 80
MAX_FORGED = 2  # a changed entry and its successor; if no key matches more of the first entries, the key is wrong


@dataclass(frozen=True)
class Actor:
    """A person, schedule or worker that acts, and its host or address."""

    name: str
    origin: str
    trigger: Trigger
    user: User | None = None


def record(run: Run | None, verb: str, actor: Actor, *, incident: Incident | None = None, **detail: Any) -> None:
    """Append an entry to the audit log."""
    Event.objects.create(
        run=run, incident=incident, verb=verb, who=actor.name, origin=actor.origin, detail=plain_json(detail)
    )


class Note(NamedTuple):
    """The length and the newest seal of the log at the time of a backup, and the place of this note."""

    entries: int
    head: str
    where: str


def head() -> tuple[int, str]:
    """Return the number of entries and the newest seal."""
    newest = _entries().order_by("-number").first()
    return (newest.number or 0, newest.seal) if newest is not None else (0, "")


def first_broken(notes: Iterable[Note]) -> str:
    """Return a sentence about the first broken entry, or an empty string. `notes` are stored outside the log."""
    noted: dict[int, list[Note]] = {}
    for note in notes:
        noted.setdefault(note.entries, []).append(note)
    before, expected = "", 1
    for event in _entries().order_by("number").iterator(chunk_size=1000):
        if event.number != expected:
            return _("Entry %(number)d was removed.") % {"number": expected}
        if not fits(before, event):
            count = _leading_misfits() if expected == 1 else 0
            if count > MAX_FORGED or count == _entries().count():
                return _(
                    "No key matches the first %(count)s entries. Set AUDIT_LOG_KEY to the key that sealed them, or "
                    "add it to AUDIT_LOG_KEY_FALLBACKS."
                ) % {"count": format_number(count)}
            return _("Entry %(number)d was changed or inserted. Its values may be forged: %(values)s.") % {
                "number": expected,
                "values": _values(event),
            }
        if other := next((note for note in noted.pop(expected, ()) if note.head != event.seal), None):
            return _(
                "Entry %(number)d or an earlier one was replaced: %(where)s has another seal. "
                "Its values may be forged: %(values)s."
            ) % {"number": expected, "where": other.where, "values": _values(event)}
        before, expected = event.seal, expected + 1
    if noted and (most := max(noted)) >= expected:
        return _("Entry %(number)d was removed: %(where)s noted %(count)d entries.") % {
            "number": expected,
            "count": most,
            "where": noted[most][0].where,
        }
    if (strange := Event.objects.filter(number=None).order_by("pk").first()) is not None:
        return _("An entry without a number was inserted. Its values may be forged: %(values)s.") % {
            "values": _values(strange)
        }
    return ""


def _values(event: Event) -> str:
    """Return verb, account and time of an entry for display. A forger may have written them."""
    values = (event.verb, event.who, event.at.isoformat() if event.at is not None else "NULL")
    return ", ".join(f"'{for_terminal(str(value)[:SHOWN], one_line=True)}'" for value in values)


def _leading_misfits() -> int:
    """Count the first entries that no key matches."""
    before, count = "", 0
    for event in _entries().order_by("number").iterator(chunk_size=1000):
        if fits(before, event):
            break
        before, count = event.seal, count + 1
    return count


def _entries() -> QuerySet[Event]:
    return Event.objects.exclude(number=None)
