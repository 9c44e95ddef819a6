"""No channel of alerts connects to a private address, follows a redirect or shows its address."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.test import Client

from opsconsole import env
from opsconsole.engine import channels, notifications
from opsconsole.engine.models import Delivery, Event
from opsconsole.error_reports import ReportFilter
from opsconsole.redaction import redact
from tests.support.receivers import Receiver

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])
WORDS = ("quitesecret", "abc")  # a long and a short part of an address
TARGETS = {
    "webhook": "http://{host}:{port}/{0}/{1}?key={0}",
    "mmost": "mmost://{host}:{port}/{0}{1}9",
    "ntfy": "ntfy://{host}:{port}/{0}",
    "gotify": "gotify://{host}:{port}/{0}{1}9",
    "bark": "bark://{host}:{port}/{0}{1}9",
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.answer = 200
    yield receiver
    receiver.close()


@pytest.fixture(params=TARGETS)
def configure(request: pytest.FixtureRequest, settings: Any, receiver: Receiver) -> Any:
    """Return a function that configures one channel on a host, and returns its address."""

    def make(host: str = "127.0.0.1", port: int = 0, *, private: bool = True) -> str:
        url = TARGETS[request.param].format(*WORDS, host=host, port=port or receiver.server.server_port)
        settings.ALERT_PRIVATE_ADDRESSES = private
        if request.param == "webhook":
            settings.ALERT_WEBHOOK_URL = url
        else:
            settings.ALERT_CHANNELS = env.chat_urls(url)
        return url

    return make


def attempt() -> Delivery:
    notifications.create_alert("test/1", "Store down", "helix does not answer")
    notifications.deliver()
    return Delivery.objects.get()


def test_an_allowed_address_is_delivered(configure: Any, receiver: Receiver) -> None:
    configure()
    assert attempt().delivered_at
    assert len(receiver.got) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_private_address_is_refused(configure: Any, receiver: Receiver, host: str) -> None:
    configure(host, private=False)
    delivery = attempt()
    assert delivery.last_error == "The host has a private address. Set ALERT_PRIVATE_ADDRESSES to allow it."
    assert not receiver.got


def test_a_name_is_checked_at_the_connection(
    configure: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may resolve to a public address first, and to a private one for the connection."""
    configure("chat.example.org", private=False)
    real, answers = socket.getaddrinfo, iter(["93.184.215.14"])

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host in {"chat.example.org", b"chat.example.org"}:
            host = next(answers, "127.0.0.1")
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    socket.getaddrinfo("chat.example.org", 80)
    assert "private address" in attempt().last_error
    assert not receiver.got


def test_a_redirect_is_not_followed(configure: Any, receiver: Receiver) -> None:
    other = Receiver()
    receiver.answer, receiver.location = 307, other.url
    configure()
    delivery = attempt()
    other.close()
    assert len(receiver.got) == 1
    assert not other.got
    assert "307" in delivery.last_error


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07::1", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::93.184.215.14", True),
        ("2002:0a00:0001::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert channels.is_public(address) is public


def test_connections_outside_of_a_delivery_are_not_checked(configure: Any, receiver: Receiver) -> None:
    configure(private=False)
    attempt()
    assert httpx.post(receiver.url, content=b"x").status_code == 200


FAILURES = {"refused": 403, "missing": 404, "broken": 500, "closed": 0}


@pytest.mark.parametrize("failure", FAILURES)
def test_no_face_shows_the_address(
    configure: Any,
    receiver: Receiver,
    client: Client,
    alice: Any,
    failure: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    receiver.answer = FAILURES[failure]
    with socket.socket() as probe:  # nobody listens
        probe.bind(("127.0.0.1", 0))
        configure(port=probe.getsockname()[1] if failure == "closed" else 0)
    with caplog.at_level(logging.INFO):
        delivery = attempt()
    assert delivery.last_error
    client.force_login(alice)
    pages = ("alert/", f"alert/{delivery.alert_id}/change/", "freeze/")
    texts = [delivery.last_error, delivery.target, *capfd.readouterr()]
    texts += [client.get(f"/admin/operations/{page}").content.decode() for page in pages]
    texts += [str(event.detail) for event in Event.objects.all()]
    assert not logging.getLogger("apprise").propagate, "its lines are not in the log"
    records = [record for record in caplog.records if record.name != "apprise"]
    texts += [redact(f"{record.getMessage()} {record.exc_info}") for record in records]
    for text in texts:
        assert WORDS[0] not in text
        assert f"/{WORDS[1]}" not in text


@pytest.mark.parametrize(
    "value",
    [
        "json://chat.example.org/x",
        "xml://chat.example.org/x",
        "http://chat.example.org/x",
        "file:///etc/passwd",
        "mailto://a:b@example.org",
        "syslog://",
        "mmost://chat.example.org/token,json://10.0.0.1/x",
        "mmost://chat.example.org/token;json://10.0.0.1/x",
        "slack://a/b/c syslog://",
        "MMOST://chat.example.org/token",
    ],
)
def test_other_schemes_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="apprise URLs"):
        env.chat_urls(value)


def test_debug_pages_hide_every_secret_variable(settings: Any) -> None:
    shown = [name for name in settings.SECRET_VARIABLES if ReportFilter().cleanse_setting(name, "value") == "value"]
    assert shown == []
