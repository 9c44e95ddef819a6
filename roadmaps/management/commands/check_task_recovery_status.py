from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.output import Output
from opsconsole.formatting import format_number
from roadmaps.cli import ReportCommand
from roadmaps.consistency import TaskReport
from roadmaps.content import PARTS


class Command(ReportCommand):
    help = gettext_noop("Compare a task, its framework and the content tables, and list the problems.")
    examples = (
        "check_task_recovery_status 49961d40-0cac-4255-abba-adad0b901056",
        "check_task_recovery_status --all --exit-code --json",
    )
    operation = "roadmaps.check_recovery"

    def show(self, reports: Iterable[TaskReport], output: Output, *, details: bool) -> bool:
        tasks = 0
        counts: Counter[str] = Counter()
        for report in reports:
            tasks += 1
            counts.update(problem.code for problem in report.problems)
            if details:
                _show(report, output)
            for problem in report.problems:
                output.line(f"{report.task.task_id}  {problem.code}: {problem.detail}")
        output.line(_("Tasks: %(tasks)s") % {"tasks": format_number(tasks)})
        output.table([(code, format_number(count)) for code, count in sorted(counts.items())], right=(1,))
        if not counts:
            output.line(_("No problems found."))
        return bool(counts)


def _show(report: TaskReport, output: Output) -> None:
    task, found = report.task, report.comparison
    output.table(
        [
            (_("Task"), task.task_id),
            (_("Roadmap"), task.roadmap_id or "–"),
            (_("Status"), task.status),
            (_("Step"), task.current_step or "–"),
            (_("Unchanged since"), f"{task.updated_at} ({settings.ROADMAPS_TIME_ZONE})" if task.updated_at else "–"),
            (_("Concepts"), format_number(found.concepts)),
        ]
    )
    output.table(
        [
            ("", _("framework"), _("content tables")),
            *(
                (part.name, format_number(found.framework[part.name]), format_number(found.content[part.name]))
                for part in PARTS
            ),
        ],
        right=(1, 2),
        heading=True,
    )
    output.line(_("With complete references: %(count)s") % {"count": format_number(found.references_complete)})
