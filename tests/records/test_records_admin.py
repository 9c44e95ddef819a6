"""Tests of the pages of records and statuses: documents of every form, and older stores."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tests.support import records

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "records"])

RECORDS, STATUSES = "admin:records_testrecord_changelist", "admin:records_taskstatus_changelist"
WORDS = {
    "broken_json": "broken JSON",
    "broken_gzip": "broken gzip",
    "not_text": "neither text nor gzip",
    "empty": "no summary",
}


@pytest.fixture
def http(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


def page(http: Client, key: int) -> str:
    answer = http.get(reverse("admin:records_testrecord_change", args=[key]))
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_every_form_of_a_summary(make_records: records.Maker, http: Client, engine: str) -> None:
    kinds = records.kinds(1)
    make_records(engine, ((key, kind, None) for key, kind in enumerate(kinds, 1)), by_url=True)
    listed = http.get(reverse(RECORDS))
    assert listed.status_code == 200
    assert "青岚" in listed.content.decode()
    for key, kind in enumerate(kinds, 1):
        shown = page(http, key)
        if kind.is_id and len(kind.summary or "") < 10_000:
            assert "json-" in shown or "execution_id" in shown, kind
        elif kind.summary is not None and kind.outcome in WORDS:
            assert WORDS[kind.outcome] in shown, kind


def test_the_page_shows_the_status_of_the_endpoint(make_records: records.Maker, http: Client) -> None:
    _store, client = make_records("sqlite", [(1, records.kinds(1)[0], "an-id")], by_url=True)
    assert "test_records" in page(http, 1)
    client.execute("INSERT INTO task_statuses (task_id, progress, stage) VALUES ('an-id', 30, 'ai_fetching')")
    shown = http.get(reverse("admin:records_taskstatus_change", args=[1])).content.decode()
    assert "asking the AI models" in shown
    assert "&quot;source&quot;" in shown or "source" in shown


def test_filters_and_search(make_records: records.Maker, http: Client) -> None:
    kind = records.kinds(1)[0]
    make_records("sqlite", [(1, kind, "an-id"), (2, kind, None)], by_url=True)
    for query, found in (
        ({"execution_id_is": "missing"}, {2}),
        ({"execution_id_is": "filled"}, {1}),
        ({"q": "an-id"}, {1}),
        ({"q": "2"}, {2}),
        ({"execution_id": "an-id"}, {1}),
    ):
        answer = http.get(reverse(RECORDS), query)
        assert {row.pk for row in answer.context["cl"].result_list} == found


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_store_without_the_column(make_records: records.Maker, http: Client, engine: str) -> None:
    make_records(engine, (), column=False, by_url=True)
    answer = http.get(reverse(RECORDS), follow=True)
    assert answer.status_code == 200
    assert "The columns execution_id are missing in" in answer.content.decode()
    assert http.get(reverse(STATUSES)).status_code == 200


def test_permissions_to_view(make_records: records.Maker, charlie: User, viewer: User) -> None:
    make_records("sqlite", by_url=True)
    for user, wanted in ((charlie, 403), (viewer, 200)):
        client = Client()
        client.force_login(user)
        for name in (RECORDS, STATUSES):
            assert client.get(reverse(name)).status_code == wanted
