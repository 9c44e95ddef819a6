"""What a platform's app declares about its store. The console itself knows no platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from django.apps import AppConfig, apps
from django.db import DEFAULT_DB_ALIAS
from django.utils.translation import gettext as _

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise


class HotQuery(NamedTuple):
    """A query that the platform or the console runs all the time: it must use an index of `table`."""

    name: str
    table: str
    columns: tuple[str, ...]  # that it compares, and that the store must have
    sql: str


def newest(table: str, order: str) -> HotQuery:
    return HotQuery(f"newest {table}", table, (order,), f"SELECT * FROM {table} ORDER BY {order} DESC LIMIT 100")


def by(table: str, column: str, value: str = "'x'", order: str = "") -> HotQuery:
    sql = f"SELECT * FROM {table} WHERE {column} = {value}"
    columns: tuple[str, ...] = (column,)
    if order:
        sql, columns = f"{sql} ORDER BY {order} LIMIT 100", (column, order.split()[0])
    return HotQuery(f"{table} by {' and '.join(columns)}", table, columns, sql)


class PlatformPage(NamedTuple):
    """A page of a platform, below the address of the admin and in the sidebar."""

    route: str
    view: str  # dotted path of the view
    name: str
    title: StrOrPromise
    icon: str
    permissions: tuple[str, ...]  # of which the reader needs one


class StoreAppConfig(AppConfig):
    """An app with tables of a store. Several apps may share a store; one of them gives it its title.

    The tables of a managed store come from the app's `schema/sqlite.sql` and `schema/postgresql.sql`.
    """

    store: ClassVar[str]  # alias of the store
    store_title: ClassVar[StrOrPromise | None] = None
    icons: ClassVar[Mapping[str, str]] = {}  # model name in lower case -> symbol of the theme
    json_columns: ClassVar[
        Mapping[str, tuple[str, ...]]
    ] = {}  # table -> columns that hold JSON where they are not NULL
    hot_queries: ClassVar[tuple[HotQuery, ...]] = ()
    pages: ClassVar[tuple[PlatformPage, ...]] = ()
    server_memory: ClassVar[Mapping[str, str]] = {}  # advised settings of a server that the platform has to itself


def platform_apps(store: str | None = None) -> list[StoreAppConfig]:
    """Return the apps of one store, or of all, in the order of INSTALLED_APPS."""
    return [app for app in apps.get_app_configs() if isinstance(app, StoreAppConfig) and store in {None, app.store}]


def platform_pages() -> list[PlatformPage]:
    """Return the pages of all platforms."""
    return [page for app in platform_apps() for page in app.pages]


def store_titles() -> dict[str, str]:
    """Return alias -> title of the console's own database and of every store."""
    titled = {app.store: app.store_title for app in platform_apps() if app.store_title is not None}
    return {DEFAULT_DB_ALIAS: str(_("Console")), **{name: str(title) for name, title in titled.items()}}
