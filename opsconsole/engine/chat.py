"""Delivery of alerts to chat services and pagers, through apprise."""

from __future__ import annotations

import hashlib
import logging
import re
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

from opsconsole.engine.channels import DeliveryFailed, public_only, without_address

_DIGITS = 8  # of a channel's name
_MENTION = re.compile(r"@(?=all|channel|everyone|here)", re.IGNORECASE)


def channels() -> dict[str, str]:
    """Return name → apprise URL of the configured channels. A name holds the scheme and no secret."""
    return {name_of(url): url for url in settings.ALERT_CHANNELS}


def name_of(url: str) -> str:
    """Return the name of a channel, such as `slack-1f3a9c02`."""
    return f"{urlsplit(url).scheme}-{hashlib.sha256(url.encode()).hexdigest()[:_DIGITS]}"


def send(url: str, subject: str, text: str) -> None:
    """Send a message. Raises DeliveryFailed with the reason."""
    import apprise  # slow to import, and only workers deliver

    asset = apprise.AppriseAsset(http_redirects=False)
    with public_only(), _Reasons() as reasons:
        service = apprise.Apprise.instantiate(url, asset=asset)
        if service is None:
            raise DeliveryFailed(_("apprise does not understand this address. Check its form in ALERT_CHANNELS."))
        if service.overflow_mode == apprise.OverflowMode.UPSTREAM:  # the service refuses a message that is too long
            service.overflow_mode = apprise.OverflowMode.SPLIT
        # A text of a store must not notify everybody in the channel.
        subject, text = (_MENTION.sub("@\u200b", part) for part in (subject, text))
        sender = apprise.Apprise(service, asset=asset)
        if not sender.notify(title=subject, body=text, body_format=apprise.NotifyFormat.TEXT):
            raise DeliveryFailed(reasons.text(url) or _("The service did not accept the message."))


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
        """Return the reasons without the address."""
        return without_address(" ".join(self._lines), url)
