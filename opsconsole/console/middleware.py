"""Middleware: client addresses behind proxies, static files, and unusable query strings."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import DataError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
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

BARE_ERRORS = frozenset({405, 413})  # answered without a page
# Exceptions for values of a query string that the database cannot process.
UNUSABLE = (IncorrectLookupParameters, OverflowError, DataError)


class TrustedProxyMiddleware:
    """Middleware that sets REMOTE_ADDR to the address of the client.

    Forwarding headers are removed unless the peer is in TRUSTED_PROXIES. The client is the rightmost address of
    X-Forwarded-For that is not a trusted proxy, because clients can forge the addresses to its left.
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
            meta["wsgi.url_scheme"] = "http"  # gunicorn trusts this header from 127.0.0.1
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
    """Return the address of a hop without its port."""
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # it has no types
    """Middleware that serves only the files of the manifest, read when the process starts.

    STATIC_ROOT is in the data directory, so scanning it would publish any file that is written there. With DEBUG the
    files come from the installed packages.
    """

    def add_files(self, root: str, prefix: str | None = None) -> None:
        """Add the files of the manifest instead of the directory."""
        if self.autorefresh:
            return
        publish()
        for name, path in manifest().items():
            self.add_file_to_dictionary(f"{prefix}{name}", str(path))


class BadQueryMiddleware:
    """Middleware that answers 400 if a list or an export cannot use the query string, or a form contains NUL."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *args: Any) -> HttpResponse | None:
        is_form = request.method == "POST" and request.path.startswith(reverse("admin:index"))
        if not (is_form and any("\x00" in value for _name, values in request.POST.lists() for value in values)):
            return None
        logger.warning("A form of %s contains NUL, which PostgreSQL cannot store", request.path)
        return render(request, "400.html", status=400)

    def process_exception(self, request: HttpRequest, raised: Exception) -> HttpResponse | None:
        if not (request.GET and isinstance(raised, UNUSABLE)):
            return None
        logger.warning("Invalid query string of %s: %s", request.path, raised)
        return render(request, "400.html", status=400)


class ErrorPageMiddleware:
    """Middleware that gives bare errors a page, and sends live parts of a page to the sign-in when a session ends."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        login, location = reverse("admin:login"), response.get("Location", "")
        if "HX-Request" in request.headers and location.startswith(login):
            return _sign_in(login, request.headers.get("HX-Current-URL", ""))
        if request.method == "POST" and location.startswith(f"{login}?next="):  # the address of a form has no page
            response["Location"] = _login_url(login, request.headers.get("Referer", ""))
        if response.status_code in BARE_ERRORS and not response.content and request.accepts("text/html"):
            page = render(request, f"{response.status_code}.html", status=response.status_code)
            if "Allow" in response:
                page["Allow"] = response["Allow"]
            return page
        return response


def _sign_in(login: str, page: str) -> HttpResponse:
    """Return an answer that makes the whole page go to the sign-in, and come back afterwards."""
    response = HttpResponse(status=401)
    response["HX-Redirect"] = _login_url(login, page)
    return response


def _login_url(login: str, page: str) -> str:
    """Return the address of the sign-in that returns to a page. Only path and query of its address are used."""
    try:
        shown = urlsplit(page)
    except ValueError:
        shown = urlsplit("")
    back = shown.path if shown.path.startswith("/") and not shown.path.startswith("//") else reverse("admin:index")
    return f"{login}?{urlencode({'next': f'{back}?{shown.query}' if shown.query else back})}"
