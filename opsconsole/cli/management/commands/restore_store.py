from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    operation = "backups.restore_store"
    positional = ("store", "file")
    help = gettext_noop("Restore a backup into its managed store, or next to it. Dry run without --execute.")
    examples = (
        "restore_store agentos agentos-20261124T020000Z-7.sqlite3.gz --execute",
        "restore_store agentos agentos-20261124T020000Z-7.sqlite3.gz --as agentos_monday --execute",
    )
