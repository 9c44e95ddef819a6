"""A run touches exactly the approved rows. A difference stops the run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse
from django.utils import timezone

from opsconsole.engine import lifecycle, planner, queue, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import PlanDrifted, RunRefused
from opsconsole.engine.models import Alert, Lock, PinnedRows, Run, Status
from tasks.agentos.models import MemoryItem
from tests.engine.test_checklist import ALL, environment, make_backup
from tests.engine.test_duties import acting
from tests.support.contract import TESTER, operation_called, plan_whole, start, work

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix"])
CLEAN = "agentos.clean_memory_items"


def item(key: str, **columns: Any) -> None:
    values = {"scope": "task", "type": "decision", "content": "{}", "expires_at": "2020-01-01T00:00:00Z"}
    MemoryItem.objects.create(id=key, auto_cleanup=1, **values | columns)


def keys() -> set[str]:
    return set(MemoryItem.objects.values_list("pk", flat=True))


@pytest.fixture
def items() -> None:
    for key in ("a", "c", "e"):
        item(key)


@pytest.fixture
def waiting(items: None, settings: Any, tmp_path: Any, bob: User) -> Run:
    """Return a confirmed delete of three rows that waits for approval."""
    bob.email = "bob@example.org"
    bob.save()
    environment(settings, "production")
    make_backup(operation_called(CLEAN).store, tmp_path)
    run = lifecycle.create_run(plan_whole(operation_called(CLEAN)), acting(bob))
    return queue.confirm(run, acting(bob), ALL)


def advance(run: Run) -> Run:
    run.refresh_from_db()
    queue.run_slice(run.pk, run.generation)
    run.refresh_from_db()
    return run


CHANGES: dict[str, Callable[[], Any]] = {
    "a row changed": lambda: MemoryItem.objects.filter(pk="c").update(expires_at="2020-01-02T00:00:00Z"),
    "a row went": lambda: MemoryItem.objects.filter(pk="c").delete(),
    "a row is needed": lambda: MemoryItem.objects.filter(pk="c").update(expires_at="2999-01-01T00:00:00Z"),
}


def test_the_shell_shows_an_approver_the_rows(waiting: Run, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("runs", "show", str(waiting.pk))
    printed = capsys.readouterr().out
    assert "[DRY-RUN] id=c: will be deleted" in printed
    assert "Delete 3 memory items in agentos: all rows in scope." in printed


def test_rows_that_appeared_are_not_touched(waiting: Run, alice: User) -> None:
    item("b")
    queue.approve(waiting, acting(alice))
    item("d")
    run = advance(waiting)
    assert (run.status, run.total, run.changed) == (Status.SUCCEEDED, 3, 3)
    assert keys() == {"b", "d"}
    assert not PinnedRows.objects.exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_confirmation_of_changed_rows_is_refused(items: None, change: str) -> None:
    run = lifecycle.create_run(plan_whole(operation_called(CLEAN)), TESTER)
    CHANGES[change]()
    with pytest.raises(PlanDrifted):
        lifecycle.confirm(run, TESTER, background=False)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["approval", "first claim"])
def test_a_difference_stops_the_run_and_plans_it_again(
    waiting: Run, alice: User, client: Any, when: str, change: str
) -> None:
    alice.email = "alice@example.org"
    alice.save()
    before = keys()
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    if when == "approval":
        CHANGES[change]()
        page = client.post(reverse("run-act", args=[waiting.pk, "approve"]), follow=True).content.decode()
        assert "have changed since it was confirmed" in page
    else:
        queue.approve(waiting, acting(alice))
        CHANGES[change]()
        advance(waiting)
        page = client.get(reverse("run", args=[waiting.pk])).content.decode()
    waiting.refresh_from_db()
    assert (waiting.status, waiting.rejection_code) == (Status.REJECTED, "rows_changed")
    assert keys() == before - ({"c"} if change == "a row went" else set())
    new = Run.objects.get(replaces=waiting)
    assert (new.status, new.user, new.total) == (Status.PLANNED, waiting.user, 3 if change == "a row changed" else 2)
    assert f"Plan {new.pk} replaces this one" in page
    told = Alert.objects.get(key=f"rejected/{waiting.pk}")
    assert "bob@example.org" in told.to
    assert "alice@example.org" in told.to
    shown = client.get(reverse("run", args=[new.pk])).content.decode()
    assert "The data has changed since this plan was made" in shown
    assert not Lock.objects.filter(run=waiting).exists()


def test_a_row_that_changes_during_the_run_is_skipped(items: None) -> None:
    run = start(operation_called(CLEAN))
    CHANGES["a row changed"]()
    run = work(run)
    assert keys() == {"c"}
    assert run.reasons["skipped"] == {"changed_since_plan": 1}


def test_a_resumed_run_is_not_compared_again(items: None) -> None:
    run = start(operation_called(CLEAN), batch_size=1)
    seen: list[Run] = []
    run = work(run, until=lambda: len(seen) >= 1, on_progress=seen.append)
    assert run.status == Status.INTERRUPTED
    run = work(workers.claim(run))
    assert (run.status, keys()) == (Status.SUCCEEDED, set())


def test_deletes_and_external_effects_are_pinned() -> None:
    from opsconsole.engine import registry
    from opsconsole.stores.store import Store

    for cls in registry.operations().values():
        operation = cls.__new__(cls)
        operation.store, operation.params = Store.called("agentos"), {}
        if not registry.targets_run(cls):
            assert planner.pins_rows(operation) == (cls.risk in {"delete", "external"}), cls


# --- locks and expiry ------------------------------------------------------------------------------------------


def test_a_run_that_waits_for_approval_locks_nothing(waiting: Run, alice: User, settings: Any) -> None:
    assert not Lock.objects.exists()
    other = start(operation_called("agentos.archive_projects"))
    work(other)
    queue.approve(waiting, acting(alice))
    assert not Lock.objects.exists()
    run = workers.claim(Run.objects.get(pk=waiting.pk))
    assert set(run.locks.values_list("table", flat=True)) == {"memory_items"}


def test_an_approved_run_waits_for_its_target(waiting: Run, alice: User) -> None:
    queue.approve(waiting, acting(alice))
    holder = Run.objects.create(operation=CLEAN, store="agentos", location="x", identity=waiting.identity)
    Lock.objects.create(run=holder, identity=waiting.identity, table="memory_items")
    run = advance(waiting)
    assert run.status == Status.QUEUED
    assert f"is locked by run {holder.pk}" in run.waiting
    holder.locks.all().delete()
    run = advance(waiting)
    assert (run.status, run.waiting) == (Status.SUCCEEDED, "")


def test_a_run_without_approval_expires(waiting: Run, settings: Any, alice: User) -> None:
    assert Alert.objects.filter(key=f"approval/{waiting.pk}").exists()
    settings.RUN_APPROVAL_HOURS = 24
    queue.heartbeat()
    waiting.refresh_from_db()
    assert waiting.status == Status.AWAITING_APPROVAL
    Run.objects.filter(pk=waiting.pk).update(confirmed_at=timezone.now() - timedelta(hours=25))
    queue.heartbeat()
    waiting.refresh_from_db()
    assert (waiting.status, waiting.rejection_code) == (Status.REJECTED, "expired")
    assert Alert.objects.get(key=f"expired/{waiting.pk}").to == ["bob@example.org"]
    with pytest.raises(RunRefused, match="does not wait for approval"):
        queue.approve(waiting, acting(alice))
    assert keys() == {"a", "c", "e"}


@pytest.mark.parametrize("face", ["page", "shell"])
def test_a_rejection_notifies_its_reason(
    waiting: Run, alice: User, client: Any, face: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from opsconsole.accounts.models import Token

    if face == "page":
        client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
        url = reverse("run-act", args=[waiting.pk, "reject"])
        assert url in client.get(reverse("run", args=[waiting.pk])).content.decode()
        assert "The reason is empty" in client.post(url, {"reason": " "}, follow=True).content.decode()
        page = client.post(url, {"reason": "needed for <b>4711</b>"}, follow=True).content.decode()
        assert "Rejected by alice: needed for &lt;b&gt;4711&lt;/b&gt;" in page
    else:
        monkeypatch.setenv("OPSCONSOLE_TOKEN", Token.issue(alice, "test"))
        with pytest.raises(CommandError, match="reason is empty"):
            call_command("runs", "reject", str(waiting.pk), "--reason", " ")
        call_command("runs", "reject", str(waiting.pk), "--reason", "needed for <b>4711</b>", "--json")
        assert '"rejected"' in capsys.readouterr().out
    waiting.refresh_from_db()
    assert (waiting.status, waiting.rejection) == (Status.REJECTED, "needed for <b>4711</b>")
    assert "needed for <b>4711</b>" in Alert.objects.get(key=f"rejected/{waiting.pk}").text


@pytest.mark.parametrize("reason", ["expired", "rows_changed"])
def test_a_person_whose_reason_is_a_code_has_rejected_the_run(
    waiting: Run, alice: User, client: Any, reason: str
) -> None:
    lifecycle.reject(waiting, acting(alice), reason)
    told = Alert.objects.get(key=f"rejected/{waiting.pk}")
    assert "By: alice" in told.text
    assert f"Why: {reason}\n" in told.text
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(reverse("run", args=[waiting.pk])).content.decode()
    assert f"Rejected by alice: {reason}" in page
    assert "changed since they were confirmed" not in page


def test_the_shell_says_why_a_run_was_rejected(waiting: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Run.objects.filter(pk=waiting.pk).update(confirmed_at=timezone.now() - timedelta(days=9))
    queue.heartbeat()
    call_command("runs", "show", str(waiting.pk))
    assert "expired before it was approved" in capsys.readouterr().out


def test_rejecting_requires_the_permission(waiting: Run) -> None:
    vera = User.objects.create_user("vera")
    for actor in (acting(vera), Actor("root@host", "host", TESTER.trigger)):
        with pytest.raises(RunRefused, match="needs an account that may approve it"):
            lifecycle.reject(waiting, actor, "no")


def test_a_queued_run_whose_plan_was_altered_fails(items: None) -> None:
    """It is woken each minute; it never becomes again what was confirmed."""
    run = queue.confirm(lifecycle.create_run(plan_whole(operation_called(CLEAN)), TESTER), TESTER)
    Run.objects.filter(pk=run.pk).update(bound="zz")
    run = advance(run)
    assert run.status == Status.FAILED
    assert "no longer matches its plan" in run.error
    assert keys() == {"a", "c", "e"}
