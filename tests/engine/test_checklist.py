"""The checklist before deletes: its items, the age of the backup, the second approver."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from opsconsole.engine import checklist, lifecycle, planner, queue, registry
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Event, Run, Status, Trigger
from opsconsole.engine.selection import Selection
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store
from tests.support import helix
from tests.support.contract import TESTER, operation_called, work
from tests.support.plain_client import dump
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
CLEAN = "helix.clean_dirty_jobs"
ALL = list(checklist.ITEMS)


@pytest.fixture
def store(make_helix) -> Store:
    """Attach a HELIX store under the alias `helix`, which pages show."""
    store: Store = make_helix("postgresql-enum", helix.one_of_each())
    return store


def environment(settings: Any, name: str) -> None:
    settings.ENVIRONMENT, settings.PRODUCTION = name, name == "production"
    settings.SECURE_SSL_REDIRECT = False


def drafted(store: Store, *keys: int, actor: Actor = TESTER) -> Run:
    planned = planner.plan(operation_called(CLEAN, store), Selection(list(keys)))
    return lifecycle.create_run(planner.count_outcomes(planned), actor)


def make_backup(store: Store, tmp_path: Any, *, hours: float = 1, verified: bool = True) -> Backup:
    path = tmp_path / f"backup-{hours}"
    path.write_bytes(b"12345")
    at = timezone.now() - timedelta(hours=hours)
    return Backup.objects.create(
        store="helix",
        identity=store.identity(),
        path=str(path),
        size=5,
        digest="",
        at=at,
        verified_at=at if verified else None,
        engine="postgresql",
        format="custom",
    )


def test_every_operation_that_deletes_has_it(settings):
    operations = [cls.__new__(cls) for cls in registry.operations().values() if not registry.targets_run(cls)]
    environment(settings, "staging")
    for operation in operations:
        operation.params, operation.store = {}, Store.called("agentos")
        assert checklist.is_asked(operation) == (operation.risk == "delete")
    environment(settings, "development")
    assert not any(map(checklist.is_asked, operations))


def test_the_checklist_shows_known_facts(store, tmp_path):
    make_backup(store, tmp_path, hours=2)
    planned = planner.count_outcomes(planner.plan(operation_called(CLEAN, store), Selection([1, 2, 5])))
    facts = {line.code: " ".join(line.facts) for line in checklist.lines(planned)}
    assert "artifacts 4, tasks 8, jobs 3" in facts["ownership"]
    assert "FAILED 1, IN_PROGRESS 2" in facts["ownership"]
    assert "2 sessions refer to these jobs: s-1, s-2" in facts["dependencies"]
    assert "is idle" in facts["dependencies"]
    assert "2 h old" in facts["backup"]
    assert "The store is" in facts["scope"]
    assert "can be undone" in facts["rollback"]


def test_in_development_a_click_confirms_a_delete(store, settings):
    run = lifecycle.confirm(drafted(store, 3), TESTER, background=False)
    assert work(run).status == Status.SUCCEEDED


def test_in_staging_every_item_is_confirmed_by_name(store, settings):
    environment(settings, "staging")
    run = drafted(store, 3)
    with pytest.raises(RunRefused, match="backup, scope, rollback"):
        lifecycle.confirm(run, TESTER, background=False, checked=["ownership", "dependencies"])
    assert Run.objects.get().status == Status.PLANNED
    run = lifecycle.confirm(run, TESTER, background=False, checked=ALL)
    assert run.status == Status.RUNNING
    event = Event.objects.get(run=run, verb="confirmed")
    assert (event.who, event.detail["checklist"]) == (TESTER.name, ALL)


def test_production_requires_a_recent_backup(store, settings, tmp_path):
    environment(settings, "production")
    settings.BACKUP_MAX_AGE_HOURS = 24
    run = drafted(store, 3)

    def refused() -> str:
        with pytest.raises(RunRefused) as refusal:
            lifecycle.confirm(run, TESTER, background=True, checked=ALL)
        return str(refusal.value)

    assert "no verified backup" in refused()
    make_backup(store, tmp_path, hours=1, verified=False)
    assert "no verified backup" in refused()
    make_backup(store, tmp_path, hours=30)
    assert "is 30 h old; the limit is 24 h" in refused()
    make_backup(store, tmp_path, hours=23)
    assert lifecycle.confirm(run, TESTER, background=True, checked=ALL).status == Status.AWAITING_APPROVAL


def test_a_second_approver_approves_the_plan(store, settings, tmp_path, alice, bob):
    """The first account cannot approve, the backup must still be recent, and only the approved rows are deleted."""
    environment(settings, "production")
    old = make_backup(store, tmp_path)
    first, second = (Actor(user.username, "here", Trigger.ADMIN, user) for user in (bob, alice))
    run = queue.confirm(drafted(store, 3, 4, actor=first), first, ALL)
    assert run.status == Status.AWAITING_APPROVAL
    with pytest.raises(RunRefused, match="second approver"):
        queue.approve(run, first)
    Backup.objects.filter(pk=old.pk).update(at=timezone.now() - timedelta(hours=99))
    with pytest.raises(RunRefused, match=r"(99 h|4 days) old"):
        queue.approve(run, second)
    make_backup(store, tmp_path, hours=3)
    queue.approve(run, second)
    before = dump(store)
    digest = Event.objects.get(run=run, verb="approved").detail["digest"]
    assert digest == run.digest
    assert queue.run_slice(run.pk, Run.objects.get().generation) == "succeeded"
    assert Run.objects.get().status == Status.SUCCEEDED
    assert before["jobs"].keys() - dump(store)["jobs"].keys() == {3, 4}


# --- the page ----------------------------------------------------------------------------------------------


def test_the_page_in_production(store, settings, tmp_path, client, alice, bob):
    environment(settings, "production")
    client.force_login(bob)
    selected = {"action": CLEAN, "_selected_action": ["3", "7"]}
    response = client.post("/admin/helix/helixjob/", selected, follow=True)
    run = Run.objects.get()
    page = response.content.decode()
    assert "helix has no verified backup. Run" in page
    for title in ("Ownership", "Dependencies", "Backup", "Scope", "Undo plan"):
        assert title in page
    assert page.count('name="checked"') == 5

    def confirm(**data: Any) -> Any:
        return client.post(f"/admin/operations/run/{run.pk}/confirm/", {"digest": run.digest, "typed": CLEAN, **data})

    assert confirm(checked=ALL).status_code == 409
    make_backup(store, tmp_path)
    assert confirm(checked=ALL, typed="yes").status_code == 400
    partly = confirm(checked=ALL[:4])
    assert partly.status_code == 409
    assert "These items of the checklist are not confirmed: rollback." in partly.content.decode()
    assert len(re.findall(r'name="checked"[^>]* checked>', partly.content.decode())) == 4
    assert confirm(checked=ALL, note="incident 4711").status_code == 302
    run.refresh_from_db()
    assert run.status == Status.AWAITING_APPROVAL
    client.post(f"/admin/operations/run/{run.pk}/approve/")
    run.refresh_from_db()
    assert run.status == Status.AWAITING_APPROVAL
    client.force_login(alice)
    client.post(f"/admin/operations/run/{run.pk}/approve/")
    run.refresh_from_db()
    assert run.status == Status.QUEUED
    queue.run_slice(run.pk, run.generation)
    report = client.get(f"/admin/operations/run/{run.pk}/change/?tab=report").content.decode()
    assert "bob: Ownership, Dependencies, Backup, Scope, Undo plan" in report
    assert "incident 4711" in report


def test_in_development_the_page_shows_it_and_asks_nothing(store, client, bob):
    client.force_login(bob)
    page = client.post("/admin/helix/helixjob/", {"action": CLEAN, "_selected_action": ["3"]}, follow=True)
    assert "Ownership" in page.content.decode()
    assert 'name="checked"' not in page.content.decode()


# --- the shell ---------------------------------------------------------------------------------------------


def test_the_shell_in_production(make_helix, tmp_path, empty_console):
    """The command asks for backup and checklist, and a real worker continues after the approval."""
    source = make_helix("sqlite", helix.one_of_each())
    before = dump(source)
    shell = Shell(
        tmp_path / "console",
        empty_console,
        {
            "HELIX_DATABASE_URL": f"sqlite:///{source.path}",
            "HELIX_ATTACHED": "true",
            "OPSCONSOLE_ENVIRONMENT": "production",
            "SECRET_KEY": "a long and random text of this test alone, more than fifty characters",
        },
    )
    cleanup = ("cleanup_dirty_data", "cleanup", "3", "--execute", "--yes")
    assert shell.run("setup").returncode == 0
    assert "--user" in shell.run(*cleanup).stderr, "no account is linked yet"
    assert "is linked to this account" in shell.run("setup", "--superuser", "mira").stdout
    assert "is linked to this account" not in shell.run("setup", "--superuser", "noa").stdout
    no_backup = shell.run(*cleanup, "--confirm", *ALL)
    assert (no_backup.returncode, "helix has no verified backup. Run" in no_backup.stderr) == (2, True)
    assert shell.run("backup_store", "helix", "--execute", "--yes", "--user", "mira").returncode == 0
    assert "is not authenticated" in shell.refused("backup_store", "helix", "--execute", "--yes", "--user", "noa")
    unchecked = shell.run(*cleanup, "--confirm", *ALL[:3])
    assert "Undo plan [rollback]" in unchecked.stdout
    assert unchecked.returncode == 2
    assert "Pass --confirm scope rollback" in unchecked.stderr
    assert dump(source) == before

    waiting = shell.json(*cleanup, "--confirm", *ALL, code=3)
    assert waiting["status"] == "awaiting_approval"
    run = waiting["run"]
    assert shell.json(*cleanup, "--confirm", *ALL, code=3)["run"] == run
    for name in ([], ["--user", "mira"]):
        assert "second approver" in shell.refused("runs", "approve", run, *name)
    assert "is not authenticated" in shell.refused("runs", "approve", run, "--user", "noa")
    noa = shell.as_account("noa")
    assert "belongs to noa" in noa.refused("runs", "approve", run, "--user", "mira")
    assert noa.json("runs", "approve", run)["status"] == "queued"
    assert dump(source) == before
    cluster = shell.start("qcluster")
    try:
        deadline = time.monotonic() + 60
        while (shown := shell.json("runs", "show", run))["status"] != "succeeded":
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)
    finally:
        cluster.terminate()
        cluster.communicate(timeout=30)
    assert before["jobs"].keys() - dump(source)["jobs"].keys() == {3}
    assert [event["who"] for event in shown["events"] if event["verb"] in ("confirmed", "approved")] == ["mira", "noa"]


def test_a_terminal_asks_item_by_item(store, settings, monkeypatch, capsys):
    environment(settings, "staging")
    answers = iter(["y", "yes", "y", "y", "y", "n"])
    asked = Terminal(lambda: next(answers))
    monkeypatch.setattr("sys.stdin", asked)
    with pytest.raises(Exception, match="Not confirmed"):
        call_command("cleanup_dirty_data", "cleanup", "3", "--execute")
    assert 3 in dump(store)["jobs"]
    answers = iter(["y", "y", "y", "y", "y", "y"])
    call_command("cleanup_dirty_data", "cleanup", "3", "--execute")
    assert 3 not in dump(store)["jobs"]
    assert Event.objects.get(verb="confirmed").detail["checklist"] == ALL


def test_a_terminal_is_asked_for_each_job(store, monkeypatch, capsys):
    answers = iter(["n", "y", "y"])
    monkeypatch.setattr("sys.stdin", Terminal(lambda: next(answers)))
    call_command("cleanup_dirty_data", "cleanup", "3", "4", "5", "--execute")
    assert set(dump(store)["jobs"]) == {1, 2, 3, 6, 7, 8, 9}
    printed = capsys.readouterr().out
    assert "Delete job 4 (D, E) with 2 tasks and 1 artifacts?" in printed


class Terminal:
    """Standard input with an answering user."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return f"{self.answer()}\n"
