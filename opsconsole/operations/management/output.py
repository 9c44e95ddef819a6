"""What a command prints: for people on a terminal, for a log, or one JSON object."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext as _
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from opsconsole.operations import registry
from opsconsole.operations.base import Operation
from opsconsole.operations.models import Run
from opsconsole.operations.planning import OUTCOMES, Plan, advice
from opsconsole.operations.words import outcome_label, reason_label

LINE_EVERY_SECONDS = 3.0
SHOWN_SAMPLE = 20


class Output:
    """Prints to standard output; with `as_json` everything but the result goes to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def line(self, text: str = "") -> None:
        self.console.print(text, markup=False)

    def error(self, text: str) -> None:
        self.errors.print(text, markup=False)

    def header(self, operation: Operation, batch_size: int, *, mode: str) -> None:
        self.console.rule(str(operation.title), align="left", characters="=")
        grid = Table.grid(padding=(0, 2))
        grid.add_row(_("Database path:"), operation.at.location)
        grid.add_row(_("Batch size:"), figure(batch_size))
        grid.add_row(_("Mode:"), mode)
        self.console.print(grid)
        self.console.rule(characters="=")

    def need(self, operation: Operation, planned: Plan) -> None:
        self.line(_("Rows in scope: %(total)s") % {"total": figure(planned.total)})
        self.line()

    def advice(self, planned: Plan) -> None:
        for sentence in advice(planned):
            self.line(sentence)

    def sample(self, operation: Operation, sample: list[dict[str, Any]]) -> None:
        """Some of the rows, as they are and as they would be."""
        if self.as_json:
            return
        for entry in sample[:SHOWN_SAMPLE]:
            if entry["outcome"] != "changed":
                what = f"{outcome_label(entry['outcome'])}: {reason_label(operation, entry['reason'])}"
                self.line(f"[DRY-RUN] {operation.key_name}={entry['unit']}: {what}")
                continue
            for row in entry["rows"]:
                self.line(f"[DRY-RUN] {_row_name(operation, entry, row)}: {_difference(row)}")
        if len(sample) > SHOWN_SAMPLE:
            self.line(_("… and more: --json shows about fifty."))
        self.line()

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A live bar on a terminal, a line every few seconds in a pipe. Yields: call it with what is done."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console) as bar:
                started = time.monotonic()
                job = bar.add_task(_("Progress"), total=max(total, 1), rate="")

                def advance(done: int) -> None:
                    seconds = time.monotonic() - started
                    bar.update(job, completed=done, rate=_rate(done, seconds))

                yield advance
                bar.update(job, completed=max(total, 1))
            return
        started = last = time.monotonic()
        first: int | None = None

        def say(done: int) -> None:
            nonlocal last, first
            now = time.monotonic()
            first = done if first is None else first
            if now - last < LINE_EVERY_SECONDS:
                return
            last = now
            seconds = now - started
            speed = (done - first) / seconds
            left = (total - done) / speed / 60 if speed > 0 else 0.0
            self.line(
                _("Progress: %(done)s/%(total)s (%(percent).1f%%)  Rate: %(rate)s  Time left: %(left).1f min")
                % {
                    "done": figure(done),
                    "total": figure(total),
                    "percent": 100 * done / total if total else 100.0,
                    "rate": _rate(done - first, seconds),
                    "left": left,
                }
            )

        yield say

    def run(self, run: Run, *, as_result: bool = False) -> None:
        """A run as it stands now."""
        operation = registry.operations().get(run.operation)
        self.result(operation, result_of(run))

    def result(self, operation: Operation | type[Operation] | None, result: dict[str, Any]) -> None:
        """The figures at the end: a table, or the JSON object."""
        if self.as_json:
            json.dump(result, sys.stdout, ensure_ascii=False, default=str)
            sys.stdout.write("\n")
            sys.stdout.flush()
            return
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(justify="right")
        if result["run"] is not None:
            table.add_row(_("Run"), str(result["run"]))
        table.add_row(_("Status"), str(status_label(result["status"])))
        table.add_row(_("In scope"), figure(result["total"]))
        for outcome in OUTCOMES:
            table.add_row(outcome_label(outcome), figure(result[outcome]))
            for reason, count in sorted(result["reasons"].get(outcome, {}).items()):
                if reason and count:
                    table.add_row(f"  {reason_label(operation, reason)}", figure(count))
        figures = result["after"] or result["before"]
        for name, value in figures.items():
            label = str(operation.figure_labels.get(name, name)) if operation else name
            table.add_row(label, figure(value) if isinstance(value, int) else str(value))
        table.add_row(_("Batches"), figure(result["batches"]))
        table.add_row(_("Rate"), _rate_text(result["rows_per_second"]))
        table.add_row(_("Seconds"), f"{result['elapsed_seconds']:.1f}")
        self.console.print(table)
        if operation is not None:
            for sentence in operation.summary(figures):
                self.line(sentence)


def result_of(run: Run) -> dict[str, Any]:
    """The JSON object of a run."""
    return {
        "run": run.pk,
        "operation": run.operation,
        "store": run.store,
        "location": run.location,
        "mode": "execute",
        "status": run.status,
        "total": run.total,
        **{outcome: getattr(run, outcome) for outcome in OUTCOMES},
        "reasons": run.reasons,
        "batches": run.batches_done,
        "elapsed_seconds": round(run.elapsed_seconds, 3),
        "rows_per_second": round(run.rows_per_second, 1),
        "before": run.before,
        "after": run.after,
        "sample": run.plan.get("sample", []),
        "error": run.error,
        "waiting": run.waiting,
    }


def status_label(status: str) -> str:
    from opsconsole.operations.models import Status

    return str(Status(status).label)


def figure(number: int) -> str:
    return str(number_format(number, force_grouping=True))


def _rate(done: int, seconds: float) -> str:
    return _rate_text(done / seconds if seconds else 0.0)


def _rate_text(rate: float) -> str:
    return _("%(rate)s rows/s") % {"rate": figure(round(rate))}


def _row_name(operation: Operation, entry: dict[str, Any], row: dict[str, Any]) -> str:
    if row["key"] == entry["key"]:
        return f"{operation.key_name}={entry['unit']}"
    return f"{row['table']} {row['key']}"


def _difference(row: dict[str, Any]) -> str:
    if row["after"] is None:
        return _("will be deleted")
    values = ", ".join(f"{name}={value}" for name, value in row["after"].items())
    return (_("will insert %s") if row["before"] is None else _("will set %s")) % values
