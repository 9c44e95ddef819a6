"""Errors have a page with a next step, also for the live parts of a page whose session has ended."""

from __future__ import annotations

from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse
from django.utils.translation import override

from opsconsole.engine.models import Freeze

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


def test_an_ended_session_sends_the_whole_page_to_the_sign_in(client: Client) -> None:
    answer = client.get(
        reverse("dashboard-live"),
        headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/admin/operations/run/7/change/?tab=events"},
    )
    assert answer.status_code == 401
    assert answer.content == b""
    assert answer["HX-Redirect"] == "/admin/login/?next=%2Fadmin%2Foperations%2Frun%2F7%2Fchange%2F%3Ftab%3Devents"


@pytest.mark.parametrize("url", ["https://evil.example//evil.example/x", "javascript:alert(1)", "", "http://[bad"])
def test_the_way_back_stays_on_this_site(client: Client, url: str) -> None:
    answer = client.get(reverse("dashboard-live"), headers={"HX-Request": "true", "HX-Current-URL": url})
    assert answer["HX-Redirect"].startswith("/admin/login/?next=%2Fadmin%2F")


def test_a_form_whose_session_has_ended_returns_to_its_page(client: Client) -> None:
    """The address of the form itself answers no GET."""
    page = "/admin/operations/run/7/change/"
    answer = client.post("/admin/operations/run/7/reject/", headers={"Referer": f"http://testserver{page}?tab=events"})
    assert answer["Location"] == "/admin/login/?next=%2Fadmin%2Foperations%2Frun%2F7%2Fchange%2F%3Ftab%3Devents"


@pytest.mark.parametrize("url", ["https://evil.example//evil.example/x", "javascript:alert(1)", "", "http://[bad"])
def test_a_form_returns_to_no_other_site(client: Client, url: str) -> None:
    answer = client.post("/admin/operations/run/7/reject/", headers={"Referer": url})
    assert answer["Location"] == "/admin/login/?next=%2Fadmin%2F"


def test_a_form_with_nul_is_refused_on_both_engines(bob: Any, client: Client) -> None:
    """PostgreSQL cannot store it."""
    client.force_login(bob)
    answer = client.post(reverse("freeze"), {"note": "a fire\0"})
    assert answer.status_code == 400
    assert "Open the dashboard" in answer.content.decode()
    assert not Freeze.objects.exists()
    assert client.post(reverse("freeze"), {"note": "a fire"}).status_code == 302
    assert Freeze.objects.exists()


def test_a_page_without_a_session_redirects_as_before(client: Client) -> None:
    assert client.get("/admin/").status_code == 302


def test_another_method_has_a_page_and_names_what_is_allowed(bob: Any, client: Client) -> None:
    client.force_login(bob)
    answer = client.get(reverse("check-stores"))
    assert (answer.status_code, answer["Allow"]) == (405, "POST")
    assert "Open the dashboard" in answer.content.decode()
    plain = client.get(reverse("check-stores"), headers={"Accept": "application/json"})
    assert (plain.status_code, plain.content) == (405, b"")


def test_a_forged_or_old_form_has_a_page(bob: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(bob)
    answer = client.post(reverse("check-stores"))
    assert answer.status_code == 403
    assert "The form has expired" in answer.content.decode()


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("code", ["400", "403", "403_csrf", "404", "405", "413", "429", "500"])
def test_every_error_page_has_a_next_step(code: str, language: str) -> None:
    """Without a request: so is the page of an internal error rendered."""
    with override(language):
        page = render_to_string(f"{code}.html")
    assert 'href="/admin/"' in page
    assert f'lang="{language}"' in page
