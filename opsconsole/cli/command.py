"""What every command shares: refusals, flags, plan, run, exit codes. `CLI.md`'s table in code."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db import DatabaseError, InterfaceError, connections
from django.utils.translation import gettext as _

from opsconsole.cli.accounts import NotAuthenticated, authenticated, system_user_at_host
from opsconsole.cli.output import Output, discard_output
from opsconsole.engine import checklist, environments, executor, findings, lifecycle, planner, queue, registry
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.executor import LostOwnership
from opsconsole.engine.lifecycle import Actor
from opsconsole.engine.models import RESUMABLE, Run, Status, Trigger
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, Operation, Risk, as_stored
from opsconsole.engine.planner import Plan, PlanRefused
from opsconsole.engine.registry import InvalidParameters, UnknownOperation
from opsconsole.engine.selection import Selection
from opsconsole.escaping import for_terminal
from opsconsole.formatting import format_number
from opsconsole.redaction import redact
from opsconsole.stores.errors import first_line
from opsconsole.stores.preflight import require_privileges
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.rows import Key, is_bigint, is_numbered, plain_key
from opsconsole.stores.store import Store, StoreUnavailable, all_stores, attach_file, failed_store

EXIT_FAILED, EXIT_REFUSED, EXIT_ATTENTION, EXIT_INTERRUPTED = 1, 2, 3, 130
MAX_BATCH_SIZE = 100_000
SHOWN_ERRORS = 20


class Refused(CommandError):
    """Wrong usage, or a store that can't be used: exit code 2, one sentence, nothing written."""

    def __init__(self, message: object) -> None:
        super().__init__(str(message), returncode=EXIT_REFUSED)


REFUSALS = (RunRefused, PlanRefused, UnknownOperation, InvalidParameters, StoreUnavailable)


class HelpFormatter(DjangoHelpFormatter):
    """Keeps the lines of the examples, and wraps all others."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = argparse.HelpFormatter._fill_text
        return "\n".join(
            line if line.startswith(" ") else fill(self, line, width, indent) for line in text.splitlines()
        )


class ConsoleCommand(BaseCommand):
    """A command whose refusals are one sentence on standard error and exit code 2.

    `help` and the help of every argument are msgids: mark `help` with `gettext_noop`.
    """

    requires_system_checks = []  # `check` is a command of its own
    suppressed_base_arguments = {  # Django's own: known, and not in the help
        "--version",
        "--verbosity",
        "--settings",
        "--pythonpath",
        "--traceback",
        "--no-color",
        "--force-color",
        "--skip-checks",
    }
    examples: ClassVar[tuple[str, ...]] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        self.help = _(self.help) if self.help else ""
        kwargs["epilog"] = _examples(self.examples)
        return super().create_parser(prog_name, subcommand, formatter_class=HelpFormatter, **kwargs)

    def run_from_argv(self, argv: list[str]) -> None:
        """The command line's way in: whatever ends the command, the shell gets one sentence and a code."""
        signal.signal(signal.SIGTERM, _interrupt)
        sys.excepthook = _print_traceback
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a terminal's encoding
        try:
            try:
                options = vars(self.create_parser(argv[0], argv[1]).parse_args(argv[2:]))
            except (CommandError, *REFUSALS) as error:
                raise Refused(f"{argv[1]}: {str(error).removeprefix('Error: ')}") from error
            self.execute(*options.pop("args", ()), **options)
            sys.stdout.flush()
        except CommandError as error:
            if "--traceback" in argv:
                raise
            sys.stderr.write(f"{for_terminal(redact(str(error)))}\n")
            sys.exit(error.returncode)
        except KeyboardInterrupt:
            sys.stderr.write("\n" + _("Stopped.") + "\n")
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # the reader has seen enough
            discard_output()
        finally:
            connections.close_all()

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except REFUSALS as error:
            raise Refused(error) from error
        except (DatabaseError, InterfaceError) as error:
            raise _unusable(error) from error
        finally:
            # The last connection to close a SQLite file folds its log in and removes it.
            for connection in connections.all(initialized_only=True):
                if not connection.in_atomic_block:
                    connection.close()


def _examples(lines: tuple[str, ...]) -> str | None:
    return "\n".join([_("Examples:"), *(f"  python manage.py {line}" for line in lines)]) if lines else None


def add_verb(
    verbs: Any, name: str, *, help: str, examples: tuple[str, ...] = (), aliases: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """Add a subcommand whose help looks like that of a command."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=help, description=help, epilog=_examples(examples), formatter_class=HelpFormatter, aliases=aliases
    )
    return parser


def flag_of(parameter: str) -> str:
    """How a parameter is given on the command line."""
    return "--" + parameter.rstrip("_").replace("_", "-")


def _print_traceback(*error: Any) -> None:
    sys.stderr.write(for_terminal(redact("".join(traceback.format_exception(*error)))))


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def require_setup() -> None:
    """Refuse before `setup` has made the console's own tables. Makes nothing."""
    not_set_up = Refused(_("The console is not set up. Run `python manage.py setup` first."))
    try:
        Store(DEFAULT, DEFAULT).require_file()
        Run.objects.exists()
    except StoreUnavailable:
        raise not_set_up from None
    except DatabaseError as error:
        if "no such table" in str(error) or "does not exist" in str(error):
            raise not_set_up from None
        raise _unusable(error) from None


def require_environment() -> None:
    """Refuse a process that claims a lower environment than the console's."""
    if sentence := environments.refusal():
        raise Refused(sentence)


def refusal_of_process(command: str) -> str:
    """Return why Django's or a library's `command` may not run here; ours ask for themselves when they write."""
    app = get_commands().get(command)
    if app is None:
        return ""
    own = isinstance(app, BaseCommand) or isinstance(load_command_class(app, command), ConsoleCommand)
    return "" if own else environments.refusal()


def _unusable(error: Exception) -> Refused:
    """Return the refusal that names the database whose error this is."""
    if store := failed_store():
        return Refused(store.unusable(error))
    return Refused(_("The console's own database cannot be used: %(reason)s") % {"reason": first_line(error)})


def shell_actor(account: str | None, permission: str = "operations.operate_run") -> Actor:
    """Return who does this: the authenticated account, else the system user. Production wants an account."""
    require_environment()
    try:
        user = authenticated(account)
    except NotAuthenticated as error:
        raise Refused(error) from None
    origin = system_user_at_host()
    if user is None:
        if settings.PRODUCTION:
            raise Refused(
                _(
                    "In production this needs an account. Set OPSCONSOLE_TOKEN, give --user on a terminal, "
                    "or have your system user linked with `accounts link`."
                )
            )
        return Actor(origin, socket.gethostname(), Trigger.SHELL)
    if not user.has_perm(permission):
        raise Refused(_("%(name)s may not do this.") % {"name": user.get_username()})
    return Actor(user.get_username(), origin, Trigger.SHELL, user)


def batch_size(text: str) -> int:
    """--batch-size: 1 … 100000."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_BATCH_SIZE):
        raise argparse.ArgumentTypeError(_("a whole number from 1 to 100000 is wanted, not %s") % repr(text))
    return int(text)


def add_user_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--user", metavar="NAME", help=_("the console account, authenticated by OPSCONSOLE_TOKEN or its password")
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=_("one JSON object on standard output"))


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every operation's command has."""
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help=_("plan only: nothing is written"))
    mode.add_argument("--execute", action="store_true", help=_("do it, where dry run is the default"))
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--database", metavar="ALIAS", help=_("the store to work on"))
    where.add_argument("--db-path", metavar="FILE", help=_("attach this SQLite file for this one call"))
    parser.add_argument("--batch-size", type=batch_size, metavar="N", help=_("rows per batch (1 … 100000)"))
    parser.add_argument("--fast", action="store_true", help=_("no pause between batches"))
    parser.add_argument("--background", action="store_true", help=_("enqueue, print the run's id, return"))
    parser.add_argument("--note", metavar="TEXT", default="", help=_("why; kept with the run"))
    add_user_flag(parser)
    parser.add_argument("--yes", action="store_true", help=_("skip the question, never a check"))
    parser.add_argument(
        "--confirm",
        nargs="+",
        default=[],
        choices=tuple(checklist.ITEMS),
        metavar="ITEM",
        help=_("items of the checklist that you confirm: %(items)s") % {"items": ", ".join(checklist.ITEMS)},
    )
    add_json_flag(parser)


def add_check_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of what only reads."""
    parser.add_argument("--dry-run", action="store_true", help=_("ask only: the findings are not kept"))
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--database", metavar="ALIAS", help=_("the store to look at"))
    where.add_argument("--db-path", metavar="FILE", help=_("attach this SQLite file for this one call"))
    parser.add_argument("--background", action="store_true", help=_("enqueue, print the run's id, return"))
    parser.add_argument("--note", metavar="TEXT", default="", help=_("why; kept with the run"))
    add_user_flag(parser)
    parser.add_argument("--exit-code", action="store_true", help=_("exit with 3 when something is found"))
    add_json_flag(parser)


def add_keys_argument(parser: argparse.ArgumentParser, name: str, *, help: str, required: bool = True) -> None:
    """The keys of the units that are meant, as positional arguments."""
    parser.add_argument("keys", nargs="+" if required else "*", metavar=name, help=help)


class OperationCommand(ConsoleCommand):
    """The command of one operation: three lines, all else is derived."""

    operation: ClassVar[str]
    executes_by_default: ClassVar[bool] = False
    asks: ClassVar[bool] = True  # before execution; an operation that only fills asks in production alone
    positional: ClassVar[tuple[str, ...]] = ()  # parameters that are given without a flag, in this order

    def add_arguments(self, parser: CommandParser) -> None:
        cls = registry.operation(self.operation)
        parser.description = parser.description or str(cls.description)
        registry.add_arguments(cls, parser, positional=self.positional)
        if issubclass(cls, Check):
            add_check_flags(parser)
        else:
            add_common_flags(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        cls = registry.operation(self.operation)
        values = registry.values_of(cls, options)
        if issubclass(cls, Check):
            run_check(cls, values, options, keep=not options["dry_run"])
            return
        execute = options["execute"] or (self.executes_by_default and not options["dry_run"])
        run_operation(cls, values, options, execute=execute, asks=self.asks)


def run_check(cls: type[Check], values: Mapping[str, Any], options: dict[str, Any], *, keep: bool) -> None:
    """Ask a check's questions and print what they find. `keep`: as a run, whose findings are kept.

    `options["keys"]`: the subjects that are meant; such an answer is no scan of the store and is not kept.
    """
    params = registry.clean(cls, values)
    actor = None
    if options["user"] is not None:  # a name that is typed is proven, also where nothing is kept
        require_setup()
        actor = shell_actor(options["user"], "operations.view_run")
    output = Output(as_json=options["json"], bare=options["background"], no_color=options["no_color"])
    store = chosen_store(cls, params, options, read_only=True)
    try:
        with reading(store):
            operation = planner.operation_on(cls, store, params)
            planned = planner.plan(operation)
            if options.get("keys"):
                operation.chosen = known_keys(operation, options["keys"])
        if keep and operation.chosen is None:
            require_setup()
            found, run = _scan(planned, options, output, actor)
        else:
            with reading(store):
                found, run = [one for item in operation.item_names() for one in operation.run_rule(item)], None
    except KeyboardInterrupt:
        raise CommandError(_("Stopped: nothing was written."), returncode=EXIT_INTERRUPTED) from None
    finally:
        store.close()
    output.findings(operation, found, run)
    if run is not None and run.status == Status.NEEDS_ATTENTION:
        sys.exit(EXIT_ATTENTION)
    if found and options["exit_code"]:
        sys.exit(EXIT_ATTENTION)


def _scan(planned: Plan, options: dict[str, Any], output: Output, actor: Actor | None) -> tuple[list[FindingData], Run]:
    """The check as a run: taken over when it was interrupted, in this process or in the background."""
    actor = actor or shell_actor(None, "operations.view_run")
    run = lifecycle.same_command(planned.operation, planned.selection)
    if run is not None and run.status != Status.QUEUED:
        run = lifecycle.claim(run)
    elif run is None:
        run = lifecycle.create_run(planned, actor, note=options["note"])
        if options["background"]:
            queue.confirm(run, actor)
        else:
            lifecycle.confirm(run, actor, background=False)
    if run.status == Status.QUEUED:
        _leave_to_background(run, output)
        sys.exit()
    worker = executor.Runner(run)
    try:
        with stop_signals() as stopped, output.progress(run.total) as advance:
            run = worker.work(until=stopped, on_progress=lambda r: advance(r.seen))
    except (DatabaseError, InterfaceError) as error:
        raise worker.store.unusable(error) from error
    finally:
        worker.store.close()
    if run.status not in {Status.SUCCEEDED, Status.NEEDS_ATTENTION}:
        raise CommandError(run.error or _("Stopped."), returncode=EXIT_INTERRUPTED)
    for unit in run.failed_items.order_by("pk"):
        output.error(f"{unit.label}: {unit.error}")
    return list(findings.of_run(run)), run


def known_keys(operation: Operation, keys: Sequence[str]) -> list[Key]:
    """`keys` as the operation's table has them; refuses what is none of its rows."""
    field = operation.model._meta.pk
    numbered = is_numbered(operation.store, operation.model._meta.db_table)
    cleaned: list[Key] = []
    for key in dict.fromkeys(keys):
        try:
            value: Key = field.to_python(key) if numbered else key
            if not operation.store.can_store(str(key)) or (isinstance(value, int) and not is_bigint(value)):
                raise ValidationError(key)
            cleaned.append(value)
        except ValidationError:
            raise Refused(
                _("%(key)s is no key of %(table)s.") % {"key": repr(key), "table": operation.model._meta.db_table}
            ) from None
    rows = operation.model._default_manager.using(operation.store.alias)
    known = {plain_key(key) for key in rows.filter(pk__in=list(map(as_stored, cleaned))).values_list("pk", flat=True)}
    unknown = [str(key) for key in cleaned if key not in known]
    if unknown:
        raise Refused(
            _("%(table)s of %(location)s has no row with the key %(keys)s.")
            % {
                "table": operation.model._meta.db_table,
                "location": operation.store.location,
                "keys": ", ".join(unknown),
            }
        )
    return cleaned


def run_operation(
    cls: type[Operation],
    values: Mapping[str, Any],
    options: dict[str, Any],
    *,
    execute: bool,
    asks: bool = True,
) -> None:
    """Plan `cls` and, when asked, run it; prints, and leaves by `SystemExit` unless all is well.

    `options["keys"]`: the units that are meant; without, everything in scope.
    """
    if options["batch_size"] and cls.batch_size:
        raise Refused(
            _("%(operation)s works on %(size)d units at a time: --batch-size is not for it.")
            % {"operation": cls.name, "size": cls.batch_size}
        )
    params = registry.clean(cls, values)
    if execute or cls.targets_run or options["user"]:
        require_setup()
    actor = shell_actor(options["user"]) if execute or options["user"] else None
    output = Output(as_json=options["json"], bare=options["background"] and execute, no_color=options["no_color"])
    store = chosen_store(cls, params, options, read_only=not (execute and cls.writes_store))
    try:
        operation = planner.operation_on(cls, store, params)
        with reading(store):
            operation.store.require({model: tuple(columns) for model, columns in operation.needs().items()})
            selection = Selection(known_keys(operation, options["keys"])) if options.get("keys") else Selection()
        size = operation.batch_size or options["batch_size"] or DEFAULT_BATCH_SIZE
        if execute and actor is not None:
            _execute(operation, selection, size, actor, options, output, asks)
        else:
            _dry_run(operation, selection, size, output)
    except KeyboardInterrupt:
        raise CommandError(_("Stopped: nothing was written."), returncode=EXIT_INTERRUPTED) from None
    finally:
        store.close()


def chosen_store(cls: type[Operation], params: dict[str, Any], options: dict[str, Any], *, read_only: bool) -> Store:
    """--db-path, --database, or the operation's own store."""
    own = cls.resolve_store(params)
    if options["db_path"] is not None:
        store = attach_file(own.name, options["db_path"], read_only=read_only)
    elif options["database"] is not None:
        names = [store.alias for store in all_stores()]
        if options["database"] not in names:
            raise Refused(
                _("No store is called %(name)s. There are: %(names)s.")
                % {"name": options["database"], "names": ", ".join(names)}
            )
        store = Store(options["database"], options["database"])
        if "store" in params and store.alias != own.alias:
            raise Refused(
                _("%(own)s and --database %(other)s contradict each other.") % {"own": own.alias, "other": store.alias}
            )
    else:
        store = own
    store.require_file()
    if cls.targets_run and store.identity() != own.identity():
        raise Refused(
            _("That run worked on %(location)s, not on %(other)s.")
            % {"location": own.location, "other": store.location}
        )
    return store


@contextmanager
def reading(store: Store) -> Iterator[None]:
    """A driver's error while a store is first read becomes a refusal."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise store.unusable(error) from error


def _dry_run(operation: Operation, selection: Selection, size: int, output: Output) -> None:
    with reading(operation.store):
        planned = planner.plan(operation, selection)
        output.header(operation, size, mode=_("DRY-RUN (preview)"))
        output.need(operation, planned)
        with output.progress(planned.total) as advance:
            planner.count_outcomes(planned, batch_size=size, on_progress=lambda p: advance(sum(p.counts().values())))
    for line in checklist.lines(planned) if planned.total else ():
        output.table([(f"{line.title}:" if not place else "", fact) for place, fact in enumerate(line.facts)])
    output.sample(operation, planned.sample)
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
            require_privileges(operation.store, operation.read_columns(), operation.targets())
    run = lifecycle.same_command(operation, selection)
    if run is not None:
        run = _take_over(run, size, actor, options, output)
    else:
        with reading(operation.store):
            planned = planner.plan(operation, selection)
            if operation.pins_rows:
                planner.count_outcomes(planned)
        output.header(operation, size, mode=_("EXECUTE"))
        output.need(operation, planned)
        checked = _check_off(operation, planned, options, output)
        _ask(operation, planned, options, output, asks)
        run = lifecycle.create_run(planned, actor, note=options["note"], batch_size=size, fast=options["fast"])
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
    """The unfinished run of the same command: gone on with if nobody works on it, refused else."""
    if run.status == Status.AWAITING_APPROVAL:
        return run
    if run.status == Status.QUEUED:
        raise Refused(
            _("Run %(run)d of this command waits for a worker: see `runs show %(run)d`, or cancel it first.")
            % {"run": run.pk}
        )
    if options["background"]:
        queue.resume(run, actor)
        return run
    run = lifecycle.claim(run)
    run.batch_size, run.fast, run.in_background = size, options["fast"], False
    run.save(update_fields=("batch_size", "fast", "in_background"))
    output.line(
        _("Going on with run %(run)d: %(seen)s of %(total)s done.")
        % {"run": run.pk, "seen": format_number(run.seen), "total": format_number(run.total)}
    )
    return run


def _check_off(operation: Operation, planned: Plan, options: dict[str, Any], output: Output) -> list[str]:
    """The checklist of what deletes, with what the console knows: asked item by item on a terminal, unless
    --confirm names them. No other flag skips it.
    """
    lines = checklist.lines(planned) if planned.total else []
    for line in lines:
        output.line(line.title, style="bold")
        for fact in line.facts:
            output.line(f"  {fact}")
    if not lines:
        return []
    if blocking_reason := checklist.blocking_reason(operation):
        raise Refused(blocking_reason)
    checked = list(options["confirm"])
    unchecked = checklist.missing(operation, checked)
    if unchecked and not sys.stdin.isatty():
        raise Refused(_("The checklist must be confirmed: give --confirm %(items)s.") % {"items": " ".join(unchecked)})
    for line in lines:
        if line.code in unchecked:
            output.console.print(f"{line.title}: {line.question}? [y/N] ", markup=False, end="")
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                raise Refused(_("Not confirmed: nothing was written."))
            checked.append(line.code)
    return checked


def _ask(operation: Operation, planned: Plan, options: dict[str, Any], output: Output, asks: bool) -> None:
    """The confirmation that the risk wants; --yes answers it."""
    typing = lifecycle.needs_typing(operation)
    asks = asks and operation.effective_risk() not in {Risk.READ, Risk.MAKE, Risk.FILL}
    if options["yes"] or not planned.total or not (typing or asks or settings.PRODUCTION):
        return
    if not sys.stdin.isatty():
        raise Refused(_("This command asks for confirmation. Pass --yes to run it non-interactively."))
    wanted = operation.name if typing else "yes"
    output.line(f"{operation.action_label(planned.total)} · {operation.store.location}")
    output.console.print(_("Type %(wanted)s to go on: ") % {"wanted": wanted}, markup=False, end="")
    answer = sys.stdin.readline()
    if answer.strip() != wanted:
        raise Refused(_("Not confirmed: nothing was written."))


def _leave_to_background(run: Run, output: Output) -> None:
    """Standard output gets the run's id alone, so that a script can take it."""
    if output.as_json:
        output.run(run)
    else:
        output.bare(str(run.pk))
    if run.status == Status.AWAITING_APPROVAL:
        output.error(
            _("Run %(run)d waits for a second approver. Approve it with `runs approve %(run)d`.") % {"run": run.pk}
        )
        sys.exit(EXIT_ATTENTION)
    output.error(_("Run %(run)d is queued. See `runs show %(run)d`.") % {"run": run.pk})


def _work(run: Run, output: Output) -> None:
    """Run in this process, with live progress; the exit code says how it ended."""
    worker = executor.Runner(run)
    stopped_by = ""
    try:
        with stop_signals() as stopped, output.progress(run.total) as advance:
            run = worker.work(until=stopped, on_progress=lambda r: advance(r.seen))
    except LostOwnership:
        raise Refused(_("Run %(run)d was taken over elsewhere.") % {"run": run.pk}) from None
    except KeyboardInterrupt:
        worker.store.close()
        lifecycle.interrupt(run, _("stopped by the keyboard"))
    except (DatabaseError, InterfaceError) as error:
        stopped_by = first_line(error)
    except Exception:
        run.refresh_from_db()
        if run.status != Status.FAILED:  # the engine says `failed` of what it could not go on with
            raise
    finally:
        worker.store.close()
    _refresh(run)
    output.run(run)
    if stopped_by and run.status != Status.FAILED:
        output.error(
            _("Interrupted: %(reason)s. When that is mended, the same command goes on with run %(run)d.")
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
    for unit in run.failed_items.order_by("pk")[:SHOWN_ERRORS]:
        output.error(f"{unit.label}: {unit.error}")
    if run.status in {Status.FAILED, Status.CANCELLED}:
        sys.exit(EXIT_FAILED)
    if run.status == Status.NEEDS_ATTENTION:
        sys.exit(EXIT_ATTENTION)


def _refresh(run: Run) -> None:
    """The run as the console has it, when the console can be asked."""
    try:
        run.refresh_from_db()
    except (DatabaseError, InterfaceError):
        run.status = Status.INTERRUPTED


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) finishes the batch, the second stops now. Both are safe."""
    asked = 0

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        # Not through sys.stderr: it may be in the middle of a write.
        os.write(2, ("\n" + _("Stopping after this batch. Once more stops now.") + "\n").encode())

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
