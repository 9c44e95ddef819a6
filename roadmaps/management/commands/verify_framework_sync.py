from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.output import Output
from roadmaps.cli import StatesCommand, counted
from roadmaps.consistency import TaskReport
from roadmaps.content import PARTS
from roadmaps.operations.verify_sync import CODES


class Command(StatesCommand):
    help = gettext_noop("Show whether every completed part refers to a row, and every status is justified by one.")
    examples = (
        "verify_framework_sync 49961d40-0cac-4255-abba-adad0b901056",
        "verify_framework_sync --all --exit-code",
    )
    operation = "roadmaps.verify_sync"

    def problems(self, state: TaskReport) -> tuple[Any, ...]:
        return tuple(problem for problem in state.problems if problem.code in CODES)

    def as_json(self, state: TaskReport) -> dict[str, Any]:
        found = state.as_json()
        found["problems"] = [problem for problem in found["problems"] if problem["code"] in CODES]
        return found | {"references_expected": _expected(state), "failed": len(state.comparison.failed)}

    def show(self, states: Iterable[TaskReport], output: Output, *, whole: bool) -> bool:
        any_problem = False
        complete = expected = 0
        for state in counted(states, {}):
            problems = self.problems(state)
            any_problem |= bool(problems)
            complete += state.comparison.references_complete
            expected += _expected(state)
            if whole or problems:
                _show(state, output)
            for problem in problems:
                output.line(f"  {problem.code}: {problem.detail}")
        output.line(_sentence(complete, expected))
        return any_problem


def _show(state: TaskReport, output: Output) -> None:
    found = state.comparison
    output.line(f"{state.task.task_id}  {state.task.status}", style="bold")
    output.table(
        [
            *((f"  {part.name}", f"{found.framework[part.name]}/{found.concepts}") for part in PARTS),
            ("  " + _("complete references"), f"{found.references_complete}/{_expected(state)}"),
        ],
        right=(1,),
    )


def _expected(state: TaskReport) -> int:
    """Concepts that have all their content."""
    return state.comparison.concepts - len(state.comparison.failed)


def _sentence(complete: int, expected: int) -> str:
    return _("%(complete)d/%(expected)d with complete references") % {"complete": complete, "expected": expected}
