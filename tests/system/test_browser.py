"""The pages in a real browser: from plan to undo, narrow, dark, without JavaScript and without a server."""

from __future__ import annotations

import re
from datetime import UTC

import pytest
from django.urls import reverse
from playwright.sync_api import expect, sync_playwright

from audits.models import TaskAudit
from opsconsole.engine import audit_log, lifecycle, workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run, Status, Trigger
from tasks.agentos.models import Task

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

PAYLOAD = '{"source_event_ts": "2026-01-20T10:00:00", "supervisor_processed_at": "2026-01-20T10:00:01"}'
BACKFILL = "Fill the decision times of supervisor audits"


@pytest.fixture
def audits():
    task = Task.objects.create(task_id="T1", title="one")
    TaskAudit.objects.bulk_create(
        TaskAudit(task=task, event_type="SUPERVISOR_DECISION", payload=PAYLOAD if number % 8 else "{")
        for number in range(1, 41)
    )


@pytest.fixture
def browser(chromium, monkeypatch):
    # Playwright runs an event loop in this thread, in which Django refuses synchronous queries.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, live_server, bob):
    """Return a function that opens a page as Bob. Every error in the browser's console fails the test."""
    complaints = []

    def make(**options):
        page = browser.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{live_server.url}/admin/login/")
        page.get_by_label("Username").fill("bob")
        page.get_by_label("Password").fill("correct horse")
        page.locator("#login-form button[type=submit]").click()
        page.wait_for_url("**/admin/")
        return page

    yield make
    # One test stops the server, which the browser reports.
    assert [text for text in complaints if not text.startswith(("htmx:", "Failed to load"))] == []


def plan(page, live_server):
    page.goto(live_server.url + reverse("admin:audits_taskaudit_changelist"))
    page.get_by_role("button", name=BACKFILL).click()
    expect(page.locator("#plan-sentence")).to_contain_text("Fill 35 audits of 40")
    return Run.objects.latest("pk")


def test_from_the_plan_to_the_undo(open_page, live_server, audits):
    page = open_page()
    run = plan(page, live_server)
    page.get_by_label("Reason (kept with the run)").fill("by hand")
    page.get_by_text("Speed", exact=True).click()
    page.get_by_label("Rows per batch").fill("5")
    page.get_by_role("button", name="Fill 35 audits").press("Enter")
    expect(page.get_by_text("No worker has been seen yet.")).to_be_visible()

    run.refresh_from_db()
    run = workers.claim(run)
    steps = iter(range(3))
    run = Executor(run).work(until=lambda: next(steps, None) is None, hand_over=lambda run, seconds: None)
    assert 0 < run.seen < 40
    expect(page.locator("#live")).to_contain_text(f"{run.seen} of 40", timeout=10_000)
    expect(page.locator("#live")).to_contain_text("running", ignore_case=True)
    page.get_by_role("button", name="Pause").click()
    # The run has no worker between two slices, so it pauses at once.
    expect(page.get_by_text("The run is paused. Resume it to continue.")).to_be_visible()
    assert Run.objects.get(pk=run.pk).status == Status.PAUSED
    page.get_by_role("button", name="Resume").click(timeout=10_000)
    expect(page.locator("#live")).to_contain_text("queued", ignore_case=True)
    Executor(workers.claim(Run.objects.get(pk=run.pk))).work()
    expect(page.get_by_role("heading", name="Verification")).to_be_visible(timeout=10_000)

    page.get_by_role("link", name="Changes (35)").click()
    page.get_by_label("Key").fill(str(TaskAudit.objects.earliest("pk").pk))
    page.get_by_label("Key").press("Enter")
    expect(page.locator("ins")).to_have_text(["2026-01-20T10:00:00", "2026-01-20T10:00:01"])

    page.get_by_role("button", name=re.compile("Undo .* row change")).click()
    page.get_by_role("button", name="Restore 35 rows").click()
    undo = Run.objects.latest("pk")
    page.wait_for_url(f"**{reverse('run', args=[undo.pk])}")
    Executor(workers.claim(undo)).work()
    expect(page.get_by_role("heading", name="Verification")).to_be_visible(timeout=10_000)
    assert not TaskAudit.objects.filter(source_event_ts__isnull=False).exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page, live_server, audits, scheme):
    page = open_page(color_scheme=scheme)
    run = plan(page, live_server)
    lifecycle.confirm(run, audit_log.Actor("bob", "here", Trigger.ADMIN), background=False)
    done = Executor(Run.objects.get(pk=run.pk)).work()
    page.set_viewport_size({"width": 360, "height": 740})
    address = reverse("run", args=[done.pk])
    tabs = ("events", "batches", "failed", "left", "changes", "plan", "report")
    for path in (
        "/admin/operations/",
        "/admin/operations/run/",
        "/admin/operations/event/",
        *(f"{address}?tab={tab}" for tab in tabs),
    ):
        page.goto(live_server.url + path)
        expect(page.locator(".band").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
        assert bool(page.locator("html.dark").count()) == (scheme == "dark")


def test_without_javascript(open_page, live_server, audits):
    page = open_page(java_script_enabled=False)
    run = plan(page, live_server)
    page.get_by_role("button", name="Fill 35 audits").click()
    expect(page.get_by_text("JavaScript is off, so this page does not refresh automatically.")).to_be_visible()
    Executor(workers.claim(Run.objects.get(pk=run.pk))).work()
    page.get_by_role("link", name="Refresh").click()
    expect(page.get_by_text("35", exact=True).first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Undo .* row change"))).to_be_visible()


def test_it_reports_an_unreachable_server(open_page, live_server, audits):
    page = open_page()
    plan(page, live_server)
    page.get_by_role("button", name="Fill 35 audits").click()
    expect(page.get_by_text("No worker has been seen yet.")).to_be_visible()
    page.route(re.compile("/live/"), lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("The server does not respond.", timeout=10_000)
    page.unroute_all()
    expect(page.get_by_role("alert")).to_be_hidden(timeout=10_000)


def test_by_keyboard(open_page, live_server, audits):
    page = open_page()
    plan(page, live_server)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    reached = set()
    for _number in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.innerText || document.activeElement.name || '').trim()"))
    assert {"Go to the confirmation", "note", "Fill 35 audits", "Discard plan"} <= reached


def test_times_are_in_the_zone_of_the_band(open_page, live_server, audits):
    page = open_page(timezone_id="Asia/Shanghai")
    run = plan(page, live_server)
    expect(page.locator("dl time").first).to_have_text(f"{run.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}")
    expect(page.locator(".band-zone")).to_have_text("UTC")


def test_a_row_is_edited_and_a_file_imported(open_page, live_server, tmp_path):
    """Normalized line ends do not count as a change, and changes of other users are detected."""
    text = '\n{"a": 1}\r\nlast\n'
    Task.objects.create(task_id="T1", title="one", metadata=text)
    page = open_page()
    page.goto(live_server.url + reverse("admin:agentos_task_change", args=["T1"], query={"edit": 1}))
    page.get_by_label("Title").fill("two")
    Task.objects.update(title="theirs", status="running")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("This value has changed to theirs")).to_be_visible()
    expect(page.get_by_label("Title")).to_have_value("two")
    page.get_by_role("button", name="Save", exact=True).click()
    run = Run.objects.latest("pk")
    expect(page.get_by_text(f"Run {run.pk} saved the values.")).to_be_visible()
    assert run.writes == {"tasks": ["title"]}
    assert Task.objects.values_list("title", "status", "metadata").get() == ("two", "running", text)
    page.get_by_role("link", name="View or undo the run").click()
    expect(page.get_by_role("button", name=re.compile("Undo .* row change"))).to_be_visible()

    file = tmp_path / "tasks.csv"
    file.write_text("task_id,title\nT1,three\nT2,new\n")
    page.goto(live_server.url + reverse("admin:agentos_task_import"))
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#plan-sentence")).to_contain_text("Write 2 rows")
    page.get_by_role("button", name="Write 2 rows").click()
    expect(page.get_by_text("Import of tasks.csv").first).to_be_visible()
    Executor(workers.claim(Run.objects.latest("pk"))).work()
    assert set(Task.objects.values_list("task_id", "title")) == {("T1", "three"), ("T2", "new")}
