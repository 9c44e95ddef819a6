from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.output import Output
from roadmaps.cli import ReportCommand
from roadmaps.consistency import TaskReport
from roadmaps.content import PARTS


class Command(ReportCommand):
    help = gettext_noop("Verify that rows justify every status and that every completed part refers to a row.")
    examples = (
        "verify_framework_sync 49961d40-0cac-4255-abba-adad0b901056",
        "verify_framework_sync --all --exit-code",
    )
    operation = "roadmaps.verify_sync"

    def as_json(self, report: TaskReport) -> dict[str, Any]:
        found = report.comparison
        return report.as_json() | {"references_expected": found.references_expected, "failed": len(found.failed)}

    def show(self, reports: Iterable[TaskReport], output: Output, *, details: bool) -> bool:
        has_problems = False
        complete = expected = 0
        for report in reports:
            has_problems |= bool(report.problems)
            complete += report.comparison.references_complete
            expected += report.comparison.references_expected
            if details or report.problems:
                _show(report, output)
            for problem in report.problems:
                output.line(f"  {problem.code}: {problem.detail}")
        output.line(
            _("%(complete)d/%(expected)d with complete references") % {"complete": complete, "expected": expected}
        )
        return has_problems


def _show(report: TaskReport, output: Output) -> None:
    found = report.comparison
    output.line(f"{report.task.task_id}  {report.task.status}", style="bold")
    output.table(
        [
            *((f"  {part.name}", f"{found.framework[part.name]}/{found.concepts}") for part in PARTS),
            ("  " + _("complete references"), f"{found.references_complete}/{found.references_expected}"),
        ],
        right=(1,),
    )
