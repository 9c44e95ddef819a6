"""Alerts, their deliveries, and the problems that were reported."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


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
