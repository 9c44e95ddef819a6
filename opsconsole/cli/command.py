"""The base class of all commands: refusals, exit codes, help and the account."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import traceback
from typing import Any, ClassVar

from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from django.db import DatabaseError, InterfaceError, connections
from django.utils.translation import gettext as _

from opsconsole.cli.accounts import NotAuthenticated, authenticated, system_user_at_host
from opsconsole.cli.output import discard_output
from opsconsole.engine import environments
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Run, Trigger
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.registry import InvalidParameters, UnknownOperation
from opsconsole.escaping import for_terminal
from opsconsole.redaction import redact
from opsconsole.stores.errors import first_line
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnavailable, failed_store

EXIT_FAILED, EXIT_REFUSED, EXIT_ATTENTION, EXIT_INTERRUPTED = 1, 2, 3, 130


class Refused(CommandError):
    """Wrong usage, or an unusable store: one sentence and exit code 2."""

    def __init__(self, message: object) -> None:
        super().__init__(str(message), returncode=EXIT_REFUSED)


REFUSALS = (RunRefused, PlanRefused, UnknownOperation, InvalidParameters, StoreUnavailable)


class HelpFormatter(DjangoHelpFormatter):
    """A help formatter that keeps the lines of examples and wraps all others."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = argparse.HelpFormatter._fill_text
        return "\n".join(
            line if line.startswith(" ") else fill(self, line, width, indent) for line in text.splitlines()
        )


class ConsoleCommand(BaseCommand):
    """A command whose refusals are one sentence on standard error and exit code 2.

    `help` and the help of every argument are msgids: mark `help` with `gettext_noop`.
    """

    requires_system_checks = []  # `check` is a separate command
    suppressed_base_arguments = {  # Django's own flags work, but the help omits them
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
        """Run the command, and end with an exit code and at most one sentence of error."""
        signal.signal(signal.SIGTERM, _interrupt)
        sys.excepthook = _print_traceback
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # not every terminal is UTF-8
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
        except BrokenPipeError:  # as with `| head`
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
            # Closing the last connection to a SQLite file writes its log back and removes it.
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


def _print_traceback(*error: Any) -> None:
    sys.stderr.write(for_terminal(redact("".join(traceback.format_exception(*error)))))


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def require_setup() -> None:
    """Refuse if `setup` has not created the console's tables yet. Create nothing."""
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
    """Refuse a process whose environment is lower than the one that `setup` recorded."""
    if sentence := environments.refusal():
        raise Refused(sentence)


def refusal_of_process(command: str) -> str:
    """Return why a command of Django or of a library may not run here, or an empty string.

    Our own commands check the environment themselves before they write.
    """
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
    """Return the authenticated account as an actor, else the system user. Production requires an account."""
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
                    "In production this command requires an account. Set OPSCONSOLE_TOKEN, pass --user on a terminal, "
                    "or ask a superuser to link your system user with `accounts link`."
                )
            )
        return Actor(origin, socket.gethostname(), Trigger.SHELL)
    if not user.has_perm(permission):
        raise Refused(
            _("%(name)s may not do this. Ask a superuser for the permission.") % {"name": user.get_username()}
        )
    return Actor(user.get_username(), origin, Trigger.SHELL, user)
