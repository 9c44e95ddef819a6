"""The pages of operations, plans and runs: permissions, stale plans, and the number of queries."""

from __future__ import annotations

import html
import json

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audits.models import TaskAudit
from opsconsole.console.run_changes import Changes
from opsconsole.engine import lifecycle, obstacles, planner, registry, stored_plans, wording, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Event, Run, ScheduleSetting, Status, Trigger
from tasks.agentos.models import Task

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

BACKFILL = "audits.backfill_decision_fields"
PAYLOAD = '{"source_event_ts": "2026-01-20T10:00:00", "supervisor_processed_at": "2026-01-20T10:00:01"}'
LOOKS = ("/admin/operations/", "/admin/operations/run/", "/admin/operations/event/")
VERBS = ("pause", "resume", "cancel", "undo", "retry", "approve", "reject")


def signed_in(client, person):
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def audits():
    """Thirty audits: 26 to fill, 4 with broken JSON."""
    task = Task.objects.create(task_id="T1", title="one")
    TaskAudit.objects.bulk_create(
        TaskAudit(task=task, event_type="SUPERVISOR_DECISION", payload=PAYLOAD if number % 8 else "{")
        for number in range(1, 31)
    )


@pytest.fixture
def bobs(client, bob):
    return signed_in(client, bob)


def plan_of(client, **data):
    """Plan the backfill by its button. Return the plan."""
    response = client.post(reverse("plan", args=[BACKFILL]), data)
    assert response.status_code == 302, response.content.decode()[:2000]
    run = Run.objects.latest("pk")
    assert response.url == reverse("run", args=[run.pk])
    return run


def page_of(client, run, query=""):
    response = client.get(reverse("run", args=[run.pk]) + query)
    assert response.status_code == 200
    return response.content.decode()


def confirm(client, run, **data):
    return client.post(reverse("run-confirm", args=[run.pk]), {"digest": run.digest, **data})


def work(run):
    run.refresh_from_db()
    return Executor(workers.claim(run)).work()


# --- plan, confirm, view, undo -----------------------------------------------------------------------


def test_a_plan_shows_its_effect_and_writes_nothing(bobs, audits):
    text = page_of(bobs, plan_of(bobs))
    assert "Fill 27 audits of 30 in scope in agentos; 3 remain unchanged." in text
    assert "broken JSON" in text
    assert "<del>" in text
    assert "<ins>2026-01-20T10:00:00</ins>" in text
    assert "Rows created after the plan are not changed" in text
    assert "The run can be undone until its before-images are pruned." in text
    assert not TaskAudit.objects.filter(source_event_ts__isnull=False).exists()


def test_the_shell_prints_the_messages_of_the_page(bobs, audits, capsys):
    run = plan_of(bobs)
    words = wording.PlanWording.of_run(run, stored_plans.operation_of(run))
    page = html.unescape(page_of(bobs, run))
    call_command("backfill_audit_decision_fields", "--dry-run")
    printed = capsys.readouterr().out
    for sentence in (words.sentence(), *words.unchanged()):
        assert sentence in page
        assert sentence in printed
    assert "The run can be undone until its before-images are pruned." in page
    assert "The run can be undone until its before-images are pruned." in printed


def test_from_plan_to_undo(bobs, audits):
    run = plan_of(bobs)
    assert confirm(bobs, run, note="nightly").status_code == 302
    assert "No worker has been seen yet." in page_of(bobs, run)
    run = work(run)
    assert run.status == Status.SUCCEEDED
    assert (run.note, run.started_by, run.trigger) == ("nightly", "bob", Trigger.ADMIN)
    text = page_of(bobs, run)
    assert "30 of 30" in text
    assert "row changes…" in text
    assert "Coverage of source_event_ts" in text
    for tab in ("events", "batches", "failed", "unchanged", "changes", "plan", "report"):
        assert 'aria-current="page"' in page_of(bobs, run, f"?tab={tab}")
    undo = bobs.post(reverse("run-act", args=[run.pk, "undo"]))
    planned = Run.objects.latest("pk")
    assert undo.url == reverse("run", args=[planned.pk])
    assert (planned.operation, planned.parent_id) == ("operations.undo_run", run.pk)
    assert "Restore 27 rows" in page_of(bobs, planned)
    assert confirm(bobs, planned).status_code == 302
    assert work(planned).status == Status.SUCCEEDED
    assert not TaskAudit.objects.filter(source_event_ts__isnull=False).exists()
    assert f"{planned.pk} Undo a run</a>" in page_of(bobs, run)


def test_confirming_twice_makes_one_run(bobs, audits):
    run = plan_of(bobs)
    assert confirm(bobs, run).status_code == confirm(bobs, run).status_code == 302
    assert Event.objects.filter(run=run, verb="confirmed").count() == 1


@pytest.mark.parametrize("moved", ["fewer", "other"])
def test_changed_counts_do_not_stop_a_backfill(bobs, audits, moved):
    """Only parameters, store and bound are compared at the confirmation. Each batch compares its rows."""
    run = plan_of(bobs)
    first = TaskAudit.objects.earliest("pk")
    if moved == "fewer":
        first.delete()
    else:
        TaskAudit.objects.filter(pk=first.pk).update(payload="[")
    assert confirm(bobs, run).status_code == 302
    run = work(run)
    assert (run.status, run.changed) == (Status.SUCCEEDED, 26)


def test_a_run_that_differs_from_its_plan_is_refused(bobs, audits):
    run = plan_of(bobs)
    Run.objects.filter(pk=run.pk).update(bound=10**9)
    response = confirm(bobs, run)
    assert response.status_code == 409
    assert "no longer matches its plan" in response.content.decode()


def test_rows_created_after_the_plan_are_not_changed(bobs, audits):
    run = plan_of(bobs)
    late = TaskAudit.objects.create(task_id="T1", event_type="SUPERVISOR_DECISION", payload=PAYLOAD)
    assert confirm(bobs, run).status_code == 302
    work(run)
    late.refresh_from_db()
    assert late.source_event_ts is None


def test_the_digest_must_be_that_of_the_plan(bobs, audits):
    run = plan_of(bobs)
    response = bobs.post(reverse("run-confirm", args=[run.pk]), {"digest": "0" * 64}, follow=True)
    assert "The plan was renewed after its page was made." in response.content.decode()
    run.refresh_from_db()
    assert run.status == Status.CANCELLED
    new = Run.objects.get(replaces=run)
    page = page_of(bobs, run)
    assert f"Plan {new.pk} replaces this one" in page
    assert reverse("run", args=[new.pk]) in page
    assert "replaced by a newer plan" in page
    assert "requested the cancellation" not in page


def test_a_target_locked_by_another_run_is_refused_next_to_the_button(bobs, audits):
    first = plan_of(bobs)
    assert confirm(bobs, first).status_code == 302
    second = plan_of(bobs)
    response = confirm(bobs, second)
    assert response.status_code == 409
    assert f"is locked by run {first.pk}" in response.content.decode()
    second.refresh_from_db()
    assert second.status == Status.PLANNED


def test_a_large_plan_is_counted_in_the_background(bobs, audits, monkeypatch):
    from opsconsole.engine import queue

    monkeypatch.setattr(obstacles, "RECOUNTED_ROWS", 10)
    run = plan_of(bobs)
    text = page_of(bobs, run)
    assert "Counting the outcomes: 0 of 30." in text
    assert "You can leave this page. The count continues." in text
    assert confirm(bobs, run).status_code == 409
    queue.count_plan(run.pk, run.generation)
    run.refresh_from_db()
    assert "Fill 27 audits" in page_of(bobs, run)
    assert bobs.get(reverse("run-live", args=[run.pk])).headers["HX-Refresh"] == "true"
    assert confirm(bobs, run).status_code == 302


def test_an_operation_without_undo_requires_typing(bobs):
    bobs.post(reverse("plan", args=["operations.prune_runs"]))
    run = Run.objects.latest("pk")
    run.plan["reasons"]["changed"] = {"": 1}
    run.total = 1
    run.save()
    assert "Type operations.prune_runs to confirm" in page_of(bobs, run)
    response = confirm(bobs, run, typed="prune")
    assert response.status_code == 400
    assert 'aria-invalid="true"' in response.content.decode()


def test_parameters_are_edited_in_place(bobs):
    bobs.post(reverse("plan", args=["operations.prune_runs"]))
    run = Run.objects.latest("pk")
    assert 'name="days"' in page_of(bobs, run)
    assert bobs.post(reverse("run-replan", args=[run.pk]), {"asked": "1", "days": "7"}).status_code == 302
    new = Run.objects.latest("pk")
    run.refresh_from_db()
    assert (new.params["days"], run.status, new.replaces) == (7, Status.CANCELLED, run)
    assert "The data has changed" not in page_of(bobs, new), "the parameters have changed"
    assert f"Plan {new.pk} replaces this one" in page_of(bobs, run)
    refused = bobs.post(reverse("run-replan", args=[new.pk]), {"asked": "1", "days": "0"})
    assert refused.status_code == 400
    assert Run.objects.latest("pk") == new


def test_a_plan_without_rows_has_no_button(bobs):
    run = plan_of(bobs)
    text = page_of(bobs, run)
    assert "No row of agentos is in scope." in text
    assert 'name="digest"' not in text


def test_failed_rows_are_grouped_and_retried(bobs, audits, monkeypatch):
    cls = registry.operation(BACKFILL)
    change = cls.process
    odd = TaskAudit.objects.filter(payload=PAYLOAD).latest("pk").pk

    def raising(operation, row):
        if row.pk == odd:
            raise ValueError("odd <b>value</b>")
        return change(operation, row)

    monkeypatch.setattr(cls, "process", raising)
    run = plan_of(bobs)
    confirm(bobs, run)
    run = work(run)
    assert run.status == Status.NEEDS_ATTENTION
    text = page_of(bobs, run, "?tab=failed")
    assert "ValueError (1)" in text
    assert "odd &lt;b&gt;value&lt;/b&gt;" in text
    assert "Retry 1 failed row" in text
    monkeypatch.undo()
    bobs.post(reverse("run-act", args=[run.pk, "retry"]))
    retry = Run.objects.latest("pk")
    assert (retry.operation, retry.parent_id, retry.total) == ("operations.retry_failed_rows", run.pk, 1)
    confirm(bobs, retry)
    assert work(retry).status == Status.SUCCEEDED
    text = page_of(bobs, run, "?tab=failed")
    assert f"settled by run {retry.pk}" in text
    assert "Retry 1 unit" not in text


def test_a_second_approver_approves(client, bob, alice, settings):
    settings.PRODUCTION = True
    signed_in(client, bob).post(reverse("plan", args=["operations.prune_runs"]))
    run = Run.objects.latest("pk")
    assert "a second approver must approve the run" not in page_of(client, run)  # nothing to confirm
    Run.objects.filter(pk=run.pk).update(status=Status.AWAITING_APPROVAL)
    assert "It needs another account as its second approver." in page_of(client, run)
    approve = reverse("run-act", args=[run.pk, "approve"])
    assert approve not in page_of(client, run)
    client.post(approve)
    run.refresh_from_db()
    assert run.status == Status.AWAITING_APPROVAL
    assert approve in page_of(signed_in(client, alice), run)
    client.post(approve)
    run.refresh_from_db()
    assert run.status == Status.QUEUED


# --- from a list --------------------------------------------------------------------------------------


def test_a_list_offers_the_operations_of_its_model(bobs, audits):
    url = reverse("admin:audits_taskaudit_changelist")
    assert "plan for all rows in scope" in bobs.get(url).content.decode()
    keys = [str(key) for key in TaskAudit.objects.values_list("pk", flat=True)[:3]]
    response = bobs.post(url, {"action": BACKFILL, "_selected_action": keys, "select_across": "0"})
    run = Run.objects.latest("pk")
    assert response.url == reverse("run", args=[run.pk])
    assert run.selection == {"keys": sorted(map(int, keys))}
    assert run.total == 3
    bobs.post(f"{url}?level=error", {"action": BACKFILL, "_selected_action": keys[:1], "select_across": "1"})
    assert Run.objects.latest("pk").selection["query"].startswith("level")


def test_a_list_offers_a_viewer_no_operation(client, viewer, audits):
    signed_in(client, viewer)
    url = reverse("admin:audits_taskaudit_changelist")
    assert "plan for all rows in scope" not in client.get(url).content.decode()
    key = TaskAudit.objects.values_list("pk", flat=True)[0]
    client.post(url, {"action": BACKFILL, "_selected_action": [key], "select_across": "0"})
    assert not Run.objects.exists()


# --- permissions ----------------------------------------------------------------------------------------


@pytest.fixture
def planned(audits, alice):
    cls = registry.operation(BACKFILL)
    plan = planner.count_outcomes(planner.plan(planner.operation_on(cls, stored_plans.store_for(cls, {}), {})))
    return lifecycle.create_run(plan, Actor("alice", "here", Trigger.ADMIN, alice))


def posts(run):
    return [
        reverse("plan", args=[BACKFILL]),
        reverse("schedule", args=[BACKFILL]),
        reverse("run-confirm", args=[run.pk]),
        reverse("run-replan", args=[run.pk]),
        *(reverse("run-act", args=[run.pk, verb]) for verb in VERBS),
    ]


def test_charlie_gets_403_everywhere(client, charlie, planned):
    signed_in(client, charlie)
    for url in (*LOOKS, reverse("run", args=[planned.pk]), reverse("run-live", args=[planned.pk])):
        assert client.get(url).status_code == 403, url
    for url in posts(planned):
        assert client.post(url).status_code == 403, url


def test_a_viewer_can_read_but_not_post(client, viewer, planned):
    signed_in(client, viewer)
    for url in (*LOOKS, reverse("run", args=[planned.pk]), reverse("run-live", args=[planned.pk])):
        assert client.get(url).status_code == 200, url
    assert 'name="digest"' not in page_of(client, planned)
    for url in posts(planned):
        assert client.post(url).status_code == 403, url


def test_anonymous_users_are_redirected_to_the_login(client, planned):
    for url in (*LOOKS, reverse("run", args=[planned.pk])):
        assert client.get(url).headers["Location"].startswith("/admin/login/")


def test_actions_require_post(bobs, planned):
    for url in posts(planned):
        assert bobs.get(url).status_code == 405, url


def test_runs_events_and_the_queue_cannot_be_edited(client, alice, planned):
    signed_in(client, alice)
    for model in ("run", "event"):
        assert client.get(f"/admin/operations/{model}/add/").status_code == 403
        assert client.post(f"/admin/operations/{model}/1/delete/", {"post": "yes"}).status_code == 403
    for model in ("schedule", "ormq", "success", "failure"):
        model_admin = next(a for m, a in admin.site._registry.items() if m._meta.label_lower == f"django_q.{model}")
        page = client.get(f"/admin/django_q/{model}/")
        assert page.status_code == 200
        assert not model_admin.get_actions(page.wsgi_request)
        assert client.get(f"/admin/django_q/{model}/add/").status_code == 403


def test_only_superusers_see_the_pages_of_the_queue(client, alice, bob, viewer):
    for person, status in ((alice, 200), (bob, 403), (viewer, 403)):
        signed_in(client, person)
        for model in ("schedule", "ormq", "success", "failure"):
            assert client.get(f"/admin/django_q/{model}/").status_code == status, (person, model)
        assert ("Diagnostics" in client.get("/admin/").content.decode()) is (status == 200)


# --- verbs, schedules, exports -----------------------------------------------------------------------------


def test_pause_resume_cancel(bobs, audits):
    run = plan_of(bobs)
    confirm(bobs, run)
    for verb, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        bobs.post(reverse("run-act", args=[run.pk, verb]))
        run.refresh_from_db()
        assert run.status == status
    text = bobs.post(reverse("run-act", args=[run.pk, "pause"]), follow=True).content.decode()
    assert f"Run {run.pk} is cancelled. This is not possible in that status." in text


def test_actions_on_a_running_run_are_requests(bobs, audits):
    run = plan_of(bobs)
    confirm(bobs, run)
    run.refresh_from_db()
    run = workers.claim(run)
    text = bobs.post(reverse("run-act", args=[run.pk, "pause"]), follow=True).content.decode()
    assert "The request is saved. The worker stops after this batch." in text
    assert "A pause is requested" in text
    assert Executor(Run.objects.get(pk=run.pk)).work().status == Status.PAUSED


def test_the_list_of_runs_shows_plans_only_on_request(bobs):
    bobs.post(reverse("plan", args=["operations.prune_runs"]))
    plan = Run.objects.get()
    for query, listed in (({}, False), ({"status__exact": "planned"}, True)):
        page = bobs.get("/admin/operations/run/", query).content.decode()
        assert (f'href="{reverse("run", args=[plan.pk])}"' in page) is listed


def test_operations_are_searched_by_every_word(bobs):
    found = bobs.get("/admin/operations/", {"q": "DECISION backfill"}).content.decode()
    assert f'id="{BACKFILL}"' in found
    assert 'id="operations.prune_runs"' not in found
    assert "No operation matches" in bobs.get("/admin/operations/", {"q": "no such thing"}).content.decode()


def test_a_schedule_is_turned_on_and_off(bobs):
    url = reverse("schedule", args=[BACKFILL])
    assert bobs.post(url, {"on": "1", "cron": "0 3 * * *"}).status_code == 302
    assert ScheduleSetting.objects.get(pk=BACKFILL).on
    assert "Scheduled." in bobs.get("/admin/operations/").content.decode()
    refused = bobs.post(url, {"on": "1", "cron": "at night"})
    assert refused.status_code == 400
    assert "is not a cron rule" in refused.content.decode()
    bobs.post(url, {"on": "0", "cron": "0 3 * * *"})
    assert not ScheduleSetting.objects.get(pk=BACKFILL).on


@pytest.mark.parametrize("model", ["run", "event"])
def test_exports(bobs, planned, model):
    Run.objects.update(status=Status.CANCELLED)
    url = f"/admin/operations/{model}/export/"
    assert bobs.get(url).status_code == 200
    for number, kind in enumerate(("csv", "xlsx", "json")):
        response = bobs.post(url, {"format": str(number), "resource": ""})
        assert response.status_code == 200, response.content
        assert response.headers["Content-Disposition"].endswith(f'.{kind}"')
        if kind == "json":
            assert json.loads(response.content)


# --- contents and number of queries --------------------------------------------------------------------------


def test_changes_are_found_by_key(bobs, bob, audits):
    run = plan_of(bobs)
    confirm(bobs, run, batch_size="7")
    run = work(run)
    assert run.batches_done == 5
    for audit in TaskAudit.objects.exclude(source_event_ts=None):
        found = Changes(run, key=str(audit.pk)).table.rows
        assert [str(audit.pk) in str(row[0]) for row in found] == [True]
    assert Changes(run, key="nothing").table.rows == []
    assert "2026-01-20T10:00:01" in page_of(bobs, run, "?tab=changes&batch=3")
    assert page_of(bobs, run, "?tab=changes&batch=99&key=%00%27")
    assert page_of(bobs, run, f"?tab=changes&batch={'9' * 5000}")


def test_a_run_without_its_code_has_a_page(bobs, planned):
    Run.objects.filter(pk=planned.pk).update(operation="gone.operation", status=Status.SUCCEEDED)
    assert "No operation is called gone.operation" in page_of(bobs, planned)
    Run.objects.filter(pk=planned.pk).update(status=Status.PLANNED)
    assert "No operation is called gone.operation" in page_of(bobs, planned)


@pytest.mark.parametrize("path", LOOKS)
def test_lists_need_a_constant_number_of_queries(bobs, audits, path):
    def cost():
        with CaptureQueriesContext(connections["default"]) as queries:
            assert bobs.get(path).status_code == 200
        return len(queries)

    plan_of(bobs)
    cost()
    one = cost()
    for _number in range(4):
        plan_of(bobs)
    assert cost() == one


def test_run_pages_need_a_constant_number_of_queries(bobs, audits):
    def cost(size):
        run = plan_of(bobs)
        confirm(bobs, run, batch_size=str(size))
        run = work(run)
        with CaptureQueriesContext(connections["default"]) as queries:
            for tab in ("events", "batches", "unchanged", "changes", "report"):
                page_of(bobs, run, f"?tab={tab}")
        TaskAudit.objects.update(source_event_ts=None, supervisor_processed_at=None)
        return len(queries)

    assert cost(30) == cost(3)


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_every_page_names_its_environment(client, settings, environment):
    settings.ENVIRONMENT = environment
    assert f"band-{environment}" in client.get("/admin/login/").content.decode()
