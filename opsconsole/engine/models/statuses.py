"""The fixed values of a run: its status with the transitions, what started it, why it was rejected."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    PLANNED = "planned", _("planned")
    AWAITING_APPROVAL = "awaiting_approval", _("awaiting approval")
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    INTERRUPTED = "interrupted", _("interrupted")
    SUCCEEDED = "succeeded", _("succeeded")
    NEEDS_ATTENTION = "needs_attention", _("needs attention")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")
    REJECTED = "rejected", _("rejected")


# From each status, the next ones, with the causes. Other transitions are refused.
TRANSITIONS: dict[str, frozenset[str]] = {
    # confirmed; confirmed, but needs a second approver; discarded
    Status.PLANNED: frozenset({Status.QUEUED, Status.RUNNING, Status.AWAITING_APPROVAL, Status.CANCELLED}),
    # approved; rejected, expired or no longer what was confirmed; withdrawn
    Status.AWAITING_APPROVAL: frozenset({Status.QUEUED, Status.REJECTED, Status.CANCELLED}),
    # claimed by a worker; its rows have changed since the approval; paused or cancelled before its start
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED, Status.FAILED, Status.REJECTED}),
    # every end; a pause; a dead or stopped worker; a takeover by another worker
    Status.RUNNING: frozenset(
        {
            Status.QUEUED,
            Status.PAUSED,
            Status.INTERRUPTED,
            Status.SUCCEEDED,
            Status.NEEDS_ATTENTION,
            Status.FAILED,
            Status.CANCELLED,
        }
    ),
    # resumed in the background or by the same command; cancelled; paused before its start: as if it were queued
    Status.PAUSED: frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLED, Status.FAILED, Status.REJECTED}),
    Status.INTERRUPTED: frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLED, Status.FAILED}),
    # ends; undo and retry are new runs
    Status.SUCCEEDED: frozenset(),
    Status.NEEDS_ATTENTION: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.REJECTED: frozenset(),
}

ENDED = frozenset(status for status, targets in TRANSITIONS.items() if not targets)
# These have no worker; the same command or `resume` continues them.
RESUMABLE = frozenset({Status.PAUSED, Status.INTERRUPTED})


class Trigger(models.TextChoices):
    ADMIN = "admin", _("console")
    SHELL = "shell", _("shell")
    SCHEDULE = "schedule", _("schedule")


class Rejection(models.TextChoices):
    """Why a run was rejected automatically."""

    EXPIRED = "expired", _("expired before it was approved")
    ROWS_CHANGED = "rows_changed", _("the rows changed since they were confirmed")


class Request(models.TextChoices):
    """A request to the worker, handled at the next batch."""

    NONE = "", ""
    PAUSE = "pause", _("pause")
    CANCEL = "cancel", _("cancel")
