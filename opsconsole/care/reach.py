"""Whether a store answers, asked in passing: bounded in time, so that one that is down holds up no page."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from django.core.cache import cache
from django.utils.translation import gettext as _

from opsconsole.stores.connection import connection_parameters
from opsconsole.stores.errors import first_line
from opsconsole.stores.store import Store, StoreUnusable

CONNECT_SECONDS, ANSWER_SECONDS = 2, 3.0
REMEMBERED_SECONDS = 15


def unreachable(stores: Sequence[Store]) -> dict[str, str]:
    """Alias → why it does not answer, of those that don't. Servers are asked at once, and not again for a while."""
    found: dict[str, str] = {}
    asked = {}
    pool = ThreadPoolExecutor(max(len(stores), 1), "reach")
    for store in stores:
        if store.path is not None:
            found[store.alias] = _file(store)
            continue
        key = f"reach:{store.alias}:{hashlib.sha256(store.location.encode()).hexdigest()}"
        remembered = cache.get(key)
        if remembered is not None:
            found[store.alias] = remembered
        else:
            asked[store.alias] = key, pool.submit(_server, connection_parameters(store))
    for alias, (key, answer) in asked.items():
        try:
            found[alias] = answer.result(ANSWER_SECONDS)
        except TimeoutError:
            found[alias] = _("it does not answer within %(seconds)d s") % {"seconds": ANSWER_SECONDS}
        cache.set(key, found[alias], REMEMBERED_SECONDS)
    pool.shutdown(wait=False)
    return {alias: reason for alias, reason in found.items() if reason}


def _file(store: Store) -> str:
    try:
        store.require_file()
    except StoreUnusable as error:
        return str(error)
    return ""


def _server(address: dict[str, Any]) -> str:
    try:
        psycopg.connect(**{**address, "connect_timeout": CONNECT_SECONDS}).close()
    except psycopg.Error as error:
        return first_line(error)
    return ""
