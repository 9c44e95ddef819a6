"""The first example of docs/writing-operations.md, executed, and the errors of invalid declarations."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from opsconsole.engine import queue_checks, registry
from opsconsole.engine.causes import Cause
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Change

ROOT = Path(__file__).parents[2]
EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
RUN_ITS_TEST = "import django; django.setup(); from test_archive_orders import *; test_paid_orders_are_archived()"


def examples(tmp_path: Path, *pages: str) -> Callable[..., str]:
    """Write the example files of documentation pages, and return a function that runs Python with their app."""
    files: dict[str, str] = {}
    for page in pages:
        files |= dict(EXAMPLE.findall((ROOT / f"docs/{page}.md").read_text()))
    assert len(files) == 4 + len(pages)
    for name, text in {**files, "shop/__init__.py": "", "shop/operations/__init__.py": ""}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    inherited = {name: value for name, value in os.environ.items() if not name.endswith(("DATABASE_URL", "_ATTACHED"))}
    environment = {
        **inherited,
        "DJANGO_SETTINGS_MODULE": "opsconsole.settings",
        "OPSCONSOLE_APPS": "shop",
        "OPSCONSOLE_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }

    def python(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_the_first_example_works(tmp_path: Path) -> None:
    python = examples(tmp_path, "writing-operations")
    python("manage.py", "setup")
    with sqlite3.connect(tmp_path / "data/shop.sqlite3") as connection:
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(1, "paid"), (2, "open"), (3, "paid")])
    python("manage.py", "run", "shop.archive_orders", "--execute", "--yes")
    rows = connection.execute("SELECT id, status FROM orders ORDER BY id").fetchall()
    connection.close()
    assert rows == [(1, "archived"), (2, "open"), (3, "archived")]
    python("-c", RUN_ITS_TEST)


def test_the_example_of_a_check_opens_an_incident_that_its_repair_resolves(tmp_path: Path) -> None:
    python = examples(tmp_path, "writing-operations", "incidents")
    python("manage.py", "setup")
    with sqlite3.connect(tmp_path / "data/shop.sqlite3") as connection:
        connection.execute("INSERT INTO orders VALUES (1, 'paid')")
    connection.close()
    python("manage.py", "run", "shop.check_orders", "--execute")
    assert "1 paid order is not archived" in python("manage.py", "incidents", "list")
    python("manage.py", "run", "shop.archive_orders", "--execute", "--yes")
    assert "No open incidents" in python("manage.py", "incidents", "list")


def declare(module: str = "tasks.helix.operations.wash_jobs", **names: Any) -> type[Operation]:
    class_name = names.pop("class_name", "WashJobs")
    return type(class_name, (Operation,), {"__module__": module, **names})


def test_a_misspelt_hook_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`qeryset`.*Did you mean `queryset`"):
        declare(qeryset=lambda self: None)
    with pytest.raises(TypeError, match="`undoabel`"):
        declare(undoabel=False)
    assert declare(_own=1).name == "helix.wash_jobs"


def test_a_misnamed_or_incomplete_operation_is_refused() -> None:
    module: Any = ModuleType("tasks.helix.operations.wash_jobs")
    module.WashJob = declare(class_name="WashJob")
    with pytest.raises(ImproperlyConfigured, match="declares no operation called WashJobs"):
        registry.declared_in(module)
    module.WashJobs = declare(title="Wash jobs", risk=Risk.CHANGE)
    with pytest.raises(ImproperlyConfigured, match="does not declare description"):
        registry.declared_in(module)


def test_a_misspelt_repair_or_code_of_a_cause_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for cause, words in (
        ({"D": Cause("x", "title", ("helix.retry_task",))}, "names the repair helix.retry_task"),
        ({"X": Cause("x", "title")}, "has a cause for X, which is not in `reasons`"),
    ):
        monkeypatch.setattr(registry.operation("helix.scan_dirty_data"), "causes", cause)
        registry.operations.cache_clear()
        try:
            with pytest.raises(ImproperlyConfigured, match=words):
                registry.operations()
        finally:
            monkeypatch.undo()
            registry.operations.cache_clear()


def test_a_duplicate_name_is_an_error_at_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    named = declare(title="Wash jobs", description="Washes.", risk=Risk.CHANGE)
    monkeypatch.setattr(registry, "declared_in", lambda module: named)
    registry.operations.cache_clear()
    try:
        with pytest.raises(ImproperlyConfigured, match="Two operations are called helix"):
            registry.operations()
        assert [one.id for one in queue_checks.check_operations()] == ["operations.E010"]
    finally:
        registry.operations.cache_clear()


def test_a_change_is_shown_as_it_is_written() -> None:
    Row = namedtuple("Row", "pk status")
    assert (
        str(Change(Row(1, "paid"), "old", status="archived"))
        == "Change(Row(pk=1, status='paid'), 'old', status='archived')"
    )
