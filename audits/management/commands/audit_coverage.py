"""The command `audit_coverage`: print the coverage, lag and consistency of the decision times."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from rich.table import Table

from audits.coverage import LAG_COUNT_LABELS, LAG_LABELS, VERDICTS, Figures, coverage, sample_note
from opsconsole.cli.command import ConsoleCommand
from opsconsole.cli.flags import add_json_flag, add_store_flags, chosen_store
from opsconsole.cli.output import Output
from opsconsole.engine import registry
from opsconsole.engine.planner import operation_on
from opsconsole.formatting import format_number

PIPE_WIDTH = 120


class Command(ConsoleCommand):
    help = gettext_noop(
        "Show the coverage of source_event_ts and supervisor_processed_at in supervisor audits, and their lag."
    )
    examples = ("audit_coverage", "audit_coverage --db-path /path/to/store.db --json")

    def add_arguments(self, parser: CommandParser) -> None:
        add_store_flags(parser)
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        backfill = registry.operation("audits.backfill_decision_fields")
        store = chosen_store(backfill, {}, options, read_only=True)
        operation_on(backfill, store, {})
        figures = coverage(store)
        if options["json"]:
            Output(as_json=True).json(figures)
        else:
            show(figures, Output(as_json=False))


def show(figures: Figures, output: Output) -> None:
    """Print the figures as tables."""
    if not output.console.is_terminal:
        output.console.width = PIPE_WIDTH
    output.line(figures["location"])
    columns = tuple(figures["columns"])
    table = _table(_("Event type"), _("Audits"), *columns)
    for row in (*figures["event_types"], {**figures, "event_type": _("All supervisor audits")}):
        table.add_row(row["event_type"], format_number(row["total"]), *(_share(row["columns"][c]) for c in columns))
    output.console.print(table)
    output.line()

    lag = figures["lag"]
    table = _table(_("Lag"), _("Seconds"))
    for name, label in LAG_LABELS.items():
        table.add_row(str(label), "–" if lag[name] is None else f"{lag[name]:,.3f}")
    for name, label in LAG_COUNT_LABELS.items():
        table.add_row(str(label), format_number(lag[name]))
    output.console.print(table)
    output.line()

    consistency = figures["consistency"]
    table = _table(_("Filled value and payload"), *map(str, VERDICTS.values()))
    for column, counts in consistency["columns"].items():
        table.add_row(column, *(format_number(count) for count in counts.values()))
    output.console.print(table)
    output.line()
    output.line(sample_note(consistency))


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _share(share: Figures) -> str:
    if share["percent"] is None:
        return "–"
    return f"{format_number(share['filled'])} ({share['percent']:.2f} %)"
