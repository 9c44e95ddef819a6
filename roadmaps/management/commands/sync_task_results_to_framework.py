from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand
from roadmaps.cli import refuse_active_tasks, require_choice


class Command(OperationCommand):
    help = gettext_noop("Write existing content into the framework and the task. Executes unless --dry-run is given.")
    examples = (
        "sync_task_results_to_framework 49961d40-0cac-4255-abba-adad0b901056",
        "sync_task_results_to_framework --all --dry-run",
    )
    operation = "roadmaps.sync_results"
    executes_by_default = True
    asks = False

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("keys", nargs="*", metavar="TASK_ID", help=_("the tasks to sync"))
        parser.add_argument("--all", action="store_true", help=_("every stuck task"))

    def handle(self, *args: Any, **options: Any) -> None:
        require_choice(options)
        if options["keys"] and not options["force"]:
            refuse_active_tasks(self.operation, options, _("Wait until it counts as stuck, or give --force."))
        super().handle(*args, **options)
