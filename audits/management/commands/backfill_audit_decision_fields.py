from __future__ import annotations

from opsconsole.operations.management.base import OperationCommand


class Command(OperationCommand):
    help = "Fill source_event_ts and supervisor_processed_at of supervisor audits, where they are NULL."
    operation = "audits.backfill_decision_fields"
    executes_by_default = True
    asks = False
    examples = (
        "backfill_audit_decision_fields --dry-run",
        "backfill_audit_decision_fields --db-path /path/to/store.db --batch-size 5000",
    )
