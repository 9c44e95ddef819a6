"""Document 000: fill the two columns of migration v21 in audits that are older than it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from audits.extraction import KEYS, Unreadable, read_object, time_in
from audits.models import TaskAudit
from opsconsole.operations.base import Changed, Operation, Outcome, Risk, RowChange, Schedule, Unfit


class BackfillDecisionFields(Operation):
    title = _("Fill the decision times of supervisor audits")
    description = _(
        "Fills source_event_ts and supervisor_processed_at, where they are NULL, from the payload, "
        "else from created_at. A value that stands is never overwritten."
    )
    store = "agentos"
    model = TaskAudit
    reads = ("payload", "created_at")
    writes = {"task_audits": tuple(KEYS)}  # noqa: RUF012
    risk = Risk.FILL
    schedule = Schedule("30 2 * * *")
    reasons = {  # noqa: RUF012
        "from_payload": _("filled from the payload"),
        "without_fields": _("filled from created_at: the payload lacks the fields"),
        "broken_json": _("broken JSON"),
        "not_an_object": _("JSON that is no object"),
        "too_deep": _("nested too deeply for any parser"),
        "cannot_be_stored": _("a value that the store can't hold"),
        "no_created_at": _("neither the fields nor created_at"),
    }
    figure_labels = {  # noqa: RUF012
        "in_scope": _("to fill"),
        "supervisor_audits": _("supervisor audits"),
        "source_event_ts": _("with source_event_ts"),
        "supervisor_processed_at": _("with supervisor_processed_at"),
    }

    def domain(self) -> QuerySet[TaskAudit]:
        return super().domain().filter(event_type__icontains="SUPERVISOR")

    def scope(self) -> QuerySet[TaskAudit]:
        return self.domain().filter(_UNFILLED)

    def change(self, unit: Any) -> Outcome:
        payload = unit.payload
        try:
            document = read_object(payload)
            old, new = {}, {}
            reason = "from_payload"
            for column, keys in KEYS.items():
                if getattr(unit, column) is None:
                    value = time_in(document, keys, payload)
                    if value is None:
                        if unit.created_at is None:
                            return Unfit("no_created_at")
                        value, reason = self._written(unit.created_at), "without_fields"
                    elif not self.at.holds(value):
                        return Unfit("cannot_be_stored")
                    old[column], new[column] = None, value
        except Unreadable as error:
            return Unfit(error.reason)
        return Changed((RowChange("task_audits", unit.pk, old, new),), reason)

    def measure(self, narrow: Callable[[QuerySet[TaskAudit]], QuerySet[TaskAudit]]) -> dict[str, int]:
        return narrow(self.domain()).aggregate(
            in_scope=Count("pk", filter=_UNFILLED),
            supervisor_audits=Count("pk"),
            source_event_ts=Count("source_event_ts"),
            supervisor_processed_at=Count("supervisor_processed_at"),
        )

    def _written(self, created_at: str) -> str:
        """`created_at` as it is stored; a PostgreSQL timestamp as YYYY-MM-DD HH:MM:SS[.ffffff], in UTC."""
        if not self._created_at_is_timestamp:
            return created_at
        text = created_at.removesuffix("+00")
        return text.ljust(26, "0") if len(text) > 20 and text[19] == "." else text

    @cached_property
    def _created_at_is_timestamp(self) -> bool:
        return self.at.tables["task_audits"]["created_at"].type.startswith("timestamp with")

    def action_label(self, count: int) -> str:
        return ngettext("Fill %(count)d audit", "Fill %(count)d audits", count) % {"count": count}


_UNFILLED = Q(source_event_ts__isnull=True) | Q(supervisor_processed_at__isnull=True)
