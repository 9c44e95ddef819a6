from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    help = gettext_noop("Remove memory items that have expired and may go; a dry run unless --execute.")
    operation = "agentos.clean_memory_items"
    examples = ("clean_memory_items", "clean_memory_items --execute --yes --retention-type temporary")
