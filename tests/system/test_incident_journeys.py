"""Journeys of a person on call through the demo in a real browser, with their clicks counted.

`SCREENSHOTS=docs/images` makes these tests write the README's pictures.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support.subprocess_cli import Shell

STORES = ("default", "agentos", "helix", "records", "roadmaps")
ROADMAP_TASK = "49961d40-0cac-4255-abba-adad0b901056"
MEMORY_ITEM = f"01JHY{0:021d}"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
# A reader's language and screen. Chinese pages are read on a phone, in the dark.
READERS: dict[str, dict[str, Any]] = {
    "english": {"viewport": WIDE},
    "chinese": {"viewport": PHONE, "color_scheme": "dark", "language": "zh-hans"},
}
WITHOUT_PATHS = """
for (const fact of document.querySelectorAll(".facts dd")) {
  if (/\\.sqlite3$/.test(fact.innerText)) fact.textContent = fact.innerText.replace(/\\/.*\\//, "/srv/opsconsole/");
}
"""
RECOMMENDED = ".repair form[action*='/repair/'] button"


class Console:
    """The running demo, and its databases as they were when it started."""

    def __init__(self, folder: Path, url: str, password: str) -> None:
        self.folder, self.url, self.password = folder, url, password
        self.state: dict[str, object] = {}

    def copy_databases(self, source: str, to: str) -> None:
        for name in STORES:
            with (
                closing(sqlite3.connect(self.folder / f"{name}{source}", timeout=10)) as old,
                closing(sqlite3.connect(self.folder / f"{name}{to}", timeout=10)) as new,
            ):
                old.backup(new)

    def query(self, store: str, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / f"{store}.sqlite3", timeout=10)) as database:
            return database.execute(sql).fetchall()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/admin/login/", timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def demo(tmp_path_factory, chromium, empty_console):
    """Start the demo once for all journeys: web server and workers, as `make demo` does."""
    folder = tmp_path_factory.mktemp("demo")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shell = Shell(folder / "console", empty_console, {"PORT": str(port)})
    loaded = shell.run("setup", "--demo")
    assert loaded.returncode == 0, loaded.stderr
    printed = folder / "printed"
    with printed.open("w") as out:
        process = shell.start("demo", stdout=out, stderr=out)
        url = f"http://127.0.0.1:{port}"
        everything = [psutil.Process(process.pid)]
        try:
            password = wait_for(lambda: re.search(r"password (\S+)", printed.read_text()))[1]
            wait_for(lambda: answers(url))
            everything += everything[0].children(recursive=True)
            yield Console(shell.folder, url, password)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=20)
        finally:
            for one in everything:
                if one.is_running():
                    one.kill()
            process.wait()


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(demo, browser):
    """Sign in once, and copy the databases with the session for every journey."""
    page = browser.new_page()
    page.goto(f"{demo.url}/admin/")
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill(demo.password)
    page.locator("#login-form button[type=submit]").click()
    page.wait_for_url("**/admin/")
    expect(page.locator("#main")).to_contain_text("incidents are open")
    expect(page.locator("#main")).to_contain_text("Starting…")  # the worker has not reported yet
    demo.state = page.context.storage_state()
    page.context.close()
    with closing(sqlite3.connect(demo.folder / "default.sqlite3", timeout=10)) as database:
        database.execute("DELETE FROM operations_heartbeat")
        seen = (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None)
        database.executemany("INSERT INTO operations_heartbeat VALUES (?, ?)", [("@here", seen), ("long@here", seen)])
        database.commit()
    demo.copy_databases(".sqlite3", ".kept")
    return demo


class Visitor:
    """A browser that counts clicks and checks every page it reads."""

    def __init__(self, page, url: str) -> None:
        self.page, self.url, self.clicks = page, url, 0

    def open(self, path: str = "/admin/") -> None:
        self.page.goto(self.url + path)
        self.check()

    def click(self, target, leads_to: str = "**") -> None:
        if isinstance(target, str):
            target = self.page.locator(target).first
        target.click()
        self.clicks += 1
        self.page.wait_for_url(leads_to)
        self.check()

    def press_until(self, target, leads_to: str) -> None:
        """Reach a link or a button by the Tab key, and press Enter."""
        element = self.page.locator(target).first.element_handle()
        for _number in range(150):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("element => element === document.activeElement", element):
                break
        else:
            raise AssertionError(f"The Tab key does not reach {target}.")
        outline = self.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"The focus on {target} is invisible."
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(leads_to)
        self.check()

    def repair(self, picture: str = "") -> None:
        """Start the recommended repair, confirm its plan if it shows one, and wait until it can be undone."""
        self.click(RECOMMENDED, "**/run/**")
        if self.page.locator("button[form=confirmation]").count():
            if picture:
                self.take(picture)
            self.confirm()
        self.wait_for_undo()

    def confirm(self) -> None:
        """Tick the checklist, if there is one, and execute the plan."""
        for box in self.page.locator("input[name=checked]").all():
            box.check()
        self.click("button[form=confirmation]", "**/run/**")

    def wait_for_undo(self) -> None:
        wait_for(lambda: self.page.reload() and self.page.locator("form[action*='/undo/']").count())
        self.check()

    def find(self, text: str) -> None:
        """Paste an identifier: no click is needed."""
        self.page.keyboard.press("/")
        expect(self.page.locator("#find")).to_be_focused()
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(re.compile("/find/|/incident/"))
        self.check()

    def check(self) -> None:
        """Check that the page fits, has the search, and at most one primary button."""
        page = self.page
        page.wait_for_load_state()
        width = page.viewport_size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url
        assert page.locator("#find").count() == 1, page.url
        primary = page.locator("#content :is(a, button).bg-primary-600:visible")
        assert primary.count() <= 1, (page.url, primary.all_inner_texts())
        cut = page.evaluate(
            "[...document.querySelectorAll('.stack > *')].filter(e => e.scrollHeight > e.clientHeight + 2).length"
        )
        assert cut == 0, f"{page.url} cuts off a part of itself."

    @property
    def text(self) -> str:
        return str(self.page.locator("#main").inner_text())

    def incidents(self) -> list[str]:
        """Return the titles of the incidents on the dashboard."""
        return list(self.page.locator(".incidents .incident-title").all_inner_texts())

    def take(self, name: str) -> None:
        """Write a picture for the README if the environment wants it, without this machine's paths."""
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            self.page.evaluate(WITHOUT_PATHS)
            self.page.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture
def visit(signed_in, browser):
    """Return a function that opens a browser on the fresh demo. An error in a page's scripts fails the test."""
    demo, complaints, contexts = signed_in, [], []
    demo.copy_databases(".kept", ".sqlite3")

    def make(viewport=WIDE, language="en", **options):
        context = browser.new_context(storage_state=demo.state, viewport=viewport, **options)
        context.add_cookies([{"name": "django_language", "value": language, "url": demo.url}])
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return Visitor(page, demo.url)

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def audit(signed_in):
    """Return the newest audit without decision times, whose number no other row has."""
    sql = "SELECT MAX(audit_id) FROM task_audits WHERE event_type LIKE 'SUPERVISOR%' AND source_event_ts IS NULL"
    return str(signed_in.query("agentos", sql)[0][0])


@pytest.fixture
def record(signed_in):
    """Return a record without execution id. No waiting audit has its number, if possible."""
    numbers = "SELECT {} FROM {} WHERE {} ORDER BY 1 DESC"
    taken = set(signed_in.query("agentos", numbers.format("audit_id", "task_audits", "source_event_ts IS NULL")))
    free = signed_in.query("records", numbers.format("id", "test_records", "execution_id IS NULL"))
    return str(next((one for one in free if one not in taken), free[0])[0])


@pytest.fixture
def job(signed_in):
    """Return a job in progress with failed tasks."""
    sql = "SELECT MAX(job_id) FROM tasks WHERE status = 'FAILED' AND retry_count < 3"
    return str(signed_in.query("helix", sql)[0][0])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("row", "title", "repair", "left"),
    [
        ("roadmap", "", "roadmaps.sync_results", 0),
        ("job", "2 .*HELIX", "helix.retry_failed_tasks", 0),
        ("audit", "2,014", "audits.backfill_decision_fields", 14),
        ("record", "260", "records.backfill_execution_ids", 6),
    ],
)
def test_from_an_identifier_to_green_in_two_clicks(visit, signed_in, request, row, title, repair, left, reader):
    """Rows whose content is broken stay open, without a repair that could be recommended."""
    identifier = ROADMAP_TASK if row == "roadmap" else request.getfixturevalue(row)
    reading = READERS[reader]
    visitor = visit(**reading)
    visitor.open()
    visitor.find(identifier)
    if "/find/" in visitor.page.url:
        links = visitor.page.locator("#main .lines a[href*='/incident/']")
        visitor.click(links.filter(has_text=re.compile(title)).first, "**/incident/**")
        visitor.clicks -= row in {"job", "record"}  # their number is also that of other rows
    address = visitor.page.url
    button = visitor.page.locator(f".repair form[action*='{repair}'] button")
    expect(button).to_have_count(1)
    if row == "roadmap" and reader == "english":
        visitor.take("incident")
    visitor.repair("plan" if row == "audit" and reader == "english" else "")
    assert visitor.clicks <= 2
    expect(visitor.page.locator("html")).to_have_attribute("lang", reading.get("language", "en"))
    if row == "roadmap" and reader == "english":
        visitor.take("run")
    visitor.page.goto(address)
    visitor.check()
    assert visitor.page.locator(RECOMMENDED).count() == 0
    number = address.split("/incident/")[1].split("/")[0]
    sql = f"SELECT count, resolved_at IS NULL FROM operations_incident WHERE id = {number}"
    ((count, is_open),) = signed_in.query("default", sql)
    assert (count if is_open else 0) == left


def test_expired_memory_is_deleted_after_its_plan(visit):
    """What deletes shows its plan first: a click more, red and with its figure."""
    visitor = visit()
    visitor.open()
    visitor.find(MEMORY_ITEM)
    button = visitor.page.locator(RECOMMENDED)
    assert "12" in button.inner_text()
    assert "bg-red-600" in button.get_attribute("class")
    visitor.click(button, "**/run/**")
    assert "12" in visitor.page.locator("#plan-sentence").inner_text()
    visitor.confirm()
    assert visitor.clicks == 2
    visitor.wait_for_undo()
    visitor.open()
    assert "memory" not in " ".join(visitor.incidents())


def test_a_wrong_repair_is_undone(visit):
    visitor = visit()
    visitor.open()
    visitor.take("front")
    before = visitor.incidents()
    cards = visitor.page.locator(".store-card h2").all_inner_texts()
    assert len(before) >= 4
    visitor.click(visitor.page.locator(".incident").filter(has_text="260").get_by_role("link").last, "**/incident/**")
    visitor.repair()
    visitor.open()
    assert "260" not in " ".join(visitor.incidents())
    visitor.page.go_back()
    visitor.click("form[action*='/undo/'] button", "**/run/**")
    visitor.confirm()
    assert visitor.clicks == 5
    wait_for(lambda: visitor.open() or visitor.incidents() == before)
    assert visitor.page.locator(".store-card h2").all_inner_texts() == cards


def test_a_store_becomes_unreachable_during_a_plan(visit, signed_in, record):
    visitor = visit()
    visitor.open()
    visitor.click(visitor.page.locator(".incident").filter(has_text="260").get_by_role("link").last, "**/incident/**")
    visitor.click(RECOMMENDED, "**/run/**")
    plan = visitor.page.url
    file = signed_in.folder / "records.sqlite3"
    away = file.rename(file.with_suffix(".away"))
    try:
        visitor.page.locator("button[form=confirmation]").click()
        visitor.page.wait_for_load_state()
        visitor.check()
        assert "records" in visitor.text
        visitor.open()
        assert "unreachable" in visitor.page.locator("#store-records").inner_text()
        visitor.open(f"/admin/find/?q={record}")
        assert "Not searched" in visitor.text
    finally:
        away.rename(file)
    visitor.page.goto(plan)
    visitor.confirm()
    visitor.wait_for_undo()


def test_by_keyboard_alone(visit):
    visitor = visit()
    visitor.open()
    visitor.page.keyboard.press("Control+k")
    expect(visitor.page.locator("#find")).to_be_focused()
    visitor.page.keyboard.insert_text(ROADMAP_TASK)
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_url("**/incident/**")
    address = visitor.page.url
    visitor.press_until(".other-repairs summary", "**")
    assert visitor.page.locator(".other-repairs[open]").count() == 1
    visitor.open(address.removeprefix(visitor.url))
    visitor.press_until(RECOMMENDED, "**/run/**")
    visitor.press_until(".nav-group summary", "**")
    assert visitor.page.locator(".nav-group[open]").count() == 1
    assert visitor.clicks == 0


def test_pages_print(visit):
    """On paper there is no sidebar, no search and no form, and the evidence is there."""
    visitor = visit()
    visitor.open()
    visitor.find(ROADMAP_TASK)
    visitor.page.emulate_media(media="print")
    expect(visitor.page.locator("#find")).to_be_hidden()
    expect(visitor.page.locator("#nav-sidebar")).to_be_hidden()
    expect(visitor.page.locator(".evidence")).to_be_visible()
