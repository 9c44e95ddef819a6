"""Tests of all pages of AgentOS, with manual edits, deletes, imports and exports, on both engines."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import struct
import zipfile

import pytest
import tablib
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from openpyxl import Workbook, load_workbook

from audits import demo as audits_demo
from opsconsole.accounts import sessions
from opsconsole.console import file_formats, store_import_export
from opsconsole.engine import workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run
from opsconsole.stores.router import store_of
from tasks.agentos import demo as agentos_demo
from tests.audits.test_audits_admin import signed_in
from tests.conftest import attach_url
from tests.support import agentos

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

AT = "2026-01-20 10:00:00"
# Model → table, columns, and a function that returns the row of a number.
TABLES = {
    "agentos.task": (
        "tasks",
        "task_id title status session_id metadata",
        lambda n: (f"T{n:04}", f"task {n}", "running", f"S{n % 7}", '{"a": 1}'),
    ),
    "agentos.tasklineage": ("task_lineage", "task_id kind ref_id", lambda n: ("T0000", "intent", f"ref {n}")),
    "agentos.taskreposcope": (
        "task_repo_scope",
        "task_id repo_id scope path_filters",
        lambda n: ("T0000", f"r{n}", "paths", '["a/*"]'),
    ),
    "agentos.taskdependency": (
        "task_dependency",
        "task_id depends_on_task_id dependency_type",
        lambda n: ("T0000", f"T{n + 1:04}", "blocks"),
    ),
    "agentos.taskartifactref": (
        "task_artifact_ref",
        "task_id repo_id ref_type ref_value",
        lambda n: ("T0000", "r", "commit", f"{n:040x}"),
    ),
    "audits.taskaudit": ("task_audits", "task_id event_type payload", lambda n: ("T0000", "TOOL_CALLED", "{}")),
    "audits.guardianverdict": (
        "guardian_verdicts",
        "id task_id triggered_by policy_json decision created_at",
        lambda n: (f"V{n:04}", "T0000", "x", "{}", "warn", AT),
    ),
    "audits.inboxentry": (
        "supervisor_inbox",
        "id task_id event_type event_ts created_at",
        lambda n: (f"I{n:04}", "T0000", "x", AT, AT),
    ),
    "agentos.project": ("projects", "id path name tags", lambda n: (f"P{n:04}", f"/srv/{n}", f"project {n}", '["a"]')),
    "agentos.projectrepo": ("project_repos", "project_id repo_id repo_path", lambda n: ("P0000", f"r{n}", "/srv/r")),
    "agentos.webuisession": (
        "webui_sessions",
        "session_id user_id created_at updated_at",
        lambda n: (f"S{n}", "ann", AT, AT),
    ),
    "agentos.webuimessage": (
        "webui_messages",
        "message_id session_id role content created_at",
        lambda n: (f"M{n:04}", "S0", "user", f"words {n}", AT),
    ),
    "agentos.kbsource": (
        "kb_sources",
        "source_id project_id source_type source_path",
        lambda n: (f"K{n:04}", "P0000", "file", f"/doc/{n}"),
    ),
    "agentos.kbchunk": (
        "kb_chunks",
        "chunk_id source_id content chunk_index created_at",
        lambda n: (f"C{n:04}", "K0000", f"text {n}", n, AT),
    ),
    "agentos.kbembedding": (
        "kb_embeddings",
        "chunk_id embedding model_name created_at",
        lambda n: (f"C{n:04}", struct.pack("<4f", 1, 0.5, -0.25, n), "small", AT),
    ),
    "agentos.memoryitem": (
        "memory_items",
        "id scope type content project_id",
        lambda n: (f"Y{n:04}", "project", "decision", '{"what": "x"}', "P0000"),
    ),
}
READ_ONLY = {"audits.taskaudit", "audits.guardianverdict", "audits.inboxentry", "agentos.kbembedding"}
EDITABLE = sorted(set(TABLES) - READ_ONLY)


def fill(managed, rows):
    """Add `rows` rows to each table."""
    for table, *_rest in reversed(TABLES.values()):
        managed.execute(f"DELETE FROM {table}")
    for table, columns, row in TABLES.values():
        names = columns.split()
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        if managed.engine == "postgresql":
            managed.client.cursor().executemany(sql.replace("?", "%s"), [row(n) for n in range(rows)])
        else:
            managed.client.executemany(sql, [row(n) for n in range(rows)])


def url(model, page, *args, **query):
    return reverse(f"admin:{model.replace('.', '_')}_{page}", args=args, query=query or None)


def first_key(managed, model):
    table = TABLES[model][0]
    key = connections["agentos"].introspection.get_primary_key_column(connections["agentos"].cursor(), table)
    return managed.execute(f"SELECT {key} FROM {table} ORDER BY {key} LIMIT 1")[0][0]


def queries(client, address):
    with CaptureQueriesContext(connections["agentos"]) as store, CaptureQueriesContext(connections["default"]) as own:
        response = client.get(address)
    assert response.status_code == 200, address
    return [query["sql"] for query in store.captured_queries], [query["sql"] for query in own.captured_queries]


@pytest.fixture
def alices(client, alice):
    return signed_in(client, alice)


@pytest.fixture
def bobs(client, bob):
    return signed_in(client, bob)


# --- speed ----------------------------------------------------------------------------------------------------


def test_the_number_of_queries_does_not_grow_with_the_rows(alices, managed, monkeypatch):
    monkeypatch.setattr(sessions, "NOTED_SECONDS", 3_600)  # a page saves the session once in this time
    fill(managed, 3)
    for model in TABLES:  # queries that a process makes once
        alices.get(url(model, "changelist"))
        alices.get(url(model, "change", first_key(managed, model)))
    asked: dict[tuple[str, int], tuple[int, int]] = {}
    for rows in (10, 300):
        fill(managed, rows)
        for model in TABLES:
            pages = [
                url(model, "changelist"),
                url(model, "changelist", q="T0000"),
                url(model, "change", first_key(managed, model)),
            ]
            if model in EDITABLE:
                pages.append(url(model, "change", first_key(managed, model), edit=1))
            for number, page in enumerate(pages):
                store, own = queries(alices, page)
                assert asked.setdefault((model, number), (len(store), len(own))) == (len(store), len(own)), page
                assert not any("DISTINCT" in sql for sql in store)
                for sql in store:
                    assert "COUNT(" not in sql or "LIMIT 10001" in sql, sql


def test_lists_are_read_in_the_order_of_an_index(alices, managed):
    fill(managed, 300)
    for model in TABLES:
        seen, _ = queries(alices, url(model, "changelist"))
        (listed,) = [sql for sql in seen if "ORDER BY" in sql and not re.search("pg_|sqlite_master", sql)]
        if managed.engine == "sqlite":
            plan = [row[3] for row in managed.execute(f"EXPLAIN QUERY PLAN {listed}")]
            assert not any("TEMP B-TREE" in step for step in plan), (model, plan)
        else:
            managed.execute("SET enable_seqscan = off")  # reading 300 rows is faster without an index
            plan = [row[0] for row in managed.execute(f"EXPLAIN {listed}")]
            assert not any("Sort" in step for step in plan), (model, plan)


# --- contents -------------------------------------------------------------------------------------------------


@pytest.fixture
def two_tasks(managed):
    managed.execute("INSERT INTO tasks (task_id, title, metadata) VALUES ('a', 'first <b>', '{\"key\": [1, null]}')")
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('b', '第二个任务：数据迁移与校验')")
    return managed


def depend(managed, *pairs):
    for task, other in pairs:
        managed.execute("INSERT INTO task_dependency (task_id, depends_on_task_id) VALUES (?, ?)", task, other)


def test_the_page_of_a_task_shows_its_related_rows(alices, two_tasks):
    depend(two_tasks, ("a", "b"), ("b", "gone"))
    two_tasks.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('a', 'commit', 'c0ffee')")
    two_tasks.execute("INSERT INTO task_repo_scope (task_id, repo_id) VALUES ('a', 'repo-7')")
    two_tasks.execute(
        "INSERT INTO task_artifact_ref (task_id, repo_id, ref_type, ref_value) VALUES ('a', 'r', 'pr', 'pull/12')"
    )
    two_tasks.execute("INSERT INTO task_audits (task_id, event_type) VALUES ('a', 'TOOL_CALLED')")
    two_tasks.execute(
        "INSERT INTO guardian_verdicts (id, task_id, triggered_by, policy_json, decision, created_at)"
        " VALUES ('v1', 'a', 'x', '{}', 'reject', 'never')"
    )
    page = alices.get(url("agentos.task", "change", "a")).content.decode()
    for text in ("c0ffee", "repo-7", "pull/12", "TOOL_CALLED", "v1", "reject", "第二个任务", "graph-gone", "missing"):
        assert text in page, text
    assert "first &lt;b&gt;" in page
    assert "first <b>" not in page
    assert '<span class="json-nt">"key"</span>' in page  # highlighted
    assert page.count("<svg") == 1


def test_a_cycle_is_drawn_and_named(alices, two_tasks):
    depend(two_tasks, ("a", "b"), ("b", "a"), ("a", "a"))
    page = alices.get(url("agentos.task", "change", "a")).content.decode()
    assert "form a cycle" in page
    assert page.count("graph-cycle") == 3


def test_a_large_graph_is_cut(alices, managed):
    for number in range(200):
        managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, ?)", f"t{number}", f"task {number}")
    depend(managed, *((f"t{number}", "t0") for number in range(1, 200)))
    page = alices.get(url("agentos.task", "change", "t0")).content.decode()
    assert "The graph shows only the nearest 50 tasks." in page
    assert page.count("<g class=") == 50


def test_a_session_is_a_conversation(alices, managed):
    managed.execute(
        "INSERT INTO webui_sessions (session_id, user_id, created_at, updated_at) VALUES ('s', 'u', ?, ?)", AT, AT
    )
    said = [
        ("user", "请迁移数据库\n第二行", "2026-01-20 10:00:01"),
        ("assistant", "Done <i>now</i>", "2026-01-20 10:00:02"),
        ("robot", "?", "garbage"),
    ]
    for number, (role, content, at) in enumerate(said):
        managed.execute(
            "INSERT INTO webui_messages (message_id, session_id, role, content, created_at) VALUES (?, 's', ?, ?, ?)",
            f"m{number}",
            role,
            content,
            at,
        )
    page = alices.get(url("agentos.webuisession", "change", "s")).content.decode()
    assert (
        page.index("请迁移数据库\n第二行")
        < page.index("Done &lt;i&gt;now&lt;/i&gt;")
        < page.index("<strong>robot</strong>")
    )
    assert page.count('<li class="said said-') == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (struct.pack("<4f", 3, 0, 0, 4), "4 dimensions, norm 5"),
        (struct.pack("<4d", 3, 0, 0, 4), "4 dimensions, norm 5"),
        (b"[3, 4]", "2 dimensions, norm 5"),
        (b"\x00\xff\xff", "3 bytes of an unknown form"),
        (b"", "0 bytes of an unknown form"),
    ],
)
def test_embeddings_have_a_dimension_and_a_norm(alices, managed, value, words):
    fill(managed, 1)
    managed.execute("UPDATE kb_embeddings SET embedding = ?", value)
    assert words in alices.get(url("agentos.kbembedding", "changelist")).content.decode()
    assert words in alices.get(url("agentos.kbembedding", "change", "C0000")).content.decode()
    assert words in alices.get(url("agentos.kbchunk", "change", "C0000")).content.decode()


GARBAGE = {
    "sqlite": (
        "",
        "\x00",
        "2026-02-30 25:61",
        "9999-12-31 23:59:59",
        "{broken",
        "[" * 2_000,
        "<script>x</script>",
        b"\xff\xfe\x00",
        "9" * 400,
        "𝔘\ud7ff",
    ),
    "postgresql": ("", "2026-02-30 25:61", "{broken", "[" * 2_000, "<script>x</script>", "9" * 400),
}


def test_no_value_breaks_a_page(alices, managed):
    """Every page opens for garbage in each text column and for dangling references."""
    if managed.engine == "sqlite":
        managed.execute("PRAGMA foreign_keys=OFF")
    else:
        managed.execute("SET session_replication_role = replica")
    for model, (table, columns, row) in TABLES.items():
        fields = [
            f
            for f in apps.get_model(model)._meta.concrete_fields
            if f.db_type(connections["agentos"]) in ("text", "timestamp")
        ]
        fields = [f for f in fields if f.column not in ("tags", "settings", "status")]
        if managed.engine == "postgresql":
            fields = [f for f in fields if f.db_type(connections["agentos"]) == "text"]
        for number, value in enumerate(GARBAGE[managed.engine]):
            names = columns.split()
            values = dict(zip(names, row(number), strict=True))
            for field in fields:
                if not field.primary_key:
                    values[field.column] = value
            if table == "task_dependency":
                values["depends_on_task_id"] = f"x{number}"
            if table == "project_repos":
                values["repo_id"] = f"x{number}"
            managed.execute(
                f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", *values.values()
            )
    for model in TABLES:
        listed = alices.get(url(model, "changelist"))
        assert listed.status_code == 200, model
        assert "<script>x" not in listed.content.decode()
        rows = listed.context["cl"].result_list
        assert len(rows) == len(GARBAGE[managed.engine])
        for one in rows:
            for query in ({}, {"edit": 1}) if model in EDITABLE else ({},):
                page = alices.get(url(model, "change", one.pk, **query))
                assert page.status_code == 200, (model, one.pk)
                assert "<script>x" not in page.content.decode()


def test_a_row_without_a_key_breaks_nothing(alices, managed):
    if managed.engine == "sqlite":  # SQLite accepts NULL in a TEXT PRIMARY KEY
        managed.execute("INSERT INTO tasks (task_id, title) VALUES (NULL, 'no key')")
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('', 'empty key')")
    managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, 'odd key')", "a/b_5F?c")
    page = alices.get(url("agentos.task", "changelist"))
    assert "odd key" in page.content.decode()
    assert alices.get(url("agentos.task", "change", "a_2Fb_5F5F_3Fc")).status_code == 200


def test_choices_are_counted_by_their_index(alices, managed):
    fill(managed, 12)
    managed.execute("UPDATE projects SET status = 'archived' WHERE id < 'P0005'")
    page = alices.get(url("agentos.project", "changelist")).content.decode()
    assert "archived (5)" in page
    assert "active (7)" in page
    assert (
        len(alices.get(url("agentos.project", "changelist", status__exact="archived")).context["cl"].result_list) == 5
    )


def test_words_are_found_best_first_and_marked(alices, managed):
    fill(managed, 2)
    for key, text in (
        ("c1", "the gateway, then the gateway, again the gateway"),
        ("c2", "a gateway"),
        ("c3", "数据迁移的网关"),
    ):
        managed.execute(
            "INSERT INTO kb_chunks (chunk_id, source_id, content, chunk_index, created_at)"
            " VALUES (?, 'K0000', ?, 1, ?)",
            key,
            text,
            AT,
        )
    managed.execute(
        "INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'global', 'decision', ?)",
        '{"what": "use the gateway"}',
    )

    def found(model, words):
        page = alices.get(url(model, "changelist", q=words))
        return [row.pk for row in page.context["cl"].result_list], page.content.decode()

    keys, page = found("agentos.kbchunk", "gateway")
    assert keys == ["c1", "c2"]
    assert "<mark>gateway</mark>" in page
    assert found("agentos.kbchunk", "网关")[0] == ["c3"]
    assert found("agentos.kbchunk", "c2")[0] == ["c2"]
    assert found("agentos.memoryitem", "GATEWAY")[0] == ["m"]
    assert found("agentos.memoryitem", "nothing of the kind")[0] == []
    assert found("agentos.memoryitem", '"')[0] == []


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_the_demo_has_something_in_every_table(alices, managed):
    for _ in range(2):  # the second call finds rows and adds none
        list(agentos_demo.load())
        list(audits_demo.load())
    counts = {table: managed.execute(f"SELECT COUNT(*) FROM {table}")[0][0] for table, *_rest in TABLES.values()}
    assert min(counts.values()) > 0, counts
    assert counts["webui_sessions"] == 20
    assert managed.execute("SELECT COUNT(*) FROM memory_items WHERE expires_at < datetime('now')") == [(12,)]
    gone = "SELECT COUNT(*) FROM task_artifact_ref WHERE task_id NOT IN (SELECT task_id FROM tasks)"
    assert managed.execute(gone) == [(1,)]
    task = f"01JHT{5:021d}"
    assert "form a cycle" in alices.get(url("agentos.task", "change", task)).content.decode()
    for model in TABLES:
        assert alices.get(url(model, "changelist")).status_code == 200


# --- older and other stores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.5.0", "0.21.0", "0.25.0"])
def test_an_attached_store_shows_existing_columns_and_is_read_only(alices, tmp_path, version):
    agentos.create_sqlite(tmp_path / "old.db", 60, version=version)
    store = attach_url("agentos", f"sqlite:///{tmp_path / 'old.db'}")
    before = (tmp_path / "old.db").read_bytes()
    for model, (table, *_rest) in TABLES.items():
        there = table in store.tables
        assert alices.get(url(model, "changelist")).status_code == (200 if there else 503)
        if there:
            assert alices.get(url(model, "export")).status_code == 200
            assert b"audit_id" in export(alices, "audits.taskaudit", file_formats.CSV)
        if model in EDITABLE:
            assert alices.get(url(model, "add")).status_code == 403
            assert alices.get(url(model, "import")).status_code == 403
    key = f"01TASK{0:020d}"
    page = alices.get(url("agentos.task", "change", key))
    assert page.status_code == 200
    assert f"{key}/edit/" not in page.content.decode()
    assert alices.post(url("agentos.task", "change", key), {"title": "x"}).status_code == 403
    assert alices.post(url("agentos.task", "delete", key), {"post": "yes"}).status_code == 403
    assert (tmp_path / "old.db").read_bytes() == before


# --- permissions ----------------------------------------------------------------------------------------------


def test_permissions_by_role(client, charlie, viewer, bob, managed):
    fill(managed, 2)
    for model in TABLES:
        key = first_key(managed, model)
        pages = {
            name: url(model, name, *([key] if name in ("change", "delete") else []))
            for name in ("changelist", "change", "add", "delete", "export")
        }
        if model in EDITABLE:
            pages["import"] = url(model, "import")
        signed_in(client, charlie)
        assert {client.get(page).status_code for page in pages.values()} == {403}, model
        signed_in(client, viewer)
        seen = {name for name, page in pages.items() if client.get(page).status_code == 200}
        assert seen == {"changelist", "change", "export"}, model
        assert client.post(pages["change"], {}).status_code == 403
        signed_in(client, bob)
        seen = {name for name, page in pages.items() if client.get(page).status_code == 200}
        assert seen == (set(pages) - {"delete"} if model in EDITABLE else {"changelist", "change", "export"}), model


# --- manual edits ---------------------------------------------------------------------------------------------


def save(client, model, key, **changed):
    """Post the form as a browser would, with these values changed."""
    page = client.get(url(model, "change", key, edit=1))
    form = page.context["adminform"].form
    data = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    return client.post(url(model, "change", key, edit=1), data | changed)


def test_only_changed_fields_are_written_and_the_change_is_logged(bobs, managed, bob):
    managed.execute(
        "INSERT INTO tasks (task_id, title, status, metadata, created_by, session_id)"
        " VALUES ('t', ' a ', NULL, ?, '', NULL)",
        "{broken\nlines ",
    )
    before = managed.execute("SELECT * FROM tasks")
    assert save(bobs, "agentos.task", "t").status_code == 302
    assert managed.execute("SELECT * FROM tasks") == before
    with CaptureQueriesContext(connections["agentos"]) as seen:
        assert save(bobs, "agentos.task", "t", title=" 007 ").status_code == 302
    written = [query["sql"] for query in seen if query["sql"].startswith("UPDATE")]
    assert all('"metadata"' not in sql and '"title"' in sql for sql in written)
    assert managed.execute("SELECT title, status, metadata, created_by, session_id FROM tasks") == [
        (" 007 ", None, "{broken\nlines ", "", None)
    ]
    entry = LogEntry.objects.latest("pk")
    assert (entry.user_id, entry.action_flag, entry.object_id) == (bob.pk, CHANGE, "t")


def test_a_database_error_is_shown_in_the_form(bobs, managed):
    managed.execute("INSERT INTO projects (id, path) VALUES ('p', '/p')")
    page = save(bobs, "agentos.project", "p", tags="{broken")
    assert page.status_code == 200
    assert "Invalid tags: must be valid JSON" in page.content.decode()
    page = bobs.post(url("agentos.projectrepo", "add"), {"project": "nowhere", "repo_id": "r", "repo_path": "/r"})
    assert page.status_code == 200
    assert managed.execute("SELECT tags FROM projects") == [(None,)]
    assert managed.execute("SELECT COUNT(*) FROM project_repos") == [(0,)]
    assert not LogEntry.objects.exists()


def test_rows_are_added_by_hand(bobs, managed):
    assert (
        bobs.post(url("agentos.task", "add"), {"task_id": "007", "title": "new", "status": "created"}).status_code
        == 302
    )
    assert managed.execute("SELECT task_id, title, metadata FROM tasks") == [("007", "new", None)]
    page = bobs.post(url("agentos.task", "add"), {"task_id": "007", "title": "again"})
    assert page.status_code == 200
    assert (
        bobs.post(
            url("agentos.taskdependency", "add"),
            {"task": "007", "depends_on_task": "007", "dependency_type": "requires"},
        ).status_code
        == 302
    )
    assert LogEntry.objects.filter(action_flag=ADDITION).count() == 2


def test_a_dangling_reference_may_stay(bobs, managed):
    managed.execute(
        "INSERT INTO task_artifact_ref (task_id, repo_id, ref_type, ref_value) VALUES ('gone', 'r', 'odd', 'x')"
    )
    key = first_key(managed, "agentos.taskartifactref")
    assert save(bobs, "agentos.taskartifactref", key, summary="kept").status_code == 302
    assert managed.execute("SELECT task_id, ref_type, summary FROM task_artifact_ref") == [("gone", "odd", "kept")]
    assert save(bobs, "agentos.taskartifactref", key, task="elsewhere").status_code == 200


# --- deleting -------------------------------------------------------------------------------------------------


def plan_delete(client, model, *keys):
    """Plan a delete as the list's action does. Return the planned run."""
    data = {"action": "operations.delete_rows", "_selected_action": keys}
    assert client.post(url(model, "changelist"), data).status_code == 302
    return Run.objects.latest("pk")


def executed(client, run):
    assert client.post(reverse("run-confirm", args=[run.pk]), {"digest": run.digest}).status_code == 302
    run.refresh_from_db()
    return Executor(workers.claim(run)).work()


def test_a_delete_is_a_run_and_can_be_undone(bobs, managed):
    fill(managed, 5)
    before = {table: managed.execute(f"SELECT * FROM {table} ORDER BY 1") for table in ("tasks", "task_audits")}
    run = plan_delete(bobs, "agentos.task", "T0000")
    assert run.plan["rows"] == {"task_lineage": 5, "task_repo_scope": 5, "task_audits": 5, "tasks": 1}
    page = bobs.get(reverse("run", args=[run.pk])).content.decode()
    assert "Delete 1 row" in page
    assert "task_audits: 5 rows are deleted with them." in page
    assert managed.execute("SELECT COUNT(*) FROM tasks") == [(5,)]
    run = executed(bobs, run)
    assert (run.status, run.changed) == ("succeeded", 1)
    assert managed.execute("SELECT COUNT(*) FROM task_audits") == [(0,)]
    bobs.post(reverse("run-act", args=[run.pk, "undo"]))
    assert executed(bobs, Run.objects.latest("pk")).status == "succeeded"
    for table, rows in before.items():
        assert managed.execute(f"SELECT * FROM {table} ORDER BY 1") == rows


def test_referenced_rows_are_not_deleted(bobs, managed):
    fill(managed, 3)
    run = plan_delete(bobs, "agentos.project", "P0000")
    assert run.plan["reasons"]["invalid"] == {"referenced": 1}
    assert "kb_sources: 3 rows refer to the selected rows" in bobs.get(reverse("run", args=[run.pk])).content.decode()
    assert managed.execute("SELECT COUNT(*) FROM projects WHERE id = 'P0000'") == [(1,)]


def test_rows_referred_to_by_an_unknown_table_are_kept(bobs, managed):
    fill(managed, 2)
    managed.execute(
        "CREATE TABLE task_runs (run_id TEXT PRIMARY KEY,"
        " lineage_id BIGINT REFERENCES task_lineage (lineage_id) ON DELETE CASCADE)"
    )
    managed.execute("INSERT INTO task_runs SELECT 'r', MIN(lineage_id) FROM task_lineage")
    run = plan_delete(bobs, "agentos.task", "T0000")
    assert run.plan["reasons"]["invalid"] == {"referenced": 1}
    assert managed.execute("SELECT COUNT(*) FROM task_runs") == [(1,)]


def test_selected_rows_go_together(bobs, managed):
    fill(managed, 4)
    run = executed(bobs, plan_delete(bobs, "agentos.task", "T0000", "T0001"))
    assert (run.status, run.changed) == ("succeeded", 2)
    assert managed.execute("SELECT COUNT(*) FROM tasks") == [(2,)]


def test_djangos_delete_is_disabled_for_every_account(alices, managed):
    fill(managed, 1)
    key = first_key(managed, "agentos.task")
    assert alices.get(url("agentos.task", "delete", key)).status_code == 403
    assert alices.post(url("agentos.task", "delete", key), {"post": "yes"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": [key], "post": "yes"}
    alices.post(url("agentos.task", "changelist"), data)
    assert managed.execute("SELECT COUNT(*) FROM tasks") == [(1,)]
    request = RequestFactory().get("/")
    for model, model_admin in admin.site._registry.items():
        if store_of(model) != "default":
            assert not model_admin.has_delete_permission(request), model


# --- files ----------------------------------------------------------------------------------------------------

FORMATS = (file_formats.CSV, file_formats.XLSX, file_formats.JSON)
in_each_format = pytest.mark.parametrize("format_", FORMATS, ids=lambda cls: cls.__name__)


def number_of(format_):
    return str(FORMATS.index(format_))


def export(client, model, format_, **query):
    page = client.get(url(model, "export"))
    fields = {
        name: "on"
        for name in page.context["form"].fields
        if "_" in name and name not in ("resource", "format", "export_items")
    }
    response = client.post(url(model, "export", **query), {"format": number_of(format_), "resource": "0", **fields})
    assert response.status_code == 200
    assert "attachment" in response["Content-Disposition"], response.content.decode()[-3000:]
    return response.content


def upload(client, model, format_, content):
    file = SimpleUploadedFile(f"rows.{format_.__name__.lower()}", content)
    return client.post(url(model, "import"), {"format": number_of(format_), "resource": "0", "import_file": file})


def imported(client, model, format_, content):
    """Import a file and return its finished run."""
    assert upload(client, model, format_, content).status_code == 302
    return executed(client, Run.objects.latest("pk"))


def outcome_of(run):
    """Return the numbers of new, changed and unchanged rows of a plan."""
    changed, skipped = run.plan["reasons"]["changed"], run.plan["reasons"]["skipped"]
    return changed.get("new", 0), changed.get("updated", 0), skipped.get("as_given", 0)


ODD = [
    "007", "", None, " a ", "=1+1", "'=x", "'", "''", "'tis", "-5", "+1", "@x", "NULL", "None", "null", "line\nbreak",
    "line\r\nbreak", "\ttab", "_x000D_", "_x0041_", "\x01", "引号“”", "𝔘", '"quoted", text', "1e3", "0x10", "TRUE",
    "1.50", "2026-01-01", "x" * 5_000, " ",
]  # fmt: skip


@in_each_format
def test_an_import_restores_exactly_what_was_exported(bobs, managed, format_):
    for number, text in enumerate(ODD):
        managed.execute(
            "INSERT INTO tasks (task_id, title, status, metadata, created_at) VALUES (?, ?, ?, ?, NULL)",
            f"{number:03}", text if text is not None else "", text, text,
        )  # fmt: skip
    before = managed.execute("SELECT * FROM tasks ORDER BY task_id")
    content = export(bobs, "agentos.task", format_)
    page = bobs.get(upload(bobs, "agentos.task", format_, content).url)
    assert f"0 new, 0 changed, {len(ODD)} unchanged. There are no changes to import." in page.content.decode()
    managed.execute("DELETE FROM tasks")
    assert upload(bobs, "agentos.task", format_, content).status_code == 302
    run = Run.objects.latest("pk")
    assert outcome_of(run) == (len(ODD), 0, 0)
    assert managed.execute("SELECT COUNT(*) FROM tasks") == [(0,)]  # a preview
    assert executed(bobs, run).status == "succeeded"
    assert managed.execute("SELECT * FROM tasks ORDER BY task_id") == before


@in_each_format
@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_all_tables_can_be_exported(alices, managed, format_):
    fill(managed, 3)
    for model, (_table, columns, _row) in TABLES.items():
        content = export(alices, model, format_)
        if format_ is file_formats.CSV:
            rows = list(csv.DictReader(io.StringIO(content.decode())))
        elif format_ is file_formats.JSON:
            rows = json.loads(content)
        else:
            sheet = load_workbook(io.BytesIO(content)).active
            header, *cells = sheet.iter_rows(values_only=True)
            rows = [dict(zip(header, row, strict=True)) for row in cells]
        assert len(rows) == 3
        assert set(columns.split()) <= set(rows[0])


def test_an_export_contains_the_listed_rows(alices, managed):
    fill(managed, 5)
    assert len(json.loads(export(alices, "agentos.task", file_formats.JSON, session_id="S1"))) == 1


def test_changes_are_previewed_and_only_they_are_written(bobs, managed):
    managed.execute("INSERT INTO projects (id, path, name) VALUES ('p', '/p', 'old')")
    managed.execute("INSERT INTO projects (id, path, name) VALUES ('q', '/q', 'same')")
    content = b"id,name\r\np,new\r\nq,same\r\n"
    page = bobs.get(upload(bobs, "agentos.project", file_formats.CSV, content).url)
    run = Run.objects.latest("pk")
    assert outcome_of(run) == (0, 1, 1)
    assert run.writes == {"projects": ["name"]}
    assert "<ins>new</ins>" in page.content.decode()
    assert executed(bobs, run).status == "succeeded"
    assert managed.execute("SELECT name FROM projects ORDER BY id") == [("new",), ("same",)]


@pytest.mark.parametrize(
    ("model", "content", "said"),
    [
        ("agentos.project", "id,path,tags\na,/a,[]\nb,/b,{broken\n", "Row 2 The database rejected the row"),
        ("agentos.project", "id,path,status\na,/a,gone\n", "Row 1, status: gone is not a known value."),
        ("agentos.project", "id,path\n,/a\n", "Row 1, id: A new row requires a value."),
        (
            "agentos.projectrepo",
            "project_id,repo_id,repo_path\nnowhere,r,/r\n",
            (
                "Row 1, project_id: The project nowhere does not exist.",
                "Key (project_id)=(nowhere) is not present in table",
            ),
        ),
        ("agentos.project", "id,path,colour\na,/a,red\n", "projects has no column colour."),
        ("agentos.project", "id,path,id\na,/a,b\n", "contains columns id twice"),
        ("agentos.project", "id,path\na,/a\nb,/b\na,/b\n", "Rows 1 and 3 have the same key a. Keep one of them."),
        (
            "agentos.kbchunk",
            "chunk_id,source_id,content,chunk_index,created_at\nc,s,x,one,now\n",
            "Row 1, chunk_index: one is not an integer.",
        ),
        ("agentos.project", "path\n/a\n", "Row 1, id: A new row requires a value."),
        ("agentos.project", "id,name\na,b\n", "Row 1, path: A new row requires a value."),
        ("agentos.kbsource", "source_id,project_id,source_type,source_path\n", "The file does not contain rows."),
    ],
)  # fmt: skip
def test_rejected_rows_of_an_import_are_listed(bobs, managed, model, content, said):
    page = upload(bobs, model, file_formats.CSV, content.encode())
    assert page.status_code == 200
    text = " ".join(page.content.decode().replace("<strong>", "").replace("</strong>", "").split())
    assert any(words in text for words in ([said] if isinstance(said, str) else said)), page.context["preview"]
    assert not Run.objects.exists()
    assert managed.execute(f"SELECT COUNT(*) FROM {TABLES[model][0]}") == [(0,)]


def test_a_file_with_the_same_key_twice_is_refused(bobs, managed):
    managed.execute("INSERT INTO projects (id, path, name) VALUES ('p', '/p', 'old')")
    for first in ("one", "old"):
        page = upload(bobs, "agentos.project", file_formats.CSV, f"id,name\np,{first}\np,two\n".encode())
        assert "Rows 1 and 2 have the same key p. Keep one of them." in page.content.decode()
    assert not Run.objects.exists()


def test_a_row_that_violates_a_constraint_fails_alone(bobs, managed):
    assert upload(bobs, "agentos.project", file_formats.CSV, b"id,path\na,/a\nb,/b\n").status_code == 302
    managed.execute("CREATE UNIQUE INDEX one_path ON projects (path)")
    managed.execute("INSERT INTO projects (id, path) VALUES ('c', '/b')")
    run = executed(bobs, Run.objects.latest("pk"))
    assert (run.status, run.changed, run.failed) == ("needs_attention", 1, 1)
    assert managed.execute("SELECT id FROM projects ORDER BY id") == [("a",), ("c",)]
    managed.execute("DROP INDEX one_path")
    bobs.post(reverse("run-act", args=[run.pk, "retry"]))
    assert executed(bobs, Run.objects.latest("pk")).status == "succeeded"
    assert managed.execute("SELECT id, path FROM projects ORDER BY id") == [("a", "/a"), ("b", "/b"), ("c", "/b")]


@in_each_format
@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_too_many_rows_are_refused(bobs, managed, format_, monkeypatch):
    monkeypatch.setattr(file_formats, "MAX_IMPORTED", 20)
    data = tablib.Dataset(*[(f"t{number}", "x") for number in range(21)], headers=["task_id", "title"])
    page = upload(bobs, "agentos.task", format_, format_().export_data(data))
    assert "The file has more than 20 rows." in page.content.decode()


@pytest.mark.parametrize(
    ("format_", "content"),
    [
        (file_formats.CSV, b"\xff\xfe"), (file_formats.CSV, b""), (file_formats.CSV, b'id\n"open'),
        (file_formats.JSON, b"{"),
        (file_formats.JSON, b"[1]"),
        (file_formats.XLSX, b"no zip"), (file_formats.JSON, b"[" * 5_000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_an_unreadable_file_is_reported(bobs, managed, format_, content):
    page = upload(bobs, "agentos.task", format_, content)
    assert page.status_code == 200
    assert page.context["form"].errors["import_file"]


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_json_rows_may_differ_in_their_keys_and_hold_documents(bobs, managed):
    managed.execute("INSERT INTO projects (id, path, name) VALUES ('p', '/p', 'kept')")
    rows = (
        b'[{"path": "/new", "id": "p", "settings": {"a": 1.50}}, {"id": "q", "name": 7, "path": "/q", "tags": ["x"]}]'
    )
    imported(bobs, "agentos.project", file_formats.JSON, rows)
    assert managed.execute("SELECT id, path, name, tags, settings FROM projects ORDER BY id") == [
        ("p", "/new", "kept", None, '{"a": 1.50}'),
        ("q", "/q", "7", '["x"]', None),
    ]


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_numbers_and_dates_of_a_spreadsheet_become_text(bobs, managed):
    from datetime import datetime

    book = Workbook()
    book.active.append(["task_id", "title", "status", "created_at", "metadata"])
    book.active.append([7, 1.5, True, datetime(2026, 1, 20, 10), None])  # noqa: DTZ001
    out = io.BytesIO()
    book.save(out)
    imported(bobs, "agentos.task", file_formats.XLSX, out.getvalue())
    assert managed.execute("SELECT task_id, title, status, created_at, metadata FROM tasks") == [
        ("7", "1.5", "true", "2026-01-20 10:00:00", None)
    ]


def workbook(*rows):
    """Return a workbook whose formulas have not been calculated."""
    book = Workbook()
    for row in rows:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def calculated(content, cell, value, kind=""):
    """Return the workbook with a calculated value in one cell."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
        for name in old.namelist():
            data = old.read(name).decode()
            if name == "xl/worksheets/sheet1.xml":
                head, _at, rest = data.partition(f'<c r="{cell}"')
                attributes, _end, rest = rest.partition(">")
                rest = rest.replace("<v />", f"<v>{value}</v>", 1).replace("<v></v>", f"<v>{value}</v>", 1)
                data = f'{head}<c r="{cell}"{kind}{attributes}>{rest}'
            new.writestr(name, data)
    return found.getvalue()


LARGE = 2**53 + 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [[LARGE, "t", "intent", "a"]],
            "Row 1, lineage_id: The spreadsheet has rounded the number 9007199254740992.",
        ),
        ([[1, "t", "intent", "a"], [2, "t", "intent", float(2**60)]], "Row 2, ref_id: The spreadsheet has rounded"),
        ([[1, "t", "intent", "a"], ["=1+1", "t", "intent", "b"]], "Row 2, lineage_id: The formula has no stored"),
        ([[1, "t", '="in"&"tent"', "a"]], "Row 1, kind: The formula has no stored value."),
        ([["=A1", "=B1", "=C1", "=D1"]], "Row 1, lineage_id: The formula has no stored value."),
        ([[1, "t", "intent", "#REF!"]], "Row 1, ref_id: The cell contains the error #REF!"),
    ],
)
@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_unrepresentable_values_of_a_spreadsheet_are_reported(bobs, managed, rows, said):
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('t', 't')")
    content = workbook(["lineage_id", "task_id", "kind", "ref_id"], *rows)
    page = upload(bobs, "agentos.tasklineage", file_formats.XLSX, content)
    text = " ".join(html.unescape(page.content.decode()).replace("<strong>", "").replace("</strong>", "").split())
    assert said in text, page.context.get("preview")
    assert not Run.objects.exists()
    assert managed.execute("SELECT COUNT(*) FROM task_lineage") == [(0,)]


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_a_formula_counts_as_its_saved_value(bobs, managed):
    content = workbook(["task_id", "title"], ["a", '="two"&" words"'], [None, None], ["b", "=6*7"])
    content = calculated(calculated(content, "B2", "two words", ' t="str"'), "B4", "42")
    imported(bobs, "agentos.task", file_formats.XLSX, content)
    assert managed.execute("SELECT task_id, title FROM tasks ORDER BY 1") == [("a", "two words"), ("b", "42")]


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_a_sheet_with_a_wrong_dimension_is_read_completely(bobs, managed):
    found = io.BytesIO()
    content = workbook(["task_id", "title"], ["a", "x"], ["b", "y"])
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'<dimension ref="A1:B3" />', b'<dimension ref="A1:A2" />'))
    assert b'ref="A1:A2"' in zipfile.ZipFile(found).read("xl/worksheets/sheet1.xml")
    imported(bobs, "agentos.task", file_formats.XLSX, found.getvalue())
    assert managed.execute("SELECT task_id, title FROM tasks ORDER BY 1") == [("a", "x"), ("b", "y")]


@in_each_format
def test_large_numbers_survive_a_file(bobs, managed, format_):
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('t', 't')")
    numbers = [2**53 - 1, 2**53, LARGE, 2**63 - 1]
    for number in numbers:
        managed.execute(
            "INSERT INTO task_lineage (lineage_id, task_id, kind, ref_id) VALUES (?, 't', 'intent', ?)",
            number,
            str(number),
        )
    content = export(bobs, "agentos.tasklineage", format_)
    page = bobs.get(upload(bobs, "agentos.tasklineage", format_, content).url)
    assert "0 new, 0 changed, 4 unchanged." in page.content.decode()
    managed.execute("DELETE FROM task_lineage")
    imported(bobs, "agentos.tasklineage", format_, content)
    assert [row[0] for row in managed.execute("SELECT lineage_id FROM task_lineage ORDER BY 1")] == numbers


@pytest.mark.parametrize(
    ("format_", "content", "said"),
    [
        (
            file_formats.JSON,
            '[{"id": "a", "confidence": 1}, {"id": "m", "confidence": NaN}]',
            "Row 2, confidence: NaN is not valid JSON.",
        ),
        (
            file_formats.JSON,
            '[{"id": "m", "content": {"a": [1, -Infinity]}}]',
            "Row 1, content: -Infinity is not valid JSON.",
        ),
        (file_formats.JSON, '[{"id": "m", "confidence": 1e999}]', "Row 1, confidence: 1e999 is not a number."),
        (file_formats.CSV, "id,confidence\nm,nan\n", "Row 1, confidence: nan is not a number."),
        (file_formats.CSV, "id,confidence\nm,inf\n", "Row 1, confidence: inf is not a number."),
    ],
)
def test_invalid_numbers_are_reported_by_row_and_column(bobs, managed, format_, content, said):
    managed.execute("INSERT INTO memory_items (id, scope, type, content) VALUES ('m', 'task', 'fact', '{}')")
    page = upload(bobs, "agentos.memoryitem", format_, content.encode())
    text = " ".join(html.unescape(page.content.decode()).replace("<strong>", "").replace("</strong>", "").split())
    assert said in text
    assert not Run.objects.exists()


@pytest.mark.parametrize("managed", ["postgresql"], indirect=True)
@in_each_format
def test_an_export_contains_values_that_files_cannot_represent_as_numbers(bobs, managed, format_):
    for name, value in (("a", "NaN"), ("b", "-Infinity"), ("c", "0.1")):
        columns, values = "id, scope, type, content, confidence", f"?, 'task', 'fact', '{{}}', '{value}'"
        managed.execute(f"INSERT INTO memory_items ({columns}) VALUES ({values})", name)
    content = export(bobs, "agentos.memoryitem", format_)
    dataset = format_().create_dataset(content)
    assert sorted(map(str, dataset["confidence"])) == ["-Infinity", "0.1", "NaN"]


def test_generated_keys_follow_imported_keys(bobs, managed):
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('t', 't')")
    content = b"lineage_id,task_id,kind,ref_id\r\n50,t,intent,a\r\n,t,intent,b\r\n"
    imported(bobs, "agentos.tasklineage", file_formats.CSV, content)
    managed.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('t', 'intent', 'c')")
    keys = [row[0] for row in managed.execute("SELECT lineage_id FROM task_lineage ORDER BY lineage_id")]
    assert len(keys) == 3
    assert 50 in keys


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_too_long_for_a_cell_and_too_many_to_export(alices, managed, monkeypatch):
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('t', ?)", "x" * 40_000)
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('u', 'u')")
    address = url("agentos.task", "export")
    page = alices.post(address, {"format": number_of(file_formats.XLSX), "resource": "0", "taskresource_title": "on"})
    assert "is too long for an XLSX cell" in page.content.decode()
    monkeypatch.setattr(store_import_export, "MAX_EXPORTED", 1)
    page = alices.post(address, {"format": number_of(file_formats.CSV), "resource": "0", "taskresource_title": "on"})
    assert "more than 1 rows" in page.content.decode()
