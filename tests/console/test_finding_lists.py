"""Findings in lists and on the page of their scan: exact search, worst first, with a constant number of queries."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from opsconsole.engine.models import Finding, Run
from tests.support.contract import execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

LIST = "/admin/operations/finding/"
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def scan() -> Run:
    return execute_run(operation_called("audits.check_references"))


def add(scan: Run, subject: str, code: str, priority: str = "planned") -> None:
    Finding.objects.create(
        operation=scan.operation,
        store=scan.store,
        identity=scan.identity,
        code=code,
        subject=subject,
        priority=priority,
        data={"table": "task_audits", "first": "7"},
        found_at=AT,
        seen_at=AT,
        first_run=scan,
        last_run=scan,
    )


def subjects(page: str) -> list[str]:
    return re.findall(r"\bsubject [a-z]+\b", re.sub(r"<[^>]+>", " ", page))


def test_a_search_finds_exactly_a_subject_or_a_code(bobs: Client, scan: Run) -> None:
    add(scan, "subject one", "first_code")
    add(scan, "subject two", "other_code")
    for term, found in {
        "subject one": {"subject one"},
        " subject two ": {"subject two"},
        "other_code": {"subject two"},
        "subject": set(),
        "SUBJECT ONE": set(),
    }.items():
        page = bobs.get(LIST, {"q": term}).content.decode()
        shown = page.partition('id="result_list"')[2]
        assert set(subjects(shown)) == found, term


def test_a_scan_shows_the_worst_findings_first_in_as_many_queries(bobs: Client, scan: Run) -> None:
    add(scan, "subject low", "a_code", "periodic")
    add(scan, "subject bad", "b_code", "immediate")
    add(scan, "subject fair", "a_code", "planned")
    page = reverse("run", args=[scan.pk])
    bobs.get(page)
    with CaptureQueriesContext(connections["default"]) as few:
        text = bobs.get(page).content.decode()
    assert list(dict.fromkeys(subjects(text))) == ["subject bad", "subject fair", "subject low"]
    for number in range(40):
        add(scan, f"another {number}", "a_code")
    with CaptureQueriesContext(connections["default"]) as many:
        bobs.get(page)
    assert len(many) == len(few)
