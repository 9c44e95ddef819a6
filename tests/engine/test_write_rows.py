"""Manual edits and imports are runs with before-images and undo, on both engines."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import models
from django.urls import reverse
from django.utils import timezone

from opsconsole.console import file_formats
from opsconsole.console.editing import raw_values
from opsconsole.engine import lifecycle, queue, workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Freeze, GivenRows, Run, Status
from opsconsole.engine.operation import Risk
from opsconsole.engine.operations import write_rows
from opsconsole.engine.planner import PlanRefused
from opsconsole.stores.rows import Write
from tests.agentos.test_agentos_admin import executed, outcome_of, save, upload, url
from tests.audits.test_audits_admin import signed_in
from tests.support.contract import (
    Crash,
    crash,
    die,
    execute_run,
    left_by,
    operation_called,
    plan_whole,
    start,
    undo,
    work,
)
from tests.support.fault_injection import POINTS, interposed

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
NAME = "operations.write_rows"
in_sqlite = pytest.mark.parametrize("managed", ["sqlite"], indirect=True)


@pytest.fixture
def bobs(client, bob):
    return signed_in(client, bob)


@pytest.fixture
def task(managed):
    managed.execute("INSERT INTO tasks (task_id, title, status) VALUES ('t', 'old', 'created')")
    return managed


def tasks(managed):
    return managed.execute("SELECT task_id, title, status FROM tasks ORDER BY task_id")


def given(*writes: Write) -> Any:
    """Return the operation on rows of the table `tasks`."""
    return operation_called(NAME, store="agentos", table="tasks", rows=GivenRows.keep(writes))


def form_data(page):
    form = page.context["adminform"].form
    return {name: "" if form[name].value() is None else form[name].value() for name in form.fields}


def said(response):
    return " ".join(response.content.decode().split())


# --- forms ------------------------------------------------------------------------------------------------------------


def test_saving_a_form_is_a_run_that_can_be_undone(bobs, task, bob):
    before = task.execute("SELECT * FROM tasks")
    answer = save(bobs, "agentos.task", "t", title="new", metadata='{"a": 1}')
    run = Run.objects.get()
    assert (run.operation, run.status, run.changed, run.user) == (NAME, Status.SUCCEEDED, 1, bob)
    assert run.writes == {"tasks": ["title", "metadata"]}
    page = said(bobs.get(answer.url))
    assert f"Run {run.pk} saved the values." in page
    assert reverse("run", args=[run.pk]) in page
    assert tasks(task) == [("t", "new", "created")]
    for tab in ("changes", "events", "batches"):
        assert bobs.get(reverse("run", args=[run.pk]), {"tab": tab}).status_code == 200
    bobs.post(reverse("run-act", args=[run.pk, "undo"]))
    undone = executed(bobs, Run.objects.latest("pk"))
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, 1)
    assert task.execute("SELECT * FROM tasks") == before


def test_an_undo_keeps_later_edits(bobs, task):
    save(bobs, "agentos.task", "t", title="new")
    task.execute("UPDATE tasks SET title = 'newer'")
    undone = undo(Run.objects.get())
    assert left_by(undone) == {"invalid": {"conflict": ["tasks t"]}}
    assert tasks(task) == [("t", "newer", "created")]


def test_concurrent_edits_are_not_overwritten(bobs, task):
    page = bobs.get(url("agentos.task", "change", "t", edit=1))
    data = form_data(page) | {"title": "mine"}
    task.execute("UPDATE tasks SET title = 'theirs', status = 'running'")
    page = bobs.post(url("agentos.task", "change", "t", edit=1), data)
    assert page.status_code == 200
    assert "This value has changed to theirs since the form was opened." in said(page)
    assert tasks(task) == [("t", "theirs", "running")]
    assert not Run.objects.exists()
    again = form_data(page)
    assert again["title"] == "mine"
    assert bobs.post(url("agentos.task", "change", "t", edit=1), again).status_code == 302
    assert tasks(task) == [("t", "mine", "running")]  # the status keeps the value of the other client
    assert Run.objects.get().writes == {"tasks": ["title"]}


def test_a_row_deleted_since_the_plan_is_not_inserted_again(bobs, task):
    data = form_data(bobs.get(url("agentos.task", "change", "t", edit=1))) | {"title": "mine"}
    task.execute("DELETE FROM tasks")
    bobs.post(url("agentos.task", "change", "t", edit=1), data)
    assert tasks(task) == []
    assert not Run.objects.exists()


@pytest.mark.parametrize("change", ["UPDATE tasks SET title = 'theirs'", "DELETE FROM tasks"])
def test_a_change_between_form_and_run_is_a_conflict(bobs, task, change, monkeypatch):
    run_now = queue.run_now

    def later(*args: Any) -> Run:
        task.execute(change)
        return run_now(*args)

    monkeypatch.setattr(queue, "run_now", later)
    page = save(bobs, "agentos.task", "t", title="mine")
    left = tasks(task)
    run = Run.objects.get()
    assert (run.changed, run.invalid) == (0, 1)
    assert left == ([] if "DELETE" in change else [("t", "theirs", "created")])
    if left:
        assert page.status_code == 200
        assert "Another user has just changed this row." in said(page)
        assert form_data(page)["title"] == "mine"


@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "\na\n", "a\r", " a ", '{"a": 1}', "", None, "引号", "𝔘", "a\u2028b", "<b>&amp;"]
)
def test_unchanged_fields_are_not_written(bobs, task, text):
    task.execute("UPDATE tasks SET metadata = ?, created_by = ?", text, text)
    before = task.execute("SELECT metadata, created_by FROM tasks")
    data = form_data(bobs.get(url("agentos.task", "change", "t", edit=1)))
    posted = {
        name: value.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n") for name, value in data.items()
    }
    assert bobs.post(url("agentos.task", "change", "t", edit=1), posted | {"title": "new"}).status_code == 302
    assert task.execute("SELECT metadata, created_by FROM tasks") == before
    assert Run.objects.get().writes == {"tasks": ["title"]}


def test_an_undo_deletes_an_added_row(bobs, task):
    """The key comes from the database: an identity column, or SQLite's AUTOINCREMENT."""
    data = {"task": "t", "kind": "intent", "ref_id": "r"}
    for _number in range(2):
        assert bobs.post(url("agentos.tasklineage", "add"), data).status_code == 302
    task.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('t', 'intent', 'plain')")
    keys = [key for (key,) in task.execute("SELECT lineage_id FROM task_lineage ORDER BY 1")]
    assert len(set(keys)) == 3
    first = Run.objects.earliest("pk")
    assert first.plan["rows"] == {"task_lineage": 1}
    assert operation_called("operations.undo_run", run=first.pk).effective_risk() == Risk.DELETE
    undone = undo(first)
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, 1)
    assert [key for (key,) in task.execute("SELECT lineage_id FROM task_lineage ORDER BY 1")] == keys[1:]
    assert undo(undone).status == Status.SUCCEEDED
    assert [key for (key,) in task.execute("SELECT lineage_id FROM task_lineage ORDER BY 1")] == keys


@pytest.mark.parametrize("managed", ["postgresql"], indirect=True)
@pytest.mark.parametrize("identity", ["ALWAYS", "BY DEFAULT"])
def test_an_identity_key_comes_from_its_sequence(bobs, task, identity):
    task.execute("ALTER TABLE task_lineage ALTER lineage_id DROP IDENTITY IF EXISTS")
    task.execute("ALTER TABLE task_lineage ALTER lineage_id DROP DEFAULT")
    task.execute(f"ALTER TABLE task_lineage ALTER lineage_id ADD GENERATED {identity} AS IDENTITY (START WITH 70)")
    assert (
        bobs.post(url("agentos.tasklineage", "add"), {"task": "t", "kind": "intent", "ref_id": "r"}).status_code == 302
    )
    (found,) = task.execute("SELECT lineage_id FROM task_lineage")
    assert found[0] >= 70
    task.execute("INSERT INTO task_lineage (task_id, kind, ref_id) VALUES ('t', 'intent', 'plain')")
    assert undo(Run.objects.get()).changed == 1


def test_obstacles_are_shown_above_the_form(bobs, task):
    for number, sentence in enumerate(("All runs are frozen", "is locked by run")):
        if number:
            other = start(given(Write("tasks", ("status",), [("t", ("created",), ("x",))])))
        else:
            hold = Freeze.objects.create(who="ann", note="stop")
        page = save(bobs, "agentos.task", "t", title="mine")
        assert sentence in said(page)
        assert form_data(page)["title"] == "mine"
        if number:
            assert work(other).status == Status.SUCCEEDED
        else:
            hold.delete()
    assert list(Run.objects.filter(status=Status.CANCELLED).values_list("changed", flat=True)) == [0, 0]
    assert tasks(task) == [("t", "old", "x")]


@in_sqlite
def test_a_write_ignored_by_a_trigger_is_reported_in_the_form(bobs, task):
    task.execute("CREATE TRIGGER keep BEFORE UPDATE ON tasks BEGIN SELECT RAISE(IGNORE); END")
    page = save(bobs, "agentos.task", "t", title="mine")
    assert "trigger keep on tasks" in said(page)
    assert form_data(page)["title"] == "mine"
    assert tasks(task) == [("t", "old", "created")]


@in_sqlite
def test_a_worker_resumes_a_run_that_had_to_wait(bobs, task, monkeypatch):
    monkeypatch.setattr(queue, "PATIENCE_SECONDS", 0.0)
    run_slice = queue.run_slice

    def locked(*args: Any) -> str:
        task.execute("BEGIN IMMEDIATE")
        try:
            return run_slice(*args)
        finally:
            task.execute("ROLLBACK")

    monkeypatch.setattr(queue, "run_slice", locked)
    answer = save(bobs, "agentos.task", "t", title="mine")
    run = Run.objects.get()
    assert answer.url == reverse("run", args=[run.pk])
    assert (run.ended, run.waiting_code) == (False, "lock")
    assert f"Run {run.pk} saves the values later." in said(bobs.get(answer.url))
    assert tasks(task) == [("t", "old", "created")]
    run_slice(run.pk, run.generation)
    assert tasks(task) == [("t", "mine", "created")]


def test_a_locked_store_is_reported_and_nothing_is_planned(bobs, task):
    data = form_data(bobs.get(url("agentos.task", "change", "t", edit=1))) | {"title": "mine"}
    task.execute("BEGIN IMMEDIATE" if task.engine == "sqlite" else "BEGIN")
    task.execute("UPDATE tasks SET session_id = 's'")
    answer = bobs.post(url("agentos.task", "change", "t", edit=1), data)
    task.execute("COMMIT")
    assert answer.status_code == 503
    assert not Run.objects.exists()
    assert bobs.post(url("agentos.task", "change", "t", edit=1), data).status_code == 302  # the browser goes back
    assert tasks(task) == [("t", "mine", "created")]


def test_a_worker_resumes_after_the_web_server_died(bobs, task, monkeypatch):
    monkeypatch.setattr(queue, "run_slice", crash)
    with pytest.raises(Crash):
        save(bobs, "agentos.task", "t", title="mine")
    monkeypatch.undo()
    assert tasks(task) == [("t", "old", "created")]
    Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    (run,) = workers.requeue_stale_runs()
    queue.run_slice(run.pk, run.generation)
    assert tasks(task) == [("t", "mine", "created")]


@pytest.mark.parametrize(
    ("field", "value", "in_sqlite", "in_postgresql"),
    [
        (models.BooleanField(), True, 1, "true"),
        (models.BinaryField(), memoryview(b"\x00a"), b"\x00a", "\\x0061"),
        (models.FloatField(), 0.1, 0.1, "0.1"),
        (models.TextField(), "a", "a", "a"),
        (models.IntegerField(), None, None, None),
    ],
)
def test_values_are_written_as_the_database_holds_them(managed, field, value, in_sqlite, in_postgresql):
    field.set_attributes_from_name("value")
    row: Any = SimpleNamespace(value=value)
    wanted = in_sqlite if managed.engine == "sqlite" else in_postgresql
    (found,) = raw_values(managed.store, row, [field])
    assert (found, type(found)) == (wanted, type(wanted))


def test_a_small_run_waits_for_another_small_one(bobs, task, monkeypatch):
    other = start(given(Write("tasks", ("status",), [("t", ("created",), ("x",))])))
    monkeypatch.setattr(
        "opsconsole.engine.queue.time.sleep", lambda seconds: work(other) if seconds in queue.LOCKED_SECONDS else None
    )
    assert save(bobs, "agentos.task", "t", title="mine").status_code == 302
    assert tasks(task) == [("t", "mine", "x")]


def test_save_leads_to_the_plan_if_a_click_is_not_enough(bobs, task, monkeypatch):
    monkeypatch.setattr(lifecycle, "needs_approval", lambda operation, trigger=None: True)
    answer = save(bobs, "agentos.task", "t", title="mine")
    run = Run.objects.get()
    assert answer.url == reverse("run", args=[run.pk])
    assert run.status == Status.PLANNED
    assert "Write 1 row" in said(bobs.get(answer.url))
    assert tasks(task) == [("t", "old", "created")]
    bobs.post(reverse("run-confirm", args=[run.pk]), {"digest": run.digest})
    run.refresh_from_db()
    assert run.status == Status.AWAITING_APPROVAL


def test_in_production_the_undo_of_an_added_row_is_a_delete(bobs, task, settings):
    settings.PRODUCTION, settings.ENVIRONMENT = True, "production"
    assert save(bobs, "agentos.task", "t", title="mine").status_code == 302  # a change asks for a click there too
    assert bobs.post(url("agentos.task", "add"), {"task_id": "u", "title": "new"}).status_code == 302
    changed, added = Run.objects.order_by("pk")
    assert not lifecycle.asks_more(operation_called("operations.undo_run", run=changed.pk))
    assert lifecycle.asks_more(operation_called("operations.undo_run", run=added.pk))


def test_editing_requires_the_permission_to_run_operations(client, charlie, task):
    from django.contrib.auth.models import Permission

    charlie.user_permissions.set(
        Permission.objects.filter(
            codename__in=("view_task", "add_task", "change_task"), content_type__app_label="agentos"
        )
    )
    signed_in(client, charlie)
    assert client.get(url("agentos.task", "change", "t")).status_code == 200
    for page in (url("agentos.task", "add"), url("agentos.task", "import")):
        assert client.get(page).status_code == 403
    assert client.post(url("agentos.task", "change", "t", edit=1), {"title": "x"}).status_code == 403


# --- files ------------------------------------------------------------------------------------------------------------

FILE = (
    b"id,path,name\r\np,/p,changed\r\nq,/q,same\r\nr,/r,conflict\r\ns,/s,gone\r\nnew,/new,added\r\ntaken,/t,added\r\n"
)


def test_an_import_writes_what_its_plan_shows_and_can_be_undone(bobs, managed):
    for key in "pqrs":
        name = "same" if key == "q" else "old"
        managed.execute("INSERT INTO projects (id, path, name) VALUES (?, ?, ?)", key, f"/{key}", name)
    assert upload(bobs, "agentos.project", file_formats.CSV, FILE).status_code == 302
    run = Run.objects.get()
    assert outcome_of(run) == (2, 3, 1)
    assert run.note == "Import of rows.csv"
    page = said(bobs.get(reverse("run", args=[run.pk])))
    assert "Write 5 rows of 6 in scope in agentos" in page
    assert "<ins>" in page
    assert run.params["rows"] not in page
    managed.execute("UPDATE projects SET name = 'theirs' WHERE id = 'r'")
    managed.execute("DELETE FROM projects WHERE id = 's'")
    managed.execute("INSERT INTO projects (id, path, name) VALUES ('taken', '/t', 'theirs')")
    before = managed.execute("SELECT * FROM projects ORDER BY id")
    run = executed(bobs, run)
    assert (run.status, run.changed, run.skipped, run.invalid) == (Status.SUCCEEDED, 2, 1, 3)
    assert left_by(run) == {
        "skipped": {"as_given": ["q"]},
        "invalid": {"conflict": ["r"], "deleted": ["s"], "exists": ["taken"]},
    }
    assert managed.execute("SELECT id, name FROM projects ORDER BY id") == [
        ("new", "added"), ("p", "changed"), ("q", "same"), ("r", "theirs"), ("taken", "theirs")
    ]  # fmt: skip
    bobs.post(reverse("run-act", args=[run.pk, "undo"]))
    plan = Run.objects.latest("pk")
    assert "Restore 2 rows" in said(bobs.get(reverse("run", args=[plan.pk])))
    undone = executed(bobs, plan)
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, 2)
    assert managed.execute("SELECT * FROM projects ORDER BY id") == before


def test_many_given_rows_are_stored_outside_the_parameters(bobs, managed):
    rows = [{"task_id": f"t{number}", "title": f"secret {number}"} for number in range(3_000)]
    assert upload(bobs, "agentos.task", file_formats.JSON, json.dumps(rows).encode()).status_code == 302
    run = Run.objects.get()
    assert outcome_of(run) == (3_000, 0, 0)
    assert len(json.dumps(run.params)) < 200
    assert executed(bobs, run).batches.count() > 1
    assert managed.execute("SELECT COUNT(*) FROM tasks WHERE title LIKE 'secret%'") == [(3_000,)]


def test_a_file_may_have_rows_with_and_without_a_key(bobs, managed):
    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('t', 'x')")
    content = b"lineage_id,task_id,kind,ref_id,phase\n5,t,intent,a,\n,t,intent,b,\n9,t,commit,c,x\n"
    assert upload(bobs, "agentos.tasklineage", file_formats.CSV, content).status_code == 302
    assert executed(bobs, Run.objects.latest("pk")).status == Status.SUCCEEDED
    assert managed.execute("SELECT COUNT(*), COUNT(DISTINCT lineage_id) FROM task_lineage") == [(3, 3)]


@in_sqlite
def test_pages_of_a_run_do_not_need_the_rows(bobs, task):
    save(bobs, "agentos.task", "t", title="mine")
    run = Run.objects.get()
    GivenRows.objects.all().delete()
    for tab in ("events", "batches", "failed", "unchanged", "changes", "plan", "report"):
        assert bobs.get(reverse("run", args=[run.pk]), {"tab": tab}).status_code == 200, tab
    assert undo(run).changed == 1
    assert tasks(task) == [("t", "old", "created")]


@in_sqlite
def test_it_is_planned_from_forms_and_plans_only(bobs, managed):
    page = bobs.post(reverse("plan", args=[NAME]))
    assert page.status_code == 409
    assert "No store is given." in said(page)
    assert upload(bobs, "agentos.project", file_formats.CSV, b"id,path\np,/p\n").status_code == 302
    first = Run.objects.get()
    assert "Update plan" not in said(bobs.get(reverse("run", args=[first.pk])))
    assert bobs.post(reverse("run-replan", args=[first.pk])).status_code == 302
    second = Run.objects.latest("pk")
    assert (second.params, second.status) == (first.params, Status.PLANNED)
    assert executed(bobs, second).changed == 1


# --- the operation ----------------------------------------------------------------------------------------------------

COUNT = 30


def many(managed) -> Any:
    """Half of the rows change, half are new."""
    for number in range(0, COUNT, 2):
        managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, 'old')", f"t{number:02}")
    return given(
        *(
            Write("tasks", ("title",), [(f"t{number:02}", ("old",), ("new",))])
            if number % 2 == 0
            else Write("tasks", ("task_id", "title"), [(f"t{number:02}", None, (f"t{number:02}", "new"))])
            for number in range(COUNT)
        )
    )


@pytest.mark.parametrize("point", POINTS)
def test_worker_dies(managed, point, monkeypatch):
    def through(operation: Any) -> Run:
        run, call = start(operation, batch_size=7), 2
        if point == "while recovering":
            begun = run
            run, call = workers.claim(work(run, until=lambda: begun.batches_done > 0)), 1
        monkeypatch.setattr(*interposed(point, call, crash))
        with pytest.raises(Crash):
            work(run)
        monkeypatch.undo()
        run = work(die(run))
        assert (run.status, run.seen) == (Status.SUCCEEDED, run.total), run.error
        return run

    operation = many(managed)
    before = managed.execute("SELECT * FROM tasks ORDER BY task_id")
    run = through(operation)
    assert {title for _key, title, _status in tasks(managed)} == {"new"}
    assert len(tasks(managed)) == COUNT
    through(operation_called("operations.undo_run", run=run.pk))
    assert managed.execute("SELECT * FROM tasks ORDER BY task_id") == before


def test_the_same_rows_again_change_nothing(managed):
    operation = many(managed)
    planned = plan_whole(operation)
    assert planned.reasons["changed"] == {"new": COUNT // 2, "updated": COUNT // 2}
    assert execute_run(operation).changed == COUNT
    again = execute_run(operation_called(NAME, **operation.params))
    assert (again.status, again.changed, again.skipped) == (Status.SUCCEEDED, 0, COUNT)


def test_a_write_that_is_reverted_needs_attention(task, monkeypatch):
    run = start(given(Write("tasks", ("title",), [("t", ("old",), ("new",))])))
    real = Executor._finish

    def revert(worker: Executor) -> Any:
        task.execute("UPDATE tasks SET title = 'old'")
        return real(worker)

    monkeypatch.setattr(Executor, "_finish", revert)
    run = work(run)
    assert run.status == Status.NEEDS_ATTENTION
    assert "1 row no longer has the written values." in run.error


@in_sqlite
def test_only_the_rows_that_were_planned_are_written(task):
    operation = given(Write("tasks", ("title",), [("t", ("old",), ("new",))]))
    run = start(operation)
    other = GivenRows.objects.get(digest=GivenRows.keep([Write("tasks", ("title",), [("t", ("old",), ("evil",))])]))
    GivenRows.objects.filter(digest=operation.params["rows"]).update(content=other.content)
    with pytest.raises(PlanRefused, match="differ from the plan"):
        work(run)
    assert tasks(task) == [("t", "old", "created")]


@in_sqlite
def test_more_rows_than_the_maximum_are_refused(task, monkeypatch):
    monkeypatch.setattr(write_rows, "MAX_ROWS", 1)
    write = Write("tasks", ("title",), [(key, ("old",), ("new",)) for key in "ab"])
    with pytest.raises(PlanRefused, match="At most 1 rows"):
        given(write)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "No store is given."),
        ({"store": "nowhere", "table": "tasks", "rows": "x"}, "No store is called nowhere"),
        ({"store": "default", "table": "auth_user", "rows": "x"}, "is not a table of a managed store"),
        ({"store": "agentos", "table": "auth_user", "rows": "x"}, "is not a table of a managed store"),
        ({"store": "agentos", "table": "tasks", "rows": "x"}, "have been deleted"),
    ],
)
def test_other_directories_are_refused(params, sentence):
    with pytest.raises(PlanRefused, match=sentence):
        operation_called(NAME, **params)


def test_an_attached_store_is_refused(make_attached):
    store = make_attached("sqlite", 5).store
    with pytest.raises(PlanRefused, match="is not a table of a managed store"):
        operation_called(NAME, store, store="agentos", table="tasks", rows="x")


@pytest.mark.parametrize("name", ["import", "export", "loaddata"])
def test_commands_that_write_without_a_run_are_refused_during_a_freeze(name):
    from django.core.management import get_commands, load_command_class

    command = load_command_class(get_commands()[name], name)
    with pytest.raises(SystemExit) as ended:
        command.run_from_argv(["manage.py", name, "agentos.Task", "rows.csv", "--noinput"])
    assert ended.value.code == 2
    with pytest.raises(CommandError, match="on the list page of the table"):
        call_command(name)


def test_a_row_that_is_given_twice_is_not_written(task):
    run = execute_run(given(Write("tasks", ("title",), [("t", ("old",), (title,)) for title in ("one", "two")])))
    assert (run.status, run.changed, run.failed) == (Status.NEEDS_ATTENTION, 0, 2)
    assert tasks(task) == [("t", "old", "created")]
