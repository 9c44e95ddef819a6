"""Alerts by mail and by a signed webhook: the outbox of notifications.

An alert is saved in the caller's transaction, once for each key, and delivered by the queue. A failed delivery is
tried again later and shown in the console.
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
from django.utils.translation import gettext as _

from opsconsole.engine import chat
from opsconsole.engine.channels import DeliveryFailed, public_only, without_address
from opsconsole.engine.models import Alert, Channel, Delivery
from opsconsole.escaping import for_terminal
from opsconsole.redaction import redact

logger = logging.getLogger(__name__)

PER_ROUND = 20  # deliveries; a channel that hangs must not block the queue
TIMEOUT_SECONDS = 5.0
BACKOFF_MINUTES = (1, 2, 5, 15, 60, 240, 480, 720)  # after each attempt; the last one gives up
SIGNATURE, TIMESTAMP = "X-OpsConsole-Signature", "X-OpsConsole-Timestamp"


def create_alert(key: str, subject: str, text: str, to: Sequence[str] = ()) -> bool:
    """Create an alert for every configured channel. Return False if this key was sent before.

    `to` are mail addresses in addition to the alert list.
    """
    with transaction.atomic():
        fields = {
            "subject": for_terminal(redact(" ".join(subject.split())))[:300],  # a header has one line
            "text": for_terminal(redact(text)),
            "to": list(to),
        }
        alert, new = Alert.objects.get_or_create(key=key[:200], defaults=fields)
        if new:
            wanted = dict.fromkeys([*channels(), *([(Channel.MAIL, "")] if to else [])])
            Delivery.objects.bulk_create(
                Delivery(alert=alert, channel=channel, target=target) for channel, target in wanted
            )
    return new


def channels() -> list[tuple[Channel, str]]:
    """Return the configured channels, each chat channel with its name."""
    addresses = {Channel.MAIL: settings.ALERT_EMAILS, Channel.WEBHOOK: settings.ALERT_WEBHOOK_URL}
    found = [(channel, "") for channel, address in addresses.items() if address]
    return [*found, *((Channel.CHAT, name) for name in chat.channels())]


def deliver() -> int:
    """Send the deliveries that are due. Return how many arrived."""
    due = Delivery.objects.filter(next_try_at__lte=timezone.now()).select_related("alert")
    return sum(_attempt(delivery) for delivery in due.order_by("next_try_at")[:PER_ROUND])


def _attempt(delivery: Delivery) -> bool:
    """Try a delivery once. The next try is saved first, so that a worker that dies loses nothing."""
    again = None
    if delivery.attempts < len(BACKOFF_MINUTES):
        again = timezone.now() + timedelta(minutes=BACKOFF_MINUTES[delivery.attempts])
    mine = Delivery.objects.filter(pk=delivery.pk, attempts=delivery.attempts, delivered_at=None)
    if not mine.update(attempts=delivery.attempts + 1, next_try_at=again):
        return False  # another worker has it
    found = Delivery.objects.filter(pk=delivery.pk)
    try:
        _SENDERS[Channel(delivery.channel)](delivery)
    except (DeliveryFailed, SMTPException, OSError, ValueError) as error:
        reason = str(error) if isinstance(error, DeliveryFailed) else f"{type(error).__name__}: {error}"
        reason = redact(reason)[:500]
        # Without a traceback, which would name the address of the channel.
        logger.warning(
            "Alert %s could not be delivered by %s: %s",
            delivery.alert_id,
            delivery.target or delivery.channel,
            for_terminal(reason),
        )
        found.update(last_error=reason)
        return False
    found.update(delivered_at=timezone.now(), next_try_at=None, last_error="")
    return True


def _mail(delivery: Delivery) -> None:
    alert = delivery.alert
    EmailMessage(_subject(alert), alert.text, to=sorted({*settings.ALERT_EMAILS, *alert.to})).send()


def _webhook(delivery: Delivery) -> None:
    import httpx  # slow to import, and only workers deliver

    alert = delivery.alert
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
    url = settings.ALERT_WEBHOOK_URL
    with public_only():
        try:
            answer = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeliveryFailed(without_address(f"{type(error).__name__}: {error}", url)) from None
    if not answer.is_success:
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        raise DeliveryFailed(_("The receiver answered with HTTP status %(status)s.") % {"status": status})


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the HMAC-SHA256 of timestamp, a point and body, so that a recorded call cannot be replayed later."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def _chat(delivery: Delivery) -> None:
    url = chat.channels().get(delivery.target)
    if url is None:
        raise DeliveryFailed(_("The channel is no longer in ALERT_CHANNELS."))
    chat.send(url, _subject(delivery.alert), delivery.alert.text)


def _subject(alert: Alert) -> str:
    """Return the subject of an alert, with the environment unless it is a development."""
    prefix = "" if settings.ENVIRONMENT == "development" else f"[{settings.ENVIRONMENT}] "
    return f"{prefix}{alert.subject}"


_SENDERS = {Channel.MAIL: _mail, Channel.WEBHOOK: _webhook, Channel.CHAT: _chat}
