"""Values of stores are data on every page and in every command, export and message."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest
from django.apps import apps
from django.contrib import admin
from django.core import mail
from django.core.management import load_command_class
from django.db import DatabaseError, connections
from django.urls import reverse
from openpyxl import load_workbook

from opsconsole.console import file_formats
from opsconsole.engine import notifications
from opsconsole.engine.models import Alert, Delivery, Event, Finding, Run
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store
from tests.audits.test_audits_admin import signed_in
from tests.support.contract import execute_run, operation_called, start, work

STORES = ("agentos", "helix", "records", "roadmaps")
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *STORES])

SECRET = "the-password-of-agentos"
MIX = (
    '=HYPERLINK("http://x")\'"%s%(name)s%%\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202e\u2066\u200b\ufeff\r\n\t'
    '<script>alert(1)</script>"><svg onload=alert(1)>{{7*7}}{% now %}&amp;;--\\'
)
DOCUMENT = json.dumps({"<img src=x onerror=alert(1)>": MIX, "a": [{"=1+1": "</pre><script>alert(1)</script>"}]})
VALUES = (MIX, DOCUMENT, "<script>alert(1)</script>" * 40_000, "[" * 3_000 + "]" * 3_000, "+1", "@x\u0000y")
SURROGATE = b"=\xed\xa0\x80\xff<script>alert(1)</script>"
NOT_UTF8 = "_3D_5Cxed"
UNESCAPED = re.compile(rb"<script>alert|<svg onload|<img src=x|</pre><script>a", re.IGNORECASE)
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
FORMULA = re.compile(r"[\s\x00\ufeff\u200b]*[=+\-@]")


def models_of(name: str) -> list[Any]:
    return [model for model in apps.get_models() if store_of(model) == name]


def rows_of(columns: list[Any], *, types: bool) -> Iterator[list[Any]]:
    """Return a row for each value, with the value in every text column. With `types`, the database checks types.

    Only one column contains the longest value, to keep the pages fast.
    """
    values = [value for value in VALUES if not types or "\0" not in value]
    text = {"TextField", "CharField", "ForeignKey", "RawTimestampField"}
    last = [column for column in columns if column.get_internal_type() in text and not column.primary_key][-1:]
    for number, value in enumerate([*values, *([] if types else [SURROGATE])], 1):
        row: list[Any] = []
        for column in columns:
            kind, is_long = column.get_internal_type(), len(value) > 10_000
            if kind not in text and (types or column.primary_key):
                row.append(b"\x1b<script>" if kind == "BinaryField" else number)
            elif (is_long and column not in last) or (column.primary_key and len(value) > 1_000):
                row.append(f"key {number}")
            else:
                row.append(value)
        yield row


def fill_sqlite(name: str) -> None:
    """Fill every table, regardless of keys and checks."""
    with closing(sqlite3.connect(connections[name].settings_dict["NAME"], timeout=10)) as client:
        client.execute("PRAGMA foreign_keys=OFF")
        client.execute("PRAGMA ignore_check_constraints=ON")
        refusing = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%RAISE%'"
        for (trigger,) in client.execute(refusing).fetchall():
            client.execute(f"DROP TRIGGER {trigger}")
        for model in models_of(name):
            columns = list(model._meta.concrete_fields)
            marks = [
                "CAST(? AS TEXT)" if column.get_internal_type() not in {"BinaryField"} else "?" for column in columns
            ]
            names = ", ".join(f'"{column.column}"' for column in columns)
            table = model._meta.db_table
            client.execute(f"DELETE FROM {table}")
            for row in rows_of(columns, types=False):
                given = [m if isinstance(v, str | bytes) else "?" for m, v in zip(marks, row, strict=True)]
                client.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join(given)})", row)
        client.commit()


@pytest.fixture
def hostile(alice: Any, client: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client with a signed-in superuser, and fill the stores with hostile values."""
    for name in STORES:
        fill_sqlite(name)
    settings.ALERT_EMAILS = ["ops@example.org"]
    settings.ALERT_WEBHOOK_URL = "https://hooks.example.org/services/T00000001/abcdefghijklmnopqrst"
    monkeypatch.setitem(connections.settings["agentos"], "PASSWORD", SECRET)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield signed_in(client, alice)
    for connection in connections.all(initialized_only=True):
        connection.close()


def seen(client: Any, address: str, **data: Any) -> str:
    """Return a page after checking that it is not an error and contains no value as markup."""
    answer = client.get(address, data)
    unaddressed = answer.status_code == 302 and NOT_UTF8 in address  # this row has no text key
    assert answer.status_code in {200, 404} or unaddressed, (address, answer.status_code)
    content = b"".join(answer) if answer.streaming else answer.content
    found = UNESCAPED.search(content)
    assert not found, (address, content[max(found.start() - 300, 0) : found.end() + 50])
    assert SECRET.encode() not in content, address
    return str(content.decode())


def shell(capsys: Any, *argv: str) -> str:
    """Return the output of a command after checking that it has no traceback and no control characters."""
    command = load_command_class(app_of(argv[0]), argv[0])
    try:
        command.run_from_argv(["manage.py", *argv])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    printed = capsys.readouterr()
    assert code in {0, 2, 3}, (argv, printed.err)
    for text in (printed.out, printed.err):
        found = CONTROLS.search(text)
        assert not found, (argv, repr(text[max(found.start() - 100, 0) : found.end() + 50]))
        assert SECRET not in text
        assert "Traceback" not in text
    if "--json" in argv and code != 2:
        json.loads(printed.out)
    return str(printed.out)


def app_of(command: str) -> str:
    from django.core.management import get_commands

    app = get_commands()[command]
    assert isinstance(app, str)
    return app


def cells(kind: str, data: bytes) -> Iterator[str]:
    """Return every text of a file as a spreadsheet reads it."""
    if kind == "csv":
        for row in csv.reader(io.StringIO(data.decode(), newline="")):
            yield from row
    else:
        for row in load_workbook(io.BytesIO(data)).active.iter_rows():
            assert all(cell.data_type != "f" for cell in row)
            yield from (cell.value for cell in row if isinstance(cell.value, str))


def exported(client: Any, model: str, resource: str, kind: str) -> bytes:
    address = reverse(f"admin:{model}_export")
    form = client.get(address).context["form"]
    number = next(n for n, label in form.fields["format"].choices if label == kind)
    fields = {name: "on" for name in form.fields if name.startswith(f"{resource}_")}
    answer = client.post(address, {"format": number, "resource": "0", **fields})
    assert answer.status_code == 200
    if b"longer than a cell" in answer.content:
        return b""
    return bytes(answer.content)


def test_pages(hostile: Any) -> None:
    for name in STORES:
        for model in models_of(name):
            if model not in admin.site._registry:
                continue
            pages = pages_of(hostile, model)
            assert pages, model
            for page in pages:
                seen(hostile, page)
            seen(hostile, pages[0], edit="1")
    for address in (
        "/admin/",
        "/admin/stores/",
        "/admin/dashboard/live/",
        "/admin/audits/taskaudit/coverage/",
        "/metrics",
    ):
        seen(hostile, address)
    for text in (MIX, "<script>alert(1)</script>", '"', "x" * 1_000):
        seen(hostile, reverse("search"), q=text, text=text, query=text)


def pages_of(client: Any, model: Any) -> list[str]:
    """Return the addresses of the list of a table and of the pages that it links."""
    meta = model._meta
    listed = seen(client, reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"))
    links = re.findall(rf'href="(/admin/{meta.app_label}/{meta.model_name}/[^"?]+/change/)', listed)
    return sorted({html.unescape(link) for link in links})


OPERATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("audits.backfill_decision_fields", {}),
    ("helix.scan_dirty_data", {}),
    ("audits.check_references", {}),
    ("records.backfill_execution_ids", {}),
    ("roadmaps.check_recovery", {}),
    ("agentos.clean_memory_items", {}),
    *(("monitoring.check_store", {"store": name}) for name in STORES),
)


def test_runs_findings_and_messages(hostile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def post(url: str, **options: Any) -> Any:
        sent.append(options["content"])
        return httpx.Response(200, request=httpx.Request("POST", url))

    monkeypatch.setattr(httpx, "post", post)
    for name, parameters in OPERATIONS:
        planned = start(operation_called(name, **parameters), note=MIX)
        seen(hostile, reverse("run", args=[planned.pk]))
    for run in Run.objects.all():
        work(run)
        for tab in ("?tab=changes", "?tab=report"):
            seen(hostile, reverse("run", args=[run.pk]) + tab)
        seen(hostile, reverse("run-live", args=[run.pk]))
    assert Finding.objects.filter(subject__contains="script").exists()
    notifications.create_alert("key", f"{MIX} {SECRET}", f"{MIX} {SECRET}")
    while Delivery.objects.filter(delivered_at=None).exists():
        assert notifications.deliver()
    assert len(mail.outbox) == len(sent) == Alert.objects.count()
    texts = [f"{one.subject} {one.body}" for one in mail.outbox]
    for text in texts + [json.dumps(json.loads(one), ensure_ascii=False) for one in sent]:
        assert not CONTROLS.search(text)
        assert SECRET not in text
    Event.objects.create(verb="note", who=MIX[:100], detail={"text": MIX, MIX: [MIX, SECRET]})
    for model in ("run", "event", "finding", "alert"):
        seen(hostile, f"/admin/operations/{model}/")
        for kind in ("csv", "xlsx"):
            data = exported(hostile, f"operations_{model}", f"{model}resource", kind)
            texts = list(cells(kind, data)) if data else []
            assert kind == "xlsx" or any("HYPERLINK" in text for text in texts), model
            assert not [text[:40] for text in texts if FORMULA.match(text)]
            assert SECRET.encode() not in data


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_exports_of_tables(hostile: Any, kind: str) -> None:
    """No cell is a formula, and an import of the export restores the values."""
    with closing(sqlite3.connect(connections["agentos"].settings_dict["NAME"])) as client:
        # A cell of XLSX has a maximum length. CSV contains neither U+0000 nor invalid UTF-8.
        client.execute("DELETE FROM tasks WHERE task_id LIKE 'key %' OR instr(title, char(0))")
        client.execute(f"DELETE FROM tasks WHERE CAST(title AS BLOB) = X'{SURROGATE.hex()}'")
        client.commit()
        data = exported(hostile, "agentos_task", "taskresource", kind)
        assert not [text[:40] for text in cells(kind, data) if FORMULA.match(text)]
        format_: Any = {"csv": file_formats.CSV, "xlsx": file_formats.XLSX}[kind]
        dataset = format_().create_dataset(data)
        assert set(dataset["title"]) == {row[0] for row in client.execute("SELECT title FROM tasks")}


def test_commands(hostile: Any, capsys: Any) -> None:
    for argv in (
        ("stores",),
        ("store_stats", "agentos"),
        ("backfill_audit_decision_fields", "--dry-run"),
        ("audit_coverage",),
        ("clean_memory_items",),
        ("search", "alert"),
        ("search", MIX),
        ("cleanup_dirty_data", "scan"),
        ("cleanup_dirty_data", "verify"),
        ("backfill_execution_ids", "--dry-run"),
        ("execution_status", MIX),
        ("check_task_recovery_status", "--all"),
        ("check_task_recovery_status", MIX),
        ("verify_framework_sync", "--all"),
        ("sync_task_results_to_framework", "--all", "--dry-run"),
        *(("check_store", name) for name in STORES),
        ("backup_store", "agentos"),
        ("backup_store", "--list"),
        ("runs", "list"),
        ("runs", "show", "1"),
        ("upgrade_store", "agentos"),
        ("run", MIX),
    ):
        shell(capsys, *argv)
        if argv[0] not in {"backup_store", "run"} and MIX not in argv:
            shell(capsys, *argv, "--json")


def test_pages_and_checks_on_postgresql(postgres: Any, agentos_template: str, hostile: Any) -> None:
    from tests.conftest import attach_url

    url = postgres.create_database("agentos_hostile", like=agentos_template)
    store: Store = attach_url("agentos", url, attached=False)
    with store.connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for model in models_of("agentos"):
            columns = list(model._meta.concrete_fields)
            names = ", ".join(f'"{column.column}"' for column in columns)
            for row in rows_of(columns, types=True):
                marks = ", ".join(["%s"] * len(row))
                with suppress(DatabaseError):  # a check of the table
                    cursor.execute(f"INSERT INTO {model._meta.db_table} ({names}) VALUES ({marks})", row)
    store.close()
    for model in models_of("agentos"):
        for page in pages_of(hostile, model):
            seen(hostile, page)
    execute_run(operation_called("monitoring.check_store", store="agentos"))
    execute_run(operation_called("audits.check_references"))
    for run in Run.objects.all():
        seen(hostile, reverse("run", args=[run.pk]))
    store.close()
    postgres.drop_database("agentos_hostile")
