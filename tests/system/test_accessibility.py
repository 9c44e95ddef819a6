"""axe-core finds nothing on the console's pages, light and dark."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from django.urls import reverse

from opsconsole.engine import lifecycle
from opsconsole.engine.models import Incident
from tests.engine.test_incidents import LONG_AGO
from tests.support import helix
from tests.support.contract import TESTER, execute_run, operation_called, plan_whole
from tests.support.plain_client import execute
from tests.system.test_browser import audits, browser, open_page

__all__ = ["audits", "browser", "open_page"]
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
LISTS = ("operations_incident", "operations_run", "operations_finding", "operations_event", "operations_alert")
TABLES = ("audits_taskaudit", "agentos_task", "helix_helixjob", "stores_backup")
PAGES = ("admin:index", "approvals", "operations", "stores", "trends", "freeze", "find", "sessions")


@pytest.fixture
def content(audits: Any) -> list[str]:
    """Return the addresses of pages with a plan, a run, an incident and a row."""
    store = operation_called("helix.scan_dirty_data").store
    for sql, values in helix.rows(helix.one_of_each()):
        execute(store, sql, values)
    for table in ("jobs", "tasks"):
        execute(store, f"UPDATE {table} SET updated_at = '{LONG_AGO}'")
    scan = execute_run(operation_called("helix.scan_dirty_data"))
    plan = lifecycle.create_run(plan_whole(operation_called("audits.backfill_decision_fields")), TESTER)
    run = execute_run(operation_called("audits.backfill_decision_fields"))
    incident = Incident.objects.get(cause="failed_tasks")
    addresses = [reverse(name) for name in PAGES]
    addresses += [reverse(f"admin:{name}_changelist") for name in (*LISTS, *TABLES)]
    addresses += [reverse("run", args=[one.pk]) for one in (scan, plan, run)]
    return [*addresses, reverse("incident", args=[incident.pk]), reverse("admin:helix_helixjob_change", args=[4])]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, open_page: Any, live_server: Any, content: list[str]) -> None:
    page = open_page(color_scheme=scheme)
    found = []
    for address in content:
        page.goto(live_server.url + address, wait_until="load")
        page.evaluate(AXE)
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [
            (address, violation["id"], node["target"], node["html"][:200])
            for violation in result["violations"]
            for node in violation["nodes"]
        ]
    assert found == []
