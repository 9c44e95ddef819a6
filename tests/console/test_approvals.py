"""The approval page and inbox, and the start of a run without approval in an emergency."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from opsconsole.engine import lifecycle, obstacles, queue
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import PlanDrifted, RunRefused
from opsconsole.engine.models import Alert, Delivery, Incident, Run, Status, Trigger
from opsconsole.stores.store import Store
from tests.engine.test_checklist import ALL, environment, make_backup
from tests.support.contract import operation_called, plan_whole
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
CLEAN = "agentos.clean_memory_items"
REASON = "The platform is down and no approver answers."


def acting(person: User) -> Actor:
    return Actor(person.username, "192.0.2.1", Trigger.ADMIN, person)


@pytest.fixture
def waiting(settings: Any, tmp_path: Any, bob: User) -> Run:
    """Return a run that deletes an expired memory item and waits for an approver. Bob planned and confirmed it."""
    environment(settings, "production")
    settings.ALERT_EMAILS = ["oncall@example.org"]
    store = operation_called(CLEAN).store
    execute(
        store,
        "INSERT INTO memory_items (id, scope, type, content, auto_cleanup, expires_at) VALUES "
        "('m1', 'global', 'note', '{}', 1, '2020-01-01 00:00:00')",
    )
    make_backup(store, tmp_path)
    run = lifecycle.create_run(plan_whole(operation_called(CLEAN)), acting(bob), note="expired long ago")
    return queue.confirm(run, acting(bob), ALL)


def address(run: Run, verb: str = "") -> str:
    return f"/admin/operations/run/{run.pk}/{verb or 'change'}/"


@pytest.fixture
def carol(alice: User) -> User:
    person = User.objects.create_user("carol", email="carol@example.org", is_staff=True)
    person.groups.set(User.objects.get(username="bob").groups.all())
    return person


def test_the_page_shows_the_plan_who_asks_and_why(client: Client, waiting: Run, carol: User) -> None:
    client.force_login(carol)
    page = client.get(address(waiting)).content.decode()
    for text in ("Approve: ", "requested by bob", "expired long ago", "Unchanged since it was planned", "m1"):
        assert text in page, text
    assert "Checklist, confirmed by bob" in page
    assert page.count("✓") == len(ALL)
    assert "Start without approval" not in page
    assert client.get("/admin/operations/approvals/").content.decode().count("requested by bob") == 1


def test_changed_rows_are_reported_before_the_decision(client: Client, waiting: Run, carol: User) -> None:
    execute(operation_called(CLEAN).store, "UPDATE memory_items SET expires_at = '2099-01-01 00:00:00'")
    client.force_login(carol)
    page = client.get(address(waiting)).content.decode()
    assert "Unchanged since it was planned" not in page
    assert "have changed since" in page


def test_a_store_that_is_away_leaves_the_list_and_the_rejection(
    client: Client, waiting: Run, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(carol)
    monkeypatch.setattr(Store, "identity", lambda _store: "another database")
    for page in (address(waiting), "/admin/operations/approvals/"):
        assert client.get(page).status_code == 200, page
    refused = client.post(address(waiting, "approve"))
    assert refused.status_code == 409
    assert "is not the database of run" in refused.content.decode()
    assert client.post(address(waiting, "reject"), {"reason": "the file was replaced"}).status_code == 302
    waiting.refresh_from_db()
    assert waiting.status == Status.REJECTED


def test_the_new_plan_of_changed_rows_belongs_to_the_incident(waiting: Run, carol: User) -> None:
    now = timezone.now()
    incident = Incident.objects.create(
        store="agentos", identity=waiting.identity, cause="cause", priority="planned", opened_at=now, seen_at=now
    )
    Run.objects.filter(pk=waiting.pk).update(incident=incident)
    waiting.refresh_from_db()
    execute(operation_called(CLEAN).store, "UPDATE memory_items SET expires_at = '2020-01-02 00:00:00'")
    with pytest.raises(PlanDrifted):
        queue.approve(waiting, acting(carol))
    assert Run.objects.get(replaces=waiting).incident == incident


def test_the_account_that_made_the_request_withdraws_it_and_others_reject_it(
    client: Client, waiting: Run, bob: User, carol: User
) -> None:
    bob.user_permissions.add(Permission.objects.get(codename="approve_run"))
    for person, withdraws in ((carol, False), (bob, True)):
        client.force_login(person)
        page = client.get(address(waiting)).content.decode()
        assert ("Withdraw the request" in page, address(waiting, "reject") in page) == (withdraws, not withdraws)


def test_the_planner_sees_why_another_account_decides(client: Client, waiting: Run, bob: User) -> None:
    client.force_login(bob)
    page = client.get(address(waiting)).content.decode()
    assert "It needs another account as its second approver" in page
    assert "Waiting for another account" in client.get("/admin/operations/approvals/").content.decode()


def test_a_rejection_needs_a_reason_and_keeps_what_was_typed(client: Client, waiting: Run, carol: User) -> None:
    client.force_login(carol)
    answer = client.post(address(waiting, "reject"), {"reason": "  "})
    assert answer.status_code == 409
    assert "The reason is empty" in answer.content.decode()
    assert client.post(address(waiting, "reject"), {"reason": "still needed"}).status_code == 302
    waiting.refresh_from_db()
    assert (waiting.status, waiting.rejection) == (Status.REJECTED, "still needed")
    assert Alert.objects.filter(key=f"rejected/{waiting.pk}").exists()


@pytest.mark.parametrize("verb", ["approve", "break-glass"])
def test_an_expired_request_starts_nothing_while_no_worker_runs(
    client: Client, waiting: Run, carol: User, verb: str
) -> None:
    carol.user_permissions.add(Permission.objects.get(codename="break_glass"))
    Run.objects.filter(pk=waiting.pk).update(confirmed_at=timezone.now() - timedelta(days=30))
    client.force_login(carol)
    refused = client.post(address(waiting, verb), {"reason": REASON})
    assert refused.status_code == 409
    assert "has expired" in refused.content.decode()
    waiting.refresh_from_db()
    assert waiting.status == Status.AWAITING_APPROVAL


def test_both_sides_are_notified_of_an_approval(client: Client, waiting: Run, carol: User) -> None:
    client.force_login(carol)
    assert client.post(address(waiting, "approve")).status_code == 302
    waiting.refresh_from_db()
    assert (waiting.status, waiting.approved_by) == (Status.QUEUED, carol)
    assert "carol@example.org" in Alert.objects.get(key=f"approved/{waiting.pk}").to


def test_break_glass_starts_the_run_and_notifies_everyone(client: Client, waiting: Run, bob: User, carol: User) -> None:
    bob.user_permissions.add(Permission.objects.get(codename="break_glass"))
    client.force_login(bob)
    page = client.get(address(waiting)).content.decode()
    assert "Start without approval" in page
    answer = client.post(address(waiting, "break-glass"), {"reason": "too short"})
    assert answer.status_code == 409
    assert "too short" in answer.content.decode()
    assert client.post(address(waiting, "break-glass"), {"reason": REASON}).status_code == 302
    waiting.refresh_from_db()
    assert (waiting.status, waiting.break_glass, waiting.approved_by) == (Status.QUEUED, True, None)
    alert = Alert.objects.get(key=f"break_glass/{waiting.pk}")
    assert "carol@example.org" in alert.to
    assert REASON in alert.text
    assert Delivery.objects.filter(alert=alert).exists()
    assert waiting.events.get(verb="break_glass").detail["reason"] == REASON
    assert queue.run_slice(waiting.pk, waiting.generation) == Status.SUCCEEDED
    waiting.refresh_from_db()
    assert "started without approval" in client.get(address(waiting)).content.decode()


def test_break_glass_needs_its_own_permission(client: Client, waiting: Run, carol: User) -> None:
    with pytest.raises(RunRefused, match="needs a special permission"):
        queue.break_glass(waiting, acting(carol), REASON)
    client.force_login(carol)
    assert client.post(address(waiting, "break-glass"), {"reason": REASON}).status_code == 403
    waiting.refresh_from_db()
    assert waiting.status == Status.AWAITING_APPROVAL


def test_break_glass_does_not_bypass_the_backup(waiting: Run, alice: User, settings: Any) -> None:
    settings.BACKUP_MAX_AGE_HOURS = 0
    with pytest.raises(RunRefused, match="backup"):
        queue.break_glass(waiting, acting(alice), REASON)


def test_rows_that_were_not_compared_are_not_called_unchanged(
    client: Client, waiting: Run, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan of many rows is compared batch by batch, and not for its page."""
    monkeypatch.setattr(obstacles, "RECOUNTED_ROWS", 0)
    execute(operation_called(CLEAN).store, "UPDATE memory_items SET expires_at = '2099-01-01 00:00:00'")
    client.force_login(carol)
    page = client.get(address(waiting)).content.decode()
    assert "Unchanged since it was planned" not in page
    assert "has not compared the rows" in page


@pytest.mark.parametrize("lost", ["permission", "account"])
@pytest.mark.parametrize("face", ["approve", "break-glass"])
def test_a_request_ends_when_its_account_loses_its_permissions(
    client: Client, waiting: Run, carol: User, bob: User, lost: str, face: str
) -> None:
    carol.user_permissions.add(Permission.objects.get(codename="break_glass"))
    if lost == "permission":
        bob.groups.clear()
    else:
        User.objects.filter(pk=bob.pk).update(is_active=False)
    client.force_login(carol)
    assert "bob confirmed run" in client.get(address(waiting)).content.decode()
    answer = client.post(address(waiting, face), {"reason": REASON})
    assert answer.status_code == 409
    assert "may no longer run it" in answer.content.decode()
    waiting.refresh_from_db()
    assert waiting.status == Status.AWAITING_APPROVAL
    client.post(address(waiting, "reject"), {"reason": "bob has left"})
    waiting.refresh_from_db()
    assert waiting.status == Status.REJECTED


def test_an_emergency_without_a_channel_says_so(client: Client, waiting: Run, carol: User, settings: Any) -> None:
    carol.user_permissions.add(Permission.objects.get(codename="break_glass"))
    client.force_login(carol)
    assert "No alerts will be sent" not in client.get(address(waiting)).content.decode()
    settings.ALERT_EMAILS = []
    assert "No alerts will be sent" in client.get(address(waiting)).content.decode()


def test_an_emergency_needs_more_than_blanks_as_a_reason(waiting: Run, carol: User) -> None:
    carol.user_permissions.add(Permission.objects.get(codename="break_glass"))
    with pytest.raises(RunRefused, match="too short"):
        lifecycle.break_glass(waiting, acting(User.objects.get(pk=carol.pk)), "now" + " " * 40 + "!")
