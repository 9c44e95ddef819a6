from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    help = gettext_noop("Delete expired memory items. Without --execute, only show the plan.")
    operation = "agentos.clean_memory_items"
    examples = ("clean_memory_items", "clean_memory_items --execute --yes --retention-type temporary")
