"""Behind a proxy the client's address is the real one and cannot be forged."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse

from opsconsole.console.middleware import TrustedProxyMiddleware
from opsconsole.engine.models import Event
from tests.support.subprocess_cli import ROOT, Shell

PROXY, OTHER, CLIENT, STRANGER = "10.0.0.1", "10.0.0.2", "203.0.113.9", "198.51.100.7"


@pytest.fixture
def proxied(settings: Any) -> None:
    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/30"), ip_network("::1")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        (PROXY, CLIENT, CLIENT),
        (PROXY, f"{STRANGER}, {CLIENT}", CLIENT),
        (PROXY, f"{STRANGER}, {CLIENT}, {OTHER}", CLIENT),
        (PROXY, f"{CLIENT}:4711", CLIENT),
        (PROXY, "[2001:db8::1]:4711", "2001:db8::1"),
        (f"::ffff:{PROXY}", CLIENT, CLIENT),
        ("::1", CLIENT, CLIENT),
        (PROXY, "", PROXY),
        (PROXY, f"{CLIENT}, unknown", PROXY),
        (PROXY, "<script>", PROXY),
        (PROXY, OTHER, OTHER),
        (STRANGER, CLIENT, STRANGER),
        (STRANGER, PROXY, STRANGER),
        ("", CLIENT, ""),
    ],
)
def test_the_clients_address(proxied: None, peer: str, forwarded: str, found: str) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)
    TrustedProxyMiddleware(lambda _: HttpResponse())(request)
    assert request.META["REMOTE_ADDR"] == found


def test_a_unix_socket(settings: Any) -> None:
    settings.TRUSTED_PROXIES = ["unix"]
    request = RequestFactory().get("/", REMOTE_ADDR="", HTTP_X_FORWARDED_FOR=CLIENT)
    TrustedProxyMiddleware(lambda _: HttpResponse())(request)
    assert request.META["REMOTE_ADDR"] == CLIENT


def test_other_peers_headers_do_not_count(proxied: None, settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers: dict[str, Any] = {
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_FORWARDED_HOST": "evil",
        "HTTP_X_REAL_IP": PROXY,
    }
    for peer, secure in ((STRANGER, False), (PROXY, True)):
        request = RequestFactory().get("/", REMOTE_ADDR=peer, **headers)
        TrustedProxyMiddleware(lambda _: HttpResponse())(request)
        assert request.is_secure() is secure
        assert "evil" not in request.get_host()
    request = RequestFactory().get("/", REMOTE_ADDR=STRANGER, **headers)
    TrustedProxyMiddleware(lambda _: HttpResponse())(request)
    assert not set(headers) & set(request.META)


def sign_in(name: str, password: str, address: str) -> int:
    words = {"username": name, "password": password}
    headers: dict[str, Any] = {"REMOTE_ADDR": PROXY, "HTTP_X_FORWARDED_FOR": address}
    return Client().post(reverse("admin:login"), words, **headers).status_code


@pytest.mark.django_db(transaction=True)
def test_a_stranger_cannot_lock_an_account(proxied: None, alice: Any) -> None:
    assert [sign_in("alice", "wrong", STRANGER) for _ in range(6)][-1] == 429
    assert sign_in("alice", "correct horse", STRANGER) == 429
    assert sign_in("alice", "correct horse", CLIENT) == 302


@pytest.mark.django_db(transaction=True)
def test_an_address_that_tries_many_accounts_is_locked(proxied: None, alice: Any) -> None:
    codes = [sign_in(f"account-{number}", "wrong", STRANGER) for number in range(21)]
    assert (codes[:19], codes[-1]) == ([200] * 19, 429)
    assert sign_in("alice", "correct horse", STRANGER) == 429
    assert sign_in("alice", "correct horse", CLIENT) == 302


@pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
def test_the_audit_log_has_the_clients_address(proxied: None, alice: Any) -> None:
    client = Client()
    client.force_login(alice, "django.contrib.auth.backends.ModelBackend")
    headers: dict[str, Any] = {"REMOTE_ADDR": PROXY, "HTTP_X_FORWARDED_FOR": f"{STRANGER}, {CLIENT}"}
    client.post(reverse("plan", args=["operations.prune_findings"]), **headers)
    assert Event.objects.latest("pk").origin == CLIENT


def printed(folder: Any, expression: str, **variables: str) -> str:
    """Return the value of an expression of the settings in a process with these variables."""
    environment = {**Shell(folder, variables=variables).environment, "DJANGO_SETTINGS_MODULE": "opsconsole.settings"}
    code = f"from django.conf import settings; print({expression})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_scheme_header_counts_only_with_trusted_proxies(tmp_path: Any) -> None:
    expression = "settings.SECURE_PROXY_SSL_HEADER"
    assert printed(tmp_path, expression) == "None"
    assert printed(tmp_path, expression, TRUSTED_PROXIES="10.0.0.1") == "('HTTP_X_FORWARDED_PROTO', 'https')"
