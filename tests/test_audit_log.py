"""The audit log is a chain: what was changed, removed or inserted behind the console's back is named."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from opsconsole.operations import audit_log, runs
from opsconsole.operations.models import Event
from tests.contract import TESTER, execute_run, operation_called
from tests.test_checklist import make_backup

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture
def entries() -> int:
    for number in range(5):
        runs.record(None, "note", TESTER, text=f"日誌 {number}", share=1.5 * number, large=1e16, nested={"b": [1, 2.0]})
    return Event.objects.count()


def sql(statement: str, *values: Any) -> None:
    """What somebody does who can write the database."""
    with connections["default"].cursor() as cursor:
        cursor.execute(statement, values)


def test_a_log_that_nobody_touched_is_whole(entries: int, capsys: Any) -> None:
    call_command("verify_audit_log")
    assert f"{entries} entries" in capsys.readouterr().out
    assert audit_log.head()[0] == entries


CHANGES = {
    "who": ("UPDATE operations_event SET who = 'mallory' WHERE number = 3", "Entry 3"),
    "detail": ("UPDATE operations_event SET detail = '{}' WHERE number = 2", "Entry 2"),
    "time": ("UPDATE operations_event SET at = '2020-01-01 00:00:00' WHERE number = 4", "Entry 4"),
    "removed": ("DELETE FROM operations_event WHERE number = 3", "Entry 3 was removed"),
    "first removed": ("DELETE FROM operations_event WHERE number = 1", "Entry 1 was removed"),
    "appended": (
        "INSERT INTO operations_event (at, verb, who, origin, detail, number, seal)"
        " SELECT at, 'approved', 'mira', origin, detail, 6, seal FROM operations_event WHERE number = 5",
        "Entry 6 (approved, mira",
    ),
    "inserted": (
        "INSERT INTO operations_event (at, verb, who, origin, detail, number, seal)"
        " SELECT at, 'approved', 'mira', origin, detail, NULL, seal FROM operations_event WHERE number = 5",
        "An entry without a number (approved, mira) was inserted",
    ),
    "two exchanged": (
        "UPDATE operations_event SET number = CASE number WHEN 2 THEN 30 ELSE 20 END WHERE number IN (2, 3)",
        "Entry 2 was removed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_broken_entry_is_named(entries: int, change: str) -> None:
    statement, sentence = CHANGES[change]
    sql(statement)
    with pytest.raises(CommandError) as broken:
        call_command("verify_audit_log")
    assert sentence in str(broken.value)
    assert broken.value.returncode == 1


def test_a_log_that_was_cut_short_or_written_anew_does_not_fit_its_backups(
    entries: int, tmp_path: Any, settings: Any
) -> None:
    backup = make_backup(operation_called("tasks.clean_memory_items").at, tmp_path)
    backup.audit_entries, backup.audit_head = audit_log.head()
    backup.save()
    sql("DELETE FROM operations_event WHERE number = 5")
    with pytest.raises(CommandError, match="Entry 5 was removed: a backup noted 5 entries"):
        call_command("verify_audit_log")
    runs.record(None, "note", TESTER, text="another")
    with pytest.raises(CommandError, match=r"Entry 5 .* was changed or inserted"):
        call_command("verify_audit_log")


def test_another_key_makes_no_seal_that_fits(entries: int, settings: Any) -> None:
    settings.SECRET_KEY = "what somebody guesses who has the database and not the key"
    runs.record(None, "approved", TESTER)
    settings.SECRET_KEY = __import__("opsconsole.settings", fromlist=["SECRET_KEY"]).SECRET_KEY
    with pytest.raises(CommandError, match="Entry 6"):
        call_command("verify_audit_log")


def test_a_backup_notes_the_log(tmp_path: Any, entries: int) -> None:
    from opsconsole.care.models import Backup

    run = execute_run(operation_called("care.backup_store", store="agentos"))
    assert run.status == "succeeded"
    assert (Backup.objects.get().audit_entries or 0) >= entries
    call_command("verify_audit_log")


def test_entries_of_many_threads_make_one_chain(entries: int) -> None:
    def append() -> None:
        for number in range(5):
            runs.record(None, "note", TESTER, text=str(number))
        connections.close_all()

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Event.objects.count() == entries + 20
    call_command("verify_audit_log")


def test_pruning_keeps_every_entry(make_attached: Any) -> None:
    execute_run(operation_called("audits.backfill_decision_fields", make_attached("sqlite", 20).store))
    before = Event.objects.count()
    execute_run(operation_called("operations.prune_runs", days=365))
    execute_run(operation_called("operations.prune_findings", days=1))
    assert Event.objects.count() >= before
    call_command("verify_audit_log")
