"""`setup` records the environment. A process with a lower one writes nothing and does not start."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from opsconsole.engine import lifecycle, workers
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Installation, Run
from tests.support import agentos
from tests.support.contract import TESTER, operation_called, plan_whole
from tests.support.subprocess_cli import ROOT, Shell, nothing_appears

BACKFILL = "backfill_audit_decision_fields"
SENTENCE = "This console is set up as production, but this process runs as development. Set OPSCONSOLE_ENVIRONMENT"
SECRET = {"SECRET_KEY": "a long and random text of this test alone, more than fifty characters"}


@pytest.fixture
def shell(tmp_path: Any, empty_console: Any) -> Shell:
    """Set up a console for production, and a shell without its variables."""
    shell = Shell(tmp_path / "console", empty_console, {**SECRET, "OPSCONSOLE_ENVIRONMENT": "production"})
    assert shell.run("setup", "--superuser", "mira").returncode == 0
    shell.variables = SECRET
    return shell


def test_every_command_that_writes_is_refused(shell: Shell, tmp_path: Any) -> None:
    store = tmp_path / "stores" / "store.db"
    store.parent.mkdir()
    agentos.create_sqlite(store, 50)
    with nothing_appears(store.parent):
        for words in (
            (BACKFILL, "--db-path", store),
            ("run", "audits.backfill_decision_fields", "--db-path", store, "--execute"),
            ("runs", "freeze", "--note", "x"),
            ("runs", "approve", "1"),
            ("accounts", "link", "mira", "x"),
            ("setup",),
            ("demo",),
            ("migrate",),
            ("changepassword", "mira"),
            ("qcluster",),
            ("shell", "-c", "pass"),
            ("import", "x"),
        ):
            said = shell.run(*words)
            expected = "Run 1 does not exist" if words[1:2] == ("approve",) else SENTENCE
            assert expected in said.stderr, words
            assert (said.returncode, "Traceback" in said.stderr) == (2, False), words
        assert shell.json(BACKFILL, "--db-path", store, "--dry-run")["total"] > 0, "commands that only read work"
        assert shell.json("runs", "list") == {"runs": []}


def test_the_web_server_does_not_start(shell: Shell) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "opsconsole.wsgi", "--bind", "127.0.0.1:0", "--no-control-socket"],
        cwd=ROOT,
        env=shell.environment,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert SENTENCE in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("recorded", "claimed", "is_refused"),
    [
        ("production", "staging", True),
        ("staging", "development", True),
        ("staging", "staging", False),
        ("staging", "production", False),
        ("", "development", False),
    ],
)
@pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
def test_a_process_from_before_setup_cannot_confirm_or_claim(
    settings: Any, recorded: str, claimed: str, is_refused: bool
) -> None:
    run = lifecycle.create_run(plan_whole(operation_called("audits.backfill_decision_fields")), TESTER)
    settings.ENVIRONMENT = claimed
    if recorded:
        Installation.objects.update_or_create(pk=1, defaults={"environment": recorded})
    else:
        Installation.objects.all().delete()
    if not is_refused:
        lifecycle.confirm(run, TESTER, background=True)
        workers.claim(run)
        return
    for attempt in (lambda: lifecycle.confirm(run, TESTER, background=True), lambda: workers.claim(run)):
        with pytest.raises(RunRefused, match=f"set up as {recorded}"):
            attempt()
    assert Run.objects.get().status == "planned"


@pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
def test_setup_raises_the_recorded_environment() -> None:
    assert Installation.objects.get().environment == "development"
