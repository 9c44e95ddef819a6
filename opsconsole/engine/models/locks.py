"""The locks of targets and the freeze, which keep runs from writing."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext

from opsconsole.engine.models.runs import Run


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


class Freeze(models.Model):
    """A freeze: while a row exists, every run waits at its next batch and no run starts."""

    who = models.CharField(max_length=150)
    note = models.TextField()
    at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return gettext("All runs are frozen by %(who)s: %(note)s") % {"who": self.who, "note": self.note}
