"""Every figure leads to its rows: in the demo data, each link is followed and the list is counted."""

from __future__ import annotations

import html
import importlib
import re
from importlib.util import find_spec
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from opsconsole.engine import repairs, workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Incident, Run, Status

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])

LINK = re.compile(r'<a class="figure[^"]*" href="([^"]+)"[^>]*>(.*?)</a>', re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*")
TAB = re.compile(r'<a href="(\?tab=\w+#tabs)"[^>]*>[^<]*\(([\d,]+)\)</a>')


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def demo(bobs: Client) -> None:
    for app in apps.get_app_configs():
        if find_spec(f"{app.name}.demo") is not None:
            list(importlib.import_module(f"{app.name}.demo").load())
    bobs.post(reverse("check-stores"))
    for run in Run.objects.filter(status=Status.QUEUED).order_by("pk"):
        work(run)


def work(run: Run) -> Run:
    run.refresh_from_db()
    return Executor(workers.claim(run)).work()


def followed(client: Client, address: str) -> list[tuple[str, int, int]]:
    """Return the text, the figure and the count of the opened list, of every figure on a page."""
    text = client.get(address).content.decode()
    links = [(url, re.sub(r"<[^>]+>", "", words).strip()) for url, words in LINK.findall(text)]
    found = []
    for url, words in [*links, *TAB.findall(text)]:
        number = NUMBER.search(words.rpartition(": ")[2])
        assert number, words
        found.append((words, int(number[0].replace(",", "")), count_of(client, address, html.unescape(url))))
    return found


def count_of(client: Client, page: str, url: str) -> int:
    response = client.get(page.partition("?")[0] + url if url.startswith("?") else url)
    assert response.status_code == 200, (url, response.status_code)
    context: Any = response.context
    if "cl" in context:
        assert "Clear all" in response.content.decode() or "state" not in url
        return int(context["cl"].result_count)
    if "tabs" not in context:
        return int(context["page"].shown_of)
    return count_of_tab(client, page, response)


def count_of_tab(client: Client, page: str, response: Any) -> int:
    tabs = response.context["tabs"]
    if tabs.current == "unchanged":
        assert all(len(entry.links) == min(entry.count, 100) for entry in tabs.unchanged)
        return sum(entry.count for entry in tabs.unchanged)
    if tabs.current == "failed":
        return sum(len(table.rows) for _title, table in tabs.failed)
    if tabs.current == "changes":
        changes, count = response.context["changes"], 0
        while True:
            written = changes.run.batches.get(number=changes.number).rows if changes.number else 0
            assert len(changes.table.rows) == min(written, 100)  # the page says so
            count += written
            following = getattr(changes, "following", None)
            if following is None:
                return count
            changes = client.get(f"{page}?tab=changes&batch={following}").context["changes"]
    return len(getattr(tabs, tabs.current).rows)


def wrong(found: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    return [one for one in found if one[1] != one[2]]


def test_every_figure_leads_to_its_rows(bobs: Client, demo: None) -> None:
    found = followed(bobs, "/admin/")
    assert len(found) >= 4
    assert wrong(found) == []
    opened = 0
    for incident in Incident.objects.active().order_by("pk"):
        opened += visit(bobs, incident)
    assert opened >= 5


def visit(client: Client, incident: Incident) -> bool:
    """Follow the figures of an incident, of the plan of its repair, and of the run."""
    page = reverse("incident", args=[incident.pk])
    found = followed(client, page)
    assert found or incident.resolved_at, incident
    assert wrong(found) == [], incident
    repair = repairs.recommended(repairs.repairs_of(incident))
    if repair is None or incident.resolved_at is not None:
        return False
    answer: Any = client.post(reverse("incident-repair", args=[incident.pk, repair.operation.name]))
    if answer.status_code != 302:
        return False
    run = Run.objects.latest("pk")
    planned = followed(client, answer.url)
    assert planned, run
    assert wrong(planned) == [], run
    client.post(reverse("run-confirm", args=[run.pk]), {"digest": run.digest})
    run.refresh_from_db()
    if run.status == Status.QUEUED:
        run = work(run)
    if run.ended:
        ended = followed(client, reverse("run", args=[run.pk]))
        assert ended, run
        assert wrong(ended) == [], run
    return True


def test_the_figures_of_scans(bobs: Client, demo: None) -> None:
    runs = [run for run in Run.objects.exclude(status=Status.PLANNED) if run.ended and run.after]
    followed_links = 0
    for run in runs:
        found = followed(bobs, reverse("run", args=[run.pk]))
        assert wrong(found) == [], run.operation
        followed_links += len(found)
    assert followed_links
