"""Findings of checks, and the incidents that collect them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from opsconsole.engine.models.runs import Run
from opsconsole.engine.operation import Priority


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
            models.Index(fields=("code", "operation", "resolved_at"), name="finding_open"),
            models.Index(fields=("subject",), name="finding_subject"),
            models.Index(fields=("last_run", "priority", "code", "id"), name="finding_run"),
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
