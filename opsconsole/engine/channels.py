"""Rules of all web channels of alerts: no private addresses, and no address in a reason."""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.translation import gettext as _

MAX_REASON = 300  # characters


class DeliveryFailed(Exception):
    """A channel did not accept an alert. The text is the reason, without the channel's address."""


class _Connections:
    """The state of this process. A library may connect in its own thread, so the state is not per thread."""

    public_only = False
    refused = False


@contextmanager
def public_only() -> Iterator[None]:
    """Refuse connections to private addresses, unless they are allowed.

    The check is at the connection itself: names are resolved by then, and a redirect connects again.
    """
    if settings.ALERT_PRIVATE_ADDRESSES:
        yield
        return
    _add_hook()
    _Connections.public_only, _Connections.refused = True, False
    try:
        yield
    except DeliveryFailed:
        if _Connections.refused:
            raise DeliveryFailed(
                _("The host has a private address. Set ALERT_PRIVATE_ADDRESSES to allow it.")
            ) from None
        raise
    finally:
        _Connections.public_only = False


@cache
def _add_hook() -> None:
    sys.addaudithook(_check_connection)


def _check_connection(event: str, args: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not _Connections.public_only:
        return
    sock, address = args
    if sock.family in {socket.AF_INET, socket.AF_INET6} and not is_public(address[0]):
        _Connections.refused = True
        raise ConnectionRefusedError("private address")


def is_public(address: str) -> bool:
    """Return whether an IP address is reachable from everywhere. A private one may be written inside an IPv6 one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            embedded = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if embedded is not None:
            return embedded.is_global
    return found.is_global and not found.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def without_address(reason: str, url: str) -> str:
    """Return a reason without any part of a channel's address that may be a secret."""
    address = urlsplit(url)
    parts = {url, address.netloc, address.path, address.query, *re.split(r"[/?&=@:;,]", f"{url} {unquote(url)}")}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) > 2 and part != address.scheme:
            reason = reason.replace(part, "…")
    return reason[:MAX_REASON]
