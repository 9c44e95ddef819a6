"""Document 002: whether a run's results are found by the index: column, index, plan, and how many have their id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Priority, Schedule
from opsconsole.stores import remedies
from tasks.records.models import TestRecord
from tasks.records.query_plan import INDEX, is_by_index, plan_of

TABLE, COLUMN = "test_records", "execution_id"
ADD_INDEX = f"CREATE INDEX {{}} ON {TABLE} ({COLUMN});"


class CheckExecutionIndex(Check):
    title = _("Check the index of execution ids")
    description = _(
        "Looks whether test_records has the column execution_id and its index, whether a lookup uses it, and how "
        "many records have their id."
    )
    store_alias = "records"
    model = TestRecord
    schedule = Schedule("45 4 * * *")
    rules = ("lookup", "share filled")
    reasons = {
        "no_column": _("test_records has no column execution_id: %(statements)s"),
        "no_index": _("execution_id has no index: %(statements)s"),
        "other_index": _("%(index)s is an index of something else than execution_id: %(statements)s"),
        "index_not_used": _("a lookup by execution_id does not use its index (%(indexes)s): %(plan)s"),
        "not_filled": _("%(waiting)d of %(records)d records lack their execution_id; %(percent).2f %% have it"),
    }
    repairs = {"not_filled": "records.backfill_execution_ids"}

    def run_rule(self, question: str) -> Iterable[FindingData]:
        return self._lookup() if question == "lookup" else self._share()

    def _lookup(self) -> Iterator[FindingData]:
        if not self._has_column:
            lacking = remedies.find_missing(self.store, {TestRecord: (COLUMN,)})
            yield self._found("no_column", statements=" ".join([*lacking.reasons, *lacking.statements]))
            return
        known = self._indexes()
        helping = [name for name, columns in known.items() if columns[:1] == [COLUMN]]
        plan = plan_of(self.store, possible=True)
        if helping and not is_by_index(plan):
            yield self._found("index_not_used", indexes=", ".join(helping), plan=plan)
        elif not helping and INDEX in known:
            # Before the repair of document 002 some stores had one of this name on a JSON expression.
            yield self._found("other_index", index=INDEX, statements=f"DROP INDEX {INDEX}; {ADD_INDEX.format(INDEX)}")
        elif not helping:
            name = remedies.free_name(INDEX, remedies.names_taken(self.store))
            yield self._found("no_index", statements=ADD_INDEX.format(name))

    def _share(self) -> Iterator[FindingData]:
        figures = self._figures()
        waiting = figures["records"] - figures["filled"]
        if self._has_column and waiting:
            yield FindingData(
                "not_filled", f"{TABLE}.{COLUMN}", {"waiting": waiting, **figures}, Priority.PLANNED.value
            )

    def _found(self, code: str, **data: Any) -> FindingData:
        return FindingData(code, f"{TABLE}.{COLUMN}", data, Priority.IMMEDIATE.value)

    @property
    def _has_column(self) -> bool:
        return COLUMN in self.store.tables[TABLE]

    def _indexes(self) -> dict[str, list[str]]:
        """Name → columns, in order."""
        connection = self.store.connection
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, TABLE)
        return {name: about["columns"] for name, about in found.items() if about["index"]}

    def _figures(self) -> dict[str, Any]:
        rows = TestRecord.objects.using(self.store.alias)
        filled = rows.filter(execution_id__isnull=False).count() if self._has_column else 0
        records = filled + (rows.filter(execution_id=None).count() if self._has_column else rows.count())
        return {"records": records, "filled": filled, "percent": 100 * filled / records if records else 100.0}

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        """With what was looked at, also where nothing is wrong."""
        plan = plan_of(self.store) if self._has_column else None
        looked_at = {
            "column": self._has_column,
            "index": any(columns[:1] == [COLUMN] for columns in self._indexes().values()),
            "plan": plan,
            **self._figures(),
        }
        return {**looked_at, **super().report(found)}
