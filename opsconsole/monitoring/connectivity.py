"""Reachability of stores, with a time limit, so that a store that is down delays no page."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.cache import cache
from django.utils.translation import gettext as _

from opsconsole.engine.models import Run
from opsconsole.stores.errors import first_line
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnavailable

CONNECT_SECONDS, ANSWER_SECONDS = 2, 3.0
REMEMBERED_SECONDS = 15


def unreachable(stores: Sequence[Store]) -> dict[str, str]:
    """Return alias → reason of the unreachable stores. Servers are queried in parallel; results are cached."""
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
            from opsconsole.stores.connection import connection_parameters

            asked[store.alias] = key, pool.submit(_server, store, connection_parameters(store))
    for alias, (key, answer) in asked.items():
        try:
            found[alias] = answer.result(ANSWER_SECONDS)
        except TimeoutError:
            found[alias] = _("the server did not answer within %(seconds)d s") % {"seconds": ANSWER_SECONDS}
        cache.set(key, found[alias], REMEMBERED_SECONDS)
    pool.shutdown(wait=False)
    return {alias: reason for alias, reason in found.items() if reason}


def identities(stores: Iterable[Store]) -> dict[str, str]:
    """Return identity → alias of the stores whose identity is known. Queries no store that may be down.

    The identity of a server is its last answer, or that of its newest run.
    """
    found: dict[str, str] = {}
    for store in stores:
        identity = store.known_identity()
        if identity is None and store.alias == DEFAULT and store.path is None:
            identity = store.identity()
        elif identity is None and store.path is None:
            runs = Run.objects.filter(location=store.location).order_by("-pk")
            identity = runs.values_list("identity", flat=True).first()
        if identity:
            found[identity] = store.alias
    return found


def _file(store: Store) -> str:
    try:
        store.require_file()
    except StoreUnavailable as error:
        return str(error)
    return ""


def _server(store: Store, address: dict[str, Any]) -> str:
    """Return why a server is unreachable. Of a reachable one, the identity is cached."""
    import psycopg

    try:
        with psycopg.connect(**{**address, "connect_timeout": CONNECT_SECONDS}, autocommit=True) as connection:
            store.learn_identity(lambda sql: connection.execute(sql).fetchall())
    except psycopg.Error as error:
        return first_line(error)
    return ""
