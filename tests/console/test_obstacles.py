"""The page of a plan shows first what prevents its confirmation, with the button that removes it."""

from __future__ import annotations

import html
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from opsconsole.engine import lifecycle, queue
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Freeze, Installation, Run, Status
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, StoreUnavailable
from tests.console.test_approvals import CLEAN, acting, address, carol, waiting
from tests.engine.test_checklist import ALL
from tests.support.contract import operation_called, plan_whole
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
__all__ = ("carol", "waiting")  # fixtures
BACKUP = "/admin/operations/backups.backup_store/plan/"


@pytest.fixture
def plan(waiting: Run, bob: User) -> Run:
    """Return a plan that bob can confirm: it deletes an expired memory item in production."""
    lifecycle.cancel(waiting, acting(bob))
    return lifecycle.create_run(plan_whole(operation_called(CLEAN)), acting(bob), note="expired long ago")


def freeze(_run: Run) -> None:
    Freeze.objects.create(who="alice", note="a fire")


def lose_the_backup(_run: Run) -> None:
    Backup.objects.all().delete()


def change_a_row(run: Run) -> None:
    execute(Store(run.store, run.store), "UPDATE memory_items SET expires_at = '2020-01-02 00:00:00'")


def lock_the_table(run: Run) -> None:
    other = Run.objects.create(operation=CLEAN, store=run.store, identity=run.identity, status=Status.PAUSED)
    other.locks.create(identity=run.identity, table="memory_items", key="")


def become_a_lower_environment(_run: Run) -> None:
    from django.conf import settings

    Installation.objects.update_or_create(pk=1, defaults={"environment": "production"})
    settings.ENVIRONMENT = "staging"


@pytest.mark.parametrize(
    ("prevent", "remedy"),
    [
        (freeze, "/admin/operations/freeze/"),
        (lose_the_backup, BACKUP),
        (change_a_row, "/admin/operations/run/{run}/replan/"),
        (lock_the_table, "/admin/operations/run/{other}/change/"),
        (become_a_lower_environment, ""),
    ],
)
def test_the_page_says_first_what_the_confirmation_refuses(
    client: Client, plan: Run, bob: User, prevent: Callable[[Run], None], remedy: str
) -> None:
    client.force_login(bob)
    before = client.get(address(plan)).content.decode()
    assert "Missing for the confirmation" not in before
    assert 'form="confirmation"' in before
    prevent(plan)
    page = html.unescape(client.get(address(plan)).content.decode())
    with pytest.raises(RunRefused) as refused:
        lifecycle.confirm(plan, acting(bob), background=True, checked=ALL)
    sentence = str(refused.value)
    assert page.index("Missing for the confirmation") < page.index(sentence) < page.index('id="plan-sentence"')
    assert remedy.format(run=plan.pk, other=Run.objects.latest("pk").pk) in page[page.index(sentence) :][:900]
    assert "Confirmation" in page
    assert 'type="submit" form="confirmation"' not in page
    kept = client.post(
        address(plan, "confirm"),
        {"digest": plan.digest, "typed": CLEAN, "note": "because", "checked": ALL},
        follow=True,
    )
    assert kept.status_code == (200 if kept.redirect_chain else 409)  # changed rows lead to a new plan
    assert "because" in kept.content.decode()
    plan.refresh_from_db()
    assert plan.status in {Status.PLANNED, Status.CANCELLED}


def test_the_button_that_makes_a_backup_names_the_store(client: Client, plan: Run, bob: User) -> None:
    lose_the_backup(plan)
    client.force_login(bob)
    assert "Back up AgentOS…" in client.get(address(plan)).content.decode()
    answer = client.post(BACKUP, {"asked": "1", "store": "agentos"})
    assert answer.status_code == 302
    assert Run.objects.latest("pk").params["store"] == "agentos"


def test_a_store_that_does_not_answer_is_the_only_obstacle(
    client: Client, plan: Run, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_store: Store) -> str:
        raise StoreUnavailable("The server of the store does not answer.")

    monkeypatch.setattr(Store, "identity", refuse)
    client.force_login(bob)
    page = client.get(address(plan)).content.decode()
    assert page.count("The server of the store does not answer.") == 1
    assert "/admin/stores/#agentos" in page


def test_a_viewer_sees_the_obstacle_without_its_button(client: Client, plan: Run, viewer: User) -> None:
    lose_the_backup(plan)
    client.force_login(viewer)
    page = client.get(address(plan)).content.decode()
    assert "has no verified backup. Run" in page
    assert f'action="{BACKUP}"' not in page


def test_a_plan_without_a_worker_says_that_its_run_would_wait(client: Client, plan: Run, bob: User) -> None:
    client.force_login(bob)
    page = client.get(address(plan)).content.decode()
    assert page.index("The run would wait") < page.index("No worker has been seen yet") < page.index("plan-sentence")
    queue.heartbeat()
    assert "The run would wait" not in client.get(address(plan)).content.decode()


# --- runs that wait for approval ---------------------------------------------------------------------------


def test_an_expired_request_is_planned_again_by_its_planner(
    client: Client, waiting: Run, bob: User, carol: User
) -> None:
    Run.objects.filter(pk=waiting.pk).update(confirmed_at=timezone.now() - timedelta(days=30))
    client.force_login(carol)
    page = client.get(address(waiting)).content.decode()
    assert "Missing for the approval" in page
    assert "has expired" in page
    assert address(waiting, "approve") not in page
    assert address(waiting, "replan") not in page
    client.force_login(bob)
    assert address(waiting, "replan") in client.get(address(waiting)).content.decode()
    answer = client.post(address(waiting, "replan"))
    new = Run.objects.latest("pk")
    assert answer["Location"] == address(new)
    assert (new.status, new.replaces, new.note) == (Status.PLANNED, waiting, waiting.note)
    waiting.refresh_from_db()
    assert waiting.status == Status.CANCELLED
    assert client.post(address(waiting, "replan"))["Location"] == address(new), "a second click"


def test_a_rejected_run_is_planned_again_with_the_same_parameters(
    client: Client, waiting: Run, bob: User, carol: User
) -> None:
    lifecycle.reject(waiting, acting(carol), "still needed")
    client.force_login(bob)
    assert "Plan again" in client.get(address(waiting)).content.decode()
    client.post(reverse("run-replan", args=[waiting.pk]))
    new = Run.objects.latest("pk")
    waiting.refresh_from_db()
    assert (new.replaces, new.params, waiting.status) == (waiting, waiting.params, Status.REJECTED)
    assert "replaces this one" in client.get(address(waiting)).content.decode()


def test_a_missing_backup_is_missing_for_the_approval(client: Client, waiting: Run, carol: User) -> None:
    lose_the_backup(waiting)
    client.force_login(carol)
    page = client.get(address(waiting)).content.decode()
    assert page.index("has no verified backup. Run") < page.index("plan-sentence")
    assert BACKUP in page
    assert client.post(address(waiting, "approve")).status_code == 409
