from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.db import DatabaseError, InterfaceError
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli import adding
from opsconsole.cli.command import ConsoleCommand, add_verb
from opsconsole.cli.flags import add_json_flag
from opsconsole.cli.output import Output
from opsconsole.formatting import format_number
from opsconsole.stores.remedies import KIND_LABELS
from opsconsole.stores.store import Store, StoreUnavailable, all_stores

SHOWN_NAMES = 10


class Command(ConsoleCommand):
    help = gettext_noop("List every store with its location, its version, and its missing and unknown columns.")
    examples = ("stores --json", "stores add postgresql://reader@db.example.org/shop --alias shop")

    def add_arguments(self, parser: CommandParser) -> None:
        add_json_flag(parser)
        verbs = parser.add_subparsers(dest="verb", metavar="add")
        add = add_verb(
            verbs,
            "add",
            help=_("Test a database without writing to it, declare it as a store, and report its contents."),
        )
        add.add_argument("url", metavar="URL", help=_("sqlite:////folder/file.db or postgresql://user@host/name"))
        add.add_argument("--alias", default="", metavar="NAME", help=_("The name of the store."))
        add.add_argument("--platform", default="", metavar="NAME", help=_("The platform of the store."))
        add_json_flag(add)

    def handle(self, *args: Any, **options: Any) -> None:
        output = Output.of(options)
        if options["verb"] == "add":
            _show_added(adding.add(options["url"], alias=options["alias"], platform=options["platform"]), output)
            return
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


def _show_added(added: adding.Added, output: Output) -> None:
    found = added.report
    steps = [_("Restart the web server and the workers. They read the stores only when they start.")]
    if added.replaced:
        steps.insert(
            0,
            _("The store replaces the embedded store %(name)s. To keep it, add [stores.%(name)s] to the file.")
            % {"name": added.replaced},
        )
    if added.password_variable:
        steps.insert(
            0, _("Set %(variable)s to the password. It was not saved.") % {"variable": added.password_variable}
        )
    if output.as_json:
        output.json(
            {
                **found,
                "file": str(settings.CONFIG_PATH),
                "entry": added.entry,
                "password_variable": added.password_variable or None,
                "replaces": added.replaced or None,
                "needs_restart": True,
            }
        )
        return
    output.line(_("Added to %(path)s:") % {"path": settings.CONFIG_PATH})
    output.line(added.entry)
    triggers = [f"{table} ({', '.join(names)})" for table, names in found["triggers"].items()]
    others = [f"{name} ({KIND_LABELS[kind]})" for name, kind in found["other_relations"].items()]
    output.table(
        [
            (_("database"), f"{found['engine']} {found['version']}, {found['location']}"),
            (_("size"), filesizeformat(found["size_bytes"])),
            (_("platform"), found["platform"] or _("none: its tables can be browsed")),
            (_("tables"), format_number(found["tables"])),
            (_("missing"), _names(found["missing"])),
            (_("without a key"), _names(found["without_key"])),
            (_("triggers"), _names(triggers)),
            (_("row-level security"), _names(found["row_security"])),
            (_("not tables"), _names(others)),
        ]
    )
    for step in steps:
        output.line(step)


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    return f"{shown} … ({format_number(len(names))})" if len(names) > SHOWN_NAMES else shown or _("none")


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
