"""The check of the column `execution_id` and its index (see docs/platforms/records.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from django.db.models import Count
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.causes import Cause
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Priority, Schedule
from opsconsole.monitoring.causes import MISSING_COLUMN, MISSING_INDEX
from opsconsole.stores import remedies
from opsconsole.stores.indexes import free_name, names_taken
from tasks.records.models import TestRecord
from tasks.records.operations.backfill_execution_ids import MISSING_IDS
from tasks.records.query_plan import INDEX, is_by_index, plan_of

TABLE, COLUMN = "test_records", "execution_id"
ADD_INDEX = f"CREATE INDEX {{}} ON {TABLE} ({COLUMN});"


class CheckExecutionIndex(Check):
    title = _("Check the index of execution ids")
    description = _(
        "Checks that test_records has the column execution_id and its index, that a lookup uses the index, and that "
        "all records have their id."
    )
    store_alias = "records"
    model = TestRecord
    schedule = Schedule("45 4 * * *")
    rules = ("lookup", "share filled")
    reasons = {
        "no_column": _("The column test_records.execution_id is missing. Add it: %(statements)s"),
        "no_index": _("The index on execution_id is missing. Create it: %(statements)s"),
        "other_index": _("The index %(index)s does not contain execution_id. Replace it: %(statements)s"),
        "index_not_used": _("A lookup by execution_id does not use its index (%(indexes)s). Plan: %(plan)s"),
        "not_filled": _("execution_id is missing in %(waiting)d of %(records)d records; %(percent).2f %% have it"),
    }
    titles = {
        "no_column": _("missing column"),
        "no_index": _("missing index"),
        "other_index": _("index without execution_id"),
        "index_not_used": _("unused index"),
        "not_filled": _("missing execution ids"),
    }
    causes = {
        "no_column": MISSING_COLUMN,
        "no_index": MISSING_INDEX,
        "other_index": Cause(
            "other_index",
            _("The index %(index)s does not contain execution_id"),
            advice=_("Replace the index with the statements of the finding."),
        ),
        "index_not_used": Cause(
            "index_not_used",
            _("A lookup by execution_id does not use its index"),
            advice=_("Update the statistics of the database with ANALYZE, then check the index again."),
        ),
        "not_filled": MISSING_IDS,
    }

    def run_rule(self, rule: str) -> Iterable[FindingData]:
        return self._lookup() if rule == "lookup" else self._share()

    def _lookup(self) -> Iterator[FindingData]:
        if not self._has_column:
            missing = remedies.find_missing(self.store, {TestRecord: (COLUMN,)})
            yield self._found("no_column", statements=" ".join([*missing.reasons, *missing.statements]))
            return
        known = self._indexes()
        usable = [name for name, columns in known.items() if columns[:1] == [COLUMN]]
        plan = plan_of(self.store, possible=True)
        if usable and not is_by_index(plan):
            yield self._found("index_not_used", indexes=", ".join(usable), plan=plan)
        elif not usable and INDEX in known:
            # Some stores have an index of this name on a JSON expression.
            yield self._found("other_index", index=INDEX, statements=f"DROP INDEX {INDEX}; {ADD_INDEX.format(INDEX)}")
        elif not usable:
            name = free_name(INDEX, names_taken(self.store))
            yield self._found("no_index", statements=ADD_INDEX.format(name))

    def _share(self) -> Iterator[FindingData]:
        figures = self._figures
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
        """Return the columns of each index, in order."""
        connection = self.store.connection
        with connection.cursor() as cursor:
            found = connection.introspection.get_constraints(cursor, TABLE)
        return {name: about["columns"] for name, about in found.items() if about["index"]}

    @cached_property
    def _figures(self) -> dict[str, Any]:
        """Count all records and those with an id, in one statement."""
        counts = {"records": Count("*")} | ({"filled": Count(COLUMN)} if self._has_column else {})
        found = {"filled": 0} | TestRecord.objects.using(self.store.alias).aggregate(**counts)
        return {**found, "percent": 100 * found["filled"] / found["records"] if found["records"] else 100.0}

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        """Add the figures, also if nothing is wrong."""
        plan = plan_of(self.store) if self._has_column else None
        figures = {
            "column": self._has_column,
            "index": any(columns[:1] == [COLUMN] for columns in self._indexes().values()),
            "plan": plan,
            **self._figures,
        }
        return {**figures, **super().report(found)}
