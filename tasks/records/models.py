"""Models of the execution records: statuses and stored results (see docs/platforms/records.md)."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.fields import RawTextField, RawTimestampField
from opsconsole.stores.models import StoreModel
from opsconsole.timestamps import current_timestamp


class RawDocumentField(models.BinaryField):  # type: ignore[type-arg]
    """JSON as text, bytes or gzip, read unchanged. `tasks.records.summaries` decodes it."""

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        # A BLOB column may contain text, even text that is not UTF-8.
        return (f"CAST({sql} AS BLOB)" if compiler.connection.vendor == "sqlite" else sql), params

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> bytes | str | None:
        return bytes(value) if isinstance(value, memoryview | bytearray) else value

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        if isinstance(value, str) and connection.vendor == "sqlite":
            return value
        return super().get_db_prep_value(value.encode() if isinstance(value, str) else value, connection, prepared)


class TestRecord(StoreModel):
    """A finished execution with its results."""

    __test__ = False  # pytest would collect the class because of its name
    store = "records"

    id = models.BigAutoField(_("record"), primary_key=True)
    user_id = models.IntegerField(_("user"))
    brand_name = models.TextField(_("brand"))
    test_date = RawTimestampField(_("tested at"), null=True, blank=True)
    ai_models_used = RawTextField(_("AI models"), null=True, blank=True)
    questions_used = RawTextField(_("questions"), null=True, blank=True)
    overall_score = models.FloatField(_("score"), null=True, blank=True)
    total_tests = models.IntegerField(_("tests"), null=True, blank=True)
    results_summary = RawDocumentField(_("summary"), null=True, blank=True)
    detailed_results = RawDocumentField(_("details"), null=True, blank=True)
    is_summary_compressed = models.IntegerField(_("summary is compressed"), null=True, blank=True, default=0)
    is_detailed_compressed = models.IntegerField(_("details are compressed"), null=True, blank=True, default=0)
    execution_id = models.TextField(_("execution"), null=True, blank=True)

    class Meta:
        managed = False
        db_table = "test_records"
        verbose_name = _("test record")
        verbose_name_plural = _("test records")
        indexes = [models.Index(fields=["execution_id"], name="idx_test_records_execution_id")]

    def __str__(self) -> str:
        return f"{self.brand_name} {self.pk}"


class Stage(models.TextChoices):
    """The stages of an execution. Clients depend on the values."""

    INIT = "init", _("starting")
    AI_FETCHING = "ai_fetching", _("asking the AI models")
    ANALYZING = "analyzing", _("analysing")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")


class ExecutionStatus(models.TextChoices):
    """The outcome of an execution, for clients that poll."""

    PROCESSING = "processing", _("processing")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")


class TaskStatus(StoreModel):
    """The progress of an execution. Its `task_id` equals the record's `execution_id`."""

    store = "records"

    id = models.BigAutoField(primary_key=True)
    task_id = models.TextField(_("execution"), unique=True)
    progress = models.IntegerField(_("progress"), null=True, blank=True, default=0)
    stage = models.TextField(_("stage"), choices=Stage)
    status_text = models.TextField(_("status in words"), null=True, blank=True)
    is_completed = models.BooleanField(_("completed"), null=True, blank=True, default=False)
    created_at = RawTimestampField(_("created at"), null=True, blank=True, default=current_timestamp)
    updated_at = RawTimestampField(_("updated at"), null=True, blank=True, default=current_timestamp)

    class Meta:
        managed = False
        db_table = "task_statuses"
        verbose_name = _("execution status")
        verbose_name_plural = _("execution statuses")
        permissions = [("report_taskstatus", _("Can report the status of an execution"))]

    def __str__(self) -> str:
        return self.task_id
