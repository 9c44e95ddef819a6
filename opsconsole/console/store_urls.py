"""Addresses of the pages of further stores: those of the platform, below `/admin/store/<alias>/`.

A further store has its own URL configuration: the console's, with the platform's pages moved. While a request to such a
page is answered, `reverse` uses it, so links on the page stay in the store, and `router.use` has chosen the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, URLResolver, get_resolver, path, re_path

from opsconsole.stores.platforms import platform_apps, store_title
from opsconsole.stores.router import alias_of, aliases_of, use

_ADDRESS = re.compile(r"/admin/store/([a-z][a-z0-9_]*)/")


class StoreMiddleware:
    """Middleware that answers a request to a page of a further store for this store.

    If no store has the name of a platform, the plain addresses of the platform lead to its first store.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        match = _ADDRESS.match(request.path_info)
        if match is None or not _is_further(match[1]):
            if request.method in {"GET", "HEAD"} and (address := _address_in_first_store(request.path_info)):
                query = request.META.get("QUERY_STRING", "")
                return HttpResponseRedirect(f"{address}?{query}" if query else address)
            return self.get_response(request)
        request.urlconf = urlconf(match[1])
        with use(match[1]):
            return self.get_response(request)


def urlconf(alias: str) -> Any:
    """Return the URL configuration that has the pages of this store."""
    return _moved_patterns(alias, settings.STORES[alias]) if _is_further(alias) else settings.ROOT_URLCONF


class StoreLink(NamedTuple):
    """A store with its page."""

    title: str
    url: str
    is_current: bool


def store_links(platform: str, url: Callable[[str], str]) -> list[StoreLink]:
    """Return a link for each store of a platform, by its alias; none if the platform has one store."""
    aliases = aliases_of(platform)
    links = [StoreLink(store_title(alias), url(alias), alias == alias_of(platform)) for alias in aliases]
    return links if len(links) > 1 else []


def _is_further(alias: str) -> bool:
    return settings.STORES.get(alias) not in {None, "", alias}


def _address_in_first_store(address: str) -> str:
    """Return the address in the first store of a platform without a store of its name, else an empty string."""
    page = address.removeprefix("/admin/")
    for app in platform_apps() if page != address else ():
        first = aliases_of(app.store)[0]
        if first != app.store and page.startswith((f"{app.label}/", *(one.route for one in app.pages))):
            return f"/admin/store/{first}/{page}"
    return ""


@cache
def _moved_patterns(alias: str, platform: str) -> tuple[URLPattern | URLResolver, ...]:
    """Return all patterns of the console; those of the platform and of its lists are moved."""
    apps = platform_apps(platform)
    labels = tuple(f"{app.label}/" for app in apps)
    names = {"plan", "view-save", "view-delete", *(page.name for app in apps for page in app.pages)}

    def moved(pattern: URLPattern | URLResolver) -> URLPattern | URLResolver:
        route = str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            if pattern.name not in names:
                return pattern
            address = f"admin/store/{alias}/{route.removeprefix('admin/')}"
            return path(address, pattern.callback, pattern.default_args, pattern.name)
        if route != "admin/":
            return pattern
        tables: list[URLPattern | URLResolver] = []
        for one in pattern.url_patterns:
            if isinstance(one, URLResolver) and str(one.pattern).startswith(labels):
                tables.append(path(f"store/{alias}/{one.pattern}", (one.url_patterns, None, None)))
                continue
            tables.append(one)
            if isinstance(one, URLPattern) and one.name == "app_list" and one.callback is not None:
                ours = f"^store/{alias}/(?P<app_label>{'|'.join(app.label for app in apps)})/$"
                tables.append(re_path(ours, one.callback, name=one.name))
        return path(route, (tables, pattern.app_name, pattern.namespace))

    return tuple(map(moved, get_resolver(settings.ROOT_URLCONF).url_patterns))
