"""Limits, list and revocation of sessions; expiry, scope and use of tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from opsconsole.accounts import tokens
from opsconsole.accounts.models import Scope, Session, Token
from opsconsole.accounts.sessions import STARTED, USED
from opsconsole.engine.models import Event

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
ELSEWHERE: dict[str, Any] = {"REMOTE_ADDR": "203.0.113.9", "HTTP_USER_AGENT": "Firefox on <b>Debian</b>"}


def signed_in(name: str, **headers: Any) -> Client:
    client = Client(**headers)
    words = {"username": name, "password": "correct horse"}
    assert client.post(reverse("admin:login"), words).status_code == 302
    return client


def is_in(client: Client) -> bool:
    return client.get(reverse("sessions")).status_code == 200


def age(client: Client, name: str, hours: float) -> None:
    session = client.session
    session[name] -= hours * 3600
    session.save()


@pytest.mark.parametrize(
    ("name", "hours", "ends"), [(STARTED, 11.9, False), (STARTED, 12.1, True), (USED, 0.9, False), (USED, 1.1, True)]
)
def test_limits(alice: Any, settings: Any, name: str, hours: float, ends: bool) -> None:
    settings.SESSION_HOURS, settings.SESSION_IDLE_HOURS = 12, 1
    client = signed_in("alice")
    key = client.session.session_key
    age(client, name, hours)
    assert is_in(client) is not ends
    assert Session.objects.filter(session_key=key).exists() is not ends
    age(signed_in("alice"), name, hours)  # and the API
    assert client.get("/api/v1/openapi.json").status_code == (401 if ends else 200)


def test_polling_does_not_extend_a_session(alice: Any, settings: Any) -> None:
    settings.SESSION_IDLE_HOURS = 1
    client = signed_in("alice")
    age(client, USED, 0.5)
    before = client.session[USED]
    assert client.get(reverse("dashboard-live")).status_code == 200
    assert client.session[USED] == before
    assert is_in(client)
    assert client.session[USED] > before


def test_limits_of_production(tmp_path: Any) -> None:
    from tests.console.test_proxies import printed

    expression = "(settings.SESSION_HOURS, settings.SESSION_IDLE_HOURS)"
    assert printed(tmp_path, expression, OPSCONSOLE_ENVIRONMENT="production", SECRET_KEY="x" * 50) == "(12.0, 1.0)"


def test_users_list_and_revoke_their_own_sessions(alice: Any, bob: Any, charlie: Any) -> None:
    bobs, other, alices = signed_in("bob"), signed_in("bob", **ELSEWHERE), signed_in("alice", **ELSEWHERE)
    page = bobs.get(reverse("sessions")).content.decode()
    assert "203.0.113.9" in page
    assert "Firefox on &lt;b&gt;Debian" in page
    assert "alice" not in page
    for client in (bobs, other, alices):
        assert str(client.session.session_key) not in page
    handles: dict[Any, str] = {one.session_key: one.handle for one in Session.objects.all()}
    bobs.post(reverse("sessions"), {"session": handles[alices.session.session_key]})
    assert is_in(alices), "the sessions of other accounts stay"
    bobs.post(reverse("sessions"), {"session": handles[other.session.session_key]})
    assert not is_in(other)
    assert "bob" in alices.get(reverse("sessions")).content.decode()
    alices.post(reverse("sessions"), {"session": handles[bobs.session.session_key]})
    assert not is_in(bobs)
    assert [
        (event.who, event.detail["account"]) for event in Event.objects.filter(verb="session_revoked").order_by("pk")
    ] == [
        ("bob", "bob"),
        ("alice", "bob"),
    ]
    assert is_in(signed_in("charlie"))
    assert Client().get(reverse("sessions")).status_code == 302


# --- tokens ----------------------------------------------------------------------------------------------

READ, REPORT = "records.view_taskstatus", "records.report_taskstatus"


@pytest.mark.parametrize(
    ("scope", "permission", "allowed"),
    [
        *((Scope.FULL, permission, True) for permission in ("", READ, REPORT)),
        *((Scope.READ, permission, permission != REPORT) for permission in ("", READ, REPORT)),
        *((Scope.REPORT, permission, permission == REPORT) for permission in ("", READ, REPORT)),
    ],
)
def test_a_scope_allows(scope: Scope, permission: str, allowed: bool) -> None:
    assert scope.allows(permission) is allowed


@pytest.mark.parametrize(
    ("scope", "codes"), [(Scope.FULL, (404, 200, 200)), (Scope.READ, (404, 403, 200)), (Scope.REPORT, (403, 200, 403))]
)
def test_scopes_at_the_endpoints(alice: Any, scope: Scope, codes: tuple[int, ...]) -> None:
    headers: Any = {"Authorization": f"Bearer {Token.issue(alice, 'x', scope=scope)}"}
    client, url = Client(), "/api/v1/executions/none-such/status"
    report = {"stage": "init"}
    answers = (
        client.get("/api/v1/executions/unknown/status", headers=headers),
        client.put(url, report, content_type="application/json", headers=headers),
        client.get("/api/v1/openapi.json", headers=headers),
    )
    assert tuple(answer.status_code for answer in answers) == codes
    assert (tokens.account_of(headers["Authorization"].partition(" ")[2]) is None) is (scope != Scope.FULL)


def test_tokens_expire_and_show_their_use(alice: Any, settings: Any) -> None:
    secret = Token.issue(alice, "x")
    token = Token.objects.get()
    assert token.expires_at is not None
    assert timedelta(days=89) < token.expires_at - timezone.now() < timedelta(days=91)
    assert token.last_used_at is None
    headers: Any = {"Authorization": f"Bearer {secret}"}
    Client().get("/api/v1/openapi.json", headers=headers)
    first = Token.objects.get().last_used_at
    assert first is not None
    Client().get("/api/v1/openapi.json", headers=headers)
    assert Token.objects.get().last_used_at == first, "noted every ten minutes"
    Token.objects.update(last_used_at=first - timedelta(minutes=11))
    Client().get("/api/v1/openapi.json", headers=headers)
    assert Token.objects.filter(last_used_at__gte=first).exists()
