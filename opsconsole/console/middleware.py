"""What happens to every request: where it comes from, and what can't be answered."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable

from django.conf import settings
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import DataError
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.utils.translation import gettext as _
from whitenoise.middleware import WhiteNoiseMiddleware

from opsconsole.console.static_files import manifest, publish

FORWARDING = (
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REAL_IP",
)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

logger = logging.getLogger(__name__)

# What a query string can hold and a database can't take.
UNUSABLE = (IncorrectLookupParameters, OverflowError, DataError)


class TrustedProxyMiddleware:
    """Sets REMOTE_ADDR to the client's address. Forwarding headers count only from a proxy in TRUSTED_PROXIES.

    The client is the rightmost address of X-Forwarded-For that is no such proxy: what is left of it, anybody can write.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        meta = request.META
        request.is_forwarded = any(name in meta for name in FORWARDING)  # type: ignore[attr-defined]
        if _is_trusted(meta.get("REMOTE_ADDR", "")):
            meta["REMOTE_ADDR"] = _client(meta.get("REMOTE_ADDR", ""), meta.get("HTTP_X_FORWARDED_FOR", ""))
            return self.get_response(request)
        if "HTTP_X_FORWARDED_PROTO" in meta:
            meta["wsgi.url_scheme"] = "http"  # gunicorn believes this header from 127.0.0.1
        for name in FORWARDING:
            meta.pop(name, None)
        return self.get_response(request)


def _client(peer: str, forwarded: str) -> str:
    for hop in reversed([hop.strip() for hop in forwarded.split(",")]):
        address = _address(hop)
        if address is None:
            break
        peer = str(address)
        if not _is_trusted(peer):
            break
    return peer


def _is_trusted(peer: str) -> bool:
    if not peer:
        return "unix" in settings.TRUSTED_PROXIES
    address = _address(peer)
    return address is not None and any(address in network for network in settings.TRUSTED_PROXIES if network != "unix")


def _address(text: str) -> Address | None:
    """Return the address that a hop names, without its port."""
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # it has no types
    """Serves the files of the manifest, read when the process starts, and no other.

    STATIC_ROOT is in the data folder: whoever can write there would publish a file. With DEBUG the files come from
    the installed packages, as they are at the moment.
    """

    def add_files(self, root: str, prefix: str | None = None) -> None:
        """Add the files of the manifest, and no folder."""
        if self.autorefresh:
            return
        publish()
        for name, path in manifest().items():
            self.add_file_to_dictionary(f"{prefix}{name}", str(path))


class BadQueryMiddleware:
    """Answers 400 where a list or an export can't use the query string of its address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, raised: Exception) -> HttpResponse | None:
        if not (request.GET and isinstance(raised, UNUSABLE)):
            return None
        logger.warning("The query string of %s can't be used: %s", request.path, raised)
        return HttpResponseBadRequest(
            _("The query string of this address can't be used. Remove it."), content_type="text/plain; charset=utf-8"
        )
