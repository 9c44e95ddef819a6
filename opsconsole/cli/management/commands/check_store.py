from __future__ import annotations

from django.utils.translation import gettext_noop

from opsconsole.cli.running import OperationCommand


class Command(OperationCommand):
    operation = "monitoring.check_store"
    positional = ("store",)
    help = gettext_noop("Check a store: damage, references, JSON, enumerations, schema, hot queries, settings.")
    examples = ("check_store agentos --exit-code", "check_store agentos --db-path /path/to/store.db --json")
