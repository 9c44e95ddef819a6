"""Incidents: grouped by cause, true after every run, owned by people, found again with their history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from opsconsole.console.incident_page import IncidentPage
from opsconsole.engine import incidents, lifecycle, planner, registry, repairs, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.causes import Cause
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.incidents import IncidentRefused
from opsconsole.engine.labels import only_deletes, outcome_label, reason_label, result_label
from opsconsole.engine.models import Alert, Event, Finding, Incident, IncidentState, Run, Status, Trigger
from opsconsole.engine.operation import Risk
from opsconsole.engine.wording import figure_rows
from opsconsole.stores.store import Store
from tasks.helix.models import HelixJob
from tests.conftest import attach_url
from tests.support import helix
from tests.support.contract import TESTER, execute_run, once, operation_called, undo, work
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
SCAN, RETRY = "helix.scan_dirty_data", "helix.retry_failed_tasks"
LONG_AGO = "2026-01-02 03:04:05+00"


def scan(store: Store) -> Run:
    return execute_run(operation_called(SCAN, store))


def about(cause: str) -> Incident:
    return Incident.objects.get(cause=cause)


def state_of(incident: Incident) -> str:
    return incident.state.value


def repair(incident: Incident, name: str) -> Run:
    cls = registry.operation(name)
    planned = planner.plan(repairs.operation_for(incident, cls), repairs.selection_for(incident, cls))
    run = lifecycle.create_run(planner.count_outcomes(planned), TESTER, incident=incident)
    return work(lifecycle.confirm(run, TESTER, background=False))


@pytest.fixture
def someone() -> Actor:
    user = User.objects.create(username="mira", is_staff=True)
    return Actor("mira", "10.0.0.1", Trigger.ADMIN, user)


@pytest.fixture
def store() -> Store:
    store = Store("helix", "helix")
    for sql, values in helix.rows(helix.one_of_each()):
        execute(store, sql, values)
    for table in ("jobs", "tasks"):
        execute(store, f"UPDATE {table} SET updated_at = '{LONG_AGO}'")
    return store


def test_findings_of_one_cause_are_one_incident(store):
    """Types D and E need the same decision. A job that shows both counts once."""
    scan(store)
    incident = about("failed_tasks")
    jobs = set(Finding.objects.filter(code__in=("D", "E")).values_list("key", flat=True))
    assert incident.count == len(jobs)
    assert Finding.objects.filter(code__in=("D", "E")).count() > len(jobs)
    assert set(incident.findings.values_list("key", flat=True)) == jobs
    assert str(len(jobs)) in incidents.title_of(incident)
    assert state_of(incident) == IncidentState.OPEN


def test_two_checks_of_the_same_cause_form_one_incident(store):
    scan(store)
    before = set(Incident.objects.values_list("cause", flat=True))
    execute_run(operation_called("helix.verify_dirty_cleanup", store))
    assert set(Incident.objects.values_list("cause", flat=True)) == before
    assert about("completed_without_artifact").count == 1


def test_a_repair_resolves_its_incident_without_a_scan(store):
    scan(store)
    incident = about("failed_tasks")
    run = repair(incident, RETRY)
    assert run.status == Status.SUCCEEDED
    incident.refresh_from_db()
    assert state_of(incident) == IncidentState.RESOLVED
    assert incident.resolved_run == run
    assert not incident.findings.filter(resolved_at=None).exists()


def test_an_undo_reopens_the_incident_in_its_former_state(store):
    scan(store)
    incident = about("failed_tasks")
    opened, figures = incident.opened_at, set(Incident.objects.values_list("cause", "count", "resolved_at"))
    run = repair(incident, RETRY)
    assert undo(run).status == Status.SUCCEEDED
    incident.refresh_from_db()
    assert (incident.opened_at, incident.came_back, incident.resolved_at) == (opened, 0, None)
    assert set(Incident.objects.values_list("cause", "count", "resolved_at")) == figures
    assert [entry["event"] for entry in incident.history] == ["opened", "resolved", "reopened"]


def test_it_comes_back_with_its_history(store, someone):
    scan(store)
    incident = about("failed_tasks")
    incidents.comment(incident, someone, "seen before")
    incidents.acknowledge(incident, someone)
    repair(incident, RETRY)
    execute(store, "UPDATE tasks SET status = 'FAILED', retry_count = 3 WHERE job_id = 4")
    scan(store)
    incident.refresh_from_db()
    assert incident.came_back == 1
    assert state_of(incident) == IncidentState.OPEN
    assert incident.owner == someone.user
    assert "incident_commented" in [entry["event"] for entry in incidents.timeline(incident)]


def test_the_first_possible_repair_is_recommended(store):
    """In the documents' order. A delete is the last choice."""
    scan(store)
    offered = repairs.repairs_of(about("failed_tasks"))
    assert [one.operation.name for one in offered] == [RETRY, "helix.fail_jobs", "helix.clean_dirty_jobs"]
    best = repairs.recommended(offered)
    assert best is not None
    assert best.operation.name == RETRY
    assert not best.deletes
    assert offered[-1].deletes
    assert offered[-1].possible


def test_while_the_platform_works_no_repair_is_recommended(store):
    scan(store)
    execute(store, f"UPDATE tasks SET updated_at = '{timezone.now():%Y-%m-%d %H:%M:%S}+00'")
    offered = repairs.repairs_of(about("failed_tasks"))
    assert repairs.recommended(offered) is None
    assert "10 minutes" in offered[0].refusal


def test_a_repair_touches_exactly_the_rows_of_the_incident(store):
    """A job that became dirty after the scan is not the incident's."""
    scan(store)
    incident = about("failed_tasks")
    keys = repairs.selection_for(incident, registry.operation(RETRY)).keys
    execute(store, "UPDATE jobs SET status = 'IN_PROGRESS'")
    execute(store, f"UPDATE jobs SET updated_at = '{LONG_AGO}'")
    assert set(keys or ()) == {int(key) for key in incident.findings.values_list("key", flat=True)}
    run = repair(incident, RETRY)
    written = {row[0] for batch in run.batches.all() for write in batch.writes for row in write.rows}
    assert written
    assert run.total == len(keys or ())


def test_a_repair_assessed_on_the_first_rows_says_so(store, someone, monkeypatch):
    scan(store)
    shown = IncidentPage(about("failed_tasks"), someone.user).recommended
    assert shown is not None
    assert (shown.processed, shown.effect[0]) == (0, "Changes 2 rows")
    monkeypatch.setattr(repairs, "JUDGED_ROWS", 1)
    shown = IncidentPage(about("failed_tasks"), someone.user).recommended
    assert shown is not None
    assert (shown.processed, shown.effect[0]) == (1, "Changes at least 1 row")


def test_codes_of_dirty_data_are_shown_in_words():
    text = reason_label(registry.operation("helix.clean_dirty_jobs"), "D, E")
    assert text == "job in progress with a failed task without retries left, job in progress with some failed tasks"


def test_an_incident_grows_and_shrinks(store):
    scan(store)
    incident = about("completed_without_artifact")
    assert incident.previous_count is None
    execute(store, "DELETE FROM artifacts")
    scan(store)
    incident.refresh_from_db()
    assert incident.previous_count == 1 < incident.count
    assert incident.history[-1]["event"] == "grew"


def test_a_snooze_ends_without_a_job(store, someone):
    scan(store)
    incident = about("failed_tasks")
    incidents.snooze(incident, someone, timezone.now() + timedelta(hours=4))
    assert state_of(incident) == IncidentState.SNOOZED
    assert incident not in Incident.objects.active()
    assert incident in Incident.objects.in_state("snoozed")
    Incident.objects.update(snoozed_until=timezone.now() - timedelta(seconds=1))
    assert incident in Incident.objects.active()
    with pytest.raises(IncidentRefused):
        incidents.snooze(incident, someone, timezone.now() - timedelta(hours=1))


def test_an_ignored_incident_returns_when_it_grows(store, someone):
    scan(store)
    incident = about("completed_without_artifact")
    incidents.ignore(incident, someone, 100)
    assert state_of(incident) == IncidentState.IGNORED
    assert incident in Incident.objects.in_state("ignored")
    execute(store, "DELETE FROM artifacts")
    scan(store)
    incident.refresh_from_db()
    assert incident.count > 2
    assert state_of(incident) == IncidentState.OPEN
    assert incident in Incident.objects.active()


def test_every_verb_is_an_event(store, someone):
    scan(store)
    incident = about("failed_tasks")
    incidents.acknowledge(incident, someone)
    incidents.assign(incident, someone, None)
    incidents.snooze(incident, someone, timezone.now() + timedelta(hours=1))
    incidents.ignore(incident, someone, 10)
    incidents.comment(incident, someone, "  a comment ")
    incidents.link(incident, someone, "https://tickets.example.org/1")
    incidents.resolve(incident, someone)
    incidents.reopen(incident, someone)
    verbs = list(Event.objects.filter(incident=incident).order_by("pk").values_list("verb", flat=True))
    assert verbs == [
        f"incident_{verb}"
        for verb in ("acknowledged", "assigned", "snoozed", "ignored", "commented", "linked", "resolved", "reopened")
    ]
    assert state_of(incident) == IncidentState.OPEN


@pytest.mark.parametrize("url", ["javascript:alert(1)", "ftp://x/y", "nonsense", "http://"])
def test_a_ticket_is_a_web_address(store, someone, url):
    scan(store)
    with pytest.raises(IncidentRefused):
        incidents.link(about("failed_tasks"), someone, url)


def test_a_manually_resolved_incident_reopens_with_the_next_scan(store, someone):
    scan(store)
    incident = about("failed_tasks")
    incidents.resolve(incident, someone)
    assert state_of(incident) == IncidentState.RESOLVED
    with pytest.raises(IncidentRefused):
        incidents.acknowledge(incident, someone)
    scan(store)
    incident.refresh_from_db()
    assert state_of(incident) == IncidentState.OPEN
    assert incident.came_back == 1


class BreakingCheck(Check):
    title = "Break"
    description = "Raises when it is run again."
    store_alias = "helix"
    model = HelixJob
    reads = ("status", "error_message")
    rules = ("all",)
    reasons = {"broken": "broken"}
    causes = {"broken": Cause("broken", "broken", ())}
    breaks = False

    def run_rule(self, rule: str) -> Iterable[FindingData]:
        if self.breaks:
            raise RuntimeError("no answer")
        yield FindingData("broken", "4")


@pytest.fixture
def breaking_check() -> Iterator[type[BreakingCheck]]:
    BreakingCheck.name, BreakingCheck.breaks = "tests.breaking_check", False
    registry.operations()[BreakingCheck.name] = BreakingCheck
    yield BreakingCheck
    del registry.operations()[BreakingCheck.name]


def test_a_check_that_fails_leaves_the_incidents_open_and_the_run_ends(store, breaking_check):
    scan(store)
    execute_run(BreakingCheck(store))
    BreakingCheck.breaks = True
    run = repair(about("failed_tasks"), "helix.fail_jobs")
    assert run.status == Status.SUCCEEDED
    assert about("failed_tasks").resolved_at is None
    assert about("broken").resolved_at is None
    assert run.events.filter(verb="recheck_failed").exists()


def test_a_store_that_was_never_scanned_stays_unchecked(store):
    run = execute_run(operation_called(RETRY, store))
    assert run.changed
    assert not Finding.objects.exists()
    assert not Incident.objects.exists()


def checks() -> list[type[Check]]:
    return [cls for cls in registry.operations().values() if issubclass(cls, Check) and cls is not BreakingCheck]


@pytest.mark.parametrize("cls", checks(), ids=lambda cls: cls.name)
def test_every_finding_has_a_cause_with_a_sentence_and_a_way_out(cls):
    """A title holds figures, not a label with a colon. Without a repair the page says what a person can do."""
    for code in cls.reasons:
        cause = cls.cause_of_code(code)
        values = defaultdict(lambda: "?", number=2, count="2", rows=2)
        title = str(cause.title % values)
        assert ": " not in title
        assert title[0].isupper() or title[0] in "2?"
        assert any(figure in title for figure in "2?") or "lookup" in title
        assert cause.repairs or cause.advice, code
        assert set(cause.repairs) <= set(registry.operations()), code


def test_repairs_are_declared_least_destructive_first():
    order = [Risk.REPRODUCE, Risk.FILL, Risk.CHANGE, Risk.EXTERNAL, Risk.DELETE]
    for cls in checks():
        for code in cls.reasons:
            repairs_of = [registry.operation(name) for name in cls.cause_of_code(code).repairs]
            deletes = [order.index(repair.risk) == len(order) - 1 for repair in repairs_of]
            only = [only_deletes(repair) for repair in repairs_of]
            assert only == sorted(only), (code, deletes)


def test_every_changing_operation_says_what_it_has_done():
    for cls in registry.operations().values():
        if cls.risk != Risk.READ and not issubclass(cls, Check):
            assert cls.done_label is not None, cls.name
            assert result_label(Run(operation=cls.name, changed=2, amount=3, store="helix"))


def test_what_deletes_says_so():
    for name in ("helix.clean_dirty_jobs", "agentos.clean_memory_items", "operations.delete_rows"):
        cls = registry.operation(name)
        assert outcome_label("changed", cls) == "Deleted"
        assert str(cls.action_label % {"number": 2, "count": "2"}).startswith("Delete 2 ")
        assert str(cls.done_label % {"number": 2, "count": "2"}).endswith("deleted")
    for name in ("helix.repair_dirty_jobs", "backups.restore_store", "helix.retry_failed_tasks"):
        assert outcome_label("changed", registry.operation(name)) == "Changed"


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_artifacts_of_deleted_tasks_are_one_incident_with_its_repair(make_helix, engine, someone):
    """Their findings name no job: the repair finds its rows by the missing task."""
    store = make_helix(engine, [helix.Job("COMPLETED")], orphans=[(900, 99)])
    store = attach_url("helix", f"sqlite:///{store.path}") if store.path else store
    scan(store)
    execute_run(operation_called("helix.verify_dirty_cleanup", store))
    incident = about("orphaned_artifacts")
    assert incidents.title_of(incident) == "1 deleted HELIX task still has artifacts"
    (best,) = repairs.repairs_of(incident)
    assert best.possible
    assert repairs.selection_for(incident, best.operation).keys == [-99]
    shown = IncidentPage(incident, someone.user).recommended
    assert shown is not None
    assert shown.effect[0] == "Deletes 1 row"
    run = repair(incident, "helix.repair_dirty_jobs")
    assert run.changed == 1
    incident.refresh_from_db()
    assert state_of(incident) == IncidentState.RESOLVED
    assert figure_rows(best.operation, run.before, run.after, selected=True)[-1][1:] == ("1", "0")


def test_figures_of_a_selection_are_those_of_its_rows(store):
    scan(store)
    incident = about("failed_tasks")
    jobs = incident.count
    run = repair(incident, "helix.fail_jobs")
    shown = {label: (before, after) for label, before, after in _figures(run)}
    assert run.skipped == 1, "one job has a task that is still to be worked on"
    assert shown == {"jobs in progress": (str(jobs), str(jobs - 1)), "failed jobs": ("0", str(jobs - 1))}
    undo(run)
    execute(store, f"UPDATE jobs SET updated_at = '{LONG_AGO}' WHERE updated_at <> '{LONG_AGO}'")  # set by a trigger
    run = repair(about("failed_tasks"), RETRY)
    ((label, before, after),) = _figures(run)
    assert (label, after) == ("failed tasks", "0")
    assert before == str(run.amount)
    assert result_label(run) == f"{run.amount} failed tasks retried"


def _figures(run: Run) -> list[tuple[str, str, str]]:
    return figure_rows(registry.operation(run.operation), run.before, run.after, selected=True)


def test_growth_is_reported_when_the_count_has_doubled_since_the_last_alert(store, settings):
    settings.ENVIRONMENT = "staging"
    cls = registry.operation("agentos.clean_memory_items")
    backfill = registry.operation("audits.backfill_decision_fields")
    for count in (10, 15, 19, 20, 30, 39, 40):
        incidents.save_count("agentos", "i", backfill, count)
        incidents.save_count("agentos", "i", cls, count)  # low priority: never reported
    grown = Alert.objects.filter(subject__startswith="Incident grew").values_list("subject", flat=True)
    assert [subject.split(": ")[1].split()[0] for subject in grown] == ["20", "40"]


def test_many_changes_at_once_are_one_summary(store, settings):
    settings.ENVIRONMENT = "staging"
    now = timezone.now()
    seen = {
        (f"cause_{number}", ""): incidents.Seen("helix.scan_dirty_data", "immediate", 1, now, now)
        for number in range(12)
    }
    incidents._update_incidents("helix", "i", seen, Incident.objects.filter(identity="i"), None)
    assert [subject[:2] for subject in Alert.objects.values_list("subject", flat=True)] == ["12"]
    incidents._update_incidents("helix", "i", seen, Incident.objects.filter(identity="i"), None)
    assert Alert.objects.count() == 1


def test_a_manual_resolution_can_be_reverted_and_one_by_a_measurement_cannot(store, someone):
    scan(store)
    incident = about("failed_tasks")
    incidents.resolve(incident, someone)
    told = [entry["event"] for entry in incidents.timeline(incident)]
    assert told.count("incident_resolved") == 1
    assert "resolved_by_hand" not in told  # the same fact, without the account
    incidents.reopen(incident, someone)
    assert state_of(incident) == IncidentState.OPEN
    cls = next(iter(registry.problem_operations().values()))
    for count in (3, 0):  # a measurement has no run
        incidents.save_count(store.name, store.identity(), cls, count)
    counted = Incident.objects.get(source=cls.name)
    assert counted.resolved_at is not None
    with pytest.raises(IncidentRefused, match="A scan resolved"):
        incidents.reopen(counted, someone)


def test_a_long_ticket_address_is_refused_and_not_cut(store, someone):
    scan(store)
    incident = about("failed_tasks")
    with pytest.raises(IncidentRefused, match="521 characters"):
        incidents.link(incident, someone, "https://tickets.test/".ljust(521, "a"))
    incident.refresh_from_db()
    assert incident.link == ""


def test_the_incidents_of_a_replaced_database_are_resolved(store):
    """The dashboard shows those of the current database, and so does the list after the next scan."""
    scan(store)
    Incident.objects.update(identity="another database")
    Finding.objects.all().delete()
    before = set(Incident.objects.values_list("pk", flat=True))
    scan(store)
    assert not Incident.objects.filter(pk__in=before, resolved_at=None).exists()
    assert {one.history[-1]["event"] for one in Incident.objects.filter(pk__in=before)} == {"replaced"}
    assert about_open("failed_tasks").identity == store.identity()


@pytest.mark.parametrize("control", [lifecycle.pause, lifecycle.cancel])
def test_a_run_that_stops_half_way_updates_its_incident(store, control):
    """A cancelled run has changed rows. A paused run may be cancelled without a worker."""
    for number in range(1, 7):
        execute(
            store,
            "INSERT INTO jobs (id, status, initial_request, updated_at) "
            f"SELECT {100 + number}, status, initial_request, updated_at FROM jobs WHERE id = 4",
        )
        execute(
            store,
            "INSERT INTO tasks (id, job_id, agent_id, status, input_data, retry_count, updated_at) "
            f"SELECT {100 * number} + id, {100 + number}, agent_id, status, input_data, retry_count, updated_at "
            "FROM tasks WHERE job_id = 4",
        )
    scan(store)
    incident = about("failed_tasks")
    before = incident.count
    cls = registry.operation(RETRY)
    planned = planner.plan(repairs.operation_for(incident, cls), repairs.selection_for(incident, cls))
    run = lifecycle.create_run(planner.count_outcomes(planned), TESTER, incident=incident, batch_size=1)
    run = lifecycle.confirm(run, TESTER, background=False)
    stop = once(lambda: control(Run.objects.get(pk=run.pk), TESTER))
    run = work(run, on_progress=stop)
    assert run.status in {Status.PAUSED, Status.CANCELLED}
    assert 0 < run.changed < before
    incident.refresh_from_db()
    assert incident.count == before - run.changed
    assert incident.history[-1]["event"] == "shrank"
    if run.status == Status.CANCELLED:
        undo(run)
        incident.refresh_from_db()
        assert (incident.count, incident.resolved_at) == (before, None)
    else:
        lifecycle.resume(run, TESTER)
        work(workers.claim(Run.objects.get(pk=run.pk)))
        incident.refresh_from_db()
        assert incident.resolved_at is not None


def test_a_repair_whose_rows_are_gone_resolves_its_incident(store):
    scan(store)
    incident = about("failed_tasks")
    cls = registry.operation(RETRY)
    planned = planner.plan(repairs.operation_for(incident, cls), repairs.selection_for(incident, cls))
    run = lifecycle.create_run(planner.count_outcomes(planned), TESTER, incident=incident)
    execute(store, "UPDATE tasks SET status = 'PENDING' WHERE status = 'FAILED'")
    run = work(lifecycle.confirm(run, TESTER, background=False))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 0)
    incident.refresh_from_db()
    assert incident.resolved_run == run


def test_a_repair_of_other_rows_does_not_reopen_a_manually_resolved_incident(store, someone):
    scan(store)
    resolved = about("all_tasks_failed")
    incidents.resolve(resolved, someone)
    repair(about("failed_tasks"), RETRY)
    resolved.refresh_from_db()
    assert state_of(resolved) == IncidentState.RESOLVED


def about_open(cause: str) -> Incident:
    return Incident.objects.get(cause=cause, resolved_at=None)
