"""Every form of the console is sent twice, as by a double click or a reload: the second time does nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from django.test import Client
from django.urls import reverse

from opsconsole.accounts.models import SavedView, SentForm, Token
from opsconsole.console import sent_forms
from opsconsole.engine import lifecycle, queue
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import Freeze, Incident, Run, Status, Trigger
from opsconsole.stores.models import Backup
from tests.conftest import OWN
from tests.engine.test_checklist import ALL, environment, make_backup
from tests.engine.test_incidents import LONG_AGO
from tests.support import helix
from tests.support.contract import TESTER, execute_run, operation_called, plan_whole
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
TEXT = "a reason of more than twenty characters"
CSV = b"id,title\n"
NOT_COMPARED = ("accounts_sentform", "accounts_session", "axes_", "django_session", "sqlite_")
LISTS = ("operations_run", "operations_incident", "operations_finding", "operations_alert", "accounts_token")
TABLES = ("audits_taskaudit", "agentos_task", "agentos_memoryitem", "helix_helixjob", "stores_backup", "auth_user")


class Forms(HTMLParser):
    """The forms of a page that are posted: address and values."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []
        self._loose: list[tuple[str, str, str]] = []
        self._form: dict[str, Any] | None = None
        self._select: tuple[dict[str, Any] | None, str, list[str]] | None = None
        self._area: tuple[str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            post = found.get("method", "").lower() == "post"
            self._form = {"action": found.get("action", ""), "id": found.get("id", ""), "values": {}, "options": {}}
            if post:
                self.forms.append(self._form)
        elif tag == "option" and self._select is not None:
            self._select[2].append(found.get("value", ""))
            if "selected" in found:
                self._add(self._select[1], found.get("value", ""), found)
        elif tag in {"input", "textarea", "select", "button"} and "name" in found and "disabled" not in found:
            self._field(tag, found)

    def _field(self, tag: str, found: dict[str, str]) -> None:
        kind, name = found.get("type", "text"), found["name"]
        if tag == "select":
            self._select = (self._form, name, [])
        elif kind == "file":
            self._add(name, SimpleUploadedFile("rows.csv", CSV), found)
        elif kind in {"checkbox", "radio"}:
            if "checked" in found or "required" in found or name == "_selected_action":
                self._add(name, found.get("value", "on"), found)
        elif tag == "button" or kind == "submit":
            self._add(name, found.get("value", ""), found)
        else:
            sample = "7" if kind == "number" else TEXT
            self._add(name, found.get("value") or (sample if kind != "hidden" else ""), found)

    def _add(self, name: str, value: Any, found: dict[str, str]) -> None:
        if "form" in found:
            self._loose.append((found["form"], name, value))
        elif self._form is not None:
            self._form["values"].setdefault(name, value)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "select" and self._select is not None:
            form, name, options = self._select
            chosen = [option for option in options if option]
            if form is not None:
                form["options"][name] = chosen
                form["values"].setdefault(name, chosen[0] if chosen else "")
            self._select = None

    def posted(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the address and the values of each form, and of each action of a list."""
        for form in self.forms:
            values = dict(form["values"])
            for form_id, name, value in self._loose:
                if form_id and form_id == form["id"]:
                    values.setdefault(name, value)
            for chosen in form["options"].get("action", [None]):
                yield form["action"], {**values, **({"action": chosen} if chosen else {})}


def forms_of(client: Client, address: str) -> list[tuple[str, dict[str, Any]]]:
    answer = client.get(address)
    assert answer.status_code == 200, address
    parser = Forms()
    parser.feed(answer.content.decode())
    here = answer.request["PATH_INFO"] + (f"?{query}" if (query := answer.request["QUERY_STRING"]) else "")
    return [(action or here, values) for action, values in parser.posted()]


@contextmanager
def saved_databases() -> Iterator[dict[str, sqlite3.Connection]]:
    copies = {alias: sqlite3.connect(":memory:") for alias in OWN}
    for alias, copy in copies.items():
        with closing(sqlite3.connect(OWN[alias]["NAME"])) as used:
            used.backup(copy)
    yield copies
    for copy in copies.values():
        copy.close()


def restore(copies: dict[str, sqlite3.Connection]) -> None:
    for alias, copy in copies.items():
        connections[alias].close()
        with closing(sqlite3.connect(OWN[alias]["NAME"])) as used:
            copy.backup(used)


def content() -> dict[str, list[Any]]:
    """Return the rows of all tables of all databases."""
    found = {}
    for alias, config in OWN.items():
        with closing(sqlite3.connect(config["NAME"])) as used:
            tables = [name for (name,) in used.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                if not table.startswith(NOT_COMPARED):
                    found[f"{alias}.{table}"] = used.execute(f'SELECT * FROM "{table}"').fetchall()
    return found


@pytest.fixture
def pages(settings: Any, tmp_path: Any, bob: User, alice: User) -> list[str]:
    """Return the addresses of pages with every kind of form: incidents, plans, runs in several states, lists, rows."""
    store = operation_called("helix.scan_dirty_data").store
    for sql, values in helix.rows(helix.one_of_each()):
        execute(store, sql, values)
    for table in ("jobs", "tasks"):
        execute(store, f"UPDATE {table} SET updated_at = '{LONG_AGO}'")
    scan = execute_run(operation_called("helix.scan_dirty_data"))
    agentos = operation_called("agentos.clean_memory_items").store
    execute(
        agentos,
        "INSERT INTO memory_items (id, scope, type, content, auto_cleanup, expires_at) VALUES "
        "('m1', 'global', 'note', '{}', 1, '2020-01-01 00:00:00')",
    )
    execute(agentos, "INSERT INTO tasks (task_id, title) VALUES ('T1', 'one')")
    backup = make_backup(agentos, tmp_path)
    Backup.objects.filter(pk=backup.pk).update(store="agentos", engine="sqlite")
    actor = Actor("bob", "", Trigger.ADMIN, bob)
    plan = lifecycle.create_run(plan_whole(operation_called("agentos.clean_memory_items")), actor)
    done = execute_run(operation_called("agentos.clean_memory_items"))
    execute(
        agentos,
        "INSERT INTO memory_items (id, scope, type, content, auto_cleanup, expires_at) VALUES "
        "('m2', 'global', 'note', '{}', 1, '2020-01-01 00:00:00')",
    )
    environment(settings, "production")
    waiting = lifecycle.create_run(plan_whole(operation_called("agentos.clean_memory_items")), actor)
    queue.confirm(waiting, actor, ALL)
    settings.ALERT_EMAILS = ["oncall@example.org"]
    environment(settings, "development")
    rejected = lifecycle.create_run(plan_whole(operation_called("agentos.clean_memory_items")), actor)
    Run.objects.filter(pk=rejected.pk).update(status=Status.REJECTED, rejection="no")
    paused = lifecycle.create_run(plan_whole(operation_called("operations.prune_runs")), TESTER)
    Run.objects.filter(pk=paused.pk).update(status=Status.PAUSED)
    queued = lifecycle.create_run(plan_whole(operation_called("operations.prune_runs")), TESTER)
    Run.objects.filter(pk=queued.pk).update(status=Status.QUEUED)
    Token.issue(bob, "dashboards")
    SavedView.objects.create(owner=alice, table="operations.run", name="mine", query="")
    incident = Incident.objects.get(cause="failed_tasks")
    resolved = Incident.objects.exclude(pk=incident.pk).latest("pk")
    from opsconsole.engine import incidents

    incidents.resolve(resolved, actor)
    names = ("admin:index", "approvals", "operations", "stores", "freeze", "sessions")
    runs = (scan, plan, done, waiting, rejected, paused, queued)
    return [
        *map(reverse, names),
        *(reverse(f"admin:{name}_changelist") for name in (*LISTS, *TABLES)),
        *(reverse("run", args=[run.pk]) for run in runs),
        f"{reverse('run', args=[done.pk])}?tab=changes",
        f"{reverse('run', args=[done.pk])}?tab=report",
        *(reverse("incident", args=[one.pk]) for one in (incident, resolved)),
        reverse("backup-restore", args=[backup.pk]),
        reverse("admin:accounts_token_add"),
        reverse("admin:auth_user_add"),
        reverse("admin:auth_user_change", args=[bob.pk]),
        reverse("admin:auth_user_password_change", args=[bob.pk]),
        reverse("admin:auth_group_add"),
        reverse("admin:agentos_task_add"),
        f"{reverse('admin:agentos_task_change', args=['T1'])}?edit=1",
        reverse("admin:agentos_task_import"),
        reverse("admin:helix_helixjob_change", args=[4]),
        reverse("admin:password_change"),
    ]


def test_a_form_that_is_sent_twice_is_processed_once(pages: list[str], alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    client.get(reverse("admin:index"))
    cookies = deepcopy(client.cookies)
    seen = {(reverse("admin:logout"), "None")}
    redirected = 0
    with saved_databases() as copies:
        before = content()
        for page in pages:
            for address, values in forms_of(client, page):
                if (address, str(values.get("action"))) in seen:
                    continue
                seen.add((address, str(values.get("action"))))
                where = f"{page}: {address} {values}"
                first = client.post(address, _rewound(values))
                once = content()
                second = client.post(address, _rewound(values))
                assert first.status_code < 500, where
                assert (second.status_code, second.get("Location")) == (first.status_code, first.get("Location")), where
                if first.status_code == 302:
                    redirected += 1
                    assert client.get(second["Location"], follow=True).status_code in {200, 404}, where
                else:
                    assert [name for name in once if once[name] != before[name]] == [], where
                again = content()
                assert [name for name in again if again[name] != once[name]] == [], where
                if again != before:
                    restore(copies)
                    client.cookies = deepcopy(cookies)
    assert redirected > 40, redirected


def _rewound(values: dict[str, Any]) -> dict[str, Any]:
    for value in values.values():
        if isinstance(value, SimpleUploadedFile):
            value.seek(0)
    return values


# --- the middleware ------------------------------------------------------------------------------------------


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    return client


def freeze_form(client: Client) -> dict[str, Any]:
    return next(values for action, values in forms_of(client, reverse("freeze")) if "note" in values)


def test_the_user_is_told_that_nothing_was_done_again(browser: Client) -> None:
    values = freeze_form(browser)
    browser.post(reverse("freeze"), values)
    page = browser.post(reverse("freeze"), values, follow=True).content.decode()
    assert "This form was already sent. It was not processed again." in page
    assert Freeze.objects.count() == 1


def test_a_refused_form_may_be_sent_again(browser: Client) -> None:
    values = freeze_form(browser)
    assert browser.post(reverse("freeze"), {**values, "note": " "}).status_code == 400
    assert browser.post(reverse("freeze"), {**values, "note": " "}).status_code == 400
    assert not SentForm.objects.exists()
    assert browser.post(reverse("freeze"), values).status_code == 302


def test_the_same_values_on_a_new_page_are_another_form(browser: Client) -> None:
    address, values = next(
        (action, values) for action, values in forms_of(browser, reverse("stores")) if "plan" in action
    )
    first = browser.post(address, values)
    address, again = next(one for one in forms_of(browser, reverse("stores")) if one[0] == address)
    assert again != values
    second = browser.post(address, again, follow=True)
    assert first.status_code == 302
    assert "already sent" not in second.content.decode()


def test_a_second_click_waits_for_the_first_answer(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    values = freeze_form(browser)
    assert browser.post(reverse("freeze"), values).status_code == 302
    SentForm.objects.update(location="")

    def answer() -> None:
        SentForm.objects.update(location="/admin/stores/")
        connections.close_all()

    timer = threading.Timer(0.3, answer)
    timer.start()
    assert browser.post(reverse("freeze"), values)["Location"] == "/admin/stores/"
    timer.join()
    SentForm.objects.update(location="")
    monkeypatch.setattr(sent_forms, "WAIT_SECONDS", 0.0)
    late = browser.post(reverse("freeze"), values)
    assert late.status_code == 409
    assert "still being processed" in late.content.decode()


def test_the_secret_of_a_token_is_shown_once_and_not_stored(browser: Client, alice: User) -> None:
    page = reverse("admin:accounts_token_add")
    address, values = next(one for one in forms_of(browser, page) if "name" in one[1])
    answer = browser.post(address, {**values, "user": alice.pk, "expires_at_0": "", "expires_at_1": ""}, follow=True)
    token = Token.objects.get()
    text = answer.content.decode()
    assert f"{token.begins_with}" in text
    assert "shown once" not in text
    again = browser.get(reverse("admin:accounts_token_secret", args=[token.pk])).content.decode()
    assert "The secret of this token was shown once" in again
    assert django_settings.SESSION_COOKIE_HTTPONLY
