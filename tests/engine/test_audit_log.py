"""The audit log is a chain: changed, removed and inserted entries are reported."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections
from django.utils import timezone

from opsconsole.backups.files import file_digest
from opsconsole.backups.folders import listed_files
from opsconsole.backups.notes import note_of
from opsconsole.engine import audit_log
from opsconsole.engine.models import Event
from opsconsole.stores.models import Backup
from tests.console.test_proxies import printed
from tests.engine.test_checklist import make_backup
from tests.support.contract import TESTER, execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture
def entries() -> int:
    for number in range(5):
        audit_log.record(
            None, "note", TESTER, text=f"日誌 {number}", share=1.5 * number, large=1e16, nested={"b": [1, 2.0]}
        )
    return Event.objects.count()


def sql(statement: str, *values: Any) -> None:
    """Change the log in the database, without the console."""
    with connections["default"].cursor() as cursor:
        cursor.execute(statement, values)


def test_an_unchanged_log_is_valid(entries: int, capsys: Any) -> None:
    call_command("verify_audit_log")
    assert f"Entries: {entries}." in capsys.readouterr().out
    assert audit_log.head()[0] == entries


CHANGES = {
    "who": ("UPDATE operations_event SET who = 'mallory' WHERE number = 3", "Entry 3"),
    "detail": ("UPDATE operations_event SET detail = '{}' WHERE number = 2", "Entry 2"),
    "controls": (
        "UPDATE operations_event SET who = char(27, 10) || 'eve' WHERE number = 3",
        r"Entry 3 was changed or inserted. Its values may be forged: 'note', '\e\neve', '",
    ),
    "no time": ("UPDATE operations_event SET at = 'noon' WHERE number = 4", "'NULL'"),
    "time": ("UPDATE operations_event SET at = '2020-01-01 00:00:00' WHERE number = 4", "Entry 4"),
    "removed": ("DELETE FROM operations_event WHERE number = 3", "Entry 3 was removed"),
    "first removed": ("DELETE FROM operations_event WHERE number = 1", "Entry 1 was removed"),
    "appended": (
        "INSERT INTO operations_event (at, verb, who, origin, detail, number, seal)"
        " SELECT at, 'approved', 'mira', origin, detail, 6, seal FROM operations_event WHERE number = 5",
        "Entry 6 was changed or inserted. Its values may be forged: 'approved', 'mira'",
    ),
    "inserted": (
        "INSERT INTO operations_event (at, verb, who, origin, detail, number, seal)"
        " SELECT at, 'approved', 'mira', origin, detail, NULL, seal FROM operations_event WHERE number = 5",
        "An entry without a number was inserted. Its values may be forged: 'approved', 'mira'",
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


def test_a_shortened_or_rewritten_log_differs_from_its_backups(entries: int, tmp_path: Any, settings: Any) -> None:
    backup = make_backup(operation_called("agentos.clean_memory_items").store, tmp_path)
    backup.audit_entries, backup.audit_head = audit_log.head()
    backup.save()
    sql("DELETE FROM operations_event WHERE number = 5")
    with pytest.raises(CommandError, match=r"Entry 5 was removed: .*backup-1 noted 5 entries"):
        call_command("verify_audit_log")
    audit_log.record(None, "note", TESTER, text="another")
    with pytest.raises(CommandError, match=r"Entry 5 or an earlier one was replaced: .*backup-1 has another seal"):
        call_command("verify_audit_log")


def test_another_key_makes_different_seals(entries: int, settings: Any) -> None:
    key = settings.AUDIT_LOG_KEY
    settings.AUDIT_LOG_KEY = "a guess of an attacker with the database"
    audit_log.record(None, "approved", TESTER)
    settings.AUDIT_LOG_KEY = key
    with pytest.raises(CommandError, match="Entry 6"):
        call_command("verify_audit_log")


@pytest.mark.parametrize("appended", [0, 1, 4])
def test_a_wrong_key_is_reported_as_such(entries: int, settings: Any, appended: int) -> None:
    """A wrong key is reported instead of a forged first entry, also after the console has used the new key."""
    former, settings.AUDIT_LOG_KEY = settings.AUDIT_LOG_KEY, "k" * 32
    for number in range(appended):
        audit_log.record(None, "note", TESTER, text=str(number))
    with pytest.raises(CommandError, match="No key matches the first 5 entries") as wrong:
        call_command("verify_audit_log")
    assert wrong.value.returncode == 1
    settings.AUDIT_LOG_KEY_FALLBACKS = ["another" * 8, former]
    call_command("verify_audit_log")
    sql("UPDATE operations_event SET who = 'mallory' WHERE number = 3")
    with pytest.raises(CommandError, match="Entry 3"):
        call_command("verify_audit_log")


def test_without_a_separate_key_the_log_uses_the_secret_key(tmp_path: Any) -> None:
    expression = "(settings.AUDIT_LOG_KEY == settings.SECRET_KEY, settings.AUDIT_LOG_KEY_FALLBACKS)"
    assert printed(tmp_path, expression) == "(True, [])"
    keys = {"AUDIT_LOG_KEY": "k" * 32, "AUDIT_LOG_KEY_FALLBACKS": "old,older"}
    assert printed(tmp_path, expression, **keys) == "(False, ['old', 'older'])"


# --- the notes of the backups ----------------------------------------------------------------------------


@pytest.fixture
def backup(tmp_path: Any, entries: int, settings: Any) -> Backup:
    settings.BACKUP_FOLDERS = [tmp_path]
    run = execute_run(operation_called("backups.backup_store", store="agentos"))
    assert run.status == "succeeded"
    return Backup.objects.get()


def test_a_backup_notes_the_log(backup: Backup, entries: int) -> None:
    assert (backup.audit_entries or 0) >= entries
    note = note_of(Path(backup.path))
    assert note.stat().st_mode & 0o777 == 0o600
    assert note.name not in listed_files()
    assert Path(backup.path).name in listed_files()
    call_command("verify_audit_log")


def test_a_rewritten_database_differs_from_the_notes(backup: Backup) -> None:
    """The log and the list of backups are reset to an earlier state, so that every seal is valid."""
    sql("DELETE FROM operations_event WHERE number > 5")
    sql("DELETE FROM stores_backup")
    with pytest.raises(CommandError, match=r"Entry 6 was removed: .*\.audit noted \d+ entries"):
        call_command("verify_audit_log")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"audit_entries": 1, "audit_head": "x", "seal": "x"}'])
def test_a_note_that_was_altered_is_named(backup: Backup, text: str) -> None:
    note_of(Path(backup.path)).write_text(text)
    with pytest.raises(CommandError, match=r"\.audit was altered"):
        call_command("verify_audit_log")


def test_a_replaced_backup_file_is_not_restored(backup: Backup) -> None:
    """An attacker who can write to the list of backups and their folder does not have the key of the note."""
    path = Path(backup.path)
    path.write_bytes(path.read_bytes() + bytes(1))
    sql("UPDATE stores_backup SET digest = %s, size = %s", file_digest(path), path.stat().st_size)
    operation = operation_called("backups.restore_store", store="agentos", file=path.name, as_="beside")
    run = execute_run(operation)
    assert run.status != "succeeded"
    assert "has changed since the backup was written" in run.failed_items.get().error


def test_a_note_is_deleted_with_its_backup(backup: Backup) -> None:
    old = timezone.now() - timedelta(days=400)
    Backup.objects.update(at=old)
    sql("UPDATE stores_backup SET verified_at = NULL")
    newer = execute_run(operation_called("backups.backup_store", store="agentos"))
    execute_run(operation_called("backups.prune_backups", days=30, newest=1))
    kept = [Path(one.path) for one in Backup.objects.all()]
    assert [one.run_id for one in Backup.objects.all()] == [newer.pk]
    assert sorted(Path(backup.path).parent.iterdir()) == sorted([*kept, *map(note_of, kept)])


def test_entries_of_many_threads_make_one_chain(entries: int) -> None:
    def append() -> None:
        for number in range(5):
            audit_log.record(None, "note", TESTER, text=str(number))
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
