"""Separation of duties: the accounts that planned, confirmed or changed a run cannot approve it, from any interface."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse

from opsconsole.accounts.models import Token
from opsconsole.cli import accounts
from opsconsole.console.accounts import create_superuser, link
from opsconsole.engine import lifecycle, queue
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Event, Run, ScheduleSetting, Status, SystemUser, Trigger
from tests.engine.test_checklist import ALL, Terminal, environment, make_backup
from tests.support.contract import TESTER, operation_called, plan_whole
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
CLEAN = "agentos.clean_memory_items"


def operator(name: str) -> User:
    person = User.objects.create_user(name, password="correct horse", is_staff=True)
    person.groups.set(Group.objects.filter(name="Operators"))
    return person


def acting(person: User) -> Actor:
    return Actor(person.username, "192.0.2.1", Trigger.ADMIN, person)


@pytest.fixture
def production(settings: Any, tmp_path: Any) -> None:
    environment(settings, "production")
    make_backup(operation_called(CLEAN).store, tmp_path)


def waiting(planner: User | None, confirmer: User | None) -> Run:
    actor = acting(planner) if planner else TESTER
    run = lifecycle.create_run(plan_whole(operation_called(CLEAN)), actor)
    queue.confirm(run, acting(confirmer) if confirmer else TESTER, ALL)
    assert run.status == Status.AWAITING_APPROVAL
    return run


def test_planner_and_confirmer_cannot_approve(production: None, bob: User, alice: User) -> None:
    carol, vera = operator("carol"), User.objects.create_user("vera")
    run = waiting(bob, carol)
    assert (run.user, run.confirmed_by) == (bob, carol)
    for person, sentence in ((bob, "You planned"), (carol, "You confirmed"), (vera, "may not approve")):
        with pytest.raises(RunRefused, match=sentence):
            queue.approve(run, acting(person))
    with pytest.raises(RunRefused, match="needs an account"):
        queue.approve(run, Actor("root@host", "host", Trigger.SHELL))
    queue.approve(run, acting(alice))
    run.refresh_from_db()
    assert (run.status, run.approved_by) == (Status.QUEUED, alice)


def test_the_account_that_changed_the_parameters_is_the_planner(
    client: Any, production: None, bob: User, settings: Any
) -> None:
    """New parameters are a new plan, by the account that gave them."""
    client.force_login(bob)
    client.post(reverse("plan", args=["operations.prune_runs"]))
    carol = operator("carol")
    client.force_login(carol)
    client.post(reverse("run-replan", args=[Run.objects.latest("pk").pk]), {"asked": "1", "days": "7"})
    assert Run.objects.latest("pk").user == carol


def test_the_account_that_changed_the_schedule_cannot_approve(
    production: None, bob: User, alice: User, settings: Any
) -> None:
    from tasks.agentos.models import MemoryItem

    MemoryItem.objects.create(
        id="m", scope="task", type="decision", content="{}", expires_at="2020-01-01T00:00:00Z", auto_cleanup=1
    )
    queue.switch(CLEAN, on=True, cron="0 3 * * *", actor=acting(bob))
    assert ScheduleSetting.objects.get().changed_by == bob
    queue.run_schedule(CLEAN, "2026-01-01 03:00:00")
    run = Run.objects.get()
    assert (run.status, run.changed_by, run.user) == (Status.AWAITING_APPROVAL, bob, None)
    with pytest.raises(RunRefused, match="You last changed the schedule"):
        queue.approve(run, acting(bob))
    queue.approve(run, acting(alice))
    run.refresh_from_db()
    assert run.status == Status.QUEUED


@pytest.mark.parametrize("part", ["planned", "confirmed", "other"])
def test_the_page_offers_the_approval_to_others_only(
    client: Any, production: None, bob: User, alice: User, part: str
) -> None:
    carol = operator("carol")
    run = waiting(bob, carol)
    person = {"planned": bob, "confirmed": carol, "other": alice}[part]
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    approve = reverse("run-act", args=[run.pk, "approve"])
    offered = approve in client.get(reverse("run", args=[run.pk])).content.decode()
    client.post(approve)
    run.refresh_from_db()
    assert (offered, run.status == Status.QUEUED) == ((True, True) if part == "other" else (False, False))


# --- the shell ---------------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answer the password prompts of a terminal."""

    def type_(*answers: str) -> None:
        given = iter(answers)
        monkeypatch.setattr("sys.stdin", Terminal(lambda: "yes"))
        monkeypatch.setattr("getpass.getpass", lambda prompt: next(given))

    return type_


def test_a_password_authenticates_on_a_terminal(production: None, bob: User, alice: User, typed: Any) -> None:
    run = waiting(bob, bob)
    typed("wrong", "correct horse", "correct horse")
    with pytest.raises(CommandError, match="password of alice is wrong"):
        call_command("runs", "approve", run.pk, "--user", "alice")
    with pytest.raises(CommandError, match="You planned"):
        call_command("runs", "approve", run.pk, "--user", "bob")
    call_command("runs", "approve", run.pk, "--user", "alice")
    run.refresh_from_db()
    assert run.status == Status.QUEUED


@pytest.mark.parametrize("part", ["planned", "confirmed", "scheduled", "other"])
def test_the_shell_lists_runs_that_await_this_account(
    production: None, bob: User, alice: User, monkeypatch: pytest.MonkeyPatch, capsys: Any, part: str
) -> None:
    carol, dora = operator("carol"), operator("dora")
    run = waiting(bob, carol)
    Run.objects.filter(pk=run.pk).update(changed_by=dora)
    lifecycle.create_run(plan_whole(operation_called(CLEAN)), acting(alice))  # a plan waits for no person
    person = {"planned": bob, "confirmed": carol, "scheduled": dora, "other": alice}[part]
    monkeypatch.setenv("OPSCONSOLE_TOKEN", Token.issue(person, "test"))
    call_command("runs", "list", "--awaiting-me", "--json")
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [entry["run"] for entry in listed] == ([run.pk] if part == "other" else [])
    call_command("runs", "list", "--awaiting-me")
    assert (CLEAN in capsys.readouterr().out) == (part == "other")


@pytest.mark.parametrize("environment_name", ["development", "production"])
def test_runs_that_need_no_person_are_not_listed(
    settings: Any, monkeypatch: pytest.MonkeyPatch, environment_name: str
) -> None:
    environment(settings, environment_name)
    with pytest.raises(CommandError, match=r"requires? an account") as refused:
        call_command("runs", "list", "--awaiting-me")
    assert refused.value.returncode == 2
    vera = User.objects.create_user("vera")
    monkeypatch.setenv("OPSCONSOLE_TOKEN", Token.issue(vera, "test"))
    with pytest.raises(CommandError, match="vera may not do this"):
        call_command("runs", "list", "--awaiting-me")


def test_no_variable_changes_the_system_user(monkeypatch: pytest.MonkeyPatch) -> None:
    name = accounts.system_user()
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "mira")
    assert accounts.system_user() == name


def test_one_system_user_is_one_person(alice: User, bob: User) -> None:
    link(alice, "al", acting(alice))
    link(alice, "al", acting(alice))
    with pytest.raises(RunRefused, match="linked to alice"):
        link(bob, "al", acting(alice))
    assert SystemUser.objects.get().account == alice
    assert Event.objects.filter(verb="account_linked").count() == 1


@pytest.mark.parametrize(
    ("person", "is_allowed"), [("alice", True), ("bob", False), ("nobody", False)], ids=["superuser", "operator", "-"]
)
def test_only_superusers_link_accounts(
    monkeypatch: pytest.MonkeyPatch, alice: User, bob: User, person: str, is_allowed: bool, capsys: Any
) -> None:
    if person != "nobody":
        account = User.objects.get(username=person)
        monkeypatch.setenv("OPSCONSOLE_TOKEN", Token.issue(account, "test"))
    for words in (("link", "bob", "bobby"), ("unlink", "bobby")):
        if is_allowed:
            call_command("accounts", *words)
        else:
            with pytest.raises(CommandError, match="Only an authenticated superuser") as refused:
                call_command("accounts", *words)
            assert refused.value.returncode == 2
    assert Event.objects.filter(who="alice").count() == (2 if is_allowed else 0)


def test_a_linked_system_user_needs_no_name(bob: User, alice: User, capsys: Any) -> None:
    link(bob, accounts.system_user(), acting(alice))
    call_command("runs", "freeze", "--note", "x")
    assert Event.objects.filter(verb="freeze").get().who == "bob"
    with pytest.raises(CommandError, match="--user alice is not authenticated"):
        call_command("runs", "unfreeze", "--user", "alice")
    call_command("accounts", "list", "--json")
    assert '"account":"bob"' in capsys.readouterr().out.replace(" ", "")


def test_a_token_that_is_not_good_is_refused(monkeypatch: pytest.MonkeyPatch, alice: User) -> None:
    monkeypatch.setenv("OPSCONSOLE_TOKEN", "ops_nonsense")
    with pytest.raises(CommandError, match="OPSCONSOLE_TOKEN is unknown") as refused:
        call_command("runs", "freeze", "--note", "x")
    assert refused.value.returncode == 2


def test_only_the_first_superuser_of_a_console_is_linked(capsys: Any) -> None:
    create_superuser("somebody")
    call_command("setup", "--superuser", "mira")
    assert not SystemUser.objects.exists()
    User.objects.all().delete()
    call_command("setup", "--superuser", "noa")
    assert SystemUser.objects.get().account.username == "noa"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("link", "nobody", "x"), "Only an authenticated superuser"),
        (("link", "mira", ""), "is not a valid name of a system user"),
        (("link", "mira", "a\x1bb"), "is not a valid name of a system user"),
        (("link", "mira", "x" * 151), "is not a valid name of a system user"),
        (("link", "noa", "x"), "No active account is called noa."),
        (("link", "mira"), "required"),
        (("unlink", "x"), "is not linked to an account"),
        (("nonsense",), "invalid choice"),
    ],
)
def test_unknown_verbs_are_refused(tmp_path: Any, empty_console: Any, words: tuple[str, ...], sentence: str) -> None:
    shell = Shell(tmp_path / "console", empty_console)
    if words[1:2] != ("nobody",):
        assert shell.run("setup", "--superuser", "mira").returncode == 0
    said = shell.refused("accounts", *words)
    assert sentence in said
    assert "\n" not in said
