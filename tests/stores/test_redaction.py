"""Secrets of the settings appear in no output."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import connections
from django.test import RequestFactory
from django.views.debug import get_exception_reporter_class
from structlog.stdlib import ProcessorFormatter

from opsconsole.cli.output import Output
from opsconsole.engine import notifications
from opsconsole.engine.models import Delivery, Event, Run
from opsconsole.redaction import hide_secrets, redact, shown_url
from opsconsole.stores.errors import first_line
from opsconsole.stores.store import StoreUnavailable
from tasks.helix.operations.clean_dirty_jobs import health_problems

PASSWORD = "pä55 w'ord/<&>\"x"
HOOK = "https://hooks.example.org/services/T00000001/B00000002/abcdefghijklmnopqrst?key=query-secret-1"
SECRETS = (PASSWORD, "abcdefghijklmnopqrst", "query-secret-1", "signing-key-123456", "metrics-token-1", "cache-pass")


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["agentos"], "PASSWORD", PASSWORD)
    monkeypatch.setattr(settings, "ALERT_WEBHOOK_URL", HOOK)
    monkeypatch.setattr(settings, "ALERT_WEBHOOK_SECRET", "signing-key-123456")
    monkeypatch.setattr(settings, "METRICS_TOKEN", "metrics-token-1")
    monkeypatch.setenv("CACHE_URL", "redis://:cache-pass@cache.example.org:6379/1")


def is_clean(text: str) -> bool:
    """Return whether a text contains no secret in any encoding."""
    from html import escape
    from urllib.parse import quote

    forms = {form for s in SECRETS for form in (s, quote(s, safe=""), escape(s), repr(s)[1:-1], json.dumps(s)[1:-1])}
    return not [form for form in forms if form in text]


TEXT = f"{PASSWORD} in {HOOK} by signing-key-123456 and metrics-token-1 to redis://:cache-pass@cache/1"


@pytest.mark.parametrize("write", [str, repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
def test_secrets_in_any_encoding_are_redacted(write: Any) -> None:
    assert is_clean(redact(write(TEXT)))
    assert is_clean(hide_secrets(write(TEXT)))
    assert "hooks.example.org/services" in redact(write(TEXT))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ops:x%40y@db/agentos?sslmode=require", "postgresql://ops:***@db/agentos?sslmode=require"),
        ("host=db password='a b\\'c' user=ops", "host=db password=*** user=ops"),
        ("https://api/x?a=1&token=t0p&b=2", "https://api/x?a=1&token=***&b=2"),
        ("rediss://:pw@h:1/0, amqp://u:p@h", "rediss://:***@h:1/0, amqp://u:***@h"),
        ("Key (id)=(5) at 10:30@noon http://host:80/a@b", "Key (id)=(5) at 10:30@noon http://host:80/a@b"),
        ("a job's tokens=many metrics-tokens", "a job's tokens=many metrics-tokens"),
    ],
)
def test_passwords_of_addresses_that_no_setting_names(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_password_equal_to_a_name_appears_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["agentos"], "PASSWORD", "opsconsole")
    monkeypatch.setitem(connections.settings["agentos"], "USER", "opsconsole")
    assert redact("localhost/opsconsole can't be reached") == "localhost/opsconsole can't be reached"


def test_an_address_is_shown_as_its_host() -> None:
    assert shown_url(HOOK) == "https://hooks.example.org/…"
    assert shown_url("http://helix:8000") == "http://helix:8000"


def test_logs() -> None:
    logging_settings: Any = settings.LOGGING
    formatter = logging_settings["formatters"]["line"]
    line = ProcessorFormatter(**{name: value for name, value in formatter.items() if name != "()"})
    try:
        dsn = TEXT
        raise ValueError(dsn)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed: %s", (TEXT,), sys.exc_info())
    text = line.format(record)
    assert "failed" in text
    assert is_clean(text)


@pytest.mark.parametrize("debug", [True, False])
def test_debug_pages(debug: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEBUG", debug)
    request = RequestFactory().post("/x", {"password": PASSWORD, "text": TEXT}, HTTP_AUTHORIZATION="metrics-token-1")
    try:
        address, config = TEXT, {"PASSWORD": PASSWORD}
        raise ValueError(address, config)
    except ValueError:
        reporter_class: Any = get_exception_reporter_class(request)
        reporter = reporter_class(request, *sys.exc_info())
    for text in (reporter.get_traceback_html(), reporter.get_traceback_text()):
        assert "ValueError" in text
        assert is_clean(text)
        assert settings.SECRET_KEY not in text


def test_sentences() -> None:
    assert is_clean(str(StoreUnavailable(TEXT)))
    assert is_clean(first_line(ValueError(TEXT)))


def test_the_output_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.line(TEXT)
    output.table([(TEXT, "x")])
    output.error(TEXT)
    output.json({"text": TEXT})
    printed = capsys.readouterr()
    assert "hooks.example.org" in printed.out
    assert "hooks.example.org" in printed.err
    assert is_clean(printed.out + printed.err)


@pytest.mark.django_db(transaction=True)
def test_secrets_are_not_stored_in_runs_and_events() -> None:
    run = Run.objects.create(operation="x", store="agentos", location="x", identity="x", error=TEXT)
    Run.objects.filter(pk=run.pk).update(waiting=TEXT)
    run.refresh_from_db()
    assert run.error
    assert is_clean(run.error + run.waiting)
    Event.objects.create(verb="failed", who="x", detail={"text": TEXT, "list": [TEXT]})
    assert is_clean(json.dumps(Event.objects.get().detail))


@pytest.mark.django_db(transaction=True)
def test_messages_and_their_delivery_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ALERT_EMAILS", [])

    def refuse(url: str, **options: Any) -> Any:
        assert is_clean(options["content"].decode())
        return httpx.Response(404, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx, "post", refuse)
    assert notifications.create_alert("key", TEXT, TEXT)
    assert notifications.deliver() == 0
    delivery = Delivery.objects.get()
    assert "404" in delivery.last_error
    assert is_clean(delivery.last_error + delivery.alert.subject + delivery.alert.text)


def test_the_health_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "HELIX_HEALTH_URL", "http://u:pw-of-health@127.0.0.1:9/health?token=tok-of-health")
    (sentence,) = health_problems()
    assert "127.0.0.1:9" in sentence
    assert "of-health" not in sentence
