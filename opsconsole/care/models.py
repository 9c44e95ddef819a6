"""What the console knows about the state of its stores: their backups, and figures from time to time."""

from __future__ import annotations

from pathlib import Path

from django.db import models
from django.utils.translation import gettext_lazy as _


class Backup(models.Model):
    """A whole file, written and checked. A backup that was cut off in the middle never gets here."""

    store = models.CharField(_("store"), max_length=50)
    identity = models.TextField()
    path = models.TextField(_("file"), unique=True)
    size = models.BigIntegerField(_("size"))
    digest = models.CharField(max_length=64)  # SHA-256 of the file
    at = models.DateTimeField(_("state of"))  # the moment whose state it holds
    verified_at = models.DateTimeField(_("verified at"), null=True)
    engine = models.CharField(_("engine"), max_length=20)
    format = models.CharField(_("format"), max_length=20)  # sqlite, custom, sql
    encrypted = models.BooleanField(_("encrypted"), default=False)
    rows = models.JSONField(default=dict)  # table → rows
    run = models.ForeignKey("operations.Run", models.SET_NULL, null=True, related_name="backups")

    audit_entries = models.BigIntegerField(null=True)  # the audit log's length and newest seal when it was made
    audit_head = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name = _("backup")
        verbose_name_plural = _("backups")
        indexes = (models.Index(fields=("identity", "-at"), name="backup_newest"),)

    def __str__(self) -> str:
        return Path(self.path).name

    @property
    def is_there(self) -> bool:
        """Whether the file still lies where it was written, as long as it was."""
        try:
            return Path(self.path).stat().st_size == self.size
        except OSError:
            return False


class Measurement(models.Model):
    """A figure of a store, the last one of each day: what the front page shows without asking any store."""

    day = models.DateField()
    store = models.CharField(max_length=50)
    name = models.CharField(max_length=200)  # see `measuring`
    value = models.BigIntegerField(null=True)  # None: it could not be measured, `text` says why
    before = models.BigIntegerField(null=True)  # the figure measured before this one
    since = models.DateTimeField(null=True)  # since when it is not 0
    text = models.TextField(blank=True)
    at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("day", "store", "name"), name="measurement_of_day"),)

    def __str__(self) -> str:
        return f"{self.store} {self.name}"


class TableCopy(models.Model):
    """One table of a copied store: how far it is, and whether source and target agree."""

    run = models.ForeignKey("operations.Run", models.CASCADE, related_name="table_copies")
    table = models.TextField()
    source_rows = models.BigIntegerField(default=0)
    target_rows = models.BigIntegerField(default=0)
    left_rows = models.BigIntegerField(default=0)  # that the target can't hold
    left = models.JSONField(default=list)  # the first of them: key and reason
    agrees = models.BooleanField(null=True)  # counts and contents; None until compared
    obstacle = models.CharField(default="", max_length=20)  # why the whole table stays behind
    columns_left = models.JSONField(default=dict)  # that the target lacks: name → rows that hold something there

    class Meta:
        constraints = (models.UniqueConstraint(fields=("run", "table"), name="copy_of_table"),)

    def __str__(self) -> str:
        return self.table
