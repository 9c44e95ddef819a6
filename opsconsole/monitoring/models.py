"""Figures of stores, one of each day."""

from __future__ import annotations

from django.db import models


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
