from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand
from opsconsole.cli.flags import add_json_flag
from opsconsole.cli.output import Output
from opsconsole.engine.planner import store_called
from opsconsole.formatting import format_number
from opsconsole.monitoring.stats import stats
from opsconsole.stores.store import Store, StoreUnavailable, all_stores


class Command(ConsoleCommand):
    help = gettext_noop("Show sizes, rows per table, connections against the limit, locks and pool of the stores.")
    examples = ("store_stats agentos", "store_stats --json")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("alias", nargs="?", metavar="ALIAS", help=_("A store. Default: all stores."))
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        output = Output.of(options)
        chosen = store_called(options["alias"]) if options["alias"] else None
        reports = [stats(chosen)] if chosen else list(map(_report, all_stores()))
        if options["json"]:
            output.json({"stores": reports})
            return
        for report in reports:
            show(report, output)


def _report(store: Store) -> dict[str, Any]:
    try:
        return stats(store)
    except StoreUnavailable as error:
        return {"alias": store.alias, "error": str(error)}


def show(report: dict[str, Any], output: Output) -> None:
    output.line(report["alias"], style="bold")
    if "error" in report:
        output.line(report["error"])
        return
    output.line(f"{report['location']} · {filesizeformat(report['size_bytes'])}")
    rows = [
        (
            row["table"],
            ("~" if row["estimated"] else "") + format_number(row["rows"]),
            filesizeformat(row["bytes"]) if "bytes" in row else "",
            filesizeformat(row["index_bytes"]) if "index_bytes" in row else "",
            format_number(row["dead_rows"]) if "dead_rows" in row else "",
        )
        for row in report["tables"]
    ]
    heading = (_("table"), _("rows"), _("size"), _("indexes"), _("dead rows"))
    wide = 5 if report["engine"] == "postgresql" else 2
    output.table([heading[:wide], *(row[:wide] for row in rows)], right=(1, 2, 3, 4), heading=True)
    if report["engine"] == "sqlite":
        text = _("Journal: %(mode)s, log %(log)s, unused pages %(free)s")
        sizes = {"log": filesizeformat(report["log_bytes"]), "free": filesizeformat(report["free_bytes"])}
        output.line(text % {"mode": report["journal_mode"], **sizes})
        output.line()
        return
    taken = report["connections"]
    text = _("Connections: %(used)s of %(limit)s (%(percent)s %%)")
    output.line(text % {name: taken[name] for name in ("used", "limit", "percent")})
    if taken["percent"] >= taken["alert_percent"]:
        output.line(
            _("This is at least %(alert)s %%. The server may soon refuse clients.") % {"alert": taken["alert_percent"]}
        )
    _dicts(output, taken["by"])
    for title, name in ((_("Unused indexes"), "unused_indexes"), (_("Waits for locks"), "locks_waited_for")):
        if report[name]:
            output.line(title)
            _dicts(output, report[name])
    output.line()


def _dicts(output: Output, rows: list[dict[str, Any]]) -> None:
    if rows:
        output.table([tuple(rows[0]), *(tuple(str(value) for value in row.values()) for row in rows)], heading=True)
