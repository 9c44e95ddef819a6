"""System checks: queue settings that would hand a job out twice, and wrong operations."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _

from opsconsole.engine import registry
from opsconsole.engine.queue import SLICE_SECONDS

# A slice may end in a batch that waits for locks and is written in halves.
LONGEST_BATCH_SECONDS = 30


@register()
def check_operations(**kwargs: Any) -> list[CheckMessage]:
    """Load every operation, so that a wrong declaration is reported at start-up."""
    try:
        registry.operations()
    except (ImproperlyConfigured, TypeError) as error:
        return [Error(str(error), id="operations.E010")]
    return []


@register()
def check_queue(**kwargs: Any) -> list[CheckMessage]:
    """Check Q_CLUSTER: a job must be handed out once, and the run retries itself."""
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
                _("`queue_limit` is not the number of workers: jobs would wait in a full cluster."),
                _("Set it to `workers` (%(workers)d).") % {"workers": workers},
            )
        )
    shortest = SLICE_SECONDS + LONGEST_BATCH_SECONDS
    if timeout <= shortest:
        problems.append(
            (
                "E003",
                _("`timeout` would kill a worker in its slice."),
                _("Set it above %(seconds)d seconds.") % {"seconds": shortest},
            )
        )
    # The retry clock starts when a job is fetched, not when it starts.
    least = timeout * (2 + queue.get("queue_limit", 0) / max(workers, 1))
    if retry <= least:
        problems.append(
            (
                "E004",
                _("`retry` would hand a job out a second time while it waits or runs."),
                _("Set it above %(seconds)d seconds: timeout × (2 + queue_limit / workers).") % {"seconds": least},
            )
        )
    # Each with the consequence of another value: see Django-Q's configuration.
    for number, (name, wanted, consequence) in enumerate(
        (
            ("bulk", 1, _("a worker would hold jobs that another could take")),
            ("ack_failures", True, _("a failed job would come back for ever")),
            ("max_attempts", 1, _("the queue would retry what the run retries itself")),
            ("catch_up", False, _("every missed tick of a stopped cluster would be replayed")),
            ("save_limit", 0, _("every finished job would read all the kept ones again")),
        ),
        5,
    ):
        if queue.get(name) != wanted:
            text = _("`%(name)s` is not %(wanted)s: %(consequence)s.")
            values = {"name": name, "wanted": wanted, "consequence": consequence}
            problems.append((f"E{number:03d}", text % values, None))
    return [Error(f"Q_CLUSTER: {text}", hint=hint, id=f"opsconsole.{code}") for code, text, hint in problems]
