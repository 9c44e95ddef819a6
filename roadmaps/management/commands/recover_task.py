from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.flags import add_keys_argument
from opsconsole.cli.running import OperationCommand
from roadmaps.cli import refuse_active_tasks


class Command(OperationCommand):
    help = gettext_noop("Resume a task from its LangGraph checkpoint, then sync and verify it.")
    examples = (
        "recover_task 49961d40-0cac-4255-abba-adad0b901056 --dry-run",
        "recover_task 49961d40-0cac-4255-abba-adad0b901056 --yes",
    )
    operation = "roadmaps.recover_tasks"
    executes_by_default = True

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add_keys_argument(parser, "TASK_ID", help=_("the task to recover"))

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_active_tasks(self.operation, options, _("Wait until it counts as stuck."))
        super().handle(*args, **options)
