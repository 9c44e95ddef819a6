"""The settings of schedules, and when workers were last seen."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class ScheduleSetting(models.Model):
    """The settings of an operation's schedule: off until a user enables it."""

    operation = models.CharField(_("operation"), max_length=100, primary_key=True)
    on = models.BooleanField(_("on"), default=False)
    cron = models.CharField(_("cron"), max_length=100)
    store = models.CharField(_("store"), max_length=50, default="", blank=True)  # the only store; empty for all
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
