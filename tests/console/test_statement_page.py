"""The page of a statement: only accounts with its permission see it, and it leads to the plan and the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils.html import escape

from opsconsole.engine import workers
from opsconsole.engine.models import Run, Status
from tests.matrix.harness import Place
from tests.support import shop
from tests.support.contract import work

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
PLAN = ("plan", ["operations.change_rows"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with shop.shops(tmp_path, "sqlite", None, ("shop",)) as (one,):
        shop.attach(one)
        yield one


def posted(text: str, **more: str) -> dict[str, str]:
    return {"asked": "1", "store": "agentos", "statement": text, **more}


def test_a_statement_is_planned_confirmed_and_shown(client: Any, alice: User, place: Place) -> None:
    client.force_login(alice)
    url = reverse("statement")
    assert url in client.get(reverse("admin:index")).content.decode()
    form = client.get(url, {"store": "agentos"}).content.decode()
    assert "<textarea" in form
    assert '<option value="agentos" selected>' in form
    text = "UPDATE orders SET status = '<b>' WHERE id > 0 AND 1 < 2"
    run_url = client.post(reverse(PLAN[0], args=PLAN[1]), posted(text)).url
    run = Run.objects.get()
    page = client.get(run_url).content.decode()
    assert "&lt;b&gt;" in page
    assert "<b>'" not in page
    assert "operations.change_rows" in page  # every row of the table: it must be typed
    answer = {"digest": run.digest, "typed": "operations.change_rows"}
    assert client.post(reverse("run-confirm", args=[run.pk]), {**answer, "typed": ""}).status_code == 400
    client.post(reverse("run-confirm", args=[run.pk]), answer)
    run = work(workers.claim(Run.objects.get()))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 5)
    for tab in ("", "changes", "report"):
        assert client.get(run_url, {"tab": tab}).status_code == 200
    assert client.post(reverse("run-act", args=[run.pk, "undo"])).status_code == 302


def test_the_approver_sees_the_statement(client: Any, alice: User, place: Place, settings: Any) -> None:
    client.force_login(alice)
    text = "UPDATE orders SET status = 'closed' WHERE id = 1"
    client.post(reverse(PLAN[0], args=PLAN[1]), posted(text, key_list="1\n"))
    run = Run.objects.get()
    settings.ENVIRONMENT, settings.PRODUCTION = "production", True
    client.post(reverse("run-confirm", args=[run.pk]), {"digest": run.digest})
    assert Run.objects.get().status == Status.AWAITING_APPROVAL
    assert escape(text) in client.get(reverse("run", args=[run.pk])).content.decode()


def test_a_refused_statement_keeps_its_text(client: Any, alice: User, place: Place) -> None:
    client.force_login(alice)
    answer = client.post(reverse(PLAN[0], args=PLAN[1]), posted("UPDATE orders SET n = random() WHERE true"))
    assert answer.status_code == 409
    assert "calls random()" in answer.content.decode()
    assert "SET n = random() WHERE true</textarea>" in answer.content.decode()
    assert not Run.objects.exists()


def test_operators_need_the_permission(client: Any, bob: User, place: Place) -> None:
    client.force_login(bob)
    url, plan = reverse("statement"), reverse(PLAN[0], args=PLAN[1])
    assert client.get(url).status_code == 403
    assert client.post(plan, posted("DELETE FROM orders WHERE id = 1")).status_code == 403
    assert url not in client.get(reverse("admin:index")).content.decode()
    assert plan not in client.get(reverse("operations")).content.decode()
    bob.user_permissions.add(Permission.objects.get(codename="change_by_statement"))
    assert client.get(url).status_code == 200
    assert plan in client.get(reverse("operations")).content.decode()
    assert client.post(plan, posted("DELETE FROM orders WHERE id = 1")).status_code == 302
