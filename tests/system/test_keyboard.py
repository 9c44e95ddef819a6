"""From the list to the undo, by keyboard only."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from opsconsole.engine import workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run
from tasks.agentos.models import Project
from tests.system.test_browser import browser, open_page

__all__ = ["browser", "open_page"]
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
MOST_TABS = 200
OUTLINE = "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).boxShadow"


def reach(page: Any, control: Any) -> None:
    """Press Tab until the control has the focus, which must be visible."""
    for _number in range(MOST_TABS):
        page.keyboard.press("Tab")
        if control.evaluate("(part) => part === document.activeElement"):
            assert page.evaluate(OUTLINE) != "nonenone"
            return
    raise AssertionError(f"Tab does not reach {control}")


def press(page: Any, control: Any, key: str = "Enter") -> None:
    reach(page, control)
    page.keyboard.press(key)


def test_from_the_list_to_the_undo(open_page: Any, live_server: Any) -> None:
    Project.objects.create(id="old", path="/old", updated_at="2020-01-01T00:00:00")
    page = open_page()
    page.goto(live_server.url + reverse("admin:agentos_project_changelist"))
    press(page, page.locator("input.action-select").first, "Space")
    action = page.locator("select[name=action]")
    reach(page, action)
    page.keyboard.type(action.locator("option[value='agentos.archive_projects']").inner_text())
    press(page, page.locator("#changelist-actions button:visible, button[name=index]:visible").first)

    expect(page.locator("#plan-sentence")).to_contain_text("1 project")
    days = page.get_by_label("Idle days")
    reach(page, days)
    page.keyboard.press("Control+A")
    page.keyboard.type("-1")
    page.evaluate("for (const form of document.forms) form.noValidate = true")  # the server refuses it
    press(page, page.get_by_role("button", name="Update plan"))
    expect(page.locator(".errornote")).to_be_focused()
    days = page.get_by_label("Idle days")
    reach(page, days)
    page.keyboard.press("Control+A")
    page.keyboard.type("400")
    page.keyboard.press("Enter")
    expect(page.locator("#plan-sentence")).to_contain_text("1 project")
    reach(page, page.get_by_label("Reason (kept with the run)"))
    page.keyboard.type("nobody uses it")
    press(page, page.get_by_role("button", name=re.compile("^Archive 1")))

    page.wait_for_selector("#live")
    run = Run.objects.latest("pk")
    Executor(workers.claim(run)).work()
    page.reload()
    press(page, page.get_by_role("link", name=re.compile("^Changes")))
    expect(page.locator("ins").first).to_have_text("archived")
    press(page, page.get_by_role("button", name=re.compile("^Undo .* row change")))
    press(page, page.get_by_role("button", name=re.compile("^Restore 1")))
    page.wait_for_selector("#live")
    Executor(workers.claim(Run.objects.latest("pk"))).work()
    assert Project.objects.get().status == "active"


def test_menus_open_by_keyboard(open_page: Any, live_server: Any) -> None:
    page = open_page()
    press(page, page.locator("#nav-sidebar summary").first)
    expect(page.locator("#nav-sidebar details[open]").first).to_be_visible()
    press(page, page.get_by_role("button", name="bob"))
    press(page, page.get_by_role("button", name="Dark", exact=True))
    expect(page.locator("html.dark")).to_have_count(1)
