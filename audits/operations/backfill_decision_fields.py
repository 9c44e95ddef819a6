"""The operation that fills the decision times of supervisor audits (see docs/platforms/agentos.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.utils.formats import number_format
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from audits.extraction import KEYS, read_times, time_in
from audits.models import TaskAudit
from opsconsole.engine.causes import Cause
from opsconsole.engine.operation import Operation, Risk, Schedule
from opsconsole.engine.outcomes import Change, Invalid, Outcome
from opsconsole.jsontext import Unreadable

# A timestamp of PostgreSQL whose year has four digits.
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d+))?([+-]\d\d(?::\d\d){0,2})?", re.ASCII)


class BackfillDecisionFields(Operation):
    title = _("Fill the decision times of supervisor audits")
    description = _(
        "Fills source_event_ts and supervisor_processed_at, where they are NULL, from the payload, "
        "else from created_at. It never overwrites an existing value."
    )
    store_alias = "agentos"
    model = TaskAudit
    reads = ("payload", "created_at")
    writes = {"task_audits": tuple(KEYS)}
    risk = Risk.FILL
    action_label = ngettext_lazy("Fill %(count)s audit", "Fill %(count)s audits", "number")
    schedule = Schedule("30 2 * * *")
    problem = Cause(
        "missing_decision_times",
        ngettext_lazy(
            "%(count)s supervisor audit has no decision times",
            "%(count)s supervisor audits have no decision times",
            "number",
        ),
        ("audits.backfill_decision_fields",),
    )
    done_label = ngettext_lazy("%(count)s audit filled", "%(count)s audits filled", "number")
    reasons = {
        "from_payload": _("filled from the payload"),
        "without_fields": _("filled from created_at: the fields are missing in the payload"),
        "broken_json": _("broken JSON"),
        "not_text": _("bytes that are not UTF-8"),
        "not_an_object": _("JSON that is not an object"),
        "too_deep": _("nested too deeply to be parsed"),
        "cannot_be_stored": _("a value that the store cannot save"),
        "no_time": _("created_at is infinite or its year does not have four digits"),
        "no_created_at": _("the fields and created_at are missing"),
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
            times = read_times(payload)
            new: dict[str, str] = {}
            reason = "from_payload"
            for (column, keys), stored in zip(_KEYS, columns, strict=True):
                if stored is not None:
                    continue
                value = time_in(times, keys, payload)
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
        """Return the stored text of `created_at`; of a PostgreSQL timestamp, YYYY-MM-DD HH:MM:SS[.ffffff] in UTC.

        Return None if the format cannot express it, such as infinity or a year before Christ.
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
        """Return whether the column is a timestamp of PostgreSQL and not text."""
        return self.store.tables["task_audits"]["created_at"].is_timestamp

    @classmethod
    def result_notes(cls, figures: Mapping[str, int]) -> list[str]:
        """Report the coverage of both columns."""
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
        """Recommend a batch size."""
        if not total:
            return []
        size = next(size for below, size in BATCH_SIZES if total < below)
        return [
            gettext("Recommended batch size for this number of rows: %(size)s.")
            % {"size": number_format(size, force_grouping=True)}
        ]


BATCH_SIZES = ((10_000, 1_000), (100_001, 5_000), (math.inf, 10_000))
_KEYS = tuple(KEYS.items())
_UNFILLED = Q(source_event_ts__isnull=True) | Q(supervisor_processed_at__isnull=True)
