"""The sidebar: the pages that people use first, the tables of each store, and everything else."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.console.actors import actor_of
from opsconsole.console.store_urls import urlconf
from opsconsole.engine import lifecycle
from opsconsole.engine.models import Incident, Run
from opsconsole.stores.platforms import platform_apps, store_titles
from opsconsole.stores.router import DEFAULT, aliases_of, store_of

ICONS = {
    "auth.user": "person",
    "auth.group": "group",
    "accounts.token": "key",
    "operations.incident": "crisis_alert",
    "operations.run": "play_circle",
    "operations.event": "history",
    "stores.backup": "archive",
    "operations.alert": "notifications",
    "operations.finding": "report",
    "django_q.schedule": "schedule",
    "django_q.ormq": "hourglass_top",
    "django_q.success": "task_alt",
    "django_q.failure": "error",
}
NAMES = {
    "django_q.schedule": gettext_lazy("Schedules"),
    "django_q.ormq": gettext_lazy("Waiting jobs"),
    "django_q.success": gettext_lazy("Finished jobs"),
    "django_q.failure": gettext_lazy("Failed jobs"),
}
GROUPS = {"accounts": "auth", "stores": "operations"}  # app → the group that shows its tables


@cache
def _icons() -> dict[str, str]:
    own = {f"{app.label}.{model}": icon for app in platform_apps() for model, icon in app.icons.items()}
    return {**ICONS, **own}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the groups of the sidebar, with what the user may view. A group with `folded` opens on a click."""
    visible = [model for model, shown in admin.site._registry.items() if shown.has_view_permission(request)]
    first = [_table(model) for model in (Incident, Run) if model in visible]
    if Incident in visible:
        first[0] |= {"badge": Incident.objects.active().count(), "badge_label": _("open incidents")}
    more: list[dict[str, Any]] = []
    if request.user.has_perm("operations.view_run"):
        first = [
            _page(request, "admin:index", _("Dashboard"), "monitor_heart"),
            *first[:1],
            _page(request, "approvals", _("Approvals"), "approval")
            | {"badge": len(lifecycle.awaiting(actor_of(request))), "badge_label": _("runs that wait for you")},
            *first[1:],
            _page(request, "operations", _("Operations"), "tactic"),
            _page(request, "stores", _("Stores and backups"), "database"),
        ]
        more = [
            *(
                [_page(request, "statement", _("SQL statement"), "edit_note")]
                if may_change_by_statement(request)
                else []
            ),
            _page(request, "freeze", _("Freeze all runs"), "emergency_home"),
            _page(request, "trends", _("Trends"), "monitoring"),
            _page(request, "api-document", _("API"), "api"),
        ]
    tables: dict[str, list[dict[str, Any]]] = {}
    for model in visible:
        platform, label = store_of(model), model._meta.app_label
        if model in {Incident, Run}:
            continue
        if platform == DEFAULT:
            tables.setdefault(GROUPS.get(label, label), []).append(_table(model))
        else:
            for alias in aliases_of(platform):
                tables.setdefault(alias, []).append(_table(model, alias))
    for app in platform_apps():
        for alias in aliases_of(app.store):
            tables.setdefault(alias, [])[:0] = [
                _page(request, page.name, str(page.title), page.icon, alias)
                for page in app.pages
                if any(map(request.user.has_perm, page.permissions))
            ]
    if request.user.has_perm("stores.browse_store"):
        for alias in [alias for alias, platform in settings.STORES.items() if not platform]:
            url = reverse("browse", args=[alias])
            entry = {"title": _("Tables"), "icon": "table_rows", "link": url, "active": request.path.startswith(url)}
            tables[alias] = [entry]
    tables.setdefault("auth", []).append(_page(request, "sessions", _("Sessions"), "devices"))
    more += tables.pop("operations", [])
    stores = [(title, tables.pop(name)) for name, title in store_titles().items() if name in tables]
    titles = {"django_q": _("Diagnostics"), "auth": _("Accounts")}
    rest = [(titles.get(name, name), tables[name]) for name in dict.fromkeys([*titles, *tables]) if name in tables]
    return [
        {"items": first},
        *_folded(_("Tables"), stores),
        {"title": _("More"), "separator": True, "items": more},
        *_folded("", rest),
    ]


def may_change_by_statement(request: HttpRequest) -> bool:
    """Return whether the user may plan a statement."""
    return request.user.has_perms(["operations.operate_run", "operations.change_by_statement"])


def _folded(heading: str, groups: list[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return the groups that have items. The first one stands under the heading."""
    shown = [{"title": title, "folded": True, "items": items} for title, items in groups if items]
    if shown and heading:
        shown[0] |= {"heading": heading, "separator": True}
    return shown


def _table(model: type[models.Model], alias: str = DEFAULT) -> dict[str, Any]:
    meta = model._meta
    return {
        "title": NAMES.get(meta.label_lower) or capfirst(meta.verbose_name_plural),
        "icon": _icons().get(meta.label_lower, "table_rows"),
        "link": reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist", urlconf(alias)),
    }


def _page(request: HttpRequest, name: str, title: str, icon: str, alias: str = DEFAULT) -> dict[str, Any]:
    url = reverse(name, urlconf(alias))
    return {"title": title, "icon": icon, "link": url, "active": request.path == url}
