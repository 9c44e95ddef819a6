"""Delivery of alerts to chat services and pagers, through apprise."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import socket
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

MAX_REASON = 300  # characters
_DIGITS = 8  # of a channel's name


class ChatFailed(Exception):
    """A chat service did not accept a message. The text holds no part of the channel's address but its scheme."""


def channels() -> dict[str, str]:
    """Return name → apprise URL of the configured channels. A name holds the scheme and no secret."""
    return {name_of(url): url for url in settings.ALERT_CHANNELS}


def name_of(url: str) -> str:
    """Return the name of a channel, such as `slack-1f3a9c02`."""
    return f"{urlsplit(url).scheme}-{hashlib.sha256(url.encode()).hexdigest()[:_DIGITS]}"


def send(url: str, subject: str, text: str) -> None:
    """Send a message. Raises ChatFailed with the reason."""
    import apprise  # slow to import, and only workers deliver

    _require_public(url)
    sender = apprise.Apprise()
    with _Reasons() as reasons:
        if not sender.add(url):
            raise ChatFailed(_("apprise does not understand this address. Check its form in ALERT_CHANNELS."))
        if not sender.notify(title=subject, body=text, body_format=apprise.NotifyFormat.TEXT):
            raise ChatFailed(reasons.text(url) or _("The service did not accept the message."))


def _require_public(url: str) -> None:
    """Raise ChatFailed for a service of one's own host with a private address, unless that is configured."""
    address = urlsplit(url)
    if settings.ALERT_PRIVATE_ADDRESSES or address.scheme not in settings.CHAT_SCHEMES_WITH_HOST:
        return
    try:
        found = socket.getaddrinfo(address.hostname or "", address.port or 443, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise ChatFailed(_("The host is not found: %(reason)s") % {"reason": error.strerror}) from None
    if any(not ipaddress.ip_address(entry[4][0]).is_global for entry in found):
        raise ChatFailed(_("The host has a private address. Set ALERT_PRIVATE_ADDRESSES to allow it."))


class _Reasons(logging.Handler):
    """Collects what apprise logs: it returns only true or false."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    def __enter__(self) -> _Reasons:
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("apprise").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def text(self, url: str) -> str:
        """Return the reasons without any part of the address that may be a secret."""
        address = urlsplit(url)
        secrets = [part for part in (*address.path.split("/"), address.netloc, address.query) if len(part) > 2]
        text = " ".join(self._lines)
        for secret in secrets:
            text = text.replace(secret, "…")
        return text[:MAX_REASON]
