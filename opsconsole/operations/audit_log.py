"""Whether the audit log is whole: every entry's seal, one after another, and what the backups noted of it."""

from __future__ import annotations

from django.utils.translation import gettext as _

from opsconsole.operations.models import Event
from opsconsole.operations.seals import seal_of


def head() -> tuple[int, str]:
    """Return the number of entries and the newest seal."""
    newest = Event.objects.exclude(number=None).order_by("-number").first()
    return (newest.number or 0, newest.seal) if newest is not None else (0, "")


def first_broken(noted: dict[int, str]) -> str:
    """Return what is wrong with the first entry that is not as it was written; empty where all are.

    `noted`: number → seal of entries, as backups kept them outside the log.
    """
    before, expected = "", 1
    for event in Event.objects.exclude(number=None).order_by("number").iterator(chunk_size=1000):
        if event.number != expected:
            return _("Entry %(number)d was removed.") % {"number": expected}
        entry = {"number": event.number, "verb": event.verb, "who": event.who, "at": event.at.isoformat()}
        if event.seal != seal_of(before, event) or noted.get(expected, event.seal) != event.seal:
            return _("Entry %(number)d (%(verb)s, %(who)s, %(at)s) was changed or inserted.") % entry
        before, expected = event.seal, expected + 1
    if noted and max(noted) >= expected:
        return _("Entry %(number)d was removed: a backup noted %(count)d entries.") % {
            "number": expected,
            "count": max(noted),
        }
    if (strange := Event.objects.filter(number=None).order_by("pk").first()) is not None:
        return _("An entry without a number (%(verb)s, %(who)s) was inserted.") % {
            "verb": strange.verb,
            "who": strange.who,
        }
    return ""
