"""Attempts to recover tasks: limits over all workers, and counts of failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from opsconsole.engine.leases import is_stale
from opsconsole.engine.messages import Kind, Message, language_of_messages, send
from opsconsole.engine.models import Status
from opsconsole.engine.seals import serialised
from opsconsole.redaction import redact
from roadmaps.models import Recovery

MAX_FAILURES = 3  # in a row; then a task needs a person
POLL_SECONDS = 1.0

Outcome = Recovery.Outcome

RECOVERY_FAILED = Kind(
    "recovery",
    gettext_lazy("Task %(task)s failed to recover %(count)d times and needs a person"),
    gettext_lazy("Correct the cause of the error, then recover the task by hand."),
)


def failures(identity: str, task_id: str) -> int:
    """Return the attempts of one task that have failed in a row."""
    return failures_by_task(identity).get(task_id, 0)


def failures_by_task(identity: str) -> dict[str, int]:
    """Return task -> attempts that have failed in a row."""
    failed: dict[str, int] = {}
    rows = Recovery.objects.filter(identity=identity).order_by("pk").values_list("task_id", "outcome")
    for task_id, outcome in rows.iterator():
        if outcome == Outcome.FAILED:
            failed[task_id] = failed.get(task_id, 0) + 1
        elif outcome == Outcome.RECOVERED:
            failed.pop(task_id, None)
    return failed


@contextmanager
def attempt(identity: str, task_id: str, run_id: int | None) -> Iterator[Recovery]:
    """Wait for a free place, then record one attempt and its outcome. The third failure sends an alert."""
    current = _begin(identity, task_id, run_id)
    try:
        yield current
    except Exception as error:
        _end(current, Outcome.FAILED, redact(str(error)) or type(error).__name__)
        count = failures(identity, task_id)
        if count >= MAX_FAILURES:
            _report(current, count)
        raise
    _end(current, Outcome.RECOVERED)


@language_of_messages()
def _report(failed: Recovery, count: int) -> None:
    page = reverse("admin:index") if failed.run_id is None else reverse("run", args=[failed.run_id])
    error = _("Last error: %(error)s") % {"error": failed.error}
    send(Message(RECOVERY_FAILED, str(failed.pk), {"task": failed.task_id, "count": count}, page, facts=[error]))


def _begin(identity: str, task_id: str, run_id: int | None) -> Recovery:
    """Wait until fewer attempts run than allowed, and for the delay since the last start."""
    while True:
        with serialised("recoveries"):
            _end_lost_attempts(identity, task_id)
            running = Recovery.objects.filter(outcome=Outcome.RUNNING).count()
            newest = Recovery.objects.order_by("-started_at").first()
            delay = timedelta(seconds=settings.TASK_RECOVERY_DELAY_SECONDS)
            if running < settings.TASK_RECOVERY_MAX_CONCURRENT and (
                newest is None or newest.started_at + delay <= timezone.now()
            ):
                return Recovery.objects.create(identity=identity, task_id=task_id, run_id=run_id)
        time.sleep(POLL_SECONDS)


def _end_lost_attempts(identity: str, task_id: str) -> None:
    """End attempts whose worker is lost, and earlier ones of this task, because this run holds the task's lock."""
    for one in Recovery.objects.filter(outcome=Outcome.RUNNING).select_related("run"):
        run = one.run
        is_alive = run is not None and run.status == Status.RUNNING and not is_stale(run)
        if not is_alive or (one.identity, one.task_id) == (identity, task_id):
            _end(one, Outcome.FAILED, _("Its worker was lost."))


def _end(one: Recovery, outcome: Outcome, error: str = "") -> None:
    one.outcome, one.error, one.finished_at = outcome, error[:2000], timezone.now()
    one.save(update_fields=("outcome", "error", "finished_at"))
