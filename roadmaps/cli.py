"""Shared code of the commands of this app."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable
from typing import Any, ClassVar

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from opsconsole.cli.command import EXIT_ATTENTION, ConsoleCommand, Refused
from opsconsole.cli.flags import add_exit_code_flag, add_json_flag, add_store_flags, chosen_store, known_keys
from opsconsole.cli.output import Output
from opsconsole.engine import planner, registry
from opsconsole.engine.requirements import required_columns
from opsconsole.escaping import in_json
from roadmaps.consistency import TaskReport
from roadmaps.task_scope import active_tasks


class ReportCommand(ConsoleCommand):
    """A command that reports on `TASK_ID | --all`. It keeps no findings; `run NAME --execute` and the schedule do."""

    operation: ClassVar[str]

    def add_arguments(self, parser: CommandParser) -> None:
        cls = registry.operation(self.operation)
        parser.description = str(cls.description)
        parser.add_argument("keys", nargs="*", metavar="TASK_ID", help=_("the task to report on"))
        parser.add_argument("--all", action="store_true", help=_("every task"))
        add_store_flags(parser)
        add_exit_code_flag(parser)
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        require_choice(options)
        cls: Any = registry.operation(self.operation)
        store = chosen_store(cls, {}, options, read_only=True)
        try:
            check = planner.operation_on(cls, store, {})
            planner.plan(check)  # refuses a store with missing tables or columns
            if options["keys"]:
                check.chosen = known_keys(check, options["keys"])
            gc.freeze()  # the reports of a million tasks would make the collector scan every module again and again
            if options["json"]:
                found = self._print_json(check.task_reports(), single=len(options["keys"]) == 1)
            else:
                output = Output.of(options)
                found = self.show(check.task_reports(), output, details=bool(options["keys"]))
        finally:
            store.close()
        if found and options["exit_code"]:
            sys.exit(EXIT_ATTENTION)

    def _print_json(self, reports: Iterable[TaskReport], *, single: bool) -> bool:
        """Print each report immediately, because all tasks of a large store would not fit into memory."""
        found = False
        if not single:
            sys.stdout.write('{"tasks": [')
        for number, report in enumerate(reports):
            found |= bool(report.problems)
            sys.stdout.write(", " if number and not single else "")
            sys.stdout.write(in_json(json.dumps(self.as_json(report), ensure_ascii=True)))
        sys.stdout.write("\n" if single else "]}\n")
        return found

    def as_json(self, report: TaskReport) -> dict[str, Any]:
        return report.as_json()

    def show(self, reports: Iterable[TaskReport], output: Output, *, details: bool) -> bool:
        """Print the reports for people. Return whether there are problems. `details`: the user named the tasks."""
        raise NotImplementedError


def require_choice(options: dict[str, Any]) -> None:
    """Refuse a call without tasks and `--all`, or with both."""
    if options["all"] and options["keys"]:
        raise Refused(_("Task ids and --all exclude each other. Give one of them."))
    if not options["all"] and not options["keys"]:
        raise Refused(_("No task is given. Give a task id or --all."))


def refuse_active_tasks(name: str, options: dict[str, Any], remedy: str) -> None:
    """Refuse tasks on which a worker of the platform still works."""
    cls = registry.operation(name)
    store = chosen_store(cls, {}, options, read_only=True)
    try:
        operation = planner.operation_on(cls, store, {})
        store.require(required_columns(operation))
        found = active_tasks(operation, known_keys(operation, options["keys"]))
    finally:
        store.close()
    if found:
        raise Refused(
            _("A worker of the platform is still working on %(tasks)s. %(remedy)s")
            % {"tasks": ", ".join(found), "remedy": remedy}
        )
