"""The `incidents` command: list, show and handle incidents."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import EXIT_ATTENTION, ConsoleCommand, Refused, add_verb, require_setup, shell_actor
from opsconsole.cli.flags import add_json_flag, add_user_flag, free_text
from opsconsole.cli.output import Output
from opsconsole.cli.times import format_local, positive
from opsconsole.engine import incidents, repairs
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.incidents import IncidentRefused
from opsconsole.engine.labels import INCIDENT_LABELS, verb_label
from opsconsole.engine.models import Incident, IncidentState
from opsconsole.formatting import format_number

SHOWN_INCIDENTS = 50
HANDLE = "operations.handle_incident"
_SPAN = re.compile(r"(\d{1,5})([hd])")


class Command(ConsoleCommand):
    help = gettext_noop("List, show and handle incidents.")
    examples = ("incidents list --exit-code", "incidents snooze 3 4h --user mira")

    def add_arguments(self, parser: CommandParser) -> None:
        self.verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = self._verb("list", _("incidents, worst first"), "incidents list", "incidents list --state all --json")
        listing.add_argument(
            "--state",
            choices=("active", "all", *IncidentState.values),
            default="active",
            help=_("the state; the default active means open or acknowledged"),
        )
        listing.add_argument(
            "--limit", type=positive, metavar="N", help=_("the maximum number; the default is 50, with --json all")
        )
        listing.add_argument("--exit-code", action="store_true", help=_("exit code 3 if the list is not empty"))
        add_json_flag(listing)
        showing = self._verb_of_incident("show", _("an incident with its repairs and timeline"))
        add_json_flag(showing)
        assigning = self._handling("assign", _("set the owner of an incident"), "mira")
        assigning.add_argument(
            "owner", metavar="ACCOUNT", nargs="?", help=_("the account; without it, the owner is removed")
        )
        self._handling("acknowledge", _("acknowledge that you work on an incident"))
        snoozing = self._handling("snooze", _("hide an incident until a time"), "4h")
        snoozing.add_argument("until", metavar="TIME", help=_("4h, 2d, or a time such as 2027-01-31T08:00"))
        ignoring = self._handling("ignore", _("hide an incident until it has grown"), "--until-grows 50")
        ignoring.add_argument(
            "--until-grows", required=True, type=positive, metavar="N", help=_("the growth in per cent")
        )
        commenting = self._handling("comment", _("add a comment"), '"the platform team is on it"')
        commenting.add_argument("text", type=free_text, metavar="TEXT", help=_("the comment"))
        linking = self._handling("link", _("link an incident to a ticket"), "https://tickets.example.org/4711")
        linking.add_argument("url", metavar="URL", help=_("the ticket's address; empty removes the link"))
        self._handling("resolve", _("resolve an incident; the next scan that still finds the problem reopens it"))
        self._handling("reopen", _("revert an acknowledgement, a snooze, an ignore or a manual resolution"))

    def _verb(self, name: str, text: str, *examples: str) -> argparse.ArgumentParser:
        parser = add_verb(self.verbs, name, help=text, examples=examples)
        parser.set_defaults(incident_verb=getattr(self, f"_{name}"))
        return parser

    def _verb_of_incident(self, name: str, text: str, arguments: str = "--json") -> argparse.ArgumentParser:
        parser = self._verb(name, text, f"incidents {name} 3", f"incidents {name} 3 {arguments}")
        parser.add_argument("incident", type=positive, metavar="ID", help=_("the incident's number"))
        return parser

    def _handling(self, name: str, text: str, arguments: str = "--user mira") -> argparse.ArgumentParser:
        parser = self._verb_of_incident(name, text, arguments)
        add_user_flag(parser)
        add_json_flag(parser)
        return parser

    def handle(self, *args: Any, **options: Any) -> None:
        require_setup()
        try:
            options["incident_verb"](options)
        except IncidentRefused as error:
            raise Refused(error) from None

    # --- reading ---------------------------------------------------------------------------------------

    def _list(self, options: dict[str, Any]) -> None:
        output = Output.of(options)
        rows = Incident.objects.select_related("owner")
        if options["state"] == "active":
            rows = rows.active()
        elif options["state"] != "all":
            rows = rows.in_state(options["state"])
        limit = options["limit"] or (None if options["json"] else SHOWN_INCIDENTS)
        shown, count = list(rows.worst_first()[:limit]), rows.count()
        if options["json"]:
            output.json({"incidents": [as_json(one) for one in shown]})
        elif not count:
            output.line(
                _("No incidents as of %(time)s.") % {"time": format_local(timezone.now())}
                if options["state"] != "active"
                else _("No open incidents as of %(time)s.") % {"time": format_local(timezone.now())}
            )
        else:
            heading = (_("incident"), _("priority"), _("state"), _("store"), _("since"), _("owner"), _("what is wrong"))
            lines = [
                (
                    str(one.pk),
                    one.get_priority_display(),
                    str(one.state.label),
                    one.store,
                    format_local(one.opened_at),
                    one.owner.get_username() if one.owner else "–",
                    incidents.title_of(one),
                )
                for one in shown
            ]
            output.table([heading, *lines], right=(0,), heading=True, shorten=True)
            if count > len(shown):
                more = format_number(count - len(shown))
                output.line(_("%(count)s more are not shown. Use --limit N to show them.") % {"count": more})
        if options["exit_code"] and count:
            raise SystemExit(EXIT_ATTENTION)

    def _show(self, options: dict[str, Any]) -> None:
        incident, output = incidents.get(options["incident"]), Output.of(options)
        known = repairs.repairs_of(incident) if incident.resolved_at is None else []
        best = repairs.recommended(known)
        entries = incidents.timeline(incident)
        if options["json"]:
            output.json(
                as_json(incident)
                | {
                    "repairs": [
                        {
                            "operation": one.operation.name,
                            "label": one.label,
                            "possible": one.possible,
                            "recommended": one is best,
                            "reason": one.refusal,
                        }
                        for one in known
                    ],
                    "advice": incidents.advice_for(incident),
                    "timeline": entries,
                }
            )
            return
        output.line(incidents.title_of(incident), style="bold")
        facts = [
            (_("State:"), str(incident.state.label)),
            (_("Priority:"), incident.get_priority_display()),
            (_("Store:"), incident.store),
            (_("Since:"), format_local(incident.opened_at)),
            (_("Owner:"), incident.owner.get_username() if incident.owner else "–"),
            (_("Ticket:"), incident.link),
        ]
        output.table([fact for fact in facts if fact[1]])
        for one in known:
            output.line()
            if one is best:
                output.line(_("Recommended: %(label)s") % {"label": one.label}, style="bold")
            else:
                output.line(one.label)
            output.line(
                "  " + _("Not possible: %(reason)s") % {"reason": one.refusal}
                if one.refusal
                else f"  run {one.operation.name}{_keys(incident, one)} --execute"
            )
        if incident.resolved_at is None and best is None and (advice := incidents.advice_for(incident)):
            output.line()
            output.line(advice)
        output.line()
        output.table([(format_local(entry["at"]), words(entry), entry.get("who", "")) for entry in entries])

    # --- handling --------------------------------------------------------------------------------------

    def _assign(self, options: dict[str, Any]) -> None:
        name = options["owner"]
        owner = User.objects.filter(username=name, is_active=True).first() if name else None
        if name and owner is None:
            raise Refused(_("No active account is called %(name)s.") % {"name": name})
        _handle(options, partial(incidents.assign, owner=owner))

    def _acknowledge(self, options: dict[str, Any]) -> None:
        _handle(options, incidents.acknowledge)

    def _snooze(self, options: dict[str, Any]) -> None:
        _handle(options, partial(incidents.snooze, until=_time(options["until"])))

    def _ignore(self, options: dict[str, Any]) -> None:
        _handle(options, partial(incidents.ignore, percent=options["until_grows"]))

    def _comment(self, options: dict[str, Any]) -> None:
        _handle(options, partial(incidents.comment, text=options["text"]))

    def _link(self, options: dict[str, Any]) -> None:
        _handle(options, partial(incidents.link, url=options["url"]))

    def _resolve(self, options: dict[str, Any]) -> None:
        _handle(options, incidents.resolve)

    def _reopen(self, options: dict[str, Any]) -> None:
        _handle(options, incidents.reopen)


def as_json(incident: Incident) -> dict[str, Any]:
    """Return an incident for programs."""
    return {
        "incident": incident.pk,
        "cause": incident.cause,
        "subject": incident.subject or None,
        "store": incident.store,
        "title": incidents.title_of(incident),
        "state": incident.state.value,
        "priority": incident.priority,
        "count": incident.count,
        "owner": incident.owner.get_username() if incident.owner else None,
        "link": incident.link or None,
        "opened_at": incident.opened_at,
        "seen_at": incident.seen_at,
        "resolved_at": incident.resolved_at,
        "resolved_by_run": incident.resolved_run_id,
        "came_back": incident.came_back,
        "snoozed_until": incident.snoozed_until,
        "ignored_above": incident.ignored_above,
    }


def words(entry: dict[str, Any]) -> str:
    """Return an entry of the timeline in words."""
    text = str(INCIDENT_LABELS.get(entry["event"]) or verb_label(entry["event"]))
    detail = entry.get("detail") or {}
    value = detail.get("text") or detail.get("owner") or detail.get("link")
    if "until_grows" in detail:
        value = f"{detail['until_grows']} %"
    elif "until" in detail:
        value = format_local(datetime.fromisoformat(detail["until"]))
    if entry.get("count"):
        value = format_number(entry["count"])
    if entry.get("run"):
        text = f"{text} · " + _("run %(number)d") % {"number": entry["run"]}
    return f"{text}: {value}" if value else text


def _keys(incident: Incident, repair: repairs.Repair) -> str:
    keys = repairs.selection_for(incident, repair.operation).keys
    return "" if keys is None else f" --keys {' '.join(map(str, keys[:10]))}{' …' if len(keys) > 10 else ''}"


def _handle(options: dict[str, Any], verb: Callable[[Incident, Actor], None]) -> None:
    incident = incidents.get(options["incident"])
    verb(incident, shell_actor(options["user"], HANDLE))
    incident = incidents.get(incident.pk)
    output = Output.of(options)
    if options["json"]:
        output.json(as_json(incident))
    else:
        output.line(_("Incident %(number)d is %(state)s.") % {"number": incident.pk, "state": incident.state.label})


def _time(text: str) -> datetime:
    if found := _SPAN.fullmatch(text):
        count = int(found[1])
        return timezone.now() + (timedelta(hours=count) if found[2] == "h" else timedelta(days=count))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(
            _("%(text)s is not a time. Give 4h, 2d or a time such as 2027-01-31T08:00.") % {"text": text}
        ) from None
    return at if timezone.is_aware(at) else timezone.make_aware(at)
