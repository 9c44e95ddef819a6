from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand
from opsconsole.cli.flags import add_json_flag
from opsconsole.cli.output import Output
from opsconsole.stores.store import Store, StoreUnavailable, all_stores


class Command(ConsoleCommand):
    help = gettext_noop("List every store with its location, its version, and its missing and unknown columns.")
    examples = ("stores", "stores --json")

    def add_arguments(self, parser: CommandParser) -> None:
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        output = Output.of(options)
        reports = [report(store) for store in all_stores()]
        if options["json"]:
            for entry, reason in reports:
                if reason:
                    output.error(f"{entry['alias']}: {reason}")
            output.json({"stores": [entry for entry, _reason in reports]})
            return
        output.table(
            [(_("store"), _("engine"), _("kind"), _("version"), _("size"), _("location"))]
            + [
                (
                    entry["alias"],
                    entry["engine"],
                    _("managed") if entry["managed"] else _("attached"),
                    entry["version"] or "",
                    filesizeformat(entry["size_bytes"]) if entry["reachable"] else _("unreachable"),
                    entry["location"],
                )
                for entry, _reason in reports
            ],
            right=(4,),
            heading=True,
        )
        for entry, reason in reports:
            for text in (
                reason,
                _("missing: %(names)s") % {"names": ", ".join(entry["missing"])} if entry["missing"] else "",
                _("unknown: %(names)s") % {"names": ", ".join(entry["unknown"])} if entry["unknown"] else "",
            ):
                if text:
                    output.line(f"{entry['alias']}: {text}")


def report(store: Store) -> tuple[dict[str, Any], str]:
    """Return the entry of one store, and why it is unreachable. Create nothing."""
    entry: dict[str, Any] = {
        "alias": store.alias,
        "engine": store.vendor,
        "location": store.location,
        "managed": store.managed,
        "version": None,
        "reachable": False,
        "size_bytes": None,
        "missing": [],
        "unknown": [],
    }
    try:
        found = {
            "version": store.version(),
            "missing": store.missing(),
            "unknown": store.unknown(),
            "size_bytes": store.size(),
        }
    except (DatabaseError, InterfaceError) as error:
        return entry, str(store.unusable(error))
    except (StoreUnavailable, OSError) as error:
        return entry, str(error)
    return entry | found | {"reachable": True}, ""
