"""Journeys of a request for approval in a real browser, in two languages: the messages arrive and lead to the pages."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect, sync_playwright

from opsconsole.accounts.models import Session
from opsconsole.engine import queue
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.leases import LEASE, this_worker
from opsconsole.engine.models import Run, Status, Trigger
from opsconsole.stores.store import Store
from tests.engine.test_checklist import environment, make_backup
from tests.support.plain_client import execute
from tests.support.receivers import MailReceiver, Receiver

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"]),
    pytest.mark.parametrize("language", ["en", "zh-hans"]),
]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
CLEAN = "agentos.clean_memory_items"
SECRET = "quite secret"
ON_CALL = ["oncall@example.org", "ops@example.org"]
EMERGENCY = "It is night, the disk is full and no approver answers."


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright runs an event loop in this thread, in which Django refuses synchronous queries.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def mails() -> Iterator[MailReceiver]:
    receiver = MailReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def hook() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def chat() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.answer = 200
    yield receiver
    receiver.close()


@pytest.fixture
def people(chrome: Browser, bob: User) -> dict[str, User]:
    """Return the planner Bob and the approver Carol."""
    carol = User.objects.create_user("carol", password="correct horse", is_staff=True)
    carol.groups.set(bob.groups.all())
    for person in (bob, carol):
        person.email = f"{person.username}@example.org"
        person.save()
    return {"bob": bob, "carol": carol}


@pytest.fixture
def visit(
    chrome: Browser,
    live_server: Any,
    people: dict[str, User],
    mails: MailReceiver,
    hook: Receiver,
    chat: Receiver,
    settings: Any,
    tmp_path: Any,
    language: str,
) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the console of a production with all channels. Two memory items have expired."""
    environment(settings, "production")
    settings.OPSCONSOLE_URL, settings.LANGUAGE_CODE = live_server.url, language
    settings.ALERT_EMAILS, settings.ALERT_PRIVATE_ADDRESSES = ON_CALL, True
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", mails.port
    settings.ALERT_WEBHOOK_URL, settings.ALERT_WEBHOOK_SECRET = hook.url, SECRET
    settings.ALERT_CHANNELS = [f"mmost://127.0.0.1:{chat.server.server_port}/topsecrettoken"]
    store = Store("agentos", "agentos")
    for key, kind in (("m1", "temporary"), ("m2", "project")):
        execute(
            store,
            "INSERT INTO memory_items (id, scope, type, content, auto_cleanup, expires_at, retention_type) VALUES "
            f"('{key}', 'global', 'note', '{{}}', 1, '2020-01-01 00:00:00', '{kind}')",
        )
    make_backup(store, tmp_path)
    contexts, complaints = [], []

    def make(**options: Any) -> Page:
        context = chrome.new_context(**options)
        context.add_cookies([{"name": "django_language", "value": language, "url": live_server.url}])
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert complaints == []


def sign_in(page: Page, name: str) -> None:
    page.locator("input[name=username]").fill(name)
    page.locator("input[name=password]").fill("correct horse")
    page.locator("#login-form button[type=submit]").click()


def follow(page: Page, message: EmailMessage, name: str = "") -> None:
    """Open the link of a message. An account that is not signed in signs in and gets there."""
    link = text_of(message).splitlines()[-1]
    assert link.startswith("http")
    page.goto(link)
    if name:
        sign_in(page, name)
    page.wait_for_url(link)
    check(page)


def check(page: Page) -> None:
    """Check the language of a page, and that nothing scrolls sideways."""
    page.wait_for_load_state()
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url
    language = next(one["value"] for one in page.context.cookies() if one["name"] == "django_language")
    assert page.locator("html").get_attribute("lang") == language


def text_of(message: EmailMessage) -> str:
    return str(message.get_content())


def deliver(mails: MailReceiver, hook: Receiver, chat: Receiver) -> str:
    """Deliver what waits. Check the newest message, which all channels got, and return its kind."""
    before = len(mails.got)
    queue.heartbeat()
    assert len(mails.got) == len(hook.got) == len(chat.got) > before
    headers, body = hook.got[-1]
    timestamp = headers["X-OpsConsole-Timestamp"]
    digest = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    assert headers["X-OpsConsole-Signature"] == f"sha256={digest}"
    told = json.loads(body)
    assert told["subject"] in json.loads(chat.got[-1][1])["text"]
    assert set(ON_CALL) <= set(str(mails.got[-1]["To"]).split(", "))
    assert told["subject"] in str(mails.got[-1]["Subject"])
    return str(told["key"].partition("/")[0])


def ask(page: Page, url: str, *, retention: str = "") -> Run:
    """Plan the deletion, and ask for an approval."""
    page.goto(url + reverse("admin:agentos_memoryitem_changelist"))
    if page.locator("#login-form").count():
        sign_in(page, "bob")
    page.locator(f"form[action='{reverse('plan', args=[CLEAN])}'] button").first.click()
    if retention:
        page.locator("input[name=retention_type]").fill(retention)
        page.locator("form[action$='/replan/'] button").click()
        expect(page.locator("input[name=retention_type]")).to_have_value(retention)
    return confirm(page)


def confirm(page: Page) -> Run:
    check(page)
    for box in page.locator("input[name=checked]").all():
        box.check()
    page.locator("input[name=note]").fill("expired long ago")
    expect(page.locator("label[for=typed]")).to_contain_text(CLEAN)
    page.locator("#typed").fill(CLEAN)
    page.locator("button[form=confirmation]").click()
    expect(page.locator("form[action$='/confirm/']")).to_have_count(0)
    check(page)
    run = Run.objects.latest("pk")
    assert run.status == Status.AWAITING_APPROVAL
    return run


def work(run: Run) -> Run:
    run.refresh_from_db()
    assert run.status == Status.QUEUED
    queue.run_slice(run.pk, run.generation)
    run.refresh_from_db()
    return run


def items() -> set[str]:
    with Store("agentos", "agentos").connection.cursor() as cursor:
        cursor.execute("SELECT id FROM memory_items")
        return {key for (key,) in cursor.fetchall()}


def test_a_rejected_plan_is_planned_again_and_approved(
    visit: Any, live_server: Any, mails: MailReceiver, hook: Receiver, chat: Receiver, language: str
) -> None:
    planner, approver = visit(viewport=WIDE), visit(viewport=PHONE)
    rejected = ask(planner, live_server.url, retention="temporary")
    assert deliver(mails, hook, chat) == "approval"
    (request,) = mails.to("carol@example.org")
    assert bool(re.search("[一-鿿]", str(request["Subject"]))) == (language == "zh-hans")

    follow(approver, request, "carol")
    approver.locator("#reason").fill("Keep it until Monday.")
    approver.locator("form[action$='/reject/'] button").click()
    expect(approver.locator("#main")).to_contain_text("Keep it until Monday.")
    check(approver)
    assert deliver(mails, hook, chat) == "rejected"
    rejection = mails.to("bob@example.org")[-1]
    assert "Keep it until Monday." in text_of(rejection)
    assert mails.to("carol@example.org")[-1] is rejection, "both are notified"

    follow(planner, rejection)
    expect(planner.locator("#main")).to_contain_text("Keep it until Monday.")
    planner.locator("form[action$='/replan/'] button").click()
    expect(planner.locator("input[name=retention_type]")).to_have_value("temporary")
    run = confirm(planner)
    assert (run.params, run.selection, run.replaces) == (rejected.params, rejected.selection, rejected)

    assert deliver(mails, hook, chat) == "approval"
    follow(approver, mails.to("carol@example.org")[-1])
    approver.locator("form[action$='/approve/'] button").click()
    expect(approver.locator("form[action$='/approve/']")).to_have_count(0)
    assert work(run).status == Status.SUCCEEDED
    assert deliver(mails, hook, chat) == "approved"
    approval = mails.to("bob@example.org")[-1]
    assert mails.to("carol@example.org")[-1] is approval, "both are notified"
    follow(planner, approval)
    expect(planner.locator("form[action$='/undo/'] button")).to_be_visible()
    assert items() == {"m2"}


def test_a_session_that_ends_during_a_run_leads_back_to_it(visit: Any, live_server: Any, people: Any) -> None:
    page = visit(viewport=PHONE)
    run = ask(page, live_server.url)
    queue.approve(run, Actor("carol", "192.0.2.1", Trigger.ADMIN, people["carol"]))
    Run.objects.filter(pk=run.pk).update(
        status=Status.RUNNING, worker=this_worker(), lease_until=timezone.now() + LEASE, started_at=timezone.now()
    )
    queue.announce_workers("")
    address = live_server.url + reverse("run", args=[run.pk])
    page.goto(address)
    Session.objects.all().delete()
    page.wait_for_url("**/login/**", timeout=10_000)
    sign_in(page, "bob")
    page.wait_for_url(address)
    expect(page.locator("form[action$='/cancel/'] button")).to_be_visible()
    check(page)


def test_break_glass_is_announced_and_marked_for_ever(
    visit: Any,
    live_server: Any,
    people: Any,
    mails: MailReceiver,
    hook: Receiver,
    chat: Receiver,
    capsys: pytest.CaptureFixture[str],
    language: str,
) -> None:
    people["bob"].user_permissions.add(Permission.objects.get(codename="break_glass"))
    page = visit(viewport=PHONE)
    run = ask(page, live_server.url)
    deliver(mails, hook, chat)

    emergency = page.locator("#emergency")
    page.locator("summary", has=page.locator("xpath=following-sibling::form[contains(@action, 'break-glass')]")).click()
    start = page.locator("form[action$='/break-glass/'] button")
    emergency.fill("too short")
    start.click()
    assert emergency.evaluate("field => field.validity.tooShort"), "the browser says so first"
    emergency.fill("too short" + " " * 20)
    start.click()
    expect(page.locator("#main [role=alert]:not([hidden])")).to_be_visible()
    expect(emergency).to_be_visible()
    assert emergency.input_value().strip() == "too short", "what was typed is kept"
    assert page.locator("#question").input_value() == "", "and only where it was typed"
    check(page)
    run.refresh_from_db()
    assert run.status == Status.AWAITING_APPROVAL

    emergency.fill(EMERGENCY)
    start.click()
    expect(page.locator("form[action$='/break-glass/']")).to_have_count(0)
    assert deliver(mails, hook, chat) == "break_glass"
    alarm = mails.got[-1]
    assert set(str(alarm["To"]).split(", ")) >= {*ON_CALL, "bob@example.org", "carol@example.org"}
    assert EMERGENCY in text_of(alarm)

    assert work(run).status == Status.SUCCEEDED
    follow(page, alarm)
    expect(page.locator("#main .note-danger:not([hidden])")).to_be_visible()
    page.goto(live_server.url + reverse("admin:operations_run_changelist"))
    check(page)
    mark = {"en": "started without approval", "zh-hans": "不经审批启动"}[language]
    expect(page.locator("#result_list")).to_contain_text(mark)
    call_command("runs", "show", str(run.pk))
    call_command("runs", "list")
    call_command("runs", "show", str(run.pk), "--json")
    *shown, as_json = capsys.readouterr().out.splitlines()
    if language == "en":
        assert sum(mark in line for line in shown) >= 2
    assert json.loads(as_json)["break_glass"] is True
