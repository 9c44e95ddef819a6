"""Telling the people on the alert list, by mail and by a signed webhook.

An alert is written down in the caller's transaction, once for each key, and delivered by the queue: what
can't be delivered now is tried again later, and seen in the console.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from datetime import timedelta
from smtplib import SMTPException

import orjson
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.utils import timezone

from opsconsole.engine.models import Alert, Channel, Delivery
from opsconsole.escaping import for_terminal
from opsconsole.redaction import redact

logger = logging.getLogger(__name__)

PER_ROUND = 20  # deliveries; a channel that hangs must not keep the queue
TIMEOUT_SECONDS = 5.0
BACKOFF_MINUTES = (1, 2, 5, 15, 60, 240, 480, 720)  # after each attempt; the last one gives up
SIGNATURE, TIMESTAMP = "X-OpsConsole-Signature", "X-OpsConsole-Timestamp"


def create_alert(key: str, subject: str, text: str, to: Sequence[str] = ()) -> bool:
    """Tell it through every channel that is configured. False: this key was told before, and nobody is again.

    `to`: mail addresses beside those of the alert list.
    """
    with transaction.atomic():
        fields = {
            "subject": for_terminal(redact(subject))[:300],
            "text": for_terminal(redact(text)),
            "to": list(to),
        }
        alert, new = Alert.objects.get_or_create(key=key[:200], defaults=fields)
        if new:
            wanted = dict.fromkeys([*channels(), *([Channel.MAIL] if to else [])])
            Delivery.objects.bulk_create(Delivery(alert=alert, channel=channel) for channel in wanted)
    return new


def channels() -> list[Channel]:
    """Those that the settings name."""
    addresses = {Channel.MAIL: settings.ALERT_EMAILS, Channel.WEBHOOK: settings.ALERT_WEBHOOK_URL}
    return [channel for channel, address in addresses.items() if address]


def deliver() -> int:
    """Send what is due; the number of deliveries that arrived."""
    due = Delivery.objects.filter(next_try_at__lte=timezone.now()).select_related("alert")
    return sum(_attempt(delivery) for delivery in due.order_by("next_try_at")[:PER_ROUND])


def _attempt(delivery: Delivery) -> bool:
    """One try. Its successor is due before it begins: a worker that dies in it loses nothing."""
    again = None
    if delivery.attempts < len(BACKOFF_MINUTES):
        again = timezone.now() + timedelta(minutes=BACKOFF_MINUTES[delivery.attempts])
    mine = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts, delivered_at=None)
    if not mine.update(attempts=delivery.attempts + 1, next_try_at=again):
        return False  # another worker has it
    found = Delivery.objects.filter(pk=delivery.pk)
    import httpx  # slow to import, and only workers deliver

    try:
        _SENDERS[Channel(delivery.channel)](delivery.alert)
    except (httpx.HTTPError, httpx.InvalidURL, SMTPException, OSError, ValueError) as error:
        logger.warning("An alert could not be delivered by %s", delivery.channel, exc_info=True)
        found.update(last_error=redact(f"{type(error).__name__}: {error}")[:500])
        return False
    found.update(delivered_at=timezone.now(), next_try_at=None, last_error="")
    return True


def _mail(alert: Alert) -> None:
    prefix = "" if settings.ENVIRONMENT == "development" else f"[{settings.ENVIRONMENT}] "
    subject = " ".join(f"{prefix}{alert.subject}".split())  # a header has one line
    EmailMessage(subject, alert.text, to=sorted({*settings.ALERT_EMAILS, *alert.to})).send()


def _webhook(alert: Alert) -> None:
    import httpx

    body = orjson.dumps(
        {
            "key": alert.key,
            "subject": alert.subject,
            "text": alert.text,
            "at": alert.at.isoformat(),
            "environment": settings.ENVIRONMENT,
        }
    )
    timestamp = str(int(timezone.now().timestamp()))
    headers = {"Content-Type": "application/json", TIMESTAMP: timestamp}
    if settings.ALERT_WEBHOOK_SECRET:
        headers[SIGNATURE] = signature(settings.ALERT_WEBHOOK_SECRET, timestamp, body)
    httpx.post(settings.ALERT_WEBHOOK_URL, content=body, headers=headers, timeout=TIMEOUT_SECONDS).raise_for_status()


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over the timestamp, a point and the body: a recorded call can't be sent again later."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


_SENDERS = {Channel.MAIL: _mail, Channel.WEBHOOK: _webhook}
