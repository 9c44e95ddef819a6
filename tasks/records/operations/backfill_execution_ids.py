"""The operation that fills `execution_id` of test records (see docs/platforms/records.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import keyset
from opsconsole.engine.causes import Cause
from opsconsole.engine.operation import Operation, Risk, Schedule, row_columns
from opsconsole.engine.outcomes import Change, Invalid, Outcome, Skip
from opsconsole.formatting import format_number
from opsconsole.jsontext import Unreadable
from opsconsole.stores.rows import Key, plain_key
from tasks.records.models import TestRecord
from tasks.records.query_plan import is_by_index, look_up, within_bytes
from tasks.records.summaries import execution_id

MISSING_IDS = Cause(
    "missing_execution_ids",
    ngettext_lazy("%(count)s test record has no execution id", "%(count)s test records have no execution id", "number"),
    ("records.backfill_execution_ids",),
)


class BackfillExecutionIds(Operation):
    title = _("Fill the execution ids of test records")
    description = _(
        "Fills execution_id, where it is NULL, from the summary, also from a compressed one. "
        "It never overwrites an existing value."
    )
    store_alias = "records"
    model = TestRecord
    reads = ("results_summary", "is_summary_compressed")
    writes = {"test_records": ("execution_id",)}
    risk = Risk.FILL
    action_label = ngettext_lazy("Fill %(count)s execution id", "Fill %(count)s execution ids", "number")
    schedule = Schedule("15 3 * * *")
    problem = MISSING_IDS
    done_label = ngettext_lazy("%(count)s execution id filled", "%(count)s execution ids filled", "number")
    reasons = {
        "from_summary": _("filled from the summary"),
        "empty": _("no summary"),
        "broken_json": _("broken JSON"),
        "broken_gzip": _("broken gzip"),
        "not_text": _("neither text nor gzip"),
        "not_an_object": _("JSON that is not an object"),
        "too_deep": _("nested too deeply to be parsed"),
        "too_large": _("over 64 MB when unpacked"),
        "no_execution_id": _("a summary without an execution_id"),
        "cannot_be_stored": _("a value that the store cannot save"),
    }
    statistic_labels = {
        "in_scope": _("to fill"),
        "records": _("test records"),
        "filled": _("with execution_id"),
        "lookup_plan": _("query plan of a lookup by id"),
        "lookup_ms": _("time of the lookup, in ms"),
        "json_scan_ms": _("estimated time of a scan of all summaries, in ms"),
    }

    def queryset(self) -> QuerySet[TestRecord]:
        return self.population().filter(execution_id=None)

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Read the keys first, as many as the sizes of their summaries allow, and then the rows."""
        with self.store.keyset_planner_hints():
            keys = within_bytes(self.store, keyset.between(rows, after, bound)[:limit])
        chosen = keyset.with_keys(TestRecord.objects.using(self.store.alias), [plain_key(key) for key in keys])
        return keyset.load(chosen.order_by("pk"), row_columns(self)) if keys else []

    def process(self, row: Any) -> Outcome:
        if row.execution_id is not None:  # filled by another client since its key was read
            return Skip("no_longer_in_scope")
        try:
            found = execution_id(row.results_summary, row.is_summary_compressed)
        except Unreadable as error:
            return Invalid(error.reason)
        if not self.store.can_store(found):
            return Invalid("cannot_be_stored")
        return Change(row, "from_summary", execution_id=found)

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        waiting = restrict(self.queryset()).count()
        # SQLite counts `>= ''` by the index; for IS NOT NULL it reads every row.
        filled = restrict(self.population().filter(execution_id__gte="")).count()
        lookup = look_up(self.store, waiting + filled)
        return {
            "in_scope": waiting,
            "records": waiting + filled,
            "filled": filled,
            "lookup_plan": lookup.plan,
            "lookup_ms": round(lookup.seconds * 1000, 3),
            "json_scan_ms": round(lookup.scan_seconds * 1000, 1),
        }

    @classmethod
    def result_notes(cls, figures: Mapping[str, Any]) -> list[str]:
        if not figures.get("records"):
            return []
        values = {"lookup": format_number(figures["lookup_ms"], 3), "scan": format_number(figures["json_scan_ms"], 1)}
        if is_by_index(figures["lookup_plan"]):
            return [gettext("A record is found by the index in %(lookup)s ms; a scan would take %(scan)s ms.") % values]
        return [gettext("A record is found without the index, in %(lookup)s ms: see check_execution_index.") % values]
