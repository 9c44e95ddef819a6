"""The kinds of messages, each with its subject and its advice, and how they are sent.

Messages are in the language of OPSCONSOLE_LANGUAGE, because one message has many receivers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from opsconsole.engine.models import ReportedProblem
from opsconsole.engine.notifications import create_alert
from opsconsole.engine.seals import serialised
from opsconsole.formatting import format_number

MAX_AT_ONCE = 10  # messages; more are summarized
MAX_FACT = 400  # characters; the page of the message has the whole text


@dataclass(frozen=True)
class Kind:
    """A kind of message. `subject` and `advice` are filled with the values of the message."""

    code: str
    subject: Any
    advice: Any  # what the receiver does
    over: str = ""  # of a lasting problem: the kind that reports its end


_NOTHING = gettext_lazy("Nothing.")
_REPAIR = gettext_lazy("Open the incident and start the recommended repair, or assign the incident to a colleague.")

KINDS = {
    kind.code: kind
    for kind in (
        Kind("incident_opened", gettext_lazy("New incident: %(title)s"), _REPAIR),
        Kind("incident_grew", gettext_lazy("Incident grew: %(title)s"), _REPAIR),
        Kind("incident_came_back", gettext_lazy("Incident came back: %(title)s"), _REPAIR),
        Kind("incident_resolved", gettext_lazy("Incident resolved: %(title)s"), _NOTHING),
        Kind(
            "run_failed",
            gettext_lazy("Run %(run)d failed: %(operation)s, %(store)s"),
            gettext_lazy("Correct the cause of the error. Then plan the run again, or undo what it changed."),
        ),
        Kind(
            "run_needs_attention",
            gettext_lazy("Run %(run)d needs attention: %(operation)s, %(store)s"),
            gettext_lazy("Open the run. Retry its failed rows, or undo what it changed."),
        ),
        Kind(
            "approval",
            gettext_lazy("Run %(run)d waits for approval: %(operation)s, %(store)s"),
            gettext_lazy("Review the plan, then approve or reject it. The request expires at %(expires)s."),
        ),
        Kind(
            "approved",
            gettext_lazy("Run %(run)d was approved: %(operation)s, %(store)s"),
            gettext_lazy("Nothing. The run starts now, and its page shows the result."),
        ),
        Kind(
            "rejected",
            gettext_lazy("Run %(run)d was rejected: %(operation)s, %(store)s"),
            gettext_lazy("Nothing was changed. Consider the reason, then plan again from the page of the run."),
        ),
        Kind(
            "expired",
            gettext_lazy("The request to approve run %(run)d has expired: %(operation)s, %(store)s"),
            gettext_lazy("Nothing was changed. If the run is still needed, plan it again from its page."),
        ),
        Kind(
            "break_glass",
            gettext_lazy("Run %(run)d starts without approval: %(operation)s, %(store)s"),
            gettext_lazy("Review the run now. Its page has the buttons that stop it and undo it."),
        ),
        Kind(
            "schedule_overdue",
            gettext_lazy("Schedule overdue: %(operation)s, due %(due)s"),
            gettext_lazy("Check that a worker is running, and why the last run has not ended."),
            over="schedule_on_time",
        ),
        Kind("schedule_on_time", gettext_lazy("Schedule no longer overdue: %(operation)s"), _NOTHING),
        Kind(
            "store_unreachable",
            gettext_lazy("%(store)s: unreachable"),
            gettext_lazy("Check the server, the network and the address. Runs on this store wait until it answers."),
            over="store_reachable",
        ),
        Kind(
            "store_reachable",
            gettext_lazy("%(store)s: reachable again"),
            gettext_lazy("Nothing. Runs that waited for this store continue."),
        ),
        Kind(
            "connection_limit",
            gettext_lazy("%(store)s: %(problem)s"),
            gettext_lazy("Close idle connections, or raise the limit of the server, before clients are refused."),
            over="connections_free",
        ),
        Kind("connections_free", gettext_lazy("%(store)s: enough connections are free again"), _NOTHING),
        Kind(
            "backup_missing",
            gettext_lazy("%(store)s: %(problem)s"),
            gettext_lazy("Back up the store now, and check the schedule of its backups."),
            over="backup_recent",
        ),
        Kind("backup_recent", gettext_lazy("%(store)s: a recent verified backup exists again"), _NOTHING),
        Kind(
            "frozen",
            gettext_lazy("All runs are frozen by %(who)s"),
            gettext_lazy("Start no run. End the freeze on its page when its reason no longer exists."),
        ),
        Kind("unfrozen", gettext_lazy("All runs resume: unfrozen by %(who)s"), _NOTHING),
        Kind(
            "summary",
            gettext_lazy("%(changes)s"),
            gettext_lazy("Open the dashboard. It lists what is open, worst first."),
        ),
        Kind("test", gettext_lazy("Test message"), _NOTHING),
    )
}


@dataclass(frozen=True)
class Message:
    """A message to the alert list and to the mail addresses `to`. It is sent once for each key of its kind."""

    kind: Kind
    key: str
    values: Mapping[str, Any]
    page: str  # the path of the page about it
    since: datetime | None = None  # now, if unknown
    facts: Sequence[str] = ()
    advice: str = ""  # more exact than that of the kind
    to: Collection[str] = ()
    is_news: bool = True  # otherwise it is not sent, but a reported problem is not over

    @property
    def subject(self) -> str:
        return str(self.kind.subject % self.values)

    @property
    def text(self) -> str:
        """What happened, since when, what to do, and the address of the page."""
        advice = self.advice or str(self.kind.advice % self.values)
        lines = [
            *map(one_line, self.facts),
            _("Since: %(time)s") % {"time": time_text(self.since or timezone.now())},
            _("What to do: %(advice)s") % {"advice": advice},
            f"{settings.OPSCONSOLE_URL}{self.page}",
        ]
        return "\n".join(lines)


def one_line(fact: str) -> str:
    """Return a fact in one line. A text of a person or of a store could add lines that look like ours."""
    text = " ".join(fact.split())
    return text if len(text) <= MAX_FACT else f"{text[:MAX_FACT]}…"


def by(who: str) -> str:
    """Return the fact that names who caused a message."""
    return _("By: %(who)s") % {"who": who}


def addresses(*users: User | None) -> list[str]:
    """Return the mail addresses of the active accounts that have one."""
    return sorted({user.email for user in users if user is not None and user.is_active and user.email})


@contextmanager
def language_of_messages() -> Iterator[None]:
    """Translate into the language of messages, not into that of the request."""
    with translation.override(settings.LANGUAGE_CODE):
        yield


def time_text(at: datetime) -> str:
    """Return a time in the console's zone."""
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M %Z}"


def send(message: Message) -> bool:
    """Save a message in the caller's transaction. Return False if this key was sent before."""
    with language_of_messages():
        key = f"{message.kind.code}/{message.key}"
        return create_alert(key, message.subject, message.text, to=sorted(message.to))


def send_all(messages: Sequence[Message]) -> None:
    """Send messages that are caused at the same time, or one summary of too many."""
    if len(messages) <= MAX_AT_ONCE:
        for message in messages:
            send(message)
        return
    now = timezone.now()
    with language_of_messages():
        changes = ngettext("%(count)s change", "%(count)s changes", len(messages))
        facts = [*(message.subject for message in messages[:MAX_AT_ONCE]), "…"]
    summary = Message(
        KINDS["summary"],
        now.isoformat(),
        {"changes": changes % {"count": format_number(len(messages))}},
        reverse("admin:index"),
        since=min(message.since or now for message in messages),
        facts=facts,
        to={address for message in messages for address in message.to},
    )
    send(summary)


def report(about: str, problems: Callable[[], Sequence[Message]]) -> None:
    """Report lasting problems: each once when it begins, and once when it is over.

    `problems` returns all present problems of the group `about`, each with a key that stays the same.
    """
    with language_of_messages():
        present = {(message.kind.code, message.key): message for message in problems()}
    now = timezone.now()
    stamp = now.isoformat()
    with serialised("messages"), language_of_messages():
        known = {(one.kind, one.key): one for one in ReportedProblem.objects.filter(about=about)}
        messages = []
        for place, message in present.items():
            if place not in known and message.is_news:
                values = {name: str(value) for name, value in message.values.items()}
                ReportedProblem.objects.create(
                    about=about, kind=place[0], key=place[1], values=values, page=message.page, since=now
                )
                messages.append(replace(message, key=f"{message.key}/{stamp}"))
        for place, one in known.items():
            if place not in present:
                one.delete()
                over = KINDS[KINDS[one.kind].over]
                began = _("It began at %(time)s.") % {"time": time_text(one.since)}
                messages.append(Message(over, f"{one.key}/{stamp}", one.values, one.page, facts=[began]))
        send_all(messages)
