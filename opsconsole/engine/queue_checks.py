"""System checks: invalid operations, links of messages, and queue settings that would deliver a job twice."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _

from opsconsole.engine import registry
from opsconsole.engine.notifications import channels
from opsconsole.engine.queue import SLICE_SECONDS

# The last batch of a slice may wait for locks and be halved.
LONGEST_BATCH_SECONDS = 30


@register()
def check_operations(**kwargs: Any) -> list[CheckMessage]:
    """Load every operation to report an invalid declaration at start-up."""
    try:
        registry.operations()
    except (ImproperlyConfigured, TypeError) as error:
        return [Error(str(error), id="operations.E010")]
    return []


@register()
def check_address(**kwargs: Any) -> list[CheckMessage]:
    """Check that the links in messages of a production lead to the console."""
    if not settings.PRODUCTION or not channels() or urlsplit(settings.OPSCONSOLE_URL).hostname != "localhost":
        return []
    text = _("The links in messages begin with %(url)s.") % {"url": settings.OPSCONSOLE_URL}
    return [Warning(text, hint=_("Set OPSCONSOLE_URL to the address of the console."), id="operations.W001")]


@register()
def check_queue(**kwargs: Any) -> list[CheckMessage]:
    """Check that the queue delivers each job once. The run retries itself."""
    queue = settings.Q_CLUSTER
    workers = queue.get("workers") or 0
    timeout, retry = queue.get("timeout") or 0, queue.get("retry") or 0
    problems: list[tuple[str, str, str | None]] = []
    if workers < 1:
        problems.append(("E001", _("`workers` is below 1."), _("Set OPSCONSOLE_WORKERS to 1 or more.")))
    elif queue.get("queue_limit") != workers:
        problems.append(
            (
                "E002",
                _("`queue_limit` differs from the number of workers. Jobs would wait in a full cluster."),
                _("Set it to `workers` (%(workers)d).") % {"workers": workers},
            )
        )
    shortest = SLICE_SECONDS + LONGEST_BATCH_SECONDS
    if timeout <= shortest:
        problems.append(
            (
                "E003",
                _("`timeout` would kill a worker during its slice."),
                _("Set it above %(seconds)d seconds.") % {"seconds": shortest},
            )
        )
    # The time of `retry` starts when a worker fetches a job, not when the job starts.
    least = timeout * (2 + queue.get("queue_limit", 0) / max(workers, 1))
    if retry <= least:
        problems.append(
            (
                "E004",
                _("`retry` would deliver a job again while it waits or runs."),
                _("Set it above %(seconds)d seconds: timeout × (2 + queue_limit / workers).") % {"seconds": least},
            )
        )
    # Name, required value, consequence of another value.
    for number, (name, wanted, consequence) in enumerate(
        (
            ("bulk", 1, _("a worker would reserve jobs that another worker could execute")),
            ("ack_failures", True, _("a failed job would be repeated forever")),
            ("max_attempts", 1, _("the queue would repeat what the run already retries")),
            ("catch_up", False, _("a restarted cluster would repeat every missed schedule")),
            ("save_limit", 0, _("every finished job would read all stored results")),
        ),
        5,
    ):
        if queue.get(name) != wanted:
            text = _("`%(name)s` is not %(wanted)s: %(consequence)s.")
            values = {"name": name, "wanted": wanted, "consequence": consequence}
            problems.append((f"E{number:03d}", text % values, None))
    return [Error(f"Q_CLUSTER: {text}", hint=hint, id=f"opsconsole.{code}") for code, text, hint in problems]
