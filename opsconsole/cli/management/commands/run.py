from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand, add_verb
from opsconsole.cli.flags import add_check_flags, add_common_flags, add_parameter_flags, flag_of, parameters_of
from opsconsole.cli.running import run_check, run_operation
from opsconsole.engine import registry
from opsconsole.engine.checks import Check


class Command(ConsoleCommand):
    help = gettext_noop("Plan an operation by its name. Execute it with --execute.")
    examples = (
        "run audits.backfill_decision_fields --db-path /path/to/store.db",
        'run operations.undo_run --run 7 --execute --note "wrong store"',
    )

    asked: Sequence[str] = ()  # the operation, in a call from the shell

    def add_arguments(self, parser: CommandParser) -> None:
        names = parser.add_subparsers(dest="operation", metavar="NAME", required=True)
        # To build the flags of all operations takes longer than many commands.
        wanted = {name: registry.operation(name) for name in self.asked} or registry.operations()
        for name, cls in wanted.items():
            example = f"run {name}{_required(cls)}"
            flags = add_verb(names, name, help=str(cls.title), examples=(example, f"{example} --execute"))
            flags.description = str(cls.description)
            add_parameter_flags(cls, flags)
            if issubclass(cls, Check):
                add_check_flags(flags)
                flags.add_argument("--execute", action="store_true", help=_("Save the findings as a run."))
            else:
                add_common_flags(flags)
            if cls.selectable and not registry.targets_run(cls):
                flags.add_argument("--keys", nargs="+", metavar="KEY", help=_("Only the rows with these keys."))

    def run_from_argv(self, argv: list[str]) -> None:
        self.asked = [name for name in argv[2:3] if not name.startswith("-")]
        super().run_from_argv(argv)

    def handle(self, *args: Any, **options: Any) -> None:
        cls = registry.operation(options["operation"])
        values = parameters_of(cls, options)
        if issubclass(cls, Check):
            run_check(cls, values, options, keep=options["execute"])
        else:
            run_operation(cls, values, options, execute=options["execute"])


def _required(cls: Any) -> str:
    return "".join(
        f" {flag_of(name)} {1 if 'Integer' in type(field).__name__ else 'VALUE'}"
        for name, field in cls.Params.base_fields.items()
        if field.required
    )
