"""Runs, their shards, their batches with before-images, and their failed rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.before_images import decode_before_image, writes_of
from opsconsole.engine.fields import RedactedText
from opsconsole.engine.models.statuses import ENDED, RESUMABLE, Rejection, Request, Status, Trigger
from opsconsole.stores.rows import Write

MAX_BATCHES = 1_000_000  # of a run without shards, and of a shard: a shard numbers its batches from there


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
    # The number of shards that the run has, or will have after its start. With 1, it has none and moves its own cursor.
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
