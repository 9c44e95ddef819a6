from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    help = gettext_noop("Fill execution_id of test records from their summaries, compressed ones included.")
    operation = "records.backfill_execution_ids"
    executes_by_default = True
    asks = False
    examples = (
        "backfill_execution_ids --dry-run",
        "backfill_execution_ids --db-path /path/to/database.db",
    )
