"""The console's own database on PostgreSQL: a check saves its findings, and the pages show them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.subprocess_cli import Shell

PAGES = """
import json
from django.contrib.auth.models import User
from django.test import Client
from opsconsole.engine.models import Finding, Incident, Run
client = Client(headers={"host": "localhost"})
client.force_login(User.objects.create_superuser("ann"), "django.contrib.auth.backends.ModelBackend")
finding, incident = Finding.objects.get(), Incident.objects.get()
pages = [
    "/admin/", "/admin/dashboard/trends/", "/admin/operations/event/?q=ann", "/admin/operations/incident/",
    f"/admin/operations/run/{finding.last_run_id}/change/", f"/admin/operations/incident/{incident.pk}/change/",
    f"/admin/operations/finding/?state=open&incident__id__exact={incident.pk}&q={finding.subject}",
    f"/admin/operations/finding/?q={finding.code}", "/admin/find/?q=T1",
]
answers = {page: client.get(page) for page in pages}
shown = {page: finding.subject in answer.content.decode() for page, answer in answers.items()}
print(json.dumps([{page: answer.status_code for page, answer in answers.items()}, shown]))
"""


@pytest.fixture
def console(tmp_path: Path, postgres: Any) -> Iterator[Shell]:
    yield Shell(tmp_path / "console", variables={"DATABASE_URL": postgres.create_database("own_console")})
    postgres.drop_database("own_console")


def test_a_check_and_its_pages(console: Shell, tmp_path: Path) -> None:
    assert console.run("setup").returncode == 0
    (store,) = (tmp_path / "console").rglob("agentos.sqlite3")
    with closing(sqlite3.connect(store)) as client:
        client.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('T1', 'intent', 'r')")
        client.commit()
    report = console.json("run", "audits.check_references", "--execute")
    assert report["counts"]["dangling_task"] == 1
    said = console.run("shell", "-v", "0", "-c", PAGES)
    assert said.returncode == 0, said.stderr
    statuses, shown = json.loads(said.stdout.splitlines()[-1])
    assert set(statuses.values()) == {200}, statuses
    findings = [page for page, is_shown in shown.items() if is_shown]
    assert len([page for page in findings if "finding/" in page or "run/" in page]) == 3, shown
