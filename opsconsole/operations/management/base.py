"""What every command of an operation shares: flags, plan, run, output, exit codes. `CLI.md`'s table in code."""

from __future__ import annotations

import argparse
import getpass
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, InterfaceError, connections
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.operations import planning, registry, runner
from opsconsole.operations.base import Operation
from opsconsole.operations.management.output import Output
from opsconsole.operations.models import RESUMABLE, Run, Status, Trigger
from opsconsole.operations.planning import Plan, UnableToPlan
from opsconsole.operations.registry import InvalidParameters, UnknownOperation
from opsconsole.operations.runner import Actor, Fenced, UnableToRun
from opsconsole.operations.selection import Selection
from opsconsole.stores.store import Store, StoreUnusable, all_stores, attach_file

EXIT_FAILED, EXIT_REFUSED, EXIT_ATTENTION, EXIT_INTERRUPTED = 1, 2, 3, 130
MAX_BATCH_SIZE = 100_000


class Refused(CommandError):
    """Wrong usage, or a store that can't be used: exit code 2, one sentence, nothing written."""

    def __init__(self, message: object) -> None:
        super().__init__(str(message), returncode=EXIT_REFUSED)


REFUSALS = (UnableToRun, UnableToPlan, UnknownOperation, InvalidParameters, StoreUnusable)


class ConsoleCommand(BaseCommand):
    """A command whose refusals are one sentence and exit code 2."""

    requires_system_checks: ClassVar[list[str]] = []  # type: ignore[assignment]  # `check` is a command of its own
    examples: ClassVar[tuple[str, ...]] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        if self.examples:
            kwargs["epilog"] = "Examples:\n" + "\n".join(f"  python manage.py {line}" for line in self.examples)
            kwargs["formatter_class"] = type(
                "Formatter", (argparse.RawDescriptionHelpFormatter, argparse.HelpFormatter), {}
            )
        return super().create_parser(prog_name, subcommand, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except REFUSALS as error:
            raise Refused(error) from error
        finally:
            # The last connection to close a SQLite file folds its log in and removes it.
            connections.close_all()


def require_setup() -> None:
    """Refuse before `setup` has made the console's own tables."""
    try:
        Run.objects.exists()
    except DatabaseError as error:
        if "no such table" in str(error) or "does not exist" in str(error):
            raise Refused(_("The console is not set up: run `python manage.py setup` first.")) from None
        raise Refused(
            _("The console's own database can't be used: %(reason)s")
            % {"reason": str(error).strip().splitlines()[0]}
        ) from None


def shell_actor(account: str | None) -> Actor:
    """Who runs this: the named console account, else the system user. Production wants an account."""
    system_user = f"{getpass.getuser()}@{socket.gethostname()}"
    if account is None:
        if settings.PRODUCTION:
            raise Refused(_("In production a run needs a name: give --user ACCOUNT."))
        return Actor(system_user, socket.gethostname(), Trigger.SHELL)
    user = get_user_model().objects.filter(**{get_user_model().USERNAME_FIELD: account}, is_active=True).first()
    if user is None:
        raise Refused(_("No active account is called %(name)s.") % {"name": account})
    if not user.has_perm("operations.operate_run"):
        raise Refused(_("%(name)s may not run operations.") % {"name": account})
    return Actor(account, system_user, Trigger.SHELL, user)


def batch_size(text: str) -> int:
    """--batch-size: 1 … 100000."""
    try:
        size = int(text)
    except ValueError:
        size = 0
    if not 1 <= size <= MAX_BATCH_SIZE:
        raise argparse.ArgumentTypeError(_("a whole number from 1 to 100000 is wanted, not %s") % repr(text))
    return size


def add_common_flags(parser: argparse.ArgumentParser, cls: type[Operation] | None = None) -> None:
    """The flags that every operation's command has."""
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help=_("plan only: nothing is written"))
    mode.add_argument("--execute", action="store_true", help=_("do it, where dry run is the default"))
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--database", metavar="ALIAS", help=_("the store to work on"))
    where.add_argument("--db-path", metavar="FILE", help=_("attach this SQLite file for this one call"))
    parser.add_argument("--batch-size", type=batch_size, metavar="N", help=_("units per batch (1 … 100000)"))
    parser.add_argument("--fast", action="store_true", help=_("no pause between batches"))
    parser.add_argument("--background", action="store_true", help=_("enqueue, print the run's id, return"))
    parser.add_argument("--note", metavar="TEXT", default="", help=_("why; kept with the run"))
    parser.add_argument("--user", metavar="NAME", help=_("the console account in whose name it runs"))
    parser.add_argument("--yes", action="store_true", help=_("skip the question, never a check"))
    parser.add_argument("--json", action="store_true", help=_("one JSON object on standard output"))


class OperationCommand(ConsoleCommand):
    """The command of one operation: three lines, all else is derived."""

    operation: ClassVar[str]
    executes_by_default: ClassVar[bool] = False
    asks: ClassVar[bool] = True  # before execution, on a terminal

    def add_arguments(self, parser: CommandParser) -> None:
        cls = registry.operation(self.operation)
        registry.add_arguments(cls, parser)
        add_common_flags(parser, cls)

    def handle(self, *args: Any, **options: Any) -> None:
        execute = options["execute"] or (self.executes_by_default and not options["dry_run"])
        run_operation(registry.operation(self.operation), options, execute=execute, asks=self.asks)


def run_operation(cls: type[Operation], options: dict[str, Any], *, execute: bool, asks: bool = True) -> None:
    """Plan `cls` and, when asked, run it; prints, and leaves by `SystemExit` unless all is well."""
    if options["batch_size"] and cls.batch_size:
        raise Refused(
            _("%(operation)s works on %(size)d units at a time: --batch-size is not for it.")
            % {"operation": cls.name, "size": cls.batch_size}
        )
    params = registry.clean(cls, registry.values_of(cls, options))
    if execute or cls.about_runs:
        require_setup()
    actor = shell_actor(options["user"]) if execute else None
    store = chosen_store(cls, params, options, read_only=not execute)
    output = Output(as_json=options["json"])
    try:
        operation = planning.operation_on(cls, store, params)
        size = cls.batch_size or options["batch_size"] or planning.DEFAULT_BATCH_SIZE
        if actor is None:
            _dry_run(operation, size, output)
        else:
            _execute(operation, size, actor, options, output, asks)
    finally:
        store.close()


def chosen_store(
    cls: type[Operation], params: dict[str, Any], options: dict[str, Any], *, read_only: bool
) -> Store:
    """--db-path, --database, or the operation's own store."""
    if options["db_path"] is not None:
        store = attach_file(cls.locate(params).name, options["db_path"], read_only=read_only)
    elif options["database"] is not None:
        names = [store.alias for store in all_stores()]
        if options["database"] not in names:
            raise Refused(
                _("No store is called %(name)s. There are: %(names)s.")
                % {"name": options["database"], "names": ", ".join(names)}
            )
        store = Store(options["database"], options["database"])
    else:
        store = cls.locate(params)
    return store


@contextmanager
def _reading(store: Store) -> Iterator[None]:
    """A driver's error while a store is first read becomes a refusal."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise store.unusable(error) from error


def _dry_run(operation: Operation, size: int, output: Output) -> None:
    with _reading(operation.at):
        planned = planning.plan(operation)
        output.header(operation, size, mode=_("DRY-RUN (preview)"))
        output.need(operation, planned)
        with output.progress(planned.total) as advance:
            planning.count_outcomes(
                planned, batch_size=size, on_progress=lambda p: advance(sum(p.counts().values()))
            )
    output.sample(operation, planned.sample)
    output.advice(planned)
    result = {
        "run": None,
        "operation": operation.name,
        "store": operation.at.name,
        "mode": "dry-run",
        "status": Status.PLANNED.value,
        "total": planned.total,
        **planned.counts(),
        "reasons": planned.reasons,
        "batches": planned.batches,
        "elapsed_seconds": round(planned.seconds, 3),
        "rows_per_second": _rate(sum(planned.counts().values()), planned.seconds),
        "before": planned.before,
        "after": {},
        "sample": planned.sample,
        "digest": planned.digest(),
    }
    output.result(operation, result)


def _execute(
    operation: Operation, size: int, actor: Actor, options: dict[str, Any], output: Output, asks: bool
) -> None:
    with _reading(operation.at):
        operation.at.require({model: tuple(columns) for model, columns in operation.needs().items()})
        operation.at.require_writable()
        run = runner.same_command(operation, Selection())
        if run is not None:
            run = _take_over(run, size, options, output)
        else:
            planned = planning.plan(operation)
    if run is None:
        output.header(operation, size, mode=_("EXECUTE"))
        output.need(operation, planned)
        output.advice(planned)
        _ask(operation, planned, options, output, asks)
        run = runner.draft(
            planned, actor, note=options["note"], batch_size=size, fast=options["fast"]
        )
        try:
            runner.confirm(run, actor, background=options["background"])
        except UnableToRun:
            runner.cancel(run, actor)
            raise
    if run.status in {Status.QUEUED, Status.AWAITING_APPROVAL}:
        _leave_to_background(run, output)
    else:
        _work(run, output)


def _take_over(run: Run, size: int, options: dict[str, Any], output: Output) -> Run | None:
    """The unfinished run of the same command: gone on with if nobody works on it, refused else."""
    if run.status == Status.AWAITING_APPROVAL:
        return run
    if run.status == Status.QUEUED:
        raise Refused(
            _("Run %(run)d of this command waits for a worker: see `runs show %(run)d`, or cancel it first.")
            % {"run": run.pk}
        )
    if options["background"] and run.status in RESUMABLE:
        runner.resume(run, shell_actor(options["user"]))
        return run
    run = runner.claim(run)
    run.batch_size, run.fast, run.in_background = size, options["fast"], False
    run.save(update_fields=("batch_size", "fast", "in_background"))
    output.line(
        _("Going on with run %(run)d: %(seen)s of %(total)s done.")
        % {"run": run.pk, "seen": _figure(run.seen), "total": _figure(run.total)}
    )
    return run


def _ask(
    operation: Operation, planned: Plan, options: dict[str, Any], output: Output, asks: bool
) -> None:
    """The confirmation that the risk wants; --yes answers it."""
    cls = type(operation)
    typing = runner.needs_typing(cls)
    if options["yes"] or not (typing or asks or settings.PRODUCTION) or not planned.total:
        return
    if not asks and not settings.PRODUCTION:
        return
    if not sys.stdin.isatty():
        raise Refused(_("This asks before it writes: give --yes where nobody can answer."))
    wanted = cls.name if typing else _("yes")
    question = operation.action_label(planned.total) + " · " + operation.at.location
    output.line(question)
    answer = input(_("Type %(wanted)s to go on: ") % {"wanted": wanted})
    if answer.strip() != wanted:
        raise Refused(_("Not confirmed: nothing was written."))


def _leave_to_background(run: Run, output: Output) -> None:
    output.run(run, as_result=True)
    if run.status == Status.AWAITING_APPROVAL:
        output.line(
            _("Run %(run)d waits for approval by a second person: `runs approve %(run)d`.") % {"run": run.pk}
        )
        sys.exit(EXIT_ATTENTION)
    output.line(_("Run %(run)d is queued: see `runs show %(run)d`.") % {"run": run.pk})


def _work(run: Run, output: Output) -> None:
    """Run in this process, with live progress; the exit code says how it ended."""
    worker = runner.Runner(run)
    try:
        with stop_signals() as stopped, output.progress(run.total) as advance:
            run = worker.work(until=stopped, on_progress=lambda r: advance(r.seen))
    except Fenced:
        raise Refused(_("Run %(run)d was taken over elsewhere.") % {"run": run.pk}) from None
    except KeyboardInterrupt:
        worker.store.close()
        runner.interrupt(run, _("stopped by the keyboard"))
        run.refresh_from_db()
    except (DatabaseError, InterfaceError) as error:
        reason = str(error).strip().splitlines()[0]
        output.error(
            _("Interrupted: %(reason)s. The same command goes on when that is mended.") % {"reason": reason}
        )
        sys.exit(EXIT_INTERRUPTED if not _failed(run) else EXIT_FAILED)
    output.run(run, as_result=True)
    if run.status in {*RESUMABLE, Status.RUNNING}:
        output.error(
            _("Run %(run)d stands at %(seen)s of %(total)s. The same command goes on, or `runs resume %(run)d`.")
            % {"run": run.pk, "seen": _figure(run.seen), "total": _figure(run.total)}
        )
        sys.exit(EXIT_INTERRUPTED)
    code = {Status.FAILED: EXIT_FAILED, Status.CANCELLED: EXIT_FAILED, Status.NEEDS_ATTENTION: EXIT_ATTENTION}
    if run.status in code:
        if run.error:
            output.error(run.error)
        sys.exit(code[Status(run.status)])


def _failed(run: Run) -> bool:
    try:
        run.refresh_from_db()
    except DatabaseError:
        return False
    return run.status == Status.FAILED


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) finishes the batch, the second stops now. Both are safe."""
    asked = 0

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        sys.stderr.write("\n" + _("Stopping after this batch. Once more stops now.") + "\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds else 0.0


def _figure(number: int) -> str:
    return number_format(number, force_grouping=True)
