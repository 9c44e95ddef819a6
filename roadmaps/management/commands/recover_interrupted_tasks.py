from __future__ import annotations

from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import Refused
from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    help = gettext_noop("Recover every stuck creation task, oldest first, within the limits on age, number and delay.")
    examples = ("recover_interrupted_tasks --dry-run", "recover_interrupted_tasks --yes")
    operation = "roadmaps.recover_tasks"
    executes_by_default = True

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.ENABLE_TASK_RECOVERY:
            raise Refused(_("Recovery is switched off. Set ENABLE_TASK_RECOVERY=true to switch it on."))
        super().handle(*args, **options)
