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
from opsconsole.engine.find import Found, Hit, TableHit, find
from opsconsole.engine.find_tables import MAX_COUNT
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Run
from opsconsole.formatting import format_number
from opsconsole.stores.rows import Key, plain_key
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
                    "rows": [*map(_as_json, found.hits), *map(_table_as_json, found.table_hits)],
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
        for hit in found.hits:
            rows.append(_row(hit))
            rows += [(_("written by run"), str(run.pk), _run(run)) for run in _writers(hit)]
        for one in found.table_hits:
            by_column = _("rows by %(column)s") % {"column": one.column}
            rows.append(
                (
                    f"{one.store}: {one.table}",
                    *((str(one.key), "") if one.key is not None else (_count(one.rows), by_column)),
                )
            )
            rows += [(_("written by run"), str(run.pk), _run(run)) for run in _table_writers(one)]
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


def _count(rows: int) -> str:
    return f"{format_number(rows)}+" if rows >= MAX_COUNT else format_number(rows)


def _row(hit: Hit) -> tuple[str, str, str]:
    table = f"{hit.store}: {hit.model._meta.db_table}"
    if hit.key is None:
        return table, _count(hit.rows), _("rows by %(column)s") % {"column": hit.column}
    return table, str(hit.key), incidents.title_of(hit.incident) if hit.incident else ""


def _writers(hit: Hit) -> list[Run]:
    """Return the runs that wrote the row, newest first."""
    return _runs(hit.store, hit.model._meta.db_table, None if hit.key is None else plain_key(hit.key))


def _table_writers(hit: TableHit) -> list[Run]:
    return _runs(hit.store, hit.table, hit.key)


def _runs(store: str, table: str, key: Key | None) -> list[Run]:
    if key is None:
        return []
    return [row.run for row in written_rows.of_row(Store.called(store).identity(), table, key).rows]


def _run(run: Run) -> str:
    return f"{operation_title(run.operation)} · {format_local(run.created_at)} · {run.started_by}"


def _as_json(hit: Hit) -> dict[str, Any]:
    return {
        "store": hit.store,
        "table": hit.model._meta.db_table,
        "column": hit.column,
        "key": hit.key,
        "count": hit.rows,
        "incident": hit.incident.pk if hit.incident else None,
        "written_by": [run.pk for run in _writers(hit)],
    }


def _table_as_json(hit: TableHit) -> dict[str, Any]:
    return {
        "store": hit.store,
        "table": hit.table,
        "column": hit.column,
        "key": hit.key,
        "count": hit.rows,
        "incident": None,
        "written_by": [run.pk for run in _table_writers(hit)],
    }
