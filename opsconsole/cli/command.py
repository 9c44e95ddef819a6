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
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.lifecycle import Actor
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
