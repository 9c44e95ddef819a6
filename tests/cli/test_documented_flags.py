"""The commands, verbs, arguments and flags that scripts of users rely on."""

from __future__ import annotations

import pytest
from django.core.management import get_commands, load_command_class

from tests.cli.test_flags import parsers

OPERATION = (
    *("--dry-run", "--execute", "--database", "--db-path", "--batch-size", "--fast", "--background"),
    *("--note", "--user", "--confirm", "--yes", "--json"),
)
CHECK = ("--dry-run", "--database", "--db-path", "--background", "--note", "--user", "--exit-code", "--json")
STATES = ("keys", "--all", "--exit-code", "--json", "--db-path")
STEERING = ("run", "--user", "--json")
DOCUMENTED: dict[str, tuple[str, ...]] = {
    "demo": (),
    "setup": ("--demo", "--superuser"),
    "accounts link": ("account", "system_user", "--user"),
    "run audits.backfill_decision_fields": OPERATION,
    "operations": ("--json",),
    "runs list": ("--awaiting-me", "--limit", "--json"),
    "runs show": ("run", "--json"),
    "runs pause": STEERING,
    "runs resume": STEERING,
    "runs cancel": STEERING,
    "runs approve": STEERING,
    "runs reject": (*STEERING, "--reason"),
    "runs retry": ("run", *OPERATION),
    "runs undo": ("run", *OPERATION),
    "runs export": ("--format", "--to"),
    "runs freeze": ("--note", "--user"),
    "runs unfreeze": ("--user",),
    "runs hold-all": ("--note", "--user"),
    "runs release-all": ("--user",),
    "verify_audit_log": ("--json",),
    "stores": ("--json",),
    "backfill_audit_decision_fields": OPERATION,
    "audit_coverage": ("--db-path", "--json"),
    "clean_memory_items": OPERATION,
    "search": ("text", "--in", "--json"),
    "cleanup_dirty_data scan": CHECK,
    "cleanup_dirty_data cleanup": ("keys", "--force", *OPERATION),
    "cleanup_dirty_data verify": CHECK,
    "backfill_execution_ids": OPERATION,
    "execution_status": ("execution_id", "--json"),
    "check_task_recovery_status": STATES,
    "verify_framework_sync": STATES,
    "sync_task_results_to_framework": ("keys", "--all", "--force", *OPERATION),
    "recover_task": ("keys", *OPERATION),
    "recover_interrupted_tasks": OPERATION,
    "backup_store": ("store", "--to", "--plain", "--list", *OPERATION),
    "restore_store": ("store", "file", "--as", *OPERATION),
    "upgrade_store": ("store", *OPERATION),
    "rebuild_store": ("--db-path", "--to", "--json"),
    "check_store": ("store", *CHECK),
    "copy_store": ("store", "--to", *OPERATION),
    "store_stats": ("alias", "--json"),
}


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_command_has_its_documented_flags(words: str) -> None:
    name = words.split()[0]
    parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
    actions = next(actions for found, actions in parsers(parser, (name,)) if " ".join(found) == words)
    flags = {flag for action in actions for flag in (*action.option_strings, action.dest)}
    assert set(DOCUMENTED[words]) <= flags
