"""The addresses of all pages of the console, derived from its URLs, models, operations and templates."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.urls import URLResolver, get_resolver, reverse
from django.utils import timezone

from opsconsole.accounts.models import SavedView, Token
from opsconsole.console.run_tabs import CHECK_TABS, TABS
from opsconsole.engine import lifecycle, registry
from opsconsole.engine.models import Incident, Run, Status
from opsconsole.stores.models import Backup
from tests.conftest import attach_url
from tests.support.contract import TESTER, execute_run, operation_called, plan_whole

CATCH_ALL = "(?P<url>.*)"
LISTED = 4  # rows of a list: more rows take time and show nothing new
Arguments = Mapping[str, Sequence[Any]]


class Page(NamedTuple):
    """A page, and the values of the form that leads to it if it answers a POST."""

    address: str
    form: Mapping[str, str] | None = None


def fill(monkeypatch: Any, account: Any) -> Arguments:
    """Load the demo and make a run of every status. Return the arguments of the console's URLs by their names."""
    for app in apps.get_app_configs():
        if find_spec(f"{app.name}.demo") is not None:
            list(import_module(f"{app.name}.demo").load())
    for shown in admin.site._registry.values():
        monkeypatch.setattr(shown, "list_per_page", LISTED)
    Token.issue(account, "tests")
    view = SavedView.objects.create(owner=account, name="mine", table="operations.run", query="status=failed")
    done = execute_run(operation_called("audits.backfill_decision_fields"))
    scan = Run.objects.filter(operation="helix.scan_dirty_data").earliest("pk")
    runs = [done.pk, scan.pk]
    for status in Status:
        run = lifecycle.create_run(plan_whole(operation_called("helix.clean_dirty_jobs")), TESTER)
        Run.objects.filter(pk=run.pk).update(status=status, confirmed_at=timezone.now(), fingerprint=status)
        runs.append(run.pk)
    return {
        "run": runs,
        "incident": list({one.cause: one.pk for one in Incident.objects.order_by("-pk")}.values()),
        "backup": [Backup.objects.earliest("pk").pk],
        "token": [Token.objects.earliest("pk").pk],
        "views": [view.pk],
        "name": [name for name, cls in registry.operations().items() if not registry.targets_run(cls)],
        "app_label": sorted({model._meta.app_label for model in admin.site._registry}),
        "verb": ["resume", "reopen"],
    }


def pages(arguments: Arguments) -> Iterator[Page]:
    """Yield every page. A route with an argument that has no values raises KeyError."""
    yield from (Page(address) for address in _addresses(arguments))
    for pk, tabs in zip(arguments["run"], (TABS, CHECK_TABS), strict=False):
        yield from (Page(f"{reverse('run', args=[pk])}?tab={tab}") for tab in tabs)
    with closing(sqlite3.connect(settings.DATA_DIR / "shop.db")) as client, client:
        client.execute("CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY, name TEXT)")
        client.execute("INSERT OR IGNORE INTO customers VALUES (1, 'Lin')")
    attach_url("shop", f"sqlite:///{settings.DATA_DIR}/shop.db", platform="")
    yield Page(reverse("browse", args=["shop"]))
    for page, query in (("browse-rows", {}), ("browse-row", {"key": "1"})):
        yield Page(reverse(page, args=["shop"], query={"table": "customers", **query}))
    for name in arguments["name"]:
        yield Page(reverse("plan", args=[name]), {})
        yield Page(reverse("plan", args=[name]), {"asked": "1"})
    yield from (Page(reverse("find", query={"q": text})) for text in ("1", "nothing has this name"))
    yield from (Page(f"/errors/{path.stem}") for path in error_templates())


def error_templates() -> list[Path]:
    return sorted((settings.BASE_DIR / "templates").glob("[45]??*.html"))


def _addresses(arguments: Arguments) -> Iterator[str]:
    for route in _routes(get_resolver()):
        words = route.split("/")
        if (
            words[0] != "admin"
            or words[1] in {"r", "store"}
            or words[-2:-1] == ["<path:object_id>"]
            or CATCH_ALL in words
        ):
            continue  # redirects
        values = [_values(word, words[:place], arguments) for place, word in enumerate(words)]
        if route.endswith("change/"):
            yield from ("/" + "/".join(chosen) for chosen in product(*values))
        elif all(values):
            yield "/" + "/".join(value[0] for value in values)


def _routes(resolver: URLResolver) -> Iterator[str]:
    for one in resolver.url_patterns:
        for route in _routes(one) if isinstance(one, URLResolver) else ("",):
            yield str(one.pattern).lstrip("^").removesuffix("$") + route


def _values(word: str, before: Sequence[str], arguments: Arguments) -> list[str]:
    """Return the values of a part of a route: the part itself unless it is an argument."""
    argument = re.search(r"<(?:\w+:)?(\w+)>", word)
    if argument is None:
        return [word]
    name = argument[1]
    if name in {"object_id", "id"}:
        row = apps.get_model(before[1], before[2])._default_manager.first()
        return [] if row is None else [str(quote(row.pk))]
    return [str(value) for value in arguments[before[-1] if name == "pk" else name]]
