"""What the two checks' commands share: one task or all, in words or as one JSON object, written as it is read."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from opsconsole.cli.command import EXIT_ATTENTION, ConsoleCommand, Refused
from opsconsole.cli.flags import add_exit_code_flag, add_json_flag, add_store_flags, chosen_store, known_keys
from opsconsole.cli.output import Output
from opsconsole.engine import planner, registry
from opsconsole.escaping import in_json
from roadmaps.consistency import TaskReport
from roadmaps.operations.sync_results import moving


class StatesCommand(ConsoleCommand):
    """`TASK_ID | --all`. Reads only, and keeps nothing: `run NAME --execute` and the schedule keep findings."""

    operation: ClassVar[str]

    def add_arguments(self, parser: CommandParser) -> None:
        cls = registry.operation(self.operation)
        parser.description = str(cls.description)
        parser.add_argument("keys", nargs="*", metavar="TASK_ID", help=_("the task to look at"))
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
            planner.plan(check)  # refuses a store that lacks what it needs
            if options["keys"]:
                check.chosen = known_keys(check, options["keys"])
            gc.freeze()  # a million rows come and go: the collector need not look at what was imported each time
            found = self._print(check.task_reports(), options)
        finally:
            store.close()
        if found and options["exit_code"]:
            sys.exit(EXIT_ATTENTION)

    def _print(self, states: Iterable[TaskReport], options: dict[str, Any]) -> bool:
        if options["json"]:
            return self._print_json(states, single=len(options["keys"]) == 1)
        return self.show(states, Output(as_json=False, no_color=options["no_color"]), whole=bool(options["keys"]))

    def _print_json(self, states: Iterable[TaskReport], *, single: bool) -> bool:
        """All tasks of a large store would not fit into the memory: each is written when it is read."""
        found = False
        if not single:
            sys.stdout.write('{"tasks": [')
        for number, state in enumerate(states):
            found |= bool(self.problems(state))
            sys.stdout.write(", " if number and not single else "")
            sys.stdout.write(in_json(json.dumps(self.as_json(state), ensure_ascii=True)))
        sys.stdout.write("\n" if single else "]}\n")
        return found

    def problems(self, state: TaskReport) -> tuple[Any, ...]:
        return state.problems

    def as_json(self, state: TaskReport) -> dict[str, Any]:
        return state.as_json()

    def show(self, states: Iterable[TaskReport], output: Output, *, whole: bool) -> bool:
        """For people; whether something was found. `whole`: the tasks were named."""
        raise NotImplementedError


def require_choice(options: dict[str, Any]) -> None:
    """Tasks or `--all`, and not both."""
    if options["all"] and options["keys"]:
        raise Refused(_("Give task ids or --all, not both."))
    if not options["all"] and not options["keys"]:
        raise Refused(_("Which tasks? Give a task id, or --all."))


def refuse_moving(name: str, options: dict[str, Any], remedy: str) -> None:
    """Refuse tasks that a worker of the platform still moves."""
    cls = registry.operation(name)
    store = chosen_store(cls, {}, options, read_only=True)
    try:
        operation = planner.operation_on(cls, store, {})
        store.require({model: tuple(columns) for model, columns in operation.needs().items()})
        found = moving(operation, known_keys(operation, options["keys"]))
    finally:
        store.close()
    if found:
        raise Refused(_("A worker still moves %(tasks)s: %(remedy)s.") % {"tasks": ", ".join(found), "remedy": remedy})


def counted(states: Iterable[TaskReport], counts: dict[str, int]) -> Iterator[TaskReport]:
    """The states, with the problems' codes counted on the way."""
    for state in states:
        counts["tasks"] = counts.get("tasks", 0) + 1
        for problem in state.problems:
            counts[problem.code] = counts.get(problem.code, 0) + 1
        yield state
