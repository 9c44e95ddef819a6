"""Alerts are sent once for each key, by mail and by signed webhook, retried, and shown in the console."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import transaction
from django.utils import timezone

from opsconsole.engine import lifecycle, notifications, queue, registry
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Alert, Delivery, Event, Run, ScheduleSetting, Status, Trigger
from tests.support.contract import TESTER, execute_run, operation_called
from tests.support.receivers import Receiver

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


@pytest.fixture
def receiver(settings) -> Iterator[Receiver]:
    receiver = Receiver()
    settings.ALERT_WEBHOOK_URL, settings.ALERT_WEBHOOK_SECRET = receiver.url, "quite secret"
    settings.ALERT_PRIVATE_ADDRESSES = True
    yield receiver
    receiver.close()


@pytest.fixture
def people(settings) -> list[str]:
    settings.ALERT_EMAILS = ["oncall@example.org", "ops@example.org"]
    return list(settings.ALERT_EMAILS)


def due_again() -> None:
    Delivery.objects.filter(next_try_at__isnull=False).update(next_try_at=timezone.now())


def test_one_key_is_reported_once(people, receiver):
    assert notifications.create_alert("incident/1", "Something\nnew", "What it is")
    assert not notifications.create_alert("incident/1", "Something else", "")
    assert notifications.deliver() == 2
    assert notifications.deliver() == 0
    (message,) = mail.outbox
    assert (message.subject, message.body, message.to) == ("Something new", "What it is", people)
    assert len(receiver.got) == 1


def test_the_webhook_is_signed(receiver):
    notifications.create_alert("incident/1", "Something", "What it is")
    notifications.deliver()
    headers, body = receiver.got[0]
    told = json.loads(body)
    assert {name: told[name] for name in ("key", "subject", "text", "environment")} == {
        "key": "incident/1",
        "subject": "Something",
        "text": "What it is",
        "environment": "development",
    }
    wanted = notifications.signature("quite secret", headers[notifications.TIMESTAMP], body)
    assert headers[notifications.SIGNATURE] == wanted
    assert wanted != notifications.signature("quite secret", "1", body)


def test_a_failed_delivery_is_tried_again(people, receiver, monkeypatch, client, alice):
    receiver.answer = 503

    def refuse(*args: Any, **options: Any) -> Any:
        raise smtplib.SMTPServerDisconnected("no server here")

    with monkeypatch.context() as patch:
        patch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
        notifications.create_alert("incident/1", "Something", "")
        assert notifications.deliver() == 0
    assert notifications.deliver() == 0, "not before its time"
    assert {d.channel: d.last_error.partition(":")[0] for d in Delivery.objects.all()} == {
        "mail": "SMTPServerDisconnected",
        "webhook": "The receiver answered with HTTP status 503 Service Unavailable.",
    }
    client.force_login(alice)
    page = client.get("/admin/operations/alert/").content.decode()
    assert "no server here" in page
    assert "503" in page

    receiver.answer = 200
    due_again()
    assert notifications.deliver() == 2
    assert (len(mail.outbox), len(receiver.got)) == (1, 2)
    assert list(Delivery.objects.values_list("attempts", "next_try_at", "last_error")) == [(2, None, "")] * 2
    assert "no server here" not in client.get("/admin/operations/alert/").content.decode()


def test_a_permanent_failure_ends_the_retries(receiver):
    receiver.answer = 500
    notifications.create_alert("incident/1", "Something", "")
    delays = []
    for _attempt in range(20):
        before = timezone.now()
        notifications.deliver()
        found = Delivery.objects.get()
        if found.next_try_at is None:
            break
        delays.append(round((found.next_try_at - before) / timedelta(minutes=1)))
        due_again()
    assert delays == list(notifications.BACKOFF_MINUTES)
    assert len(receiver.got) == len(delays) + 1


def test_an_alert_is_created_with_its_change_or_not_at_all(people):
    with transaction.atomic():
        notifications.create_alert("incident/1", "Something", "")
        transaction.set_rollback(True)
    assert not Alert.objects.exists()


def test_without_a_channel_alerts_appear_only_in_the_console():
    notifications.create_alert("incident/1", "Something", "")
    assert Alert.objects.count() == 1
    assert not Delivery.objects.exists()


# --- events that are reported -----------------------------------------------------------------------------------------


def test_a_failed_run_and_one_that_needs_attention(make_attached, monkeypatch):
    store = make_attached("sqlite", 60).store

    def change(operation: Any, row: Any) -> Any:
        raise ZeroDivisionError("out of luck")

    monkeypatch.setattr(registry.operation(BACKFILL), "process", change)
    run = execute_run(operation_called(BACKFILL, store))
    assert run.status == Status.NEEDS_ATTENTION
    alert = Alert.objects.get()
    assert alert.key == f"run_needs_attention/{run.pk}"
    assert "needs attention" in alert.subject
    monkeypatch.undo()
    assert execute_run(operation_called(BACKFILL, store)).status == Status.SUCCEEDED
    assert Alert.objects.count() == 1


def test_a_freeze_stops_running_and_new_runs():
    lifecycle.freeze(TESTER, "a fire")
    lifecycle.unfreeze(TESTER)
    held, released = Alert.objects.order_by("pk")
    assert TESTER.name in held.subject
    assert "a fire" in held.text
    assert TESTER.name in released.subject


def test_an_overdue_schedule_is_reported_once():
    ScheduleSetting.objects.create(operation="operations.prune_runs", on=True, cron="*/20 * * * *")
    queue.report_overdue()
    queue.report_overdue()
    alert = Alert.objects.get()
    assert operation_title("operations.prune_runs") in alert.subject
    assert "It has not run yet" in alert.text


def test_a_new_or_finished_schedule_is_not_overdue():
    queue.switch("operations.prune_runs", on=True, cron="0 4 1 1 *", actor=TESTER)
    queue.report_overdue()
    assert not Alert.objects.exists()
    Event.objects.all()._raw_delete("default")
    run = Run.objects.create(
        operation="operations.prune_runs", trigger=Trigger.SCHEDULE, status=Status.SUCCEEDED, store="default"
    )
    queue.report_overdue()
    assert not Alert.objects.exists()
    Run.objects.filter(pk=run.pk).update(status=Status.QUEUED)
    queue.report_overdue()
    assert "is still queued" in Alert.objects.get().text


def test_the_heartbeat_delivers_alerts(people):
    notifications.create_alert("incident/1", "Something", "")
    queue.heartbeat()
    assert len(mail.outbox) == 1


@pytest.fixture
def chat_server(settings) -> Iterator[Receiver]:
    """Return a local server that a Mattermost channel posts to."""
    receiver = Receiver()
    receiver.answer = 200
    settings.ALERT_CHANNELS = [f"mmost://127.0.0.1:{receiver.server.server_port}/topsecrettoken"]
    settings.ALERT_PRIVATE_ADDRESSES = True
    yield receiver
    receiver.close()


def test_a_chat_channel_receives_an_alert(chat_server):
    notifications.create_alert("k", "Store down", "helix does not answer")
    assert notifications.deliver() == 1
    (_headers, body) = chat_server.got[0]
    assert "Store down" in body.decode()
    assert "helix does not answer" in body.decode()
    delivery = Delivery.objects.get()
    assert (delivery.channel, delivery.delivered_at is not None) == ("chat", True)
    assert delivery.target.startswith("mmost-")
    assert "topsecret" not in delivery.target


def test_a_long_text_reaches_a_chat_channel_in_parts(chat_server, monkeypatch):
    from apprise.plugins.mattermost import NotifyMattermost

    monkeypatch.setattr(NotifyMattermost, "body_maxlen", 200)
    notifications.create_alert("k", "Store down", "one two " * 60 + "the last words")
    assert notifications.deliver() == 1
    bodies = [json.loads(body)["text"] for _headers, body in chat_server.got]
    assert len(bodies) > 1
    assert max(map(len, bodies)) <= 200
    assert "the last words" in bodies[-1]


def test_a_text_of_a_store_notifies_nobody_else_in_a_chat(chat_server):
    notifications.create_alert("k", "Task @everyone", "@Channel and bob@here.example.org")
    assert notifications.deliver() == 1
    body = json.loads(chat_server.got[0][1])["text"]
    assert "@everyone" not in body
    assert "@Channel" not in body


def test_a_refused_chat_message_keeps_its_reason_without_the_token(chat_server):
    chat_server.answer = 403
    notifications.create_alert("k", "Store down", "helix does not answer")
    assert notifications.deliver() == 0
    reason = Delivery.objects.get().last_error
    assert reason
    assert "topsecret" not in reason


def test_a_removed_channel_fails_with_its_reason(chat_server, settings):
    notifications.create_alert("k", "Store down", "helix does not answer")
    settings.ALERT_CHANNELS = []
    assert notifications.deliver() == 0
    assert "no longer in ALERT_CHANNELS" in Delivery.objects.get().last_error


def test_a_test_message_goes_to_every_channel_once_a_minute(client, bob, receiver, settings):
    client.force_login(bob)
    settings.ALERT_EMAILS = ["oncall@example.org"]
    for _click in range(2):
        assert client.post("/admin/operations/alert/test/").status_code == 302
    alert = Alert.objects.get(key__startswith="test/")
    assert "bob sent this message" in alert.text
    assert notifications.deliver() == 2
    assert len(mail.outbox) == len(receiver.got) == 1


def test_a_test_message_needs_a_channel(client, bob, settings):
    client.force_login(bob)
    settings.ALERT_EMAILS, settings.ALERT_WEBHOOK_URL, settings.ALERT_CHANNELS = [], "", []
    page = client.post("/admin/operations/alert/test/", follow=True).content.decode()
    assert "No channel is configured" in page
    assert not Alert.objects.exists()
