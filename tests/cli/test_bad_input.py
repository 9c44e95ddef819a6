"""Bad input of commands: exit code 2 and one sentence. Nothing is written or created."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from tests.support import agentos
from tests.support.subprocess_cli import Shell, nothing_appears

COMMAND = "backfill_audit_decision_fields"
UNUSED_PORT = "postgresql://user:secret-word@127.0.0.1:1/agentos"


@pytest.fixture
def shell(tmp_path, empty_console):
    return Shell(tmp_path / "console", empty_console)


@pytest.fixture
def folder(tmp_path):
    """Return a directory with good and bad stores."""
    folder = tmp_path / "stores"
    folder.mkdir()
    agentos.create_sqlite(folder / "good.db", 50)
    agentos.create_sqlite(folder / "old.db", 50, version="0.20.0")
    good = (folder / "good.db").read_bytes()
    (folder / "empty.db").touch()
    (folder / "text.db").write_text("Once upon a time there was a store.\n" * 50)
    (folder / "word.db").write_text("short")
    (folder / "cut.db").write_bytes(good[:100])
    (folder / "damaged.db").write_bytes(good[:200] + b"\xff" * (len(good) - 200))
    (folder / "folder").mkdir()
    (folder / "dangling.db").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "read_only.db").write_bytes(good)
    (folder / "read_only.db").chmod(0o444)
    return folder


REFUSALS = {
    "missing.db": "does not exist",
    "no_folder/missing.db": "does not exist",
    "dangling.db": "does not exist",
    "empty.db": "is empty",
    "text.db": "is not a SQLite database",
    "word.db": "is not a SQLite database",
    "cut.db": "is damaged",
    "damaged.db": "is damaged",
    "folder": "is a directory",
    "pipe": "is not a regular file",
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "--execute") for name in REFUSALS), *((name, "--dry-run") for name in ("missing.db", "text.db"))],
)
def test_a_bad_file_is_refused(shell, folder, name, mode):
    with nothing_appears(folder):
        said = shell.refused(COMMAND, "--db-path", folder / name, mode)
    assert REFUSALS[name] in said
    assert "\n" not in said


@pytest.mark.parametrize("store", ["attached", "managed"])
def test_a_missing_store_of_the_environment_is_not_created(shell, tmp_path, store):
    path = tmp_path / "stores" / "agentos.sqlite3"
    path.parent.mkdir()
    shell.variables = {"AGENTOS_DATABASE_URL": f"sqlite:///{path}"}
    if store == "attached":
        shell.variables["AGENTOS_ATTACHED"] = "true"
    for mode in ("--dry-run", "--execute"):
        assert "does not exist" in shell.refused(COMMAND, mode)
    entry = next(s for s in shell.json("stores")["stores"] if s["alias"] == "agentos")
    assert (entry["reachable"], entry["size_bytes"], entry["location"]) == (False, None, str(path))
    assert f"agentos: {path} does not exist" in shell.run("stores").stdout
    assert f"agentos: {path} does not exist" in shell.run("stores", "--json").stderr
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("mode", ["--dry-run", "--execute"])
def test_missing_columns_are_named_with_the_statements_that_add_them(shell, folder, mode):
    with nothing_appears(folder):
        said = shell.refused(COMMAND, "--db-path", folder / "old.db", mode)
    assert "task_audits.source_event_ts, task_audits.supervisor_processed_at" in said
    statements = said.splitlines()[1:]
    with closing(sqlite3.connect(folder / "old.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    assert shell.run(COMMAND, "--db-path", folder / "old.db").returncode == 0


def test_a_read_only_store_is_read_and_not_written(shell, folder):
    path = folder / "read_only.db"
    with nothing_appears(folder):
        assert "is read-only" in shell.refused(COMMAND, "--db-path", path)
        assert shell.json(COMMAND, "--db-path", path, "--dry-run")["total"] > 0
        shell.variables = {"AGENTOS_DATABASE_URL": f"sqlite:///{path}", "AGENTOS_ATTACHED": "true"}
        assert "is read-only" in shell.refused(COMMAND)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_locked_store_is_refused_after_the_busy_timeout(shell, tmp_path, journal):
    path = tmp_path / "store.db"
    agentos.create_sqlite(path, 50)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA journal_mode={journal}")
        before = list(agentos.read_sqlite(path))
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked by another process" in shell.refused(COMMAND, "--db-path", path)
        other.execute("ROLLBACK")
    assert list(agentos.read_sqlite(path)) == before
    assert shell.json("runs", "list") == {"runs": []}


@pytest.mark.parametrize("size", ["0", "-5", "100001", "abc", "1.5", "", "٣"])
def test_a_wrong_batch_size_is_refused(shell, size):
    assert "a whole number from 1 to 100000" in shell.refused(COMMAND, "--batch-size", size)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dry-run", "--execute"], "not allowed with argument"),
        (["--database", "nowhere"], "The stores are: default, agentos, helix, records, roadmaps."),
        (["--database", "default"], "not on default"),
        (["--db-path", ""], "The path is empty"),
        (["--db-path", "x", "--database", "agentos"], "not allowed with argument"),
        (["--user", "nobody"], "No active account is called nobody."),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_flags_are_refused_with_one_sentence(shell, words, sentence):
    said = shell.refused(COMMAND, *words)
    assert sentence in said
    assert "\n" not in said


def test_unknown_commands_and_account_names_are_refused(shell):
    unknown = shell.run("frobnicate")
    assert (unknown.returncode, "Unknown command: 'frobnicate'" in unknown.stderr) == (2, True)
    for name in ("", "a b/c"):
        assert "is not a valid account name." in shell.refused("setup", "--superuser", name)


def test_an_unreachable_server_is_refused_without_its_password(shell):
    shell.variables = {"AGENTOS_DATABASE_URL": UNUSED_PORT, "AGENTOS_ATTACHED": "true"}
    for words in ([COMMAND], [COMMAND, "--dry-run"], [COMMAND, "--json"], ["audit_coverage"]):
        said = shell.refused(*words)
        assert "127.0.0.1:1/agentos cannot be reached" in said
        assert "secret-word" not in said
    listed = shell.json("stores")
    assert "secret-word" not in str(listed)
    assert [s["reachable"] for s in listed["stores"] if s["alias"] == "agentos"] == [False]
    assert "agentos: 127.0.0.1:1/agentos cannot be reached" in shell.run("stores").stdout


def test_a_console_that_is_not_set_up_is_refused(tmp_path):
    shell = Shell(tmp_path / "console")
    store = tmp_path / "stores" / "store.db"
    store.parent.mkdir()
    agentos.create_sqlite(store, 50)
    with nothing_appears(store.parent):
        for words in ([COMMAND, "--db-path", store], ["runs", "list"], ["runs", "undo", "1"]):
            assert "Run `python manage.py setup` first" in shell.refused(*words)
        assert shell.json(COMMAND, "--db-path", store, "--dry-run")["total"] == 20
    assert {path.name for path in shell.folder.iterdir()} == {"secret_key"}


def test_commands_fail_if_the_console_database_is_down(tmp_path):
    shell = Shell(tmp_path / "console", variables={"DATABASE_URL": UNUSED_PORT})
    said = shell.refused("runs", "list")
    assert "The console's own database cannot be used" in said
    assert "secret-word" not in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPSCONSOLE_ENVIRONMENT", "prod"),
        ("OPSCONSOLE_ENVIRONMENT", "production"),  # without a SECRET_KEY
        ("OPSCONSOLE_WORKERS", "two"),
        ("AGENTOS_ATTACHED", "treu"),
        ("AGENTOS_DATABASE_URL", "mysql://somewhere/agentos"),
        ("AGENTOS_DATABASE_URL", "postgresql://u:p@h:port/agentos"),
        ("AGENTOS_DATABASE_URL", "postgresql://u:p@h/agentos?pool_max=many"),
    ],
)
def test_an_unreadable_environment_is_refused(shell, name, value):
    shell.variables = {name: value, "SECRET_KEY": ""}
    assert "\n" not in shell.refused("runs", "list")


@pytest.mark.parametrize("text", ["", " ", "-", "..."])
def test_a_search_without_a_word_is_refused(shell, text):
    shell.run("setup")
    assert "contains no word to search for" in shell.refused("search", "--", text)


def test_a_text_that_is_not_utf_8_is_saved_readable(shell):
    shell.run("setup")
    for words in (("runs", "freeze", "--note"), ("run", "monitoring.measure_stores", "--execute", "--note")):
        done = shell.run(*words, os.fsdecode(b"\xe9t\xe9 is down"))
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0, done.stderr


def test_migrate_and_setup_do_not_change_an_attached_store(shell, folder):
    shell.variables = {"AGENTOS_DATABASE_URL": f"sqlite:///{folder}/good.db", "AGENTOS_ATTACHED": "true"}
    with nothing_appears(folder):
        assert "has no migrations" in shell.refused("migrate", "--database", "agentos")
        assert "attached, unchanged" in shell.run("setup").stdout
