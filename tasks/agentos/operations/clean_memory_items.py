"""The operation that removes expired memory items (see docs/platforms/agentos.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.db.models import Count, F, Q, QuerySet, Value
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.engine.causes import Cause
from opsconsole.engine.operation import Operation, Priority, Risk, Schedule
from opsconsole.engine.outcomes import Delete, Invalid, Outcome, Skip
from opsconsole.stores.fields import SortableTimestamp
from opsconsole.timestamps import format_timestamp, parse_timestamp
from tasks.agentos.models import MemoryItem


class CleanMemoryItems(Operation):
    title = _("Delete expired memory items")
    description = _(
        "Deletes memory items whose expires_at has passed and whose auto_cleanup is on. "
        "Items without expires_at stay, and so do items that were used since the plan."
    )
    store_alias = "agentos"
    model = MemoryItem
    reads = ("expires_at", "auto_cleanup", "created_at", "last_used_at", "use_count", "retention_type")
    writes = {"memory_items": ()}
    risk = Risk.DELETE
    action_label = ngettext_lazy("Delete %(count)s memory item", "Delete %(count)s memory items", "number")
    schedule = Schedule("45 3 * * *")
    problem = Cause(
        "expired_memory_items",
        ngettext_lazy("%(count)s memory item has expired", "%(count)s memory items have expired", "number"),
        ("agentos.clean_memory_items",),
        priority=Priority.PERIODIC.value,
    )
    done_label = ngettext_lazy("%(count)s memory item deleted", "%(count)s memory items deleted", "number")
    reasons = {
        "expired": _("expired"),
        "not_expired": _("not expired yet"),
        "used_since": _("used since the plan"),
        "made_since": _("created since the plan"),
        "unreadable_time": _("expires_at is not a valid time"),
    }
    statistic_labels = {
        "in_scope": _("expired memory items"),
        "memory_items": _("memory items"),
        "retention_type": _("retention type"),
    }

    class Params(forms.Form):
        retention_type = forms.CharField(
            required=False,
            label=_("retention type"),
            help_text=_("Only items of this retention type, such as project or temporary."),
        )

    def population(self) -> QuerySet[MemoryItem]:
        items = super().population()
        retention = self.params.get("retention_type")
        return items.filter(retention_type=retention) if retention else items

    def queryset(self) -> QuerySet[MemoryItem]:
        ends = (
            self.population()
            .filter(auto_cleanup=1, expires_at__isnull=False)
            .alias(ends=SortableTimestamp(F("expires_at")))
        )
        return ends.filter(Q(ends__lte=SortableTimestamp(Value(format_timestamp(self.as_of)))) | Q(ends__isnull=True))

    def process(self, row: Any) -> Outcome:
        ends = parse_timestamp(str(row.expires_at))
        if ends is None:
            return Invalid("unreadable_time")
        if ends > self.as_of:  # a format that SQLite cannot compare
            return Skip("not_expired")
        for column, reason in (("last_used_at", "used_since"), ("created_at", "made_since")):
            at = getattr(row, column) and parse_timestamp(str(getattr(row, column)))
            if at and at > self.as_of:
                return Skip(reason)
        return Delete(row, "expired")

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        """Add one figure for each retention type, which operators decide by."""
        kinds = restrict(self.queryset()).order_by().values_list("retention_type").annotate(items=Count("pk"))
        figures = {str(kind): items for kind, items in kinds.order_by("retention_type")}
        return {
            "in_scope": sum(figures.values()),
            "memory_items": restrict(self.population()).count(),
            **{f"retention_type {kind}": items for kind, items in figures.items()},
        }
