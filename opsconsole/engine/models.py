"""The tables of the engine in `default`: runs, batches with before-images, events, locks."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Self

import orjson
from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.before_images import decode_before_image, encode_before_image, writes_of
from opsconsole.engine.fields import RedactedText
from opsconsole.engine.operation import Priority
from opsconsole.engine.seals import seal_of, serialised
from opsconsole.redaction import redact_all
from opsconsole.stores.rows import Write


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


MAX_BATCHES = 1_000_000  # of a run without shards, and of a shard: a shard numbers its batches from there


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


class RunQuerySet(models.QuerySet["Run"]):
    """Runs."""

    def without_documents(self) -> RunQuerySet:
        """Leave out the large columns, for lists of runs. Each is read when it is used."""
        return self.defer("plan", "selection", "reasons")


class Progress(models.Model):
    """The execution of a range of keys by one worker: by a run itself, or by one of its shards."""

    bound = models.JSONField(null=True)  # the last key
    cursor = models.JSONField(null=True)
    changed = models.BigIntegerField(_("changed"), default=0)
    skipped = models.BigIntegerField(_("skipped"), default=0)
    invalid = models.BigIntegerField(_("invalid"), default=0)
    failed = models.BigIntegerField(_("failed"), default=0)
    amount = models.BigIntegerField(default=0)  # of all changes, in the figure of the operation's button
    reasons = models.JSONField(default=dict)  # outcome → reason → count
    batches_done = models.PositiveIntegerField(_("batches"), default=0)
    elapsed_seconds = models.FloatField(_("elapsed"), default=0)
    waiting = RedactedText(blank=True)  # why it waits
    waiting_code = models.CharField(max_length=20, blank=True)  # lock, throttle, freeze …
    waiting_since = models.DateTimeField(null=True)
    waits = models.PositiveSmallIntegerField(default=0)  # how many times in a row it released its worker to wait
    error = RedactedText(_("error"), blank=True)

    # Its worker. `generation` is the fence: each takeover increments it.
    generation = models.PositiveIntegerField(default=0)
    worker = models.JSONField(default=dict)  # host, pid, started; empty between two slices
    lease_until = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)  # of workers, since the last batch

    class Meta:
        abstract = True

    start: Any = None  # the cursor before the first row

    @property
    def whole(self) -> Run:
        """Return the run that this is a part of."""
        raise NotImplementedError

    @property
    def batches_before(self) -> int:
        """Return the number that its first batch follows."""
        return 0

    @property
    def own_batches(self) -> models.QuerySet[Batch]:
        """Return the batches that its worker writes."""
        raise NotImplementedError

    @property
    def seen(self) -> int:
        """Return the number of rows that have an outcome."""
        return self.changed + self.skipped + self.invalid + self.failed


class Run(Progress):
    """A plan, and its execution once confirmed. The operation is stored by name, because history outlives code."""

    operation = models.CharField(_("operation"), max_length=100)
    store = models.CharField(_("store"), max_length=50)
    location = models.TextField(_("location"))
    identity = models.TextField()
    attached_path = models.TextField(blank=True)  # of a --db-path store
    params = models.JSONField(_("parameters"), default=dict)
    selection = models.JSONField(_("selection"), default=dict)
    fingerprint = models.CharField(max_length=64)  # operation, store, parameters, selection: the same command
    writes = models.JSONField(default=dict)
    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, related_name="children", verbose_name=_("related run")
    )

    status = models.CharField(_("status"), max_length=20, choices=Status, default=Status.PLANNED)
    trigger = models.CharField(_("started from"), max_length=10, choices=Trigger)
    tick = models.CharField(max_length=150, null=True, unique=True)  # a schedule's due time: one run each
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="runs", verbose_name=_("account")
    )
    started_by = models.CharField(_("started by"), max_length=150)  # account, or user@host of the shell
    confirmed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("confirmed by")
    )
    confirmed_at = models.DateTimeField(_("confirmed at"), null=True)
    changed_by = models.ForeignKey(  # the account that last changed the schedule that started it
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("schedule changed by")
    )
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("approved by")
    )
    break_glass = models.BooleanField(_("started without approval"), default=False)
    rejection = models.TextField(_("reason for the rejection"), blank=True)  # of a person
    rejection_code = models.CharField(max_length=20, choices=Rejection, blank=True)  # of an automatic rejection
    replaces = models.ForeignKey(  # the run whose plan it renews: its rows or its parameters have changed
        "self", models.PROTECT, null=True, related_name="replacements", verbose_name=_("run it replaces")
    )
    follows = models.ForeignKey(  # the run of another store that must succeed first, see `series`
        "self", models.PROTECT, null=True, related_name="followers", verbose_name=_("run it follows")
    )
    incident = models.ForeignKey(  # the incident that the run repairs
        "Incident", models.PROTECT, null=True, related_name="runs", verbose_name=_("incident")
    )
    note = models.TextField(_("note"), blank=True)
    code_version = models.CharField(_("code version"), max_length=50)

    # The plan.
    total = models.BigIntegerField(_("in scope"), default=0)
    digest = models.CharField(max_length=64, blank=True)
    plan = models.JSONField(default=dict)  # see `stored_plans.STORED`

    # The execution.
    batch_size = models.PositiveIntegerField(_("batch size"), default=1000)
    fast = models.BooleanField(_("fast"), default=False)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)

    in_background = models.BooleanField(default=False)
    request = models.CharField(max_length=10, choices=Request, default=Request.NONE, blank=True)
    # How many shards it has, or will have once it has started. One: the run has no shards and moves its own cursor.
    shard_count = models.PositiveSmallIntegerField(_("shards"), default=1)

    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        verbose_name = _("run")
        verbose_name_plural = _("runs")
        indexes = (
            models.Index(fields=("status", "-id"), name="run_status"),
            models.Index(fields=("operation", "-id"), name="run_operation"),
            models.Index(fields=("fingerprint", "status"), name="run_fingerprint"),
            models.Index(fields=("operation", "identity", "finished_at"), name="run_scan"),
            models.Index(fields=("trigger", "operation", "-id"), name="run_schedule"),
            models.Index(fields=("-finished_at",), name="run_finished"),
        )
        permissions = (
            ("operate_run", _("Can plan and run operations")),
            ("approve_run", _("Can approve another person's run")),
            ("break_glass", _("Can start a run without approval in an emergency")),
            ("change_by_statement", _("Can plan and run an SQL statement")),
        )

    def __str__(self) -> str:
        return f"{self.operation} {self.pk}"

    @property
    def approval_expires_at(self) -> datetime:
        """When the request for an approval of this run expires."""
        return (self.confirmed_at or self.created_at) + timedelta(hours=settings.RUN_APPROVAL_HOURS)

    @property
    def rejection_words(self) -> str:
        """Why the run was rejected."""
        return str(Rejection(self.rejection_code).label) if self.rejection_code else self.rejection

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def whole(self) -> Run:
        return self

    @property
    def own_batches(self) -> models.QuerySet[Batch]:
        return self.batches.all()

    @property
    def last_batch(self) -> int:
        """Return a number that no batch of this run exceeds."""
        return self.batches_done if self.shard_count == 1 else (self.shard_count + 1) * MAX_BATCHES

    @property
    def rows_per_second(self) -> float:
        return self.seen / self.elapsed_seconds if self.elapsed_seconds else 0.0

    @property
    def undone_by(self) -> int | None:
        """Return the id of the run that undid this one, None if no undo has succeeded."""
        undo = Run.objects.filter(parent=self, operation="operations.undo_run", status=Status.SUCCEEDED)
        return undo.order_by("-pk").values_list("pk", flat=True).first()

    @property
    def undoable(self) -> bool:
        """Return whether the run changed rows whose before-images still exist."""
        return (
            self.status in {*ENDED, *RESUMABLE}
            and self.changed > 0
            and self.batches.filter(changed__gt=0, before_image__isnull=False).exists()
        )


class Shard(Progress):
    """A range of keys of a run. Each shard has its own worker, cursor and batches.

    Its status is QUEUED, RUNNING, INTERRUPTED (stopped with its run), SUCCEEDED or FAILED.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="shards")
    number = models.PositiveSmallIntegerField()
    start = models.JSONField(null=True)
    status = models.CharField(max_length=20, choices=Status, default=Status.QUEUED)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("run", "number"), name="shard_number"),)

    def __str__(self) -> str:
        return f"{self.run_id}/{self.number}"

    @property
    def whole(self) -> Run:
        return self.run

    @property
    def batches_before(self) -> int:
        return self.number * MAX_BATCHES

    @property
    def own_batches(self) -> models.QuerySet[Batch]:
        before = self.batches_before
        return self.run.batches.filter(number__gt=before, number__lte=before + MAX_BATCHES)


class PinnedRows(models.Model):
    """Rows that a plan with deletes or external effects has pinned: key and digest of each.

    The run touches exactly these rows, if they are unchanged. They are deleted when the run ends.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="pinned")
    number = models.PositiveIntegerField()
    rows = models.BinaryField()  # compressed JSON

    class Meta:
        constraints = (models.UniqueConstraint(fields=("run", "number"), name="pinned_number"),)

    def __str__(self) -> str:
        return f"{self.run_id}/{self.number}"

    @classmethod
    def keep(cls, run: Run, rows: list[tuple[Any, str]]) -> None:
        """Append rows to the pinned rows of `run`."""
        if rows:
            packed = zlib.compress(orjson.dumps(rows), 1)
            cls.objects.create(run=run, number=cls.objects.filter(run=run).count(), rows=packed)

    @classmethod
    def of(cls, run: Run) -> dict[Any, str]:
        """Return key → digest of all pinned rows of `run`."""
        parts = cls.objects.filter(run=run).order_by("number").values_list("rows", flat=True)
        return {key: digest for part in parts for key, digest in orjson.loads(zlib.decompress(part))}


class GivenRows(models.Model):
    """Rows from a form, a file or a statement: keys, old values, new values.

    They are stored like a before-image, and as long. A plan refers to them by their digest, so that exactly these rows
    are confirmed, approved and written.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    inserts = models.JSONField(default=list)  # columns of the new rows
    updates = models.JSONField(default=list)  # columns that change in existing rows
    count = models.PositiveIntegerField(_("rows"))
    content = models.BinaryField()  # compressed: see `encode_before_image`
    at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.digest

    @classmethod
    def of(cls, writes: Sequence[Write]) -> Self:
        """Return the rows without saving them. Raises TypeError for values that cannot be stored exactly."""
        content = encode_before_image(list(writes), {}, {})
        digest = hashlib.sha256(content).hexdigest()
        columns: dict[str, dict[str, None]] = {"insert": {}, "update": {}, "delete": {}}
        for write in writes:
            if any(old != new for _key, old, new in write.rows):
                columns[write.kind].update(dict.fromkeys(write.columns))
        return cls(
            digest=digest,
            inserts=list(columns["insert"]),
            updates=list(columns["update"]),
            count=sum(len(write.rows) for write in writes),
            content=content,
        )

    @classmethod
    def keep(cls, writes: Sequence[Write]) -> str:
        """Store the rows and return their digest. Raises TypeError for values that cannot be stored exactly."""
        rows = cls.of(writes)
        rows.save()
        return rows.digest

    @property
    def writes(self) -> list[Write]:
        """Return the rows in their given order. Raises ValueError if they were altered."""
        if hashlib.sha256(self.content).hexdigest() != self.digest:
            raise ValueError(f"The digest of the given rows is not {self.digest}.")
        return writes_of(self.content)


class Batch(models.Model):
    """A transaction of a run, with its before-image.

    It is saved durably as `prepared` before the store commits, and marked `committed` afterwards. After a crash, the
    rows of the store are compared to find out which it is.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="batches")
    number = models.PositiveIntegerField(_("batch"))
    committed = models.BooleanField(default=False)
    cursor = models.JSONField()  # the run's, once this batch is committed
    changed = models.PositiveIntegerField(_("changed"), default=0)
    skipped = models.PositiveIntegerField(_("skipped"), default=0)
    invalid = models.PositiveIntegerField(_("invalid"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    amount = models.PositiveIntegerField(default=0)
    rows = models.PositiveIntegerField(_("rows written"), default=0)
    seconds = models.FloatField(_("seconds"), default=0)
    prepared_at = models.DateTimeField(default=timezone.now)
    before_image = models.BinaryField(null=True)  # compressed: see `encode_before_image`; None once pruned

    class Meta:
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        constraints = (models.UniqueConstraint(fields=("run", "number"), name="batch_number"),)

    def __str__(self) -> str:
        return f"{self.run_id}/{self.number}"

    @property
    def writes(self) -> list[Write]:
        """Return the writes with old and new values, in the order of writing."""
        return [] if self.before_image is None else writes_of(self.before_image)

    @property
    def unchanged(self) -> dict[str, dict[str, list[Any]]]:
        """Return outcome (skipped, invalid) → reason → labels of the unchanged rows."""
        return {} if self.before_image is None else decode_before_image(self.before_image)["unchanged"]

    @property
    def reasons(self) -> dict[str, dict[str, int]]:
        """Return outcome → reason → count."""
        return {} if self.before_image is None else decode_before_image(self.before_image)["reasons"]


class FailedItem(models.Model):
    """A row whose processing raised an error or whose write failed. It can be retried alone."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="failed_items")
    batch = models.ForeignKey(Batch, models.CASCADE, related_name="failed_items")
    key = models.JSONField(_("key"))
    label = models.TextField(_("row"))
    reason = models.CharField(_("reason"), max_length=200)
    error = RedactedText(_("error"))
    at = models.DateTimeField(_("at"), default=timezone.now)
    retried_by = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="+")

    class Meta:
        verbose_name = _("failed row")
        verbose_name_plural = _("failed rows")

    def __str__(self) -> str:
        return self.label


class Finding(models.Model):
    """A problem that a check found in a store, from its first scan to the scan that resolved it."""

    operation = models.CharField(_("check"), max_length=100)
    store = models.CharField(_("store"), max_length=50)
    identity = models.TextField()
    question = models.CharField(max_length=100)
    code = models.CharField(_("problem"), max_length=100)
    subject = models.TextField(_("subject"))
    table = models.TextField(_("table"), blank=True)  # of the row that it is about
    key = models.TextField(_("key"), blank=True)
    cause = models.CharField(_("cause"), max_length=100, blank=True)
    cause_subject = models.TextField(blank=True)  # the row of an incident about one row
    incident = models.ForeignKey(
        "Incident", models.SET_NULL, null=True, related_name="findings", verbose_name=_("incident")
    )
    priority = models.CharField(_("priority"), max_length=20, choices=Priority)
    data = models.JSONField(default=dict)
    found_at = models.DateTimeField(_("found at"))
    seen_at = models.DateTimeField(_("last seen at"))
    resolved_at = models.DateTimeField(_("resolved at"), null=True)
    first_run = models.ForeignKey(Run, models.PROTECT, related_name="+")
    last_run = models.ForeignKey(Run, models.PROTECT, related_name="findings")
    resolved_run = models.ForeignKey(Run, models.PROTECT, null=True, related_name="+")

    class Meta:
        verbose_name = _("finding")
        verbose_name_plural = _("findings")
        constraints = (
            models.UniqueConstraint(fields=("operation", "identity", "code", "subject"), name="finding_problem"),
        )
        indexes = (
            models.Index(fields=("operation", "code", "resolved_at"), name="finding_open"),
            models.Index(fields=("last_run", "question"), name="finding_run"),
            models.Index(fields=("identity", "table", "key"), name="finding_row"),
            models.Index(fields=("incident", "resolved_at", "operation", "code"), name="finding_incident"),
        )

    def __str__(self) -> str:
        return f"{self.code} {self.subject}"


class IncidentState(models.TextChoices):
    OPEN = "open", pgettext_lazy("incident", "open")
    ACKNOWLEDGED = "acknowledged", _("acknowledged")
    SNOOZED = "snoozed", _("snoozed")
    IGNORED = "ignored", _("ignored")
    RESOLVED = "resolved", _("resolved")


class IncidentQuerySet(models.QuerySet["Incident"]):
    """Incidents by state. The state follows from times and figures, so that a snooze ends without a job."""

    def in_state(self, state: str) -> IncidentQuerySet:
        now = timezone.now()
        snoozed = models.Q(snoozed_until__gt=now)
        ignored = models.Q(ignored_above__isnull=False, ignored_above__gte=models.F("count"))
        unresolved = self.filter(resolved_at=None)
        if state == IncidentState.RESOLVED:
            return self.exclude(resolved_at=None)
        if state == IncidentState.SNOOZED:
            return unresolved.filter(snoozed)
        if state == IncidentState.IGNORED:
            return unresolved.filter(ignored).exclude(snoozed)
        awake = unresolved.exclude(snoozed).exclude(ignored)
        return awake.filter(acknowledged_at__isnull=state != IncidentState.ACKNOWLEDGED)

    def worst_first(self) -> IncidentQuerySet:
        """Sort by priority, then by count. Ties are sorted by store, cause and subject."""
        ranks = (models.When(priority=one, then=models.Value(rank)) for rank, one in enumerate(Priority.values))
        return self.order_by(models.Case(*ranks), "-count", "store", "cause", "subject")

    def active(self) -> IncidentQuerySet:
        """Return the open and the acknowledged incidents."""
        return self.in_state(IncidentState.OPEN) | self.in_state(IncidentState.ACKNOWLEDGED)


class Incident(models.Model):
    """All open findings of one cause in one store, from detection to resolution."""

    store = models.CharField(_("store"), max_length=50)
    identity = models.TextField()
    cause = models.CharField(_("cause"), max_length=100)
    subject = models.TextField(_("subject"), blank=True)  # the row, of a cause with one incident for each row
    table = models.TextField(blank=True)
    source = models.CharField(max_length=100)  # the check or operation that declares the cause
    is_count = models.BooleanField(default=False)  # it counts rows that wait for a repair instead of findings
    priority = models.CharField(_("priority"), max_length=20, choices=Priority)
    count = models.BigIntegerField(_("count"), default=0)  # of findings or rows
    previous_count = models.BigIntegerField(null=True)  # before its last change
    data = models.JSONField(default=dict)  # of one finding, for the title
    came_back = models.PositiveIntegerField(_("came back"), default=0)
    opened_at = models.DateTimeField(_("since"))
    seen_at = models.DateTimeField(_("last seen at"))
    resolved_at = models.DateTimeField(_("resolved at"), null=True)
    resolved_run = models.ForeignKey(Run, models.PROTECT, null=True, related_name="+", verbose_name=_("resolved by"))
    history = models.JSONField(default=list)  # entries of time, event, count and run

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="incidents", verbose_name=_("owner")
    )
    acknowledged_at = models.DateTimeField(_("acknowledged at"), null=True)
    snoozed_until = models.DateTimeField(_("snoozed until"), null=True)
    ignored_above = models.BigIntegerField(null=True)  # ignored while `count` is not above it
    link = models.URLField(_("ticket"), max_length=500, blank=True)

    objects = IncidentQuerySet.as_manager()

    class Meta:
        verbose_name = _("incident")
        verbose_name_plural = _("incidents")
        constraints = (models.UniqueConstraint(fields=("identity", "cause", "subject"), name="incident_cause"),)
        indexes = (models.Index(fields=("resolved_at", "priority", "-count"), name="incident_open"),)
        permissions = (("handle_incident", _("Can acknowledge, assign, snooze and resolve incidents")),)

    def __str__(self) -> str:
        return f"{self.cause} {self.subject}".strip()

    @property
    def state(self) -> IncidentState:
        if self.resolved_at is not None:
            return IncidentState.RESOLVED
        if self.snoozed_until is not None and self.snoozed_until > timezone.now():
            return IncidentState.SNOOZED
        if self.ignored_above is not None and self.count <= self.ignored_above:
            return IncidentState.IGNORED
        return IncidentState.OPEN if self.acknowledged_at is None else IncidentState.ACKNOWLEDGED


class Lock(models.Model):
    """A target locked by a run: a table of a store, or one key of it (`key` empty: the whole table)."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="locks")
    identity = models.TextField()
    table = models.TextField()
    key = models.TextField(blank=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("identity", "table", "key"), name="lock_target"),)

    def __str__(self) -> str:
        return f"{self.table} {self.key}".strip()


class AppendOnly(models.QuerySet["Event"]):
    """Entries can be added and read."""

    def update(self, **kwargs: Any) -> int:
        raise TypeError("Events are appended, never changed.")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise TypeError("Events are appended, never changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("Events are appended, never removed.")


class Event(models.Model):
    """An entry of the audit log. Entries are appended and never changed."""

    run = models.ForeignKey(Run, models.PROTECT, null=True, related_name="events")
    incident = models.ForeignKey(Incident, models.PROTECT, null=True, related_name="events")
    at = models.DateTimeField(_("at"), default=timezone.now)
    verb = models.CharField(_("verb"), max_length=40)
    who = models.CharField(_("who"), max_length=150)
    origin = models.CharField(_("from"), max_length=150, blank=True)  # address or host
    detail = models.JSONField(_("detail"), default=dict)
    number = models.BigIntegerField(unique=True, null=True, editable=False)  # its place in the log
    seal = models.CharField(max_length=64, editable=False, default="")  # over itself and the seal before it

    objects = AppendOnly.as_manager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        indexes = (
            models.Index(fields=("-at",), name="event_at"),
            models.Index(fields=("verb", "-at"), name="event_verb"),
        )

    def __str__(self) -> str:
        return f"{self.verb} {self.run_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError("Events are appended, never changed.")
        self.detail = redact_all(self.detail)
        with serialised("audit log"):
            last = Event.objects.exclude(number=None).order_by("-number").values_list("number", "seal").first()
            number, before = last or (0, "")
            self.number = number + 1
            self.seal = seal_of(before, self)
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError("Events are appended, never removed.")


class ScheduleSetting(models.Model):
    """The settings of an operation's schedule: off until a user enables it."""

    operation = models.CharField(_("operation"), max_length=100, primary_key=True)
    on = models.BooleanField(_("on"), default=False)
    cron = models.CharField(_("cron"), max_length=100)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("changed by")
    )

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")

    def __str__(self) -> str:
        return self.operation


class Heartbeat(models.Model):
    """When a worker was last seen alive, per cluster and host: `cluster@host`."""

    host = models.CharField(max_length=150, primary_key=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return self.host


class Freeze(models.Model):
    """A freeze: while a row exists, every run waits at its next batch and no run starts."""

    who = models.CharField(max_length=150)
    note = models.TextField()
    at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return gettext("All runs are frozen by %(who)s: %(note)s") % {"who": self.who, "note": self.note}


class Channel(models.TextChoices):
    MAIL = "mail", _("mail")
    WEBHOOK = "webhook", _("webhook")
    CHAT = "chat", _("chat")


class Alert(models.Model):
    """An alert to the alert list, sent once for each key."""

    key = models.CharField(_("key"), max_length=200, unique=True)
    subject = models.CharField(_("subject"), max_length=300)
    text = models.TextField(_("text"))
    to = models.JSONField(_("also to"), default=list)  # mail addresses in addition to the alert list
    at = models.DateTimeField(_("at"), default=timezone.now)

    class Meta:
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")

    def __str__(self) -> str:
        return self.subject


class Delivery(models.Model):
    """The delivery of an alert through one channel: a row of the outbox."""

    alert = models.ForeignKey(Alert, models.CASCADE, related_name="deliveries")
    channel = models.CharField(_("channel"), max_length=10, choices=Channel)
    target = models.CharField(_("target"), max_length=60, blank=True)  # the name of a chat channel
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    next_try_at = models.DateTimeField(
        _("next try at"), null=True, default=timezone.now
    )  # None: delivered, or given up
    delivered_at = models.DateTimeField(_("delivered at"), null=True)
    last_error = models.TextField(_("error"), blank=True)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        constraints = (models.UniqueConstraint(fields=("alert", "channel", "target"), name="delivery_channel"),)
        indexes = (models.Index(fields=("next_try_at",), name="delivery_next_try"),)

    def __str__(self) -> str:
        return f"{self.alert_id} {self.channel}"


class ReportedProblem(models.Model):
    """A lasting problem that was reported and is not over. Its end is reported, too."""

    about = models.CharField(max_length=20)  # the group that is looked at together
    kind = models.CharField(max_length=40)
    key = models.CharField(max_length=150)
    values = models.JSONField()
    page = models.CharField(max_length=300)
    since = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("kind", "key"), name="reported_problem"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class SystemUser(models.Model):
    """The account of a user of the operating system."""

    name = models.CharField(_("system user"), max_length=150, primary_key=True)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="system_users", verbose_name=_("account")
    )
    at = models.DateTimeField(_("linked at"), default=timezone.now)

    class Meta:
        verbose_name = _("system user")
        verbose_name_plural = _("system users")

    def __str__(self) -> str:
        return self.name


class Installation(models.Model):
    """The environment of this console, in one row that `setup` writes."""

    environment = models.CharField(_("environment"), max_length=20)

    def __str__(self) -> str:
        return self.environment
