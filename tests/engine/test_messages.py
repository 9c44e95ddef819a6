"""Every kind of message says what happened, since when and what to do, and links to a page. None is a storm."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from django.utils import timezone, translation

from opsconsole import env
from opsconsole.engine import incidents, lifecycle, messages, queue, registry, run_notifications
from opsconsole.engine.incidents import IncidentRefused
from opsconsole.engine.messages import KINDS, Message
from opsconsole.engine.models import Alert, Incident, ReportedProblem, Run, ScheduleSetting, Status
from opsconsole.engine.operation import Priority
from opsconsole.engine.queue_checks import check_address
from opsconsole.monitoring.store_problems import StoreProblem
from opsconsole.stores.store import Store
from roadmaps.attempts import RECOVERY_FAILED
from tests.support.contract import TESTER, operation_called, plan_whole

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
BACKFILL = "audits.backfill_decision_fields"
ROOT = Path(__file__).parents[2]
CONSOLE = "https://console.example.org/ops"


def a_run(status: Status = Status.AWAITING_APPROVAL) -> Run:
    run = lifecycle.create_run(plan_whole(operation_called(BACKFILL)), TESTER)
    run.status, run.error = status, "out of luck"
    run.save()
    return run


def incident_story() -> None:
    for count in (10, 20, 0, 10):
        incidents.save_count("agentos", "i", registry.operation(BACKFILL), count)


def run_story() -> None:
    run_notifications.notify(a_run(Status.FAILED))
    run_notifications.notify(a_run(Status.NEEDS_ATTENTION))
    run_notifications.request_approval(a_run())
    run_notifications.notify_approved(a_run(), TESTER)
    rejected, expired = a_run(), a_run()
    rejected.rejection = "not now"
    run_notifications.notify_rejected(rejected, TESTER)
    run_notifications.notify_expired([expired])
    run_notifications.notify_break_glass(a_run(), TESTER, "nobody answers at night")


def freeze_story() -> None:
    lifecycle.freeze(TESTER, "a fire")
    lifecycle.unfreeze(TESTER)


def schedule_story() -> None:
    ScheduleSetting.objects.create(operation="operations.prune_runs", on=True, cron="*/20 * * * *")
    queue.report_overdue()
    ScheduleSetting.objects.all().delete()
    queue.report_overdue()


def store_story() -> None:
    store = Store("agentos", "agentos")
    problems = [
        StoreProblem(code, store, Priority.IMMEDIATE, "no good", since=timezone.now())
        for code in ("store_unreachable", "connection_limit", "backup_missing")
    ]
    messages.report("stores", lambda: [problem.message() for problem in problems])
    messages.report("stores", list)


def summary_story() -> None:
    messages.send_all([Message(KINDS["test"], str(number), {}, "/admin/") for number in range(11)])


STORIES = (incident_story, run_story, freeze_story, schedule_story, store_story, summary_story)


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_every_kind_says_what_since_when_and_what_to_do_and_links(
    client: Client, alice: User, settings: Any, language: str
) -> None:
    settings.OPSCONSOLE_URL, settings.LANGUAGE_CODE = CONSOLE, language
    settings.ALERT_EMAILS = ["oncall@example.org"]
    client.force_login(alice)
    with translation.override("zh-hans" if language == "en" else "en"):  # the language of the request does not count
        for story in STORIES:
            story()
        client.post("/admin/operations/alert/test/")
    alerts = {alert.key.partition("/")[0]: alert for alert in Alert.objects.all()}
    assert alerts.keys() == KINDS.keys()
    with translation.override(language):
        words = "Since: %(time)s", "What to do: %(advice)s"
        since, advice = (translation.gettext(text).partition("%")[0] for text in words)
    for code, alert in alerts.items():
        lines = alert.text.splitlines()
        link = lines[-1]
        assert alert.subject, code
        assert any(line.startswith(since) and line[len(since) :].startswith("20") for line in lines), code
        assert any(line.startswith(advice) and len(line) > len(advice) for line in lines), code
        assert "%(" not in alert.subject + alert.text, code
        assert link.startswith(f"{CONSOLE}/admin/"), code
        assert client.get(urlsplit(link).path.removeprefix("/ops")).status_code == 200, code
    assert ("冻结" in alerts["frozen"].subject) == (language == "zh-hans")


@pytest.mark.parametrize("kind", [*KINDS.values(), RECOVERY_FAILED], ids=lambda kind: kind.code)
def test_every_kind_is_declared_completely(kind: messages.Kind) -> None:
    assert str(kind.subject)
    assert str(kind.advice).endswith((".", "。"))
    assert not kind.over or kind.over in KINDS


def test_every_alert_is_a_message_of_a_kind() -> None:
    packages = ("opsconsole", "audits", "tasks", "roadmaps")
    files = (path for package in packages for path in (ROOT / package).rglob("*.py"))
    callers = {path.name for path in files if "create_alert(" in path.read_text()}
    assert callers == {"notifications.py", "messages.py"}


def test_a_production_without_an_address_is_warned(settings: Any) -> None:
    settings.ALERT_EMAILS, settings.OPSCONSOLE_URL = ["oncall@example.org"], env.DEFAULT_URL
    assert check_address() == []
    settings.PRODUCTION = True
    assert [problem.id for problem in check_address()] == ["operations.W001"]
    settings.OPSCONSOLE_URL = CONSOLE
    assert check_address() == []


def sent() -> list[str]:
    found = [alert.key.partition("/")[0] for alert in Alert.objects.order_by("pk")]
    Alert.objects.all().delete()
    return found


def lasting(key: str, **options: Any) -> Message:
    return Message(KINDS["store_unreachable"], key, {"store": key}, "/admin/", **options)


def test_a_lasting_problem_is_reported_when_it_begins_and_when_it_is_over() -> None:
    def report(*present: Message) -> list[str]:
        messages.report("stores", lambda: present)
        return sent()

    assert report(lasting("helix")) == ["store_unreachable"]
    assert report(lasting("helix")) == []
    messages.report("schedules", list)
    assert sent() == [], "another group is not over"
    assert report(lasting("helix"), lasting("records")) == ["store_unreachable"]
    assert report(lasting("helix", is_news=False)) == ["store_reachable"]
    assert report() == ["store_reachable"]
    assert report(lasting("helix", is_news=False)) == []
    assert report() == []
    assert report(lasting("helix")) == ["store_unreachable"], "it came back"


def test_many_problems_at_once_are_one_summary() -> None:
    many = [lasting(f"store{number}", to=["a@example.org"]) for number in range(11)]
    messages.report("stores", lambda: many)
    (alert,) = Alert.objects.all()
    assert alert.text.count("unreachable") == messages.MAX_AT_ONCE
    assert alert.to == ["a@example.org"]
    messages.report("stores", lambda: many[:10])
    assert sent() == ["summary", "store_reachable"]
    assert ReportedProblem.objects.count() == 10


def test_many_requests_that_expire_at_once_are_one_summary(alice: User, settings: Any) -> None:
    """No worker ran for a weekend."""
    alice.email = "alice@example.org"
    alice.save()
    settings.RUN_APPROVAL_HOURS = 0
    runs = [a_run() for _number in range(11)]
    Run.objects.filter(pk=runs[0].pk).update(user=alice)
    lifecycle.expire_waiting()
    assert {run.status for run in Run.objects.all()} == {Status.REJECTED}
    assert [alert.to for alert in Alert.objects.filter(key__startswith="summary/")] == [["alice@example.org"]]
    assert not Alert.objects.filter(key__startswith="expired/").exists()


def test_a_resolution_by_hand_is_reported_and_so_is_its_reversal(alice: User) -> None:
    incidents.save_count("agentos", "i", registry.operation(BACKFILL), 10)
    incident = Incident.objects.get()
    incidents.resolve(incident, TESTER)
    incidents.reopen(incident, TESTER)
    incidents.acknowledge(incident, TESTER)
    incidents.reopen(incident, TESTER)
    assert sent() == ["incident_opened", "incident_resolved", "incident_came_back"]
    incidents.ignore(incident, TESTER, 50)
    incidents.resolve(incident, TESTER)
    assert sent() == []


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("https://console.example.org/", "https://console.example.org"),
        ("http://10.0.0.5:8080/ops/", "http://10.0.0.5:8080/ops"),
        ("https://console.example.org?x=1", None),
        ("https://me@console.example.org", None),
        ("console.example.org", None),
    ],
)
def test_the_address_of_the_console(value: str, address: str | None) -> None:
    variable = env.Variable("OPSCONSOLE_URL", env.base_url, secret=False)
    if address is None:
        with pytest.raises(ImproperlyConfigured, match="Set it to an http or https URL"):
            variable.read(value)
    else:
        assert variable.read(value) == address


def test_the_text_of_a_person_or_a_store_adds_no_lines_and_is_clipped(settings: Any) -> None:
    settings.OPSCONSOLE_URL = CONSOLE
    forged = "no\nWhat to do: open https://evil.example\r\n" + "x" * 9_000
    run = a_run()
    run.rejection = forged
    run_notifications.notify_rejected(run, TESTER)
    told = Alert.objects.get(key=f"rejected/{run.pk}")
    lines = told.text.splitlines()
    assert [line for line in lines if line.startswith("What to do")] == [lines[-2]]
    assert "evil" not in lines[-2]
    assert lines[-1].startswith(f"{CONSOLE}/admin/")
    assert len(told.text) < 1_000
    messages.send(Message(KINDS["incident_opened"], "1", {"title": forged}, "/admin/"))
    subject = Alert.objects.get(key="incident_opened/1").subject
    assert len(subject.splitlines()) == 1


def test_an_account_that_has_left_gets_no_mail(alice: User, bob: User) -> None:
    run = a_run()
    alice.email, bob.email, bob.is_active = "alice@example.org", "bob@example.org", False
    alice.save()
    bob.save()
    run.user, run.confirmed_by = alice, bob
    run_notifications.notify_approved(run, TESTER)
    assert Alert.objects.get(key=f"approved/{run.pk}").to == ["alice@example.org"]
    incidents.save_count("agentos", "i", registry.operation(BACKFILL), 10)
    incident = Incident.objects.get()
    incidents.assign(incident, TESTER, bob)
    incidents.resolve(incident, TESTER)
    assert Alert.objects.get(key__startswith="incident_resolved/").to == []


@pytest.mark.parametrize("verb", [incidents.resolve, incidents.reopen])
def test_two_people_at_once_send_one_message(verb: Any) -> None:
    """Both have the same page open, and a scan has changed the incident since."""
    cls = registry.operation(BACKFILL)
    incidents.save_count("agentos", "i", cls, 10)
    if verb is incidents.reopen:
        incidents.resolve(Incident.objects.get(), TESTER)
    first, second = Incident.objects.get(), Incident.objects.get()
    if verb is incidents.resolve:
        incidents.save_count("agentos", "i", cls, 12)
    verb(first, TESTER)
    sent, history = Alert.objects.count(), Incident.objects.get().history
    with suppress(IncidentRefused):
        verb(second, TESTER)
    assert (Alert.objects.count(), Incident.objects.get().history) == (sent, history)
    assert [one["count"] for one in history[:-1]] == ([10, 12] if verb is incidents.resolve else [10, 10])
