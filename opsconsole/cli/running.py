"""Plan and run an operation or a check from the shell."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _

from opsconsole.cli.command import (
    EXIT_ATTENTION,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    ConsoleCommand,
    Refused,
    require_setup,
    shell_actor,
)
from opsconsole.cli.flags import (
    add_check_flags,
    add_common_flags,
    add_parameter_flags,
    chosen_store,
    known_keys,
    parameters_of,
    reading,
)
from opsconsole.cli.output import Output
from opsconsole.engine import (
    checklist,
    executor,
    findings,
    lifecycle,
    planner,
    queue,
    registry,
    series,
    shard_executor,
    stored_plans,
    wording,
    workers,
)
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.leases import LostOwnership
from opsconsole.engine.models import RESUMABLE, Run, Status, Trigger
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, FAST_BATCH_SIZE, Operation, Risk
from opsconsole.engine.planner import Plan, PlanRefused
from opsconsole.engine.requirements import readable_columns, required_columns
from opsconsole.engine.selection import Selection
from opsconsole.formatting import format_number
from opsconsole.stores.errors import first_line
from opsconsole.stores.preflight import require_privileges
from opsconsole.stores.router import aliases_of
from opsconsole.stores.store import StoreUnavailable

SHOWN_ERRORS = 20


class OperationCommand(ConsoleCommand):
    """The command of one operation. Its arguments come from the declaration of the operation."""

    operation: ClassVar[str]
    executes_by_default: ClassVar[bool] = False
    asks: ClassVar[bool] = True  # for confirmation; an operation that only fills columns asks in production alone
    positional: ClassVar[tuple[str, ...]] = ()  # parameters without a flag, in this order
    optional: ClassVar[tuple[str, ...]] = ()  # those of them that the command can derive

    def add_arguments(self, parser: CommandParser) -> None:
        cls = registry.operation(self.operation)
        parser.description = parser.description or str(cls.description)
        add_parameter_flags(cls, parser, positional=self.positional, optional=self.optional)
        if issubclass(cls, Check):
            add_check_flags(parser)
        else:
            add_common_flags(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        cls = registry.operation(self.operation)
        values = parameters_of(cls, options)
        if issubclass(cls, Check):
            run_check(cls, values, options, keep=not options["dry_run"])
            return
        execute = options["execute"] or (self.executes_by_default and not options["dry_run"])
        run_operation(cls, values, options, execute=execute, asks=self.asks)


def run_check(cls: type[Check], values: Mapping[str, Any], options: dict[str, Any], *, keep: bool) -> None:
    """Run the rules of a check and print the findings. With `keep` this is a run that saves them.

    With `options["keys"]` only these subjects are checked. This is not a scan of the store, so nothing is saved.
    """
    params = registry.clean(cls, values)
    actor = None
    if options["user"] is not None:  # a named account is authenticated even if nothing is saved
        require_setup()
        actor = shell_actor(options["user"], "operations.view_run")
    output = Output.of(options, bare=options["background"])
    store = chosen_store(cls, params, options, read_only=True)
    try:
        with reading(store):
            operation = planner.operation_on(cls, store, params)
            planned = planner.plan(operation)
            if options.get("keys"):
                operation.chosen = known_keys(operation, options["keys"])
        if keep and operation.chosen is None:
            require_setup()
            operation, found, run = _scan(planned, options, output, actor)
        else:
            with reading(store):
                found, run = [one for item in operation.item_names() for one in operation.run_rule(item)], None
    except KeyboardInterrupt:
        raise CommandError(_("Stopped. Nothing was written."), returncode=EXIT_INTERRUPTED) from None
    finally:
        store.close()
    output.findings(operation, found, run)
    if run is not None and run.status == Status.NEEDS_ATTENTION:
        sys.exit(EXIT_ATTENTION)
    if found and options["exit_code"]:
        sys.exit(EXIT_ATTENTION)


def _scan(
    planned: Plan, options: dict[str, Any], output: Output, actor: Actor | None
) -> tuple[Check, list[FindingData], Run]:
    """Run the check in this process or in the background. An interrupted run of it is resumed.

    Return the check that has asked the store, its findings and the run.
    """
    actor = actor or shell_actor(None, "operations.view_run")
    run = stored_plans.same_command(planned.operation, planned.selection)
    if run is not None and run.status != Status.QUEUED:
        run = workers.claim(run)
    elif run is None:
        run = lifecycle.create_run(planned, actor, note=options["note"])
        if options["background"]:
            queue.confirm(run, actor)
        else:
            lifecycle.confirm(run, actor, background=False)
    if run.status == Status.QUEUED:
        _leave_to_background(run, output)
        sys.exit()
    worker = executor.Executor(run)
    try:
        with stop_signals() as stopped, output.progress(run.total) as advance:
            run = worker.work(until=stopped, on_progress=lambda r: advance(r.seen))
    except (DatabaseError, InterfaceError) as error:
        raise worker.store.unusable(error) from error
    finally:
        worker.store.close()
    if run.status not in {Status.SUCCEEDED, Status.NEEDS_ATTENTION}:
        raise CommandError(run.error or _("Stopped."), returncode=EXIT_INTERRUPTED)
    for row in run.failed_items.order_by("pk"):
        output.error(f"{row.label}: {row.error}")
    return cast(Check, worker.operation), list(findings.of_run(run)), run


def run_operation(
    cls: type[Operation],
    values: Mapping[str, Any],
    options: dict[str, Any],
    *,
    execute: bool,
    asks: bool = True,
) -> None:
    """Plan `cls` and, with `execute`, run it. Raise SystemExit unless the run succeeds.

    With `options["keys"]` only these rows are selected, else everything in scope.
    """
    if not options.get("all_stores"):
        _run_on_store(cls, values, options, execute, asks)
        return
    platform = getattr(cls, "store_alias", "")
    if not platform or registry.targets_run(cls):
        raise Refused(
            _("%(operation)s does not work on all stores of a platform. Omit --all-stores.") % {"operation": cls.name}
        )
    if options.get("keys"):
        raise Refused(_("Keys name rows of one store. Use --database instead of --all-stores."))
    _run_on_stores(cls, values, options, execute, asks, aliases_of(platform))


def _run_on_stores(
    cls: type[Operation],
    values: Mapping[str, Any],
    options: dict[str, Any],
    execute: bool,
    asks: bool,
    aliases: Sequence[str],
) -> None:
    """Run on one store after another. A store that cannot be planned is left out. Another failure stops the series."""
    output, results = Output.of(options), list[Any]()
    runs: list[Run] = []
    reasons: dict[str, str] = {}
    is_waiting = False
    try:
        for place, alias in enumerate(aliases, 1):
            of_store = {**options, "database": alias, "results": results, "series": runs}
            before = len(runs)
            try:
                _run_on_store(cls, values, of_store, execute, asks)
            except (StoreUnavailable, PlanRefused) as error:
                reasons[alias] = str(error)
                results.append({"store": alias, "status": "not_planned", "error": str(error)})
                output.error(_("%(store)s: not planned. %(reason)s") % {"store": alias, "reason": error})
            except (SystemExit, CommandError, RunRefused):
                if len(runs) > before and runs[-1].status == Status.AWAITING_APPROVAL:
                    is_waiting = True
                    continue
                if results or runs:
                    results += [{"store": other, "status": "not_started"} for other in aliases[place:]]
                    _name_the_others(alias, aliases[place:], output)
                raise
    finally:
        if runs and reasons:
            series.leave_out(runs, reasons, Actor(runs[0].started_by, socket.gethostname(), Trigger.SHELL))
        if options["json"] and results:
            Output.of(options).json({"stores": results})
    if reasons:
        sys.exit(EXIT_REFUSED)
    if is_waiting:
        sys.exit(EXIT_ATTENTION)


def _name_the_others(alias: str, others: Sequence[str], output: Output) -> None:
    if others:
        output.error(
            _("Not started: %(stores)s. Resolve the problem of %(store)s, then repeat the command.")
            % {"stores": ", ".join(others), "store": alias}
        )


def _run_on_store(
    cls: type[Operation], values: Mapping[str, Any], options: dict[str, Any], execute: bool, asks: bool
) -> None:
    if options["batch_size"] and cls.batch_size:
        raise Refused(
            _("%(operation)s has a fixed batch size of %(size)d rows. Omit --batch-size.")
            % {"operation": cls.name, "size": cls.batch_size}
        )
    _require_confirmable(cls, options["confirm"])
    params = registry.clean(cls, values)
    if execute or registry.targets_run(cls) or options["user"]:
        require_setup()
    actor = shell_actor(options["user"]) if execute or options["user"] else None
    output = Output.of(options, bare=options["background"] and execute)
    store = chosen_store(cls, params, options, read_only=not (execute and cls.writes_store))
    try:
        operation = planner.operation_on(cls, store, params)
        with reading(store):
            operation.store.require(required_columns(operation))
            selection = Selection(known_keys(operation, options["keys"])) if options.get("keys") else Selection()
        usual = FAST_BATCH_SIZE if options["fast"] else DEFAULT_BATCH_SIZE
        size = operation.batch_size or options["batch_size"] or usual
        if execute and actor is not None:
            _execute(operation, selection, size, actor, options, output, asks)
        else:
            _dry_run(operation, selection, size, output)
    except KeyboardInterrupt:
        raise CommandError(_("Stopped. Nothing was written."), returncode=EXIT_INTERRUPTED) from None
    finally:
        store.close()


def _require_confirmable(cls: type[Operation], names: Sequence[str]) -> None:
    """Refuse names that --confirm does not know."""
    known = [*checklist.ITEMS, cls.name]
    if unknown := [name for name in names if name not in known]:
        raise Refused(
            _("--confirm does not accept %(unknown)s. Choose from: %(names)s.")
            % {"unknown": ", ".join(map(repr, unknown)), "names": ", ".join(known)}
        )


def _dry_run(operation: Operation, selection: Selection, size: int, output: Output) -> None:
    with reading(operation.store):
        planned = planner.plan(operation, selection)
        output.header(operation, size, mode=_("DRY-RUN (preview)"))
        output.need(operation, planned)
        with output.progress(planned.total) as advance:
            planner.count_outcomes(planned, batch_size=size, on_progress=lambda p: advance(sum(p.counts().values())))
    for line in checklist.lines(planned) if planned.total else ():
        output.table([(f"{line.title}:" if not place else "", fact) for place, fact in enumerate(line.facts)])
    output.sample(operation, planned.sample, planned.total)
    output.plan(planned)
    seen = sum(planned.counts().values())
    result = {
        "run": None,
        "operation": operation.name,
        "store": operation.store.name,
        "location": operation.store.location,
        "mode": "dry-run",
        "status": Status.PLANNED.value,
        "total": planned.total,
        **planned.counts(),
        "reasons": planned.reasons,
        "batches": planned.batches,
        "elapsed_seconds": round(planned.seconds, 3),
        "rows_per_second": round(seen / planned.seconds, 1) if planned.seconds else 0.0,
        "before": planned.before,
        "after": {},
        "sample": planned.sample,
        "digest": planned.digest(),
        "waiting": None,
    }
    output.result(operation, result)


def _execute(
    operation: Operation,
    selection: Selection,
    size: int,
    actor: Actor,
    options: dict[str, Any],
    output: Output,
    asks: bool,
) -> None:
    if operation.writes_store:
        with reading(operation.store):
            operation.store.require_writable()
            require_privileges(operation.store, readable_columns(operation), operation.targets())
    run = stored_plans.same_command(operation, selection)
    if run is not None:
        run = _take_over(run, size, actor, options, output)
    else:
        with reading(operation.store):
            planned = planner.plan(operation, selection)
            if planner.pins_rows(operation):
                planner.count_outcomes(planned)
        output.header(operation, size, mode=_("EXECUTE"))
        output.need(operation, planned)
        checked = _check_off(operation, planned, options, output)
        _ask(operation, planned, options, output, asks)
        run = lifecycle.create_run(
            planned,
            actor,
            note=options["note"],
            batch_size=size,
            fast=options["fast"],
            shard_count=options.get("shards"),
        )
        if (runs := options.get("series")) is not None:
            series.add(run, runs[-1] if runs else None)
            runs.append(run)
        try:
            if options["background"]:
                queue.confirm(run, actor, checked)
            else:
                lifecycle.confirm(run, actor, background=False, checked=checked)
        except RunRefused:
            lifecycle.cancel(run, actor)
            raise
    if run.status in {Status.QUEUED, Status.AWAITING_APPROVAL}:
        _leave_to_background(run, output)
    else:
        _work(run, output)


def _take_over(run: Run, size: int, actor: Actor, options: dict[str, Any], output: Output) -> Run:
    """Resume the unfinished run of the same command. Refuse if another process works on it."""
    if run.status == Status.AWAITING_APPROVAL:
        return run
    if run.status == Status.QUEUED:
        raise Refused(
            _("Run %(run)d of this command is queued. Wait for it, or cancel it with `runs cancel %(run)d`.")
            % {"run": run.pk}
        )
    if options["background"]:
        queue.resume(run, actor)
        return run
    run = workers.claim(run)
    run.batch_size, run.fast, run.in_background = size, options["fast"], False
    run.save(update_fields=("batch_size", "fast", "in_background"))
    output.line(
        _("Resuming run %(run)d: %(seen)s of %(total)s rows are done.")
        % {"run": run.pk, "seen": format_number(run.seen), "total": format_number(run.total)}
    )
    return run


def _check_off(operation: Operation, planned: Plan, options: dict[str, Any], output: Output) -> list[str]:
    """Print the checklist of an operation that deletes, and return the confirmed items.

    --confirm names them. A terminal is asked for the others. No other flag skips the checklist.
    """
    lines = checklist.lines(planned) if planned.total else []
    for line in lines:
        output.line(f"{line.title} [{line.code}]", style="bold")
        for fact in line.facts:
            output.line(f"  {fact}")
    if not lines:
        return []
    if blocking_reason := checklist.blocking_reason(operation):
        raise Refused(blocking_reason)
    checked = [code for code in options["confirm"] if code in checklist.ITEMS]
    unchecked = checklist.missing(operation, checked)
    if unchecked and not sys.stdin.isatty():
        raise Refused(_("The checklist is not confirmed. Pass --confirm %(items)s.") % {"items": " ".join(unchecked)})
    for line in lines:
        if line.code in unchecked:
            output.console.print(f"{line.title}: {line.question}? [y/N] ", markup=False, end="")
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                raise Refused(_("Not confirmed. Nothing was written."))
            checked.append(line.code)
    return checked


def _ask(operation: Operation, planned: Plan, options: dict[str, Any], output: Output, asks: bool) -> None:
    """Ask for the confirmation that the risk requires, unless --yes or --confirm gives it.

    --yes is not enough if the plan itself requires typing, such as that of a statement for all rows.
    """
    typing = lifecycle.needs_typing(operation)
    asks = asks and operation.effective_risk() not in {Risk.READ, Risk.REPRODUCE, Risk.FILL}
    if (
        (options["yes"] and not operation.requires_typing)
        or operation.name in options["confirm"]
        or not planned.total
        or not (typing or asks or settings.PRODUCTION)
    ):
        return
    if not sys.stdin.isatty():
        if operation.requires_typing:
            raise Refused(_("This plan is confirmed by its name. Pass --confirm %(name)s.") % {"name": operation.name})
        raise Refused(_("This command asks for confirmation. Pass --yes to run it non-interactively."))
    wanted = operation.name if typing else "yes"
    output.line(f"{wording.PlanWording.of_plan(planned).action} · {operation.store.location}")
    if lifecycle.needs_approval(operation):
        output.line(wording.approval_follows())
    output.console.print(f"{wording.type_to_confirm(wanted)} ", markup=False, end="")
    answer = sys.stdin.readline()
    if answer.strip() != wanted:
        raise Refused(_("Not confirmed. Nothing was written."))


def _leave_to_background(run: Run, output: Output) -> None:
    """Print only the run's id on standard output, so that a script can use it."""
    if output.as_json:
        output.run(run)
    else:
        output.bare(str(run.pk))
    if run.status == Status.AWAITING_APPROVAL:
        output.error(
            _("Run %(run)d waits for a second approver. Review it with `runs show %(run)d`, then approve or reject it.")
            % {"run": run.pk}
        )
        sys.exit(EXIT_ATTENTION)
    output.error(_("Run %(run)d is queued. See `runs show %(run)d`.") % {"run": run.pk})


def _work(run: Run, output: Output) -> None:
    """Run in this process with live progress. The exit code tells how the run ended."""
    worker = shard_executor.executor_of(run, queue.enqueue)
    stopped_by = ""
    try:
        with stop_signals() as stopped, output.progress(run.total) as advance:
            run = worker.work(until=stopped, on_progress=lambda r: advance(r.seen))
    except LostOwnership:
        raise Refused(
            _("Another process has taken over run %(run)d. See `runs show %(run)d`.") % {"run": run.pk}
        ) from None
    except KeyboardInterrupt:
        worker.store.close()
        workers.interrupt(run, _("stopped with Ctrl-C"))
    except (DatabaseError, InterfaceError) as error:
        stopped_by = first_line(error)
    except Exception:
        run.refresh_from_db()
        if run.status != Status.FAILED:  # the engine has handled an error that it marked as failed
            raise
    finally:
        worker.store.close()
    _refresh(run)
    output.run(run)
    if stopped_by and run.status != Status.FAILED:
        output.error(
            _("Run %(run)d was interrupted: %(reason)s. Fix the cause, then repeat the command to resume it.")
            % {"reason": stopped_by, "run": run.pk}
        )
        sys.exit(EXIT_INTERRUPTED)
    if run.status in {*RESUMABLE, Status.RUNNING}:
        output.error(
            _("Run %(run)d stopped after %(seen)s of %(total)s rows. Repeat the command or run `runs resume %(run)d`.")
            % {"run": run.pk, "seen": format_number(run.seen), "total": format_number(run.total)}
        )
        sys.exit(EXIT_INTERRUPTED)
    if run.error:
        output.error(run.error)
    for row in run.failed_items.order_by("pk")[:SHOWN_ERRORS]:
        output.error(f"{row.label}: {row.error}")
    if run.status in {Status.FAILED, Status.CANCELLED}:
        sys.exit(EXIT_FAILED)
    if run.status == Status.NEEDS_ATTENTION:
        sys.exit(EXIT_ATTENTION)


def _refresh(run: Run) -> None:
    """Reload the run. If the console's database does not answer, mark it as interrupted in memory."""
    try:
        run.refresh_from_db()
    except (DatabaseError, InterfaceError):
        run.status = Status.INTERRUPTED


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Handle Ctrl-C and SIGTERM: the first finishes the batch, the second stops now. Both are safe."""
    asked = 0

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        # A signal may interrupt a write to sys.stderr, which is not reentrant.
        os.write(2, ("\n" + _("Stopping after this batch. Press Ctrl-C again to stop now.") + "\n").encode())

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
