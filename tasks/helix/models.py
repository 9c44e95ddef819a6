"""Tables of the HELIX store: a job runs the tasks of agents, and each task leaves artifacts.

PostgreSQL has enum types, `jsonb` and `timestamptz` columns; all are read as text. Without foreign keys in the store,
the task of an artifact or the job of a task may not exist.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.fields import RawTextField, RawTimestampField
from opsconsole.stores.models import StoreModel


class ZonedTimestampField(RawTimestampField):
    """A `timestamptz` column that is read as its text. SQLite stores text in UTC."""

    def db_type(self, connection: Any) -> str:
        return "timestamp with time zone" if connection.vendor == "postgresql" else "timestamp"


class HelixJob(StoreModel):
    store = "helix"

    class Status(models.TextChoices):
        PENDING = "PENDING", _("pending")
        IN_PROGRESS = "IN_PROGRESS", _("in progress")
        COMPLETED = "COMPLETED", _("completed")
        FAILED = "FAILED", _("failed")
        CANCELLED = "CANCELLED", _("cancelled")

    id = models.BigAutoField(_("job"), primary_key=True)
    status = RawTextField(_("status"), choices=Status, default=Status.PENDING)
    initial_request = RawTextField(_("initial request"))
    session_id = models.CharField(_("session"), max_length=255, null=True, blank=True)
    created_at = ZonedTimestampField(_("created at"), null=True, blank=True)
    updated_at = ZonedTimestampField(_("updated at"), null=True, blank=True)
    completed_at = ZonedTimestampField(_("completed at"), null=True, blank=True)
    error_message = models.TextField(_("error message"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "jobs"
        verbose_name = _("job")
        verbose_name_plural = _("jobs")

    def __str__(self) -> str:
        return str(self.pk)


class HelixTask(StoreModel):
    store = "helix"

    class Status(models.TextChoices):
        PENDING = "PENDING", _("pending")
        ASSIGNED = "ASSIGNED", _("assigned")
        IN_PROGRESS = "IN_PROGRESS", _("in progress")
        COMPLETED = "COMPLETED", _("completed")
        FAILED = "FAILED", _("failed")
        RETRYING = "RETRYING", _("retrying")

    id = models.BigAutoField(_("task"), primary_key=True)
    job = models.ForeignKey(
        HelixJob,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        related_name="tasks",
        verbose_name=_("job"),
    )
    agent_id = models.CharField(_("agent"), max_length=50)
    status = RawTextField(_("status"), choices=Status, default=Status.PENDING)
    input_data = RawTextField(_("input"))
    output_data = RawTextField(_("output"), null=True, blank=True)
    error_log = models.TextField(_("error log"), null=True, blank=True)
    retry_count = models.IntegerField(_("retries"), default=0)
    assigned_at = ZonedTimestampField(_("assigned at"), null=True, blank=True)
    started_at = ZonedTimestampField(_("started at"), null=True, blank=True)
    completed_at = ZonedTimestampField(_("completed at"), null=True, blank=True)
    created_at = ZonedTimestampField(_("created at"), null=True, blank=True)
    updated_at = ZonedTimestampField(_("updated at"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "tasks"
        verbose_name = _("agent task")
        verbose_name_plural = _("agent tasks")

    def __str__(self) -> str:
        return f"{self.pk} {self.agent_id}"


class HelixArtifact(StoreModel):
    store = "helix"

    id = models.BigAutoField(_("artifact"), primary_key=True)
    task = models.ForeignKey(
        HelixTask,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        related_name="artifacts",
        verbose_name=_("task"),
    )
    name = models.CharField(_("name"), max_length=100)
    schema_id = models.CharField(_("schema"), max_length=100)
    payload = RawTextField(_("payload"))
    created_at = ZonedTimestampField(_("created at"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "artifacts"
        verbose_name = _("artifact")
        verbose_name_plural = _("artifacts")
        constraints = [models.UniqueConstraint(fields=["task", "name"], name="artifacts_task_id_name_key")]

    def __str__(self) -> str:
        return f"{self.task_id} {self.name}"


class AgentPrompt(StoreModel):
    store = "helix"

    id = models.BigAutoField(_("prompt"), primary_key=True)
    agent_id = models.CharField(_("agent"), max_length=50)
    version = models.CharField(_("version"), max_length=20)
    prompt_text = models.TextField(_("prompt text"))
    is_active = models.BooleanField(_("active"), null=True)
    created_at = ZonedTimestampField(_("created at"), null=True, blank=True)
    created_by = models.CharField(_("created by"), max_length=100, null=True, blank=True)

    class Meta:
        managed = False
        db_table = "agent_prompts"
        verbose_name = _("agent prompt")
        verbose_name_plural = _("agent prompts")
        constraints = [
            models.UniqueConstraint(fields=["agent_id", "version"], name="agent_prompts_agent_id_version_key")
        ]

    def __str__(self) -> str:
        return f"{self.agent_id} {self.version}"


class SystemLog(StoreModel):
    store = "helix"

    id = models.BigAutoField(_("entry"), primary_key=True)
    level = models.CharField(_("level"), max_length=20)
    component = models.CharField(_("component"), max_length=100, null=True, blank=True)
    message = models.TextField(_("message"))
    metadata = RawTextField(_("metadata"), null=True, blank=True)
    created_at = ZonedTimestampField(_("created at"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "system_logs"
        verbose_name = _("log entry")
        verbose_name_plural = _("system log")

    def __str__(self) -> str:
        return f"{self.level} {self.pk}"
