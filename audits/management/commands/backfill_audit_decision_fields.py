from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    help = gettext_noop("Fill source_event_ts and supervisor_processed_at of supervisor audits if they are NULL.")
    operation = "audits.backfill_decision_fields"
    executes_by_default = True
    asks = False
    examples = (
        "backfill_audit_decision_fields --dry-run",
        "backfill_audit_decision_fields --db-path /path/to/store.db --batch-size 5000",
    )
