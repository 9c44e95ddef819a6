"""The output of a command: text for a terminal or a log, or one JSON object."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from django.utils.translation import gettext as _
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from opsconsole.engine import registry, wording
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.findings import MOVES
from opsconsole.engine.labels import only_deletes, outcome_label, reason_label
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Operation, Priority
from opsconsole.engine.planner import OUTCOMES, Plan, advice
from opsconsole.escaping import for_terminal, in_json
from opsconsole.formatting import duration, format_number
from opsconsole.redaction import hide_secrets, redact

LINE_EVERY_SECONDS = 3.0
SHOWN_SAMPLE = 20
SHOWN_FINDINGS = 200
RULE = 80
MIN_WIDTH = 20  # of a shortened column


class SafeConsole(Console):
    """A console that escapes control and invisible characters, in tables and progress bars too."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(for_terminal(segment.text), segment.style)


class PatientConsole(SafeConsole):
    """A console that survives the end of its reader (`| head`), so that a run continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard_output()


def discard_output() -> None:
    """Redirect standard output to /dev/null after its reader has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Output:
    """Output to standard output. With `as_json` or `bare` only the result goes there."""

    def __init__(self, *, as_json: bool, bare: bool = False, no_color: bool = False) -> None:
        self.as_json = as_json
        self.results: list[Any] | None = None  # of several stores, which are one JSON object
        look: dict[str, Any] = {"highlight": False, "soft_wrap": True, "no_color": no_color or None}
        self.console = PatientConsole(stderr=as_json or bare, **look)
        self.errors = SafeConsole(stderr=True, **look)

    @classmethod
    def of(cls, options: Mapping[str, Any], *, bare: bool = False) -> Self:
        """Return the output that the options `--json` and `--no-color` of a command ask for."""
        output = cls(as_json=options.get("json", False), bare=bare, no_color=options["no_color"])
        output.results = options.get("results")
        return output

    def line(self, text: str = "", *, style: str | None = None) -> None:
        self.console.print(for_terminal(hide_secrets(text)), markup=False, style=style)

    def error(self, text: str) -> None:
        self.errors.print(for_terminal(redact(text)), markup=False)

    def table(
        self,
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[int] = (),
        heading: bool = False,
        red: Container[str] = (),
        shorten: bool = False,
    ) -> None:
        """Print aligned columns, regardless of the terminal's width. Columns in `right` are right-aligned.

        Rows whose first cell is in `red` are red. With `shorten`, the last column ends at the edge of a terminal.
        """
        if not rows:
            return
        rows = [[for_terminal(cell, one_line=True) for cell in row] for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        if shorten and self.console.is_terminal:
            widths[-1] = max(MIN_WIDTH, self.console.width - sum(widths[:-1]) - 2 * (len(widths) - 1))
            rows = [[*row[:-1], _shortened(row[-1], widths[-1])] for row in rows]
        for number, row in enumerate(rows):
            cells = []
            for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
                space = " " * (width - cell_len(cell))
                cells.append(space + cell if place in right else cell + space)
            style = "bold" if heading and not number else "red" if row[0] in red else None
            self.line("  ".join(cells).rstrip(), style=style)

    def json(self, result: Any) -> None:
        """Print the one JSON object on standard output, as ASCII if its encoding is not UTF-8."""
        if self.results is not None:
            self.results.append(result)
            return
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self.bare(in_json(json.dumps(result, ensure_ascii=not unicode, default=str)))

    def bare(self, text: str) -> None:
        """Print the result of a script."""
        try:
            sys.stdout.write(for_terminal(hide_secrets(text)) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()

    # --- an operation --------------------------------------------------------------------------------

    def header(self, operation: Operation, batch_size: int, *, mode: str) -> None:
        self.line("=" * RULE)
        self.line(str(operation.title), style="bold")
        self.line("=" * RULE)
        self.table(
            [
                (_("Database:"), operation.store.location),
                (_("Batch size:"), format_number(batch_size)),
                (_("Mode:"), mode),
            ]
        )
        self.line("=" * RULE)

    def need(self, operation: Operation, planned: Plan) -> None:
        """Print the number of rows in scope, the statistics and the notes of the plan."""
        self.line()
        self.line(_("In scope: %(total)s") % {"total": format_number(planned.total)})
        others = {name: value for name, value in planned.before.items() if name != "in_scope"}
        self.table([(f"{label}:", value) for label, value in _figures(operation, others)], right=(1,))
        for sentence in advice(planned):
            self.line(sentence)
        self.line()

    def plan(self, planned: Plan) -> None:
        """Print what the plan changes, what remains unchanged, what to expect, and what a confirmation needs."""
        words = wording.PlanWording.of_plan(planned)
        needs = wording.confirmation_needs(planned.operation)
        self.line(words.sentence(), style="red" if only_deletes(planned.operation) else None)
        for sentence in (*words.unchanged(), *words.estimates(), *needs):
            self.line(sentence)
        self.line()

    def sample(self, operation: Operation, sample: list[dict[str, Any]], total: int) -> None:
        """Print sampled rows before and after the change. `total` is the number of rows in scope."""
        if self.as_json:
            return
        for entry in sample[:SHOWN_SAMPLE]:
            if entry["outcome"] != "changed":
                what = f"{outcome_label(entry['outcome'])}: {reason_label(operation, entry['reason'])}"
                self._sampled(f"{_name(operation, entry)}: {what}")
                continue
            if not entry["rows"]:
                what = entry["detail"] or reason_label(operation, entry["reason"])
                self._sampled(f"{entry['label']}: {what}".rstrip(": "))
            for row in entry["rows"]:
                self._sampled(f"{_row_name(operation, entry, row)}: {_difference(row)}")
        shown = min(len(sample), SHOWN_SAMPLE)
        if 0 < shown < total:
            self.line(
                _("Shown: %(shown)s of %(total)s rows, the first ones of each outcome.")
                % {"shown": format_number(shown), "total": format_number(total)}
            )
        if sample:
            self.line()

    def _sampled(self, text: str) -> None:
        self.line(f"[DRY-RUN] {for_terminal(text, one_line=True)}")

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """Show a live bar on a terminal, or a line every few seconds in a pipe. Yield its update function."""
        progress = self._bar(total) if self.console.is_terminal else self._lines(total)
        with progress as advance:
            yield advance

    @contextmanager
    def _bar(self, total: int) -> Iterator[Callable[[int], None]]:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as bar:
            pace = Pace()
            job = bar.add_task(_("Progress"), total=max(total, 1), rate="")
            yield lambda done: bar.update(job, completed=done, rate=wording.rate(pace.rate(done)))

    @contextmanager
    def _lines(self, total: int) -> Iterator[Callable[[int], None]]:
        pace = Pace()
        last = time.monotonic()

        def advance(done: int) -> None:
            nonlocal last
            rate = pace.rate(done)
            if time.monotonic() - last < LINE_EVERY_SECONDS:
                return
            last = time.monotonic()
            self.line(
                _("Progress: %(done)s/%(total)s (%(percent).1f%%)  Rate: %(rate)s  Time left: %(left)s")
                % {
                    "done": format_number(done),
                    "total": format_number(total),
                    "percent": 100 * done / total if total else 100.0,
                    "rate": wording.rate(rate),
                    "left": duration((total - done) / rate) if rate else "?",
                }
            )

        yield advance

    def findings(self, check: Check, found: Sequence[FindingData], run: Run | None) -> None:
        """Print the findings of a check and their counts, or the JSON object."""
        if self.as_json:
            moved = {name: run.after[name] for name in MOVES} if run else {}
            self.json(
                {"run": run.pk if run else None, "operation": check.name, "store": check.store.name}
                | {"location": check.store.location, "status": run.status if run else Status.PLANNED.value}
                | moved
                | check.report(found)
            )
            return
        self.line(f"{check.title} · {check.store.location}", style="bold")
        rows = [(one.code, one.subject, str(Priority(one.priority).label), check.sentence(one)) for one in found]
        heading = (_("problem"), _("subject"), _("priority"), _("detail"))
        self.table([heading, *rows[:SHOWN_FINDINGS]] if rows else [], heading=True)
        if len(rows) > SHOWN_FINDINGS:
            more = format_number(len(rows) - SHOWN_FINDINGS)
            self.line(_("… and %(count)s more: --json shows all.") % {"count": more})
        self.line()
        if not found:
            self.line(_("No findings."))
        counts: dict[str, int] = {}
        for one in found:
            counts[one.code] = counts.get(one.code, 0) + 1
        self.table([(code, format_number(count)) for code, count in sorted(counts.items())], right=(1,))
        for sentence in check.notes():
            self.line(sentence)
        if run is not None:
            self.line(_("Run %(run)d:") % {"run": run.pk} + " " + wording.scan_changes(run.after))

    def run(self, run: Run) -> None:
        """Print the current figures of a run."""
        self.result(registry.operations().get(run.operation), result_of(run), selected=bool(run.selection))

    def result(
        self, operation: Operation | type[Operation] | None, result: dict[str, Any], *, selected: bool = False
    ) -> None:
        """Print the figures as a table, or the JSON object."""
        if self.as_json:
            self.json(result)
            return
        rows = [] if result["run"] is None else [(_("Run"), str(result["run"]), "")]
        rows += [(_("Status"), status_label(result["status"]), ""), (_("In scope"), format_number(result["total"]), "")]
        for outcome in OUTCOMES:
            rows.append((outcome_label(outcome, operation), format_number(result[outcome]), ""))
            rows += [
                ("", format_number(one.count), one.words)
                for one in wording.reason_counts(operation, result["reasons"], (outcome,))
                if one.reason
            ]
        rows += [
            (_("Batches"), format_number(result["batches"]), ""),
            (_("Rate"), wording.rate(result["rows_per_second"]), ""),
            (_("Time"), duration(result["elapsed_seconds"]), ""),
        ]
        deleted = {outcome_label("changed", operation)} if only_deletes(operation) and result["changed"] else set()
        self.table(rows, right=(1,), red=deleted)
        made = operation.result_details(result["run"]) if operation is not None and result["run"] is not None else {}
        self.table([(name, str(value)) for name, value in made.items()])
        figures = result["after"]
        compared = wording.figure_rows(operation, result["before"], figures, selected=selected) if figures else []
        if compared:
            self.line()
            self.table([("", _("before"), _("after")), *compared], right=(1, 2), heading=True)
        if operation is not None and result["mode"] == "dry-run":
            figures = result["before"]
        for sentence in operation.result_notes(figures) if operation and figures else ():
            self.line(sentence)


def _shortened(text: str, width: int) -> str:
    """Return the beginning of a text that is wider than `width` cells of a terminal."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


class Pace:
    """Rows per second since the first call. A resumed run has done some rows before."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def rate(self, done: int) -> float:
        if self._first is None:
            self._first, self._started = done, time.monotonic()
            return 0.0
        seconds = time.monotonic() - self._started
        return (done - self._first) / seconds if seconds else 0.0


def line_of(run: Run) -> dict[str, Any]:
    """Return a run as an entry of the JSON list."""
    return {
        "run": run.pk,
        "operation": run.operation,
        "store": run.store,
        "status": run.status,
        "mode": mode_of(run),
        "total": run.total,
        **{outcome: getattr(run, outcome) for outcome in OUTCOMES},
        "started_by": run.started_by,
        "trigger": run.trigger,
        "break_glass": run.break_glass,
        "created_at": run.created_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
    }


def result_of(run: Run) -> dict[str, Any]:
    """Return the JSON object of a run."""
    return line_of(run) | {
        "location": run.location,
        "reasons": run.reasons,
        "batches": run.batches_done,
        "elapsed_seconds": round(run.elapsed_seconds, 3),
        "rows_per_second": round(run.rows_per_second, 1),
        "before": run.before,
        "after": run.after,
        "sample": run.plan.get("sample", []),
        "error": run.error,
        "rejection": run.rejection or run.rejection_code,
        "waiting": waiting_of(run),
        **({"undone_by": undone} if (undone := run.undone_by) else {}),
        **(
            registry.operations()[run.operation].result_details(run.pk)
            if run.operation in registry.operations()
            else {}
        ),
    }


def waiting_of(run: Run) -> dict[str, Any] | None:
    """Return why an unfinished run waits: a code for programs, the time and a sentence. None if it does not wait."""
    if not run.waiting_code or run.ended:
        return None
    return {"code": run.waiting_code, "since": run.waiting_since, "reason": run.waiting}


def mode_of(run: Run) -> str:
    """Return the mode of a run. A plan without a confirmation is a dry run."""
    return "dry-run" if run.status == Status.PLANNED else "execute"


def status_label(status: str) -> str:
    return str(Status(status).label)


def _figures(operation: Operation | type[Operation] | None, figures: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (wording.statistic_label(operation, name), wording.figure_text(operation, value))
        for name, value in figures.items()
    ]


def _name(operation: Operation, entry: dict[str, Any]) -> str:
    """Return the name of a row with the name of its key, if it is called by its key."""
    key = operation.model._meta.pk.column if str(entry["key"]) == entry["label"] else "row"
    return f"{key}={entry['label']}"


def _row_name(operation: Operation, entry: dict[str, Any], row: dict[str, Any]) -> str:
    if (row["table"], row["key"]) == (operation.model._meta.db_table, entry["key"]):
        return _name(operation, entry)
    return f"{row['table']} {row['key']}"


def _difference(row: dict[str, Any]) -> str:
    if row["after"] is None:
        return _("will be deleted")
    after = {name: _value(value) for name, value in row["after"].items()}
    if row["before"] is None:
        return _("will insert %s") % ", ".join(f"{name}={value}" for name, value in after.items())
    before = {name: _value(value) for name, value in row["before"].items()}
    return _("will set %s") % ", ".join(f"{name}: {before[name]} → {value}" for name, value in after.items())


def _value(value: str | None) -> str:
    return "NULL" if value is None else value
