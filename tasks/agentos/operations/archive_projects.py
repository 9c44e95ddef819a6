"""The operation that archives idle projects (see docs/platforms/agentos.md)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import Count, F, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.operation import Operation, Risk, Schedule
from opsconsole.engine.outcomes import Change, Outcome
from opsconsole.stores.fields import SortableTimestamp
from opsconsole.timestamps import format_timestamp
from tasks.agentos.models import Project

IDLE_DAYS = 180


class ArchiveProjects(Operation):
    title = _("Archive idle projects")
    description = _(
        "Sets the status of active projects to archived when their updated_at is older than the given days. "
        "It deletes no data of a project."
    )
    store_alias = "agentos"
    model = Project
    writes = {"projects": ("status", "updated_at")}
    risk = Risk.CHANGE
    action_label = ngettext_lazy("Archive %(count)s project", "Archive %(count)s projects", "number")
    done_label = ngettext_lazy("%(count)s project archived", "%(count)s projects archived", "number")
    schedule = Schedule("0 5 * * 1")
    statistic_labels = {
        "in_scope": _("active and idle"),
        "active": _("active projects"),
        "archived": _("archived projects"),
    }

    class Params(forms.Form):
        idle_days = forms.IntegerField(
            min_value=0,
            max_value=36_500,
            initial=IDLE_DAYS,
            required=False,
            label=_("idle days"),
            help_text=_("Days without an update. 0 archives every selected active project."),
        )

    def queryset(self) -> QuerySet[Project]:
        days = self.params.get("idle_days")
        active = self.population().filter(status=Project.Status.ACTIVE)
        if days == 0:
            return active
        since = self.as_of - timedelta(days=IDLE_DAYS if days is None else days)
        touched = SortableTimestamp(Coalesce(F("updated_at"), F("created_at"), F("added_at")))
        idle: QuerySet[Project] = active.alias(touched=touched).filter(
            touched__lt=SortableTimestamp(Value(format_timestamp(since)))
        )
        return idle

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        statuses = restrict(self.population()).aggregate(
            active=Count("pk", filter=Q(status=Project.Status.ACTIVE)),
            archived=Count("pk", filter=Q(status=Project.Status.ARCHIVED)),
        )
        return {"in_scope": restrict(self.queryset()).count(), **statuses}

    def process(self, row: Any) -> Outcome:
        return Change(row, status=Project.Status.ARCHIVED.value, updated_at=format_timestamp(self.as_of))
