from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.operations.management.base import OperationCommand


class Command(OperationCommand):
    operation = "care.backup_store"
    executes_by_default = True
    positional = ("store",)
    help = gettext_noop("Write a checked backup of a store.")
    examples = ("backup_store agentos", "backup_store helix --to /mnt/backups --plain")
