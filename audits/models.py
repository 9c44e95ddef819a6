"""Models of AgentOS's audits and governance (see docs/platforms/agentos.md)."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.fields import RawTextField, RawTimestampField, StoreForeignKey
from opsconsole.stores.models import StoreModel
from tasks.agentos.models import Task


class TaskAudit(StoreModel):
    """An audit of a task. Audits of the supervisor have two times that were copied from `payload`."""

    store = "agentos"
    added_by = {
        "decision_id": 15,
        "source_event_ts": 15,
        "supervisor_processed_at": 15,
        "verdict_id": 17,
        "repo_id": 20,
    }

    class Level(models.TextChoices):
        INFO = "info", _("info")
        WARNING = "warning", _("warning")
        ERROR = "error", _("error")

    audit_id = models.BigAutoField(_("audit"), primary_key=True)
    task = StoreForeignKey(Task, verbose_name=_("task"))
    repo_id = models.TextField(_("repository"), null=True)
    level = models.TextField(_("level"), null=True, default=Level.INFO, choices=Level)
    event_type = models.TextField(_("event type"))
    payload = RawTextField(_("payload"), null=True)
    created_at = RawTimestampField(_("created at"), null=True)
    decision_id = models.TextField(_("decision"), null=True)
    source_event_ts = RawTextField(_("source event time"), null=True)
    supervisor_processed_at = RawTextField(_("processed by the supervisor at"), null=True)
    verdict_id = models.TextField(_("verdict"), null=True)

    class Meta:
        managed = False
        db_table = "task_audits"
        verbose_name = _("audit")
        verbose_name_plural = _("audits")

    def __str__(self) -> str:
        return f"{self.event_type} {self.audit_id}"


class GuardianVerdict(StoreModel):
    """A guardian's review of a task."""

    store = "agentos"

    class Decision(models.TextChoices):
        APPROVE = "approve", _("approve")
        REJECT = "reject", _("reject")
        WARN = "warn", _("warn")

    id = models.TextField(_("verdict"), primary_key=True)
    task_id = models.TextField(_("task"))
    triggered_by = models.TextField(_("triggered by"))
    policy_json = RawTextField(_("policy"))
    decision = models.TextField(_("decision"), choices=Decision)
    reasons_json = RawTextField(_("reasons"), null=True)
    created_at = RawTextField(_("created at"))

    class Meta:
        managed = False
        db_table = "guardian_verdicts"
        verbose_name = _("guardian verdict")
        verbose_name_plural = _("guardian verdicts")

    def __str__(self) -> str:
        return str(self.id)


class InboxEntry(StoreModel):
    """An event that waits for the supervisor."""

    store = "agentos"

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        PROCESSING = "processing", _("processing")
        PROCESSED = "processed", _("processed")
        FAILED = "failed", _("failed")

    id = models.TextField(_("entry"), primary_key=True)
    task_id = models.TextField(_("task"))
    event_type = models.TextField(_("event type"))
    event_ts = RawTextField(_("event time"))
    payload_json = RawTextField(_("payload"), null=True)
    status = models.TextField(_("status"), null=True, default=Status.PENDING, choices=Status)
    processed_at = RawTextField(_("processed at"), null=True)
    created_at = RawTextField(_("created at"))

    class Meta:
        managed = False
        db_table = "supervisor_inbox"
        verbose_name = _("supervisor inbox entry")
        verbose_name_plural = _("supervisor inbox")

    def __str__(self) -> str:
        return str(self.id)
