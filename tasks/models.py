"""AgentOS: the tasks that audits, verdicts and inbox entries refer to (document 001)."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.stores.models import RawTextField, RawTimestampField, StoreModel


class Task(StoreModel):
    store = "agentos"

    task_id = models.TextField(_("task"), primary_key=True)
    title = models.TextField(_("title"))
    status = models.TextField(_("status"), null=True, default="created")
    session_id = models.TextField(_("session"), null=True)
    created_at = RawTimestampField(_("created at"), null=True)
    updated_at = RawTimestampField(_("updated at"), null=True)
    created_by = models.TextField(_("created by"), null=True)
    metadata = RawTextField(_("metadata"), null=True)
    route_plan_json = RawTextField(_("route plan"), null=True)
    requirements_json = RawTextField(_("requirements"), null=True)
    selected_instance_id = models.TextField(_("selected instance"), null=True)
    router_version = models.TextField(_("router version"), null=True)

    class Meta:
        db_table = "tasks"
        verbose_name = _("task")
        verbose_name_plural = _("tasks")

    def __str__(self) -> str:
        return self.title or self.task_id
