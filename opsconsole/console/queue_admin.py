"""Read-only pages of the queue, for superusers. Only the engine starts jobs."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django_q.models import Failure, OrmQ, Schedule, Success

from opsconsole.console.base_admin import ConsoleModelAdmin, ViewOnlyMixin
from opsconsole.formatting import format_time


class QueueAdmin(ViewOnlyMixin, ConsoleModelAdmin):
    actions = None
    search_help_text = _("Searches the name.")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)


class ResultAdmin(QueueAdmin):
    list_display = ("name", "func", "started_at", "stopped_at", "attempt_count")
    search_fields = ("name",)
    fields = ("name", "func", "args", "kwargs", "result", "started_at", "stopped_at", "attempt_count")

    @admin.display(description=_("started"), ordering="started")
    def started_at(self, job: Any) -> str:
        return format_time(job.started)

    @admin.display(description=_("stopped"), ordering="stopped")
    def stopped_at(self, job: Any) -> str:
        return format_time(job.stopped)


class SuccessAdmin(ResultAdmin):
    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).filter(success=True)


class FailureAdmin(ResultAdmin):
    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).filter(success=False)


class ScheduleAdmin(QueueAdmin):
    list_display = ("name", "func", "cron", "next_run_at")
    search_fields = ("name",)
    fields = ("name", "func", "args", "kwargs", "cron", "next_run_at")

    @admin.display(description=_("next run"), ordering="next_run")
    def next_run_at(self, schedule: Any) -> str:
        return format_time(schedule.next_run)


class WaitingAdmin(QueueAdmin):
    list_display = ("id", "job", "taken_until")
    fields = ("id", "key", "job", "taken_until")

    @admin.display(description=_("job"))
    def job(self, waiting: Any) -> str:
        return str(waiting.name())

    @admin.display(description=_("locked until"), ordering="lock")
    def taken_until(self, waiting: Any) -> str:
        return format_time(waiting.lock)


for model, model_admin in {
    Schedule: ScheduleAdmin,
    OrmQ: WaitingAdmin,
    Success: SuccessAdmin,
    Failure: FailureAdmin,
}.items():
    admin.site.unregister(model)
    admin.site.register(model, model_admin)
