"""The model of measurements."""

from __future__ import annotations

from django.db import models


class Measurement(models.Model):
    """A measured value of a store, the newest one of each day. The dashboard reads it without querying the store."""

    day = models.DateField()
    store = models.CharField(max_length=50)
    name = models.CharField(max_length=200)  # see `measurements`
    value = models.BigIntegerField(null=True)  # None if it could not be measured; `text` is the reason
    before = models.BigIntegerField(null=True)  # the previous value
    since = models.DateTimeField(null=True)  # the time since which the value is not 0
    text = models.TextField(blank=True)
    at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("day", "store", "name"), name="measurement_of_day"),)

    def __str__(self) -> str:
        return f"{self.store} {self.name}"
