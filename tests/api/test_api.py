"""Authentication and errors of the API."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from opsconsole.accounts.models import Token, digest
from opsconsole.api import endpoints
from opsconsole.engine.models import Event

pytestmark = pytest.mark.django_db(transaction=True)
DOCUMENT = "/api/v1/openapi.json"


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def code(answer):
    assert answer["Content-Type"].startswith("application/json")
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["code"]


@pytest.fixture
def secret(charlie):
    return Token.issue(charlie, "a poller")


def test_token_or_session(client, charlie, secret):
    assert code(client.get(DOCUMENT)) == (401, "not_authenticated")
    document = client.get(DOCUMENT, headers=bearer(secret)).json()
    assert document["openapi"].startswith("3.")
    assert set(document["components"]["securitySchemes"]) == {"TokenAuth", "SessionAuth"}
    client.force_login(charlie)
    assert client.get(DOCUMENT).json() == document


def test_anonymous_requests_get_a_hint(client):
    answer = client.get(DOCUMENT)
    assert answer["WWW-Authenticate"].startswith("Bearer")
    assert "token" in answer.json()["error"]["message"]


@pytest.mark.parametrize("broken", ["", "ops_wrong", "ops_" + "x" * 43, "é"])
def test_an_invalid_token_is_refused_with_a_valid_session(client, charlie, secret, broken):
    client.force_login(charlie)
    assert code(client.get(DOCUMENT, headers=bearer(broken))) == (401, "not_authenticated")


def test_expired_and_revoked_tokens_are_refused(client, charlie, secret):
    token = Token.objects.get()
    token.expires_at = timezone.now() - timedelta(seconds=1)
    token.save()
    assert code(client.get(DOCUMENT, headers=bearer(secret)))[0] == 401
    token.expires_at = timezone.now() + timedelta(hours=1)
    token.save()
    assert client.get(DOCUMENT, headers=bearer(secret)).status_code == 200
    charlie.is_active = False
    charlie.save()
    assert code(client.get(DOCUMENT, headers=bearer(secret)))[0] == 401
    charlie.is_active = True
    charlie.save()
    token.delete()
    assert code(client.get(DOCUMENT, headers=bearer(secret)))[0] == 401


def test_only_the_hash_of_a_token_is_stored(secret):
    kept = Token.objects.values().get()
    assert secret not in map(str, kept.values())
    assert kept["digest"] == digest(secret)
    assert secret.startswith(kept["begins_with"])


@pytest.mark.parametrize("address", ["/api/", "/api/v1/", "/api/v1/nothing", "/api/v1/nothing/", "/api/v2/x?y=1"])
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_unknown_urls(client, address, method):
    assert code(getattr(client, method)(address)) == (404, "not_found")


def test_wrong_method(client, secret):
    answer = client.post(DOCUMENT, headers=bearer(secret))
    assert code(answer) == (405, "method_not_allowed")
    assert answer["Allow"] == "GET"


def test_failures_are_logged_without_internals_in_the_response(client, secret, monkeypatch, caplog):
    monkeypatch.setattr(endpoints.api, "get_openapi_schema", lambda: 1 / 0)
    answer = client.get(DOCUMENT, headers=bearer(secret))
    assert code(answer) == (500, "failed")
    assert "division" not in answer.content.decode()
    assert "division by zero" in caplog.text


# --- making and revoking ----------------------------------------------------------------------------------


def test_a_token_is_created_in_the_admin_and_shown_once(client, alice, bob):
    client.force_login(alice)
    form = {"user": bob.pk, "name": "dashboards"}
    page = client.post(reverse("admin:accounts_token_add"), form, follow=True)
    token = Token.objects.get()
    secret = page.context["secret"]
    assert token.digest == digest(secret)
    assert secret in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert LogEntry.objects.filter(object_id=str(token.pk)).exists()
    assert secret not in client.get(reverse("admin:accounts_token_changelist")).content.decode()
    assert secret not in client.get(reverse("admin:accounts_token_change", args=[token.pk])).content.decode()
    assert Client().get(DOCUMENT, headers=bearer(secret)).status_code == 200
    revoke = {"action": "revoke", "_selected_action": [token.pk]}
    page = client.post(reverse("admin:accounts_token_changelist"), revoke, follow=True).content.decode()
    assert "Revoked 1 token." in page
    client.post(reverse("admin:accounts_token_changelist"), revoke)
    assert [event.who for event in Event.objects.filter(verb="token_revoked")] == ["alice"]
    assert Event.objects.get(verb="token_added").detail["token"] == str(token)
    assert Client().get(DOCUMENT, headers=bearer(secret)).status_code == 401


def test_only_superusers_create_tokens(client, bob):
    client.force_login(bob)
    assert client.get(reverse("admin:accounts_token_changelist")).status_code == 403
    assert client.post(reverse("admin:accounts_token_add"), {"user": bob.pk, "name": "x"}).status_code == 403
