"""Lists: the filters in force as removable chips, and saved views."""

from __future__ import annotations

import html
import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from audits.models import TaskAudit
from opsconsole.accounts.models import SavedView
from opsconsole.engine.models import Event
from tasks.agentos.models import Task

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

AUDITS = "/admin/audits/taskaudit/"
INCIDENTS = "/admin/operations/incident/"
FINDINGS = "/admin/operations/finding/"


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    return client


def chips_of(client: Client, address: str) -> dict[str, str]:
    """Return the text of each chip and the address that removes it."""
    response = client.get(address)
    assert response.status_code == 200, response.content[:1000]
    assert all(html.escape(chip.text) in response.content.decode() for chip in response.context["chips"])
    return {chip.text: chip.link for chip in response.context["chips"]}


def test_every_parameter_is_a_chip_that_removes_it(bobs: Client) -> None:
    address = f"{FINDINGS}?state=open&incident__id__exact=5&code=failed_tasks&q=4&o=1&p=0"
    found = chips_of(bobs, address)
    assert found == {
        "State: open": "?incident__id__exact=5&code=failed_tasks&q=4&o=1",
        "Incident: 5": "?state=open&code=failed_tasks&q=4&o=1",
        "Problem: failed_tasks": "?state=open&incident__id__exact=5&q=4&o=1",
        "Search: 4": "?state=open&incident__id__exact=5&code=failed_tasks&o=1",
    }
    text = bobs.get(address).content.decode()
    assert 'href="?o=1">Clear all</a>' in text
    assert chips_of(bobs, f"{FINDINGS}?o=1&p=0") == {}
    assert "Clear all" not in bobs.get(FINDINGS).content.decode()


def test_chips_show_the_words_of_the_choices(bobs: Client) -> None:
    task = Task.objects.create(task_id="T1", title="one")
    TaskAudit.objects.create(task=task, event_type="SUPERVISOR_DECISION", payload="{}")
    due = f"{AUDITS}?due=audits.backfill_decision_fields"
    assert list(chips_of(bobs, due)) == ["Waiting for a repair: Fill the decision times of supervisor audits"]
    dated = f"{AUDITS}?created_at_from=2026-01-01&created_at_to="
    assert [text for text in chips_of(bobs, dated) if "2026-01-01" in text] == list(chips_of(bobs, dated))
    assert "<script>" not in bobs.get(f"{AUDITS}?q=<script>").content.decode().partition("list-filters")[2][:2000]


def test_a_default_filter_is_a_chip(bobs: Client) -> None:
    assert chips_of(bobs, INCIDENTS) == {"State: open or acknowledged": "?state=all"}
    assert list(chips_of(bobs, f"{INCIDENTS}?state=all")) == ["State: all of them"]


def save(client: Client, name: str, query: str, **data: str) -> None:
    response = client.post(
        "/admin/views/save/", {"table": "audits.taskaudit", "name": name, "query": query, **data}, follow=True
    )
    assert response.status_code == 200


def menu_of(client: Client, query: str = "") -> list[tuple[str, str, str, bool]]:
    saved = client.get(f"{AUDITS}?{query}").context["saved"]
    return [(view.name, view.link, view.owner, view.is_current) for view in saved.views]


def test_views_are_saved_shared_renamed_and_deleted(bobs: Client, viewer: User) -> None:
    query = "q=7&due=audits.backfill_decision_fields&p=3&task_id="
    other = Client()
    other.force_login(viewer, backend="django.contrib.auth.backends.ModelBackend")
    save(bobs, "Mine", query)
    kept = "?due=audits.backfill_decision_fields&q=7"
    assert menu_of(bobs) == [("Mine", kept, "", False)]
    assert menu_of(bobs, kept[1:]) == [("Mine", kept, "", True)]
    assert "View: Mine" in bobs.get(AUDITS + kept).content.decode()
    assert menu_of(other) == []
    save(bobs, "Ours", query, shared="on")  # the same filters: renamed
    assert menu_of(bobs) == [("Ours", kept, "", False)]
    assert menu_of(other) == [("Ours", kept, "bob", False)]
    save(bobs, "Ours", "q=8")  # the same name: other filters, no longer shared
    assert menu_of(bobs) == [("Ours", "?q=8", "", False)]
    assert menu_of(other) == []
    view = SavedView.objects.get()
    assert other.post(f"/admin/views/{view.pk}/delete/").status_code == 404
    assert bobs.post(f"/admin/views/{view.pk}/delete/", follow=True).redirect_chain[0][0] == f"{AUDITS}?q=8"
    assert not SavedView.objects.exists()
    verbs = list(Event.objects.order_by("pk").values_list("verb", "who"))
    assert verbs[-4:] == [*[("view_saved", "bob")] * 3, ("view_deleted", "bob")]


def test_unencodable_values_are_refused(bobs: Client, charlie: User) -> None:
    save(bobs, "  ", "q=7")
    save(bobs, "x" * 81, "q=7")
    save(bobs, "long", "q=" + "7" * 5000)
    assert not SavedView.objects.exists()
    assert bobs.post("/admin/views/save/", {"table": "auth.nothing", "name": "x"}).status_code == 404
    assert bobs.post("/admin/views/save/", {"table": "auth.user", "name": "x"}).status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(charlie, backend="django.contrib.auth.backends.ModelBackend")
    assert strict.post("/admin/views/save/", {"table": "audits.taskaudit", "name": "x"}).status_code == 403


def test_names_are_shown_as_text(bobs: Client) -> None:
    save(bobs, "<b>&\"'", "q=7")
    assert not re.search(r"<b>&", bobs.get(AUDITS).content.decode())
    assert menu_of(bobs)[0][0] == "<b>&\"'"


def test_the_title_of_a_list_is_its_subject(bobs: Client) -> None:
    assert "<title>Findings | " in " ".join(bobs.get(FINDINGS).content.decode().split()).replace("<title> ", "<title>")
    assert bobs.get(INCIDENTS).context["title"] == "Incidents"
