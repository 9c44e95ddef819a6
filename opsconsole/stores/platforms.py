"""Declarations of a platform's app about its store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from django.apps import AppConfig, apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.utils.translation import gettext as _

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise


class HotQuery(NamedTuple):
    """A frequent query of the platform or the console, which must use an index of `table`."""

    name: str
    table: str
    columns: tuple[str, ...]  # the compared columns, which the store must have
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
    """A page of a platform under the admin URL, with an entry in the sidebar."""

    route: str
    view: str  # dotted path of the view
    name: str
    title: StrOrPromise
    icon: str
    permissions: tuple[str, ...]  # one of them is required


class StoreAppConfig(AppConfig):
    """An app with tables of a store. Several apps may share a store. One of them sets its title.

    The tables of a managed store come from the app's `schema/sqlite.sql` and `schema/postgresql.sql`.
    """

    store: ClassVar[str]  # the platform, and the alias of its embedded store
    store_title: ClassVar[StrOrPromise | None] = None
    icons: ClassVar[Mapping[str, str]] = {}  # model name in lower case → icon of the theme
    json_columns: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # table → columns that contain JSON or NULL
    identifiers: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # model name in lower case → indexed fields
    hot_queries: ClassVar[tuple[HotQuery, ...]] = ()
    pages: ClassVar[tuple[PlatformPage, ...]] = ()
    server_memory: ClassVar[Mapping[str, str]] = {}  # recommended settings of a dedicated server


def platform_apps(store: str | None = None) -> list[StoreAppConfig]:
    """Return the apps of one platform, or of all, in the order of INSTALLED_APPS."""
    return [app for app in apps.get_app_configs() if isinstance(app, StoreAppConfig) and store in {None, app.store}]


def platform_pages() -> list[PlatformPage]:
    """Return the pages of all platforms."""
    return [page for app in platform_apps() for page in app.pages]


def store_titles() -> dict[str, str]:
    """Return alias → title of the console's own database and of every store."""
    return {alias: store_title(alias) for alias in (DEFAULT_DB_ALIAS, *settings.STORES)}


def store_title(alias: str) -> str:
    """Return the title of a store: of the configuration, of its platform, or its alias."""
    if alias == DEFAULT_DB_ALIAS:
        return _("Console")
    if alias in settings.STORE_TITLES:
        return str(settings.STORE_TITLES[alias])
    platform = settings.STORES.get(alias, alias)
    title = next((str(app.store_title) for app in platform_apps(platform) if app.store_title), alias)
    return title if platform in {alias, ""} or title == alias else f"{title} ({alias})"
