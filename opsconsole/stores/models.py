"""The base of every model of a platform's table, and the backups of stores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class StoreModel(models.Model):
    """A table of a platform. `store` is the platform, which the router reads.

    `added_by` is the migration of the platform that added a column later: its number or its revision.
    """

    store: ClassVar[str]
    added_by: ClassVar[Mapping[str, int | str]] = {}

    class Meta:
        abstract = True


class Backup(models.Model):
    """A complete backup file. An interrupted backup has no record."""

    store = models.CharField(_("store"), max_length=50)
    identity = models.TextField()
    path = models.TextField(_("file"), unique=True)
    size = models.BigIntegerField(_("size"))
    digest = models.CharField(max_length=64)  # SHA-256 of the file
    at = models.DateTimeField(_("contents as of"))  # time of the saved state
    verified_at = models.DateTimeField(_("verified at"), null=True)
    engine = models.CharField(_("engine"), max_length=20)
    format = models.CharField(_("format"), max_length=20)  # sqlite, custom, sql
    encrypted = models.BooleanField(_("encrypted"), default=False)
    rows = models.JSONField(default=dict)  # table → rows
    run = models.ForeignKey("operations.Run", models.SET_NULL, null=True, related_name="backups")

    audit_entries = models.BigIntegerField(null=True)  # length of the audit log in the backup
    audit_head = models.CharField(max_length=64, blank=True)

    class Meta:
        verbose_name = _("backup")
        verbose_name_plural = _("backups")
        indexes = (models.Index(fields=("identity", "-at"), name="backup_newest"),)
        permissions = (("browse_store", _("Can browse stores without a platform")),)

    def __str__(self) -> str:
        return Path(self.path).name

    @property
    def is_there(self) -> bool:
        """True if the file still exists and has the recorded size."""
        try:
            return Path(self.path).stat().st_size == self.size
        except OSError:
            return False
