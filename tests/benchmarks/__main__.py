"""Measure the audit backfill against hand-written scripts, and print the figures.

Every figure is the median of `--repeat` rounds with its lowest and highest value. Within a round the contestants take
turns, so that a noisy minute affects all of them. Rates are audits in scope per second. `asked` is the goal of the
project; a missed goal is not an error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console as Terminal
from rich.table import Table

from tests.benchmarks.baselines import one_update, row_by_row
from tests.benchmarks.command import Console, Ran, RunRefused
from tests.benchmarks.neighbour import RATE, Neighbour
from tests.benchmarks.stores import PostgresStores, Size, SqliteStores, Stores, own_server
from tests.support.postgres import NoServer, Server

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("speed", "indexes", "again", "neighbour")
#: Contestant → the flags of the command, or None for a single UPDATE.
CONTESTANTS: dict[str, tuple[str, ...] | None] = {"one UPDATE": None, "defaults": (), "--fast": ("--fast",)}

#: Goals: (engine, rows, contestant) → factor of the rate of a single UPDATE.
ASKED_OF_UPDATE = {
    ("sqlite", 1_000_000, "--fast"): 0.8,
    ("sqlite", 1_000_000, "defaults"): 0.7,
    ("sqlite", 5_000_000, "--fast"): 1.05,
    ("sqlite", 5_000_000, "defaults"): 1.0,
    ("postgresql", 1_000_000, "defaults"): 0.9,
    ("postgresql", 5_000_000, "defaults"): 0.85,
}
ASKED_OF_ROW_BY_ROW = {1_000_000: 8, 5_000_000: 30}
ASKED_P99_MS = {"sqlite": 40, "postgresql": 30}
ASKED_EXPONENT = 1.05
ASKED_PEAK_MB = 200
ASKED_NOTHING_TO_DO = 0.1
FILL_THE_REST = """
    UPDATE task_audits
    SET source_event_ts = COALESCE(source_event_ts, 'x'),
        supervisor_processed_at = COALESCE(supervisor_processed_at, 'x')
    WHERE UPPER(event_type) LIKE '%SUPERVISOR%' AND (source_event_ts IS NULL OR supervisor_processed_at IS NULL)
"""

# A pipe has no width, and the tables are wide.
terminal = Terminal(width=None if sys.stdout.isatty() else 160)


@dataclass
class Report:
    """A report that prints its tables immediately and keeps their rows for `--json`."""

    file: Path | None
    kept: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Print rows of the same keys. A value is a text, or a list with the figures of the rounds."""
        table = Table(box=SIMPLE)
        for name in rows[0]:
            table.add_column(name, justify="left" if name in ("what", "engine") else "right", overflow="fold")
        for row in rows:
            table.add_row(*(_show(value) for value in row.values()))
        terminal.print(f"\n{title}", style="bold")
        terminal.print(table)
        self.kept[title] = rows
        if self.file:
            self.file.write_text(json.dumps(self.kept, indent=1, default=str))


def _show(value: object) -> str:
    """Return a figure as text: the median, with the lowest and highest of several values."""
    match value:
        case None:
            return "–"
        case list() if not value:
            return "–"
        case list() if len(value) == 1:
            return _short(value[0])
        case list():
            return f"{_short(statistics.median(value))} ({_short(min(value))}–{_short(max(value))})"
        case int() | float():
            return _short(value)
        case _:
            return str(value)


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def _asked(asked: float | None, figures: list[float], *, most: bool = False) -> str:
    """Return the goal, and whether the median reaches it."""
    if asked is None:
        return ""
    if not figures:
        return f"{'<' if most else '≥'} {asked:g}"
    median = statistics.median(figures)
    kept = median < asked if most else median >= asked
    return f"{'<' if most else '≥'} {asked:g} {'✓' if kept else '✗'}"


def _say(text: str) -> None:
    terminal.print(f"[dim]{time.strftime('%H:%M:%S')} {text}[/dim]", highlight=False)


@dataclass(frozen=True)
class Turn:
    """The turn of a contestant: seconds without the start-up of the command, and the figures of a command."""

    net: float
    cpu: float | None  # processor seconds without the start-up; noise hardly affects them
    ran: Ran | None = None


class Bench:
    """The measurements of one engine."""

    def __init__(self, stores: Stores, console: Console, report: Report, options: argparse.Namespace) -> None:
        self.stores, self.console, self.report, self.options = stores, console, report, options
        self.rounds = range(options.repeat)
        self.failures: set[str] = set()
        #: Median wall and processor seconds of the command on 10 audits with nothing to do.
        self.start_up, self.start_up_cpu = self._start_up()
        #: (rows, contestant) → net seconds of each round, to measure the growth.
        self.net: dict[tuple[int, str], list[float]] = {}

    def _start_up(self) -> tuple[float, float]:
        try:
            self.console.set_up()
            with self.stores.done() as location:
                runs = [self.console.run(location) for _ in range(5)]
        except RunRefused as error:
            self._failed("start-up", error)
            return 0.0, 0.0
        self._table(
            "start-up (subtracted from raw to give net)",
            [
                {"what": "seconds", "measured": [ran.seconds for ran in runs]},
                {"what": "processor seconds", "measured": [ran.cpu for ran in runs]},
                {"what": "peak memory, MB", "measured": [ran.peak / 1e6 for ran in runs]},
            ],
        )
        return statistics.median(ran.seconds for ran in runs), statistics.median(ran.cpu for ran in runs)

    def _failed(self, what: str, error: Exception) -> None:
        text = f"{what}: the command did not run: {error}"
        if text not in self.failures:
            terminal.print(f"[red]{self.stores.engine} {text}[/red]", highlight=False, soft_wrap=True)
        self.failures.add(text)

    def _table(self, title: str, rows: list[dict[str, Any]]) -> None:
        self.report.table(f"{self.stores.engine}: {title}", rows)

    def _run(self, what: str, *arguments: Any, **keywords: Any) -> Ran | None:
        """Run the command. Print the reason and return None if it fails."""
        try:
            return self.console.run(*arguments, **keywords)
        except RunRefused as error:
            self._failed(what, error)
            return None

    def _contest(self, size: Size, *, written_indexes: bool = True) -> dict[str, list[Turn]]:
        """Return the turns of each contestant, without the turns whose command failed."""
        turns: dict[str, list[Turn]] = {name: [] for name in CONTESTANTS}
        for turn in self.rounds:
            for name, flags in CONTESTANTS.items():
                with self.stores.copy(size.rows, written_indexes=written_indexes) as location:
                    _say(f"{self.stores.engine} {size.rows:,}: round {turn + 1}, {name}")
                    if flags is None:
                        turns[name].append(Turn(*one_update(location)))
                    elif ran := self._run(name, location, *flags):
                        net = max(ran.seconds - self.start_up, 1e-9)
                        turns[name].append(Turn(net, ran.cpu - self.start_up_cpu, ran))
        return turns

    def speed(self, size: Size) -> None:
        """Measure rates, ratios and memory at one size."""
        with self.stores.copy(size.rows) as location:
            _say(f"{self.stores.engine} {size.rows:,}: row by row, at most {self.options.row_seconds} s")
            rescan = row_by_row(location, size.in_scope, self.options.row_seconds)
        contest = self._contest(size)
        rows = []
        for name, turns in contest.items():
            command = CONTESTANTS[name] is not None
            of_rescan = [rescan.seconds / turn.net for turn in turns]
            peak = [turn.ran.peak / 1e6 for turn in turns if turn.ran]
            rows.append(
                self._contest_row(size, name, contest)
                | {
                    "× row by row": of_rescan,
                    "asked of rows": _asked(ASKED_OF_ROW_BY_ROW.get(size.rows) if command else None, of_rescan),
                    "peak MB": peak,
                    "asked of MB": _asked(ASKED_PEAK_MB if command else None, peak, most=True),
                    "private MB": [turn.ran.peak_private / 1e6 for turn in turns if turn.ran],
                }
            )
            self.net[size.rows, name] = [turn.net for turn in turns]
        by_row: dict[str, Any] = dict.fromkeys(rows[0])
        by_row |= {"what": "row by row", "net s": [rescan.seconds], "rows/s": [rescan.rows / rescan.seconds]}
        if rescan.projected:
            by_row["what"] += " *"
        self._table(f"{size.rows:,} audits, {size.in_scope:,} in scope", [by_row, *rows])
        if rescan.projected:
            _say(f"* projected: it reached {rescan.reached:,} in {rescan.measured_seconds:,.0f} s")

    def indexes(self, size: Size) -> None:
        """Measure the speed without the indexes on the written columns."""
        contest = self._contest(size, written_indexes=False)
        rows = [self._contest_row(size, name, contest) | {"asked": ""} for name in CONTESTANTS]
        self._table(f"{size.rows:,} audits without the indexes on the written columns", rows)

    def _contest_row(self, size: Size, name: str, contest: dict[str, list[Turn]]) -> dict[str, Any]:
        turns, update = contest[name], contest["one UPDATE"]
        # Both ran in the same round, so noise affects their ratio less than the ratio of the medians.
        of_update = [one.net / own.net for one, own in zip(update, turns, strict=False) if own.ran]
        return {
            "what": name,
            "raw s": [turn.ran.seconds for turn in turns if turn.ran],
            "net s": [turn.net for turn in turns],
            "processor s": [turn.cpu for turn in turns if turn.cpu is not None],
            "rows/s": [size.in_scope / turn.net for turn in turns],
            "× UPDATE": of_update,
            "asked": _asked(ASKED_OF_UPDATE.get((self.stores.engine, size.rows, name)), of_update),
        }

    def growth(self) -> None:
        """Measure the growth of seconds with rows: the slope of the line through (log rows, log seconds)."""
        sizes = sorted({rows for rows, _ in self.net})
        if len(sizes) < 2:
            return
        rows = []
        for name in CONTESTANTS:
            points = [(n, statistics.median(self.net[n, name])) for n in sizes if self.net[n, name]]
            if len(points) < 2:
                continue
            logs = [(math.log(n), math.log(seconds)) for n, seconds in points]
            slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
            asked = None if CONTESTANTS[name] is None else ASKED_EXPONENT
            rows.append(
                {
                    "what": name,
                    "slope": slope,
                    "first to last": (logs[-1][1] - logs[0][1]) / (logs[-1][0] - logs[0][0]),
                    "asked": _asked(asked, [slope], most=True),
                }
            )
        self._table(f"growth exponent, {sizes[0]:,} to {sizes[-1]:,} audits (net)", rows)

    def again(self, size: Size) -> None:
        """Compare a dry run and later runs with the first run.

        The second run reads the audits that cannot be filled. The scope of the third one is empty.
        """
        acts: dict[str, dict[str, Any]] = {
            "dry run": {"flags": ("--dry-run",)},
            "first run": {"flags": ()},
            "second run, nothing to fill": {"flags": (), "fresh": False},
            "third run, nothing to do": {"flags": (), "fresh": False, "before": FILL_THE_REST},
        }
        seconds: dict[str, list[float]] = {name: [] for name in acts}
        for turn in self.rounds:
            with self.stores.copy(size.rows) as location:
                for name, act in acts.items():
                    _say(f"{self.stores.engine} {size.rows:,}: round {turn + 1}, {name}")
                    if "before" in act:
                        self.stores.execute(location, act["before"])
                    ran = self._run(name, location, *act["flags"], fresh=act.get("fresh", True))
                    if ran is None:
                        return
                    seconds[name].append(ran.seconds)
        first = seconds["first run"]
        rows = []
        for name, took in seconds.items():
            net = [max(own - self.start_up, 0) / (one - self.start_up) for own, one in zip(took, first, strict=True)]
            asked = ASKED_NOTHING_TO_DO if name.startswith("third") else None
            rows.append(
                {
                    "what": name,
                    "raw s": took,
                    "× first, raw": [own / one for own, one in zip(took, first, strict=True)],
                    "× first, net": net,
                    "asked": _asked(asked, net, most=True),
                }
            )
        self._table(f"{size.rows:,} audits: again, and dry", rows)

    def neighbour(self, size: Size) -> None:
        """Measure the effect on a process that inserts 200 audits per second."""

        def alone(_: object) -> tuple[float, float]:
            start = time.monotonic()
            time.sleep(10)
            return start, time.monotonic()

        def update(location: Any) -> tuple[float, float]:
            start = time.monotonic()
            one_update(location)
            return start, time.monotonic()

        def command(name: str, flags: tuple[str, ...]) -> Callable[[Any], tuple[float, float] | None]:
            def run(location: Any) -> tuple[float, float] | None:
                ran = self._run(name, location, *flags)
                # Without the start-up, in which the command is idle and the percentiles are too good.
                return (ran.started + self.start_up, ran.ended) if ran else None

            return run

        behind: dict[str, Callable[[Any], tuple[float, float] | None]] = {"alone": alone} | {
            name: update if flags is None else command(name, flags) for name, flags in CONTESTANTS.items()
        }
        rows = []
        for name, act in behind.items():
            seen, lengths = [], []
            for turn in self.rounds:
                with self.stores.copy(size.rows) as location:
                    _say(f"{self.stores.engine} {size.rows:,}: round {turn + 1}, neighbour, {name}")
                    with Neighbour(location) as neighbour:
                        span = act(location)
                    if span:
                        seen.append(neighbour.latency(*span))
                        lengths.append(span[1] - span[0])
            p99 = [latency.p99 for latency in seen]
            rows.append(
                {
                    "what": name,
                    "p50 ms": [latency.p50 for latency in seen],
                    "p99 ms": p99,
                    "asked": _asked(ASKED_P99_MS[self.stores.engine] if name == "defaults" else None, p99, most=True),
                    "worst ms": [latency.worst for latency in seen],
                    "p99 with queue, ms": [latency.queued_p99 for latency in seen],
                    "inserts": [latency.inserts for latency in seen],
                    "failed": [latency.failed for latency in seen],
                    "rows/s of the run": [size.in_scope / length for length in lengths] if name != "alone" else None,
                }
            )
        self._table(f"{size.rows:,} audits: a neighbour that inserts {RATE} audits/s", rows)

    def everything(self, sizes: list[int]) -> None:
        """Run all requested parts. A part that needs one size uses 1,000,000 rows, or the largest size below."""
        middle = max((rows for rows in sizes if rows <= 1_000_000), default=min(sizes))
        for rows in sizes:
            _say(f"{self.stores.engine} {rows:,}: making the store, unless it is there")
            size = self.stores.base(rows)
            parts = self.options.parts if rows == middle else [part for part in self.options.parts if part == "speed"]
            for part in parts:
                getattr(self, part)(size)
        self.growth()


def _machine(report: Report, when: str, folder: Path) -> None:
    """Measure the speed and steadiness of the machine: a fixed loop, and 4 kB written to the disk with fsync."""
    loops, syncs = [], []
    for _ in range(7):
        start = time.perf_counter()
        sum(number * number for number in range(2_000_000))
        loops.append((time.perf_counter() - start) * 1000)
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            syncs.append((time.perf_counter() - start) * 1000)
    report.table(
        f"this machine {when}: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        [
            {"what": "2,000,000 turns of a Python loop, ms", "measured": loops},
            {"what": "4 kB and fsync, ms", "measured": syncs},
        ],
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="?", choices=PARTS, help="this part alone")
    parser.add_argument("--rows", default="100000,1000000,5000000", help="audits per store, with commas")
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="100,000 audits only")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; 3")
    parser.add_argument("--row-seconds", type=float, default=60, help="how long the row-by-row script may take; 60")
    parser.add_argument("--cache", type=Path, help="folder that keeps the stores (16 GB); else temporary")
    parser.add_argument("--postgres", metavar="URL", help="a superuser's; else a server is started in the cache folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    options.rows = [100_000] if options.quick else sorted(int(rows) for rows in options.rows.split(","))
    options.parts = [options.only] if options.only else options.parts.split(",")
    return options


def _stores(engine: str, cache: Path, url: str | None, stack: ExitStack) -> Stores | None:
    """Yield the stores of the engine; None, after printing the reason, if no server can be started."""
    if engine == "sqlite":
        return SqliteStores(cache)
    try:
        return PostgresStores(cache, stack.enter_context(nullcontext(Server(url)) if url else own_server(cache)))
    except NoServer as error:
        terminal.print(f"[red]postgresql: {error.reason}[/red]")
        return None


def main() -> None:
    """Run the measurements that the options name."""
    options = _options()
    report = Report(options.json)
    with ExitStack() as stack:
        cache = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsconsole-bench-")))
        cache.mkdir(parents=True, exist_ok=True)
        _machine(report, "before", cache)
        for engine in options.engines.split(","):
            with ExitStack() as ours, Console() as console:
                if stores := _stores(engine, cache, options.postgres, ours):
                    Bench(stores, console, report, options).everything(options.rows)
        _machine(report, "after", cache)


if __name__ == "__main__":
    main()
