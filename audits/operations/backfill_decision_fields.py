"""Document 000: fill the two columns of migration v21 in audits that are older than it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audits.extraction import KEYS, read_object, time_in
from audits.models import TaskAudit
from opsconsole.engine.operation import Operation, Problem, Risk, Schedule
from opsconsole.engine.outcomes import Change, Invalid, Outcome
from opsconsole.formatting import format_number
from opsconsole.jsontext import Unreadable

# How PostgreSQL writes a timestamp whose year has four digits.
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d+))?([+-]\d\d(?::\d\d){0,2})?", re.ASCII)


class BackfillDecisionFields(Operation):
    title = _("Fill the decision times of supervisor audits")
    description = _(
        "Fills source_event_ts and supervisor_processed_at, where they are NULL, from the payload, "
        "else from created_at. A value that stands is never overwritten."
    )
    store_alias = "agentos"
    model = TaskAudit
    reads = ("payload", "created_at")
    writes = {"task_audits": tuple(KEYS)}
    risk = Risk.FILL
    schedule = Schedule("30 2 * * *")
    problem = Problem(_("supervisor audits without decision times"))
    reasons = {
        "from_payload": _("filled from the payload"),
        "without_fields": _("filled from created_at: the payload lacks the fields"),
        "broken_json": _("broken JSON"),
        "not_an_object": _("JSON that is no object"),
        "too_deep": _("nested too deeply for any parser"),
        "cannot_be_stored": _("a value that the store can't hold"),
        "no_time": _("created_at is infinite or has no year of four digits"),
        "no_created_at": _("neither the fields nor created_at"),
    }
    statistic_labels = {
        "in_scope": _("to fill"),
        "filled": _("already filled, both times"),
        "supervisor_audits": _("supervisor audits"),
        "source_event_ts": _("with source_event_ts"),
        "supervisor_processed_at": _("with supervisor_processed_at"),
    }

    def population(self) -> QuerySet[TaskAudit]:
        return super().population().filter(event_type__has_word="SUPERVISOR")

    def queryset(self) -> QuerySet[TaskAudit]:
        return self.population().filter(_UNFILLED)

    def process(self, row: Any) -> Outcome:
        _pk, payload, created_at, *columns = row
        try:
            document = read_object(payload)
            new: dict[str, str] = {}
            reason = "from_payload"
            for (column, keys), stands in zip(_KEYS, columns, strict=True):
                if stands is not None:
                    continue
                value = time_in(document, keys, payload)
                if value is None:
                    if created_at is None:
                        return Invalid("no_created_at")
                    value, reason = self._written(created_at), "without_fields"
                    if value is None:
                        return Invalid("no_time")
                elif not self.store.can_store(value):
                    return Invalid("cannot_be_stored")
                new[column] = value
        except Unreadable as error:
            return Invalid(error.reason)
        return Change(row, reason, **new)

    def statistics(self, restrict: Callable[[QuerySet[TaskAudit]], QuerySet[TaskAudit]]) -> dict[str, int]:
        figures = restrict(self.population()).aggregate(
            in_scope=Count("pk", filter=_UNFILLED),
            supervisor_audits=Count("pk"),
            source_event_ts=Count("source_event_ts"),
            supervisor_processed_at=Count("supervisor_processed_at"),
        )
        return figures | {"filled": figures["supervisor_audits"] - figures["in_scope"]}

    def _written(self, created_at: str) -> str | None:
        """Return `created_at` as it is stored, and a PostgreSQL timestamp as YYYY-MM-DD HH:MM:SS[.ffffff] in UTC.

        None: that form has no such time, as of infinity or a year before Christ.
        """
        if not self._created_at_is_timestamp:
            return created_at
        found = _TIMESTAMP.fullmatch(created_at)
        if found is None:
            return None
        whole, fraction, zone = found.groups()
        if zone not in {None, "+00"}:
            try:
                at = datetime.fromisoformat(whole + zone).astimezone(UTC)
            except OverflowError:
                return None
            whole = at.replace(tzinfo=None).isoformat(" ", "seconds")
        return f"{whole}.{fraction:0<6}" if fraction else whole

    @cached_property
    def _created_at_is_timestamp(self) -> bool:
        """Whether PostgreSQL holds times there, with a zone or without, and not text."""
        return self.store.tables["task_audits"]["created_at"].is_timestamp

    def action_label(self, count: int) -> str:
        return ngettext("Fill %(count)s audit", "Fill %(count)s audits", count) % {"count": format_number(count)}

    @classmethod
    def result_notes(cls, figures: Mapping[str, int]) -> list[str]:
        """The document's verification query, for both columns."""
        audits = figures.get("supervisor_audits", 0)
        if not audits:
            return []
        return [
            gettext("Coverage of %(column)s: %(percent).2f %% (%(filled)s of %(audits)s supervisor audits)")
            % {
                "column": column,
                "percent": 100 * figures[column] / audits,
                "filled": number_format(figures[column], force_grouping=True),
                "audits": number_format(audits, force_grouping=True),
            }
            for column in KEYS
        ]

    def plan_notes(self, total: int) -> list[str]:
        """The document's table of batch sizes."""
        if not total:
            return []
        size = next(size for below, size in BATCH_SIZES if total < below)
        return [
            gettext("Batch size: 1,000 suits fewer than 10,000 rows, 5,000 up to 100,000, 10,000 above; here %(size)s.")
            % {"size": number_format(size, force_grouping=True)}
        ]


BATCH_SIZES = ((10_000, 1_000), (100_001, 5_000), (math.inf, 10_000))
_KEYS = tuple(KEYS.items())
_UNFILLED = Q(source_event_ts__isnull=True) | Q(supervisor_processed_at__isnull=True)
