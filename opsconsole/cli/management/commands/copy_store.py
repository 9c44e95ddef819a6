from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    operation = "backups.copy_store"
    positional = ("store",)
    help = gettext_noop(
        "Copy a store into an empty database, from SQLite to PostgreSQL or back. Dry run without --execute."
    )
    examples = (
        "copy_store agentos --to agentos_new",
        "copy_store agentos --to agentos_new --execute  # AGENTOS_NEW_DATABASE_URL names the target",
    )
