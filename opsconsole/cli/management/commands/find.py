"""The `find` command: every row, run and incident with an identifier."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import EXIT_REFUSED, ConsoleCommand, Refused, require_setup
from opsconsole.cli.flags import add_json_flag
from opsconsole.cli.output import Output
from opsconsole.cli.times import format_local
from opsconsole.engine import incidents, written_rows
from opsconsole.engine.find import Found, Hit, TableHit, count_text, find
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Run
from opsconsole.stores.rows import plain_key
from opsconsole.stores.store import Store


class Command(ConsoleCommand):
    help = gettext_noop("Find every row, run and incident with this identifier, in every store.")
    examples = ("find 49961d40-0cac-4255-abba-adad0b901056", "find 7 --json")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("identifier", metavar="ID", help=_("of a task, audit, run, job, record, roadmap, thread …"))
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        require_setup()
        if not options["identifier"].strip():
            raise Refused(_("The identifier is empty."))
        found = find(options["identifier"], None)
        output = Output.of(options)
        if options["json"]:
            output.json(
                {
                    "identifier": found.text,
                    "rows": [_as_json(hit) for hit in found.all_hits],
                    "runs": [run.pk for run in found.runs],
                    "incidents": [incident.pk for incident in found.incidents],
                    "deleted_by": [row.run.pk for row in found.deletions],
                    "searched": found.searched,
                    "unsearched": found.unsearched,
                    "not_asked": found.not_asked,
                }
            )
            _exit(found)
            return
        about = [*found.incidents, *found.incidents_of_rows]
        rows = [(_("incident"), str(one.pk), incidents.title_of(one)) for one in about]
        rows += [(_("run"), str(run.pk), run.operation) for run in found.runs]
        rows += [(_("deleted by run"), str(row.run.pk), _run(row.run)) for row in found.deletions]
        for hit in found.all_hits:
            rows.append(_row(hit))
            rows += [(_("written by run"), str(run.pk), _run(run)) for run in _writers(hit)]
        output.table(rows)
        if not rows:
            text = (
                _("No store that answered has the identifier %(text)s.")
                if found.not_asked
                else _("Nothing has the identifier %(text)s.")
            )
            output.line(text % {"text": found.text})
            output.line(_("Searched: %(places)s.") % {"places": ", ".join(found.searched)})
        for place, reason in found.unsearched.items():
            output.error(_("Not searched: %(place)s: %(reason)s") % {"place": place, "reason": reason})
        _exit(found)


def _exit(found: Found) -> None:
    """End with exit code 2 if nothing was found, and a store did not answer."""
    if found.is_empty and found.not_asked:
        sys.exit(EXIT_REFUSED)


def _row(hit: Hit | TableHit) -> tuple[str, str, str]:
    table = f"{hit.store}: {hit.table}"
    if hit.key is None:
        return table, count_text(hit.rows), _("rows by %(column)s") % {"column": hit.column}
    return table, str(hit.key), incidents.title_of(hit.incident) if hit.incident else ""


def _writers(hit: Hit | TableHit) -> list[Run]:
    """Return the runs that wrote the row, newest first."""
    if hit.key is None:
        return []
    identity = Store.called(hit.store).identity()
    return [row.run for row in written_rows.of_row(identity, hit.table, plain_key(hit.key)).rows]


def _run(run: Run) -> str:
    return f"{operation_title(run.operation)} · {format_local(run.created_at)} · {run.started_by}"


def _as_json(hit: Hit | TableHit) -> dict[str, Any]:
    return {
        "store": hit.store,
        "table": hit.table,
        "column": hit.column,
        "key": hit.key,
        "count": hit.rows,
        "incident": hit.incident.pk if hit.incident else None,
        "written_by": [run.pk for run in _writers(hit)],
    }
