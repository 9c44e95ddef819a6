"""A store without a platform in a real browser, on a phone: browse it, change rows by a statement, and undo it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils.translation import gettext, override
from playwright.sync_api import Page, expect

from opsconsole.engine import workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run, Status
from tests.conftest import attach_url
from tests.system.test_browser import browser

__all__ = ["browser"]
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *settings.STORES])
STATEMENT = """UPDATE "Odd Orders" SET "State" = 'failed' WHERE "State" = 'running' AND started < '2026-11-01'"""
SCRIPT = """
CREATE TABLE "Odd Orders" ("Order No" INTEGER PRIMARY KEY, "State" TEXT, started TEXT, note TEXT);
CREATE INDEX of_state ON "Odd Orders" ("State");
CREATE TABLE items (id INTEGER PRIMARY KEY, order_no INTEGER REFERENCES "Odd Orders" ("Order No"));
INSERT INTO "Odd Orders" VALUES (1, 'running', '2026-10-30', 'a'), (2, 'running', '2026-10-31', NULL),
  (3, 'done', '2026-10-29', 'x'), (4, 'running', '2026-11-20', 'a long text without any space: ' || hex(zeroblob(90)));
INSERT INTO items VALUES (7, 1);
"""


def _states(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [state for (state,) in connection.execute('SELECT "State" FROM "Odd Orders" ORDER BY 1')]


@pytest.fixture
def shop(tmp_path: Path, bob: User) -> Path:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    attach_url("shop", f"sqlite:///{path}", platform="")
    names = ("browse_store", "change_by_statement")
    bob.user_permissions.set(Permission.objects.filter(codename__in=names))
    return path


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_row_is_repaired_and_undone(
    browser: Any, live_server: Any, client: Client, bob: User, shop: Path, language: str
) -> None:
    client.force_login(bob)
    context = browser.new_context(viewport={"width": 360, "height": 740}, locale="en" if language == "en" else "zh-CN")
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": live_server.url}])
    page: Page = context.new_page()

    def fits() -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.url

    def named(text: str, **values: Any) -> Any:
        with override(language):
            return gettext(text) % values

    page.goto(live_server.url + reverse("browse", args=["shop"]))
    fits()
    page.get_by_role("link", name="Odd Orders").click()
    fits()
    expect(page.locator("table a.row-link")).to_have_count(4)
    label = "(cell) => [getComputedStyle(cell, '::before').content, getComputedStyle(cell, '::before').textTransform]"
    assert page.locator("td[data-label=started]").first.evaluate(label) == ['"started"', "none"]
    page.goto(f"{live_server.url}{reverse('browse-rows', args=['shop'])}?table=items")
    page.get_by_role("link", name="1", exact=True).click()  # the foreign key
    expect(page.get_by_text("2026-10-30")).to_be_visible()
    fits()

    page.goto(f"{live_server.url}{reverse('statement')}?store=shop")
    fits()
    text = page.locator("textarea[name=statement]")
    send = page.get_by_role("button", name=named("Create plan"))
    for refused in ('UPDATE "Odd Orders" SET "State" = 1', "SELECT 1", "UPDATE gone SET v = 1 WHERE v = 2"):
        text.fill(refused)
        send.click()
        expect(text).to_have_value(refused)
        expect(page.locator(".errors", has=text).locator("li")).to_have_count(1)  # the reason is at the text area
        fits()
    assert not Run.objects.exists()
    text.fill(STATEMENT)
    send.click()
    expect(page.locator("#plan-sentence")).to_contain_text("2")
    fits()
    assert _states(shop) == ["done", "running", "running", "running"]

    def work() -> Run:
        page.locator("button[form=confirmation]").click()
        expect(page.locator("#live")).to_be_visible()
        run = Executor(workers.claim(Run.objects.latest("pk"))).work()
        assert run.status == Status.SUCCEEDED
        page.goto(live_server.url + reverse("run", args=[run.pk]))
        expect(page.get_by_role("heading", name=named("Verification"))).to_be_visible()
        fits()
        return run

    run = work()
    assert _states(shop) == ["done", "failed", "failed", "running"]
    page.locator(f"form[action='{reverse('run-act', args=[run.pk, 'undo'])}'] button").click()
    expect(page.locator("#plan-sentence")).to_be_visible()
    fits()
    work()
    assert _states(shop) == ["done", "running", "running", "running"]
    context.close()
