"""The promises of the shell: JSON, exit codes, standard output and standard error."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from django.core.management import get_commands, load_command_class

from opsconsole.cli.command import ConsoleCommand
from opsconsole.engine import registry
from tests.support import agentos
from tests.support.subprocess_cli import ROOT, Shell

COMMAND = "backfill_audit_decision_fields"
CHANGING = {
    *("run", "operation", "store", "mode", "status", "total", "changed", "skipped", "invalid", "failed"),
    *("batches", "elapsed_seconds", "rows_per_second", "before", "after", "sample", "reasons", "waiting"),
}
LISTED = {
    *("run", "operation", "store", "status", "mode", "total", "changed", "skipped", "invalid", "failed"),
    *("started_by", "trigger", "break_glass", "created_at", "finished_at"),
}


@pytest.fixture
def shell(tmp_path, empty_console):
    return Shell(tmp_path / "console", empty_console)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store.db"
    agentos.create_sqlite(path, 500)
    return path


@pytest.fixture
def large_store(tmp_path):
    path = tmp_path / "large.db"
    agentos.create_sqlite(path, 60_000)
    return path


def own_commands():
    return sorted(
        name
        for name, app in get_commands().items()
        if isinstance(app, str)
        and app.split(".")[0] in {"opsconsole", "audits", "tasks", "roadmaps"}
        and name not in {"migrate", "import", "export", "loaddata"}  # disabled commands of Django and a library
    )


@pytest.mark.parametrize("name", own_commands())
def test_the_help_of_each_command_ends_with_two_examples(name):
    command = load_command_class(get_commands()[name], name)
    assert isinstance(command, ConsoleCommand)
    text = command.create_parser("manage.py", name).format_help()
    examples = text.split("Examples:")[1].strip().splitlines()
    assert len(examples) == 2
    for example in examples:
        words = example.split("#")[0].replace('"', "'").split()
        assert words[:3] == ["python", "manage.py", name]


def test_dry_run_and_execution_give_the_same_figures(shell, store):
    before = list(agentos.read_sqlite(store))
    dry = shell.json(COMMAND, "--db-path", store, "--dry-run")
    assert list(agentos.read_sqlite(store)) == before
    done = shell.json(COMMAND, "--db-path", store, "--note", "as agreed")
    assert set(dry) >= CHANGING
    assert set(done) >= CHANGING
    for name in ("total", "changed", "skipped", "invalid"):
        assert dry[name] == done[name]
    assert (dry["mode"], dry["status"], dry["run"]) == ("dry-run", "planned", None)
    assert (done["mode"], done["status"], done["total"]) == ("execute", "succeeded", 200)
    assert (dry["store"], done["store"]) == ("agentos", "agentos")
    assert dry["sample"]

    assert shell.json(COMMAND, "--db-path", store)["changed"] == 0
    listed = shell.json("runs", "list")["runs"]
    assert [run["run"] for run in listed] == [done["run"] + 1, done["run"]]
    assert set(listed[0]) == LISTED
    assert [run["run"] for run in shell.json("runs", "list", "--limit", 1)["runs"]] == [done["run"] + 1]
    shown = shell.json("runs", "show", done["run"])
    assert (shown["note"], shown["trigger"], shown["changed"]) == ("as agreed", "shell", done["changed"])
    assert [event["verb"] for event in shown["events"]] == ["planned", "confirmed", "succeeded"]


def test_undo_plans_by_default_and_restores_the_rows(shell, store):
    before = list(agentos.read_sqlite(store))
    run = shell.json(COMMAND, "--db-path", store)["run"]
    after = list(agentos.read_sqlite(store))
    planned = shell.json("runs", "undo", run)
    assert (planned["status"], planned["operation"]) == ("planned", "operations.undo_run")
    assert list(agentos.read_sqlite(store)) == after
    assert "Pass --yes" in shell.run("runs", "undo", run, "--execute").stderr
    assert list(agentos.read_sqlite(store)) == after
    assert "undone_by" not in shell.json("runs", "show", run)
    undo = shell.json("runs", "undo", run, "--execute", "--confirm", "operations.undo_run")
    assert undo["changed"] == planned["changed"]
    assert list(agentos.read_sqlite(store)) == before
    assert shell.json("runs", "show", run)["undone_by"] == undo["run"]
    assert f"run {undo['run']}" in shell.run("runs", "show", run).stdout
    assert "--confirm does not accept 'yes'" in shell.refused("runs", "undo", run, "--confirm", "yes")


def test_undo_refuses_a_file_that_replaced_the_store(shell, store, tmp_path):
    run = shell.json(COMMAND, "--db-path", store)["run"]
    store.rename(tmp_path / "away.db")
    agentos.create_sqlite(store, 500)
    assert "The file was replaced" in shell.refused("runs", "undo", run, "--execute", "--yes")


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "cancel", "approve", "reject", "retry", "undo"])
def test_an_unknown_run_is_refused(shell, verb):
    flags = ["--reason", "x"] if verb == "reject" else []
    assert "Run 4711 does not exist" in shell.refused("runs", verb, 4711, *flags)
    assert "must be a whole number above 0" in shell.refused("runs", verb, "x", *flags)


def test_any_operation_runs_by_its_name(shell, store):
    name = "audits.backfill_decision_fields"
    assert shell.json("run", name, "--db-path", store)["mode"] == "dry-run"
    assert shell.json("run", name, "--db-path", store, "--execute")["mode"] == "execute"
    said = shell.refused("run", "audits.repair_everything")
    assert all(known in said for known in registry.operations())
    assert "--run" in shell.refused("run", "operations.undo_run")
    assert "Omit --batch-size." in shell.refused("run", "operations.prune_runs", "--batch-size", 5)


def test_operations_lists_parameters_risk_and_schedule(shell):
    found = {entry["operation"]: entry for entry in shell.json("operations")["operations"]}
    assert set(found) == set(registry.operations())
    assert found["audits.backfill_decision_fields"]["risk"] == "fill"
    assert found["operations.undo_run"]["parameters"][0]["name"] == "run"
    assert found["operations.prune_runs"]["schedule"]
    assert "audits.backfill_decision_fields" in shell.run("operations").stdout


def test_stores_lists_every_store(shell, tmp_path):
    shell.run("setup")
    other = tmp_path / "other.db"
    agentos.create_sqlite(other, 50, version="0.9.0")
    shell.variables = {"AGENTOS_DATABASE_URL": f"sqlite:///{other}", "AGENTOS_ATTACHED": "true"}
    stores = {entry["alias"]: entry for entry in shell.json("stores")["stores"]}
    assert list(stores) == ["default", "agentos", "helix", "records", "roadmaps"]
    for entry in stores.values():
        assert set(entry) == {
            *("alias", "engine", "location", "managed", "version", "reachable", "size_bytes"),
            *("missing", "unknown"),
        }
        assert entry["reachable"]
        assert entry["size_bytes"] > 0
    assert stores["default"]["missing"] == stores["default"]["unknown"] == []
    assert stores["agentos"]["managed"] is False
    assert stores["agentos"]["version"] == "0.9.0"  # sorts after 0.10.0 as text
    assert "task_audits.source_event_ts" in stores["agentos"]["missing"]
    assert "task_runs" in stores["agentos"]["unknown"]
    assert str(other) in shell.run("stores").stdout


def test_the_text_output_of_a_run(shell, store):
    done = shell.run(COMMAND, "--db-path", store)
    for text in (str(store), "EXECUTE", "In scope: 200", "already filled", "Invalid", "broken JSON"):
        assert text in done.stdout
    assert "the fields are missing in the payload" in done.stdout
    assert "Coverage of source_event_ts:" in done.stdout
    assert "Recommended batch size for this number of rows: 1,000." in done.stdout
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())


def test_export_contains_every_run(shell, store, tmp_path):
    run = shell.json(COMMAND, "--db-path", store)["run"]
    rows = list(csv.DictReader(io.StringIO(shell.run("runs", "export").stdout)))
    assert [row["id"] for row in rows] == [str(run)]
    assert len(json.loads(shell.run("runs", "export", "--format", "json").stdout)) == 1
    book = tmp_path / "runs.xlsx"
    assert shell.run("runs", "export", "--to", book).returncode == 0
    assert book.read_bytes()[:2] == b"PK"
    assert "cannot be written" in shell.refused("runs", "export", "--to", book)
    assert "Pass --format with one of: csv, xlsx, json" in shell.refused(
        "runs", "export", "--to", tmp_path / "runs.txt"
    )


@pytest.mark.parametrize(("frozen", "unfrozen"), [("freeze", "unfreeze"), ("hold-all", "release-all")])
def test_all_runs_are_frozen_and_unfrozen(shell, store, frozen, unfrozen):
    assert "required: --note" in shell.refused("runs", "freeze")
    assert shell.run("runs", frozen, "--note", "incident").returncode == 0
    assert "All runs are frozen" in shell.run(COMMAND, "--db-path", store).stderr
    assert shell.run("runs", unfrozen).returncode == 0
    assert shell.run(COMMAND, "--db-path", store).returncode == 0


def test_background_prints_only_the_id_of_the_run(shell, store):
    done = shell.run(COMMAND, "--db-path", store, "--background")
    assert done.returncode == 0
    run = int(done.stdout)
    assert f"Run {run} is queued" in done.stderr
    assert "of this command is queued" in shell.refused(COMMAND, "--db-path", store)
    assert shell.json("runs", "pause", run)["status"] == "paused"
    assert shell.json("runs", "resume", run)["status"] == "queued"
    assert shell.json("runs", "cancel", run)["status"] == "cancelled"
    assert "This is not possible in that status" in shell.refused("runs", "cancel", run)
    assert "Only a paused or interrupted run" in shell.refused("runs", "resume", run)
    assert "does not wait for approval" in shell.refused("runs", "approve", run)


def test_production_requires_an_account(shell, store):
    shell.variables = {"OPSCONSOLE_ENVIRONMENT": "production", "SECRET_KEY": "x" * 50}
    assert "pass --user" in shell.refused(COMMAND, "--db-path", store)
    assert "pass --user" in shell.refused("runs", "freeze", "--note", "x")
    assert shell.json(COMMAND, "--db-path", store, "--dry-run")["total"] == 200
    assert shell.run("shell", "-c", PEOPLE).returncode == 0
    assert "--user bob is not authenticated" in shell.refused(COMMAND, "--db-path", store, "--user", "bob", "--yes")
    vera, bob = map(shell.as_account, ("vera", "bob"))
    assert "vera may not do this" in vera.refused(COMMAND, "--db-path", store, "--yes")
    assert "Pass --yes" in bob.run(COMMAND, "--db-path", store).stderr
    done = bob.json(COMMAND, "--db-path", store, "--yes")
    assert shell.json("runs", "show", done["run"])["started_by"] == "bob"


PEOPLE = """
from django.contrib.auth.models import Group, User
from opsconsole.console.accounts import create_groups
create_groups()
for name, group in (("bob", "Operators"), ("vera", "Viewers")):
    User.objects.create_user(name).groups.add(Group.objects.get(name=group))
"""


# --- signals and pipes ---------------------------------------------------------------------------------


def batches(shell):
    with closing(sqlite3.connect(shell.folder / "default.sqlite3", timeout=20)) as connection:
        row = connection.execute("SELECT MAX(batches_done) FROM operations_run").fetchone()
    return row[0] or 0


def working(shell, process):
    """Wait until the run has done some batches."""
    deadline = time.monotonic() + 60
    while batches(shell) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]],
)
def test_a_stopped_run_names_the_remedy_and_is_resumed(shell, large_store, signals):
    words = (COMMAND, "--db-path", large_store, "--batch-size", 100)
    process = shell.start(*words)
    working(shell, process)
    for number in signals:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Repeat the command or run `runs resume 1`" in err
    assert "Traceback" not in err
    assert "interrupted" in out
    done = shell.json(*words[:3], "--fast")
    assert (done["run"], done["status"], done["total"]) == (1, "succeeded", 24_000)


def test_a_running_run_is_not_started_twice(shell, large_store):
    words = (COMMAND, "--db-path", large_store, "--batch-size", 10)  # takes longer than two commands
    process = shell.start(*words)
    working(shell, process)
    assert "Run 1 is already running" in shell.refused(*words)
    assert shell.json("runs", "cancel", 1)["run"] == 1
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert shell.json("runs", "show", 1)["status"] == "cancelled"


def test_a_stopped_plan_leaves_no_file_next_to_the_store(shell, large_store):
    process = shell.start(COMMAND, "--db-path", large_store, "--dry-run", "--batch-size", 1)
    log = large_store.with_name(f"{large_store.name}-wal")
    deadline = time.monotonic() + 60
    while not log.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. Nothing was written." in err
    assert list(large_store.parent.glob("large.db-*")) == []


@pytest.mark.parametrize("words", ["--dry-run", "", "--json"])
def test_a_run_survives_the_end_of_its_reader(shell, store, words):
    line = f"{sys.executable} manage.py {COMMAND} --db-path {store} {words}"
    done = subprocess.run(
        f"set -o pipefail; {line} | true",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        env=shell.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    statuses = [run["status"] for run in shell.json("runs", "list")["runs"]]
    assert statuses == ([] if words == "--dry-run" else ["succeeded"])


@pytest.mark.parametrize("words", [["--help"], ["runs", "list"], ["operations"]])
def test_a_command_that_only_lists_loads_no_heavy_library(shell, words):
    heavy = {"httpx", "langgraph", "ninja", "openpyxl", "psycopg", "pydantic", "sqlglot", "tablib"}
    arguments = [sys.executable, "-X", "importtime", "manage.py", *words]
    done = subprocess.run(arguments, cwd=ROOT, env=shell.environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "django" in loaded
    assert loaded.isdisjoint(heavy)
