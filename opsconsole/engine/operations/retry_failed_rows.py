"""Process the failed rows of a run again, with the operation of that run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import registry
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import FailedItem
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Outcome
from opsconsole.engine.selection import Selection
from opsconsole.engine.stored_plans import get_run
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store


class RetryFailedRows(Operation):
    title = _("Retry failed rows")
    description = _("Runs the operation of a run again, for its failed rows only.")
    done_label = ngettext_lazy("%(count)s failed row retried", "%(count)s failed rows retried", "number")
    risk = Risk.CHANGE

    class Params(forms.Form):
        run = forms.IntegerField(min_value=1, label=_("run"), help_text=_("the run with the failed rows"))

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        run = get_run(self.params["run"])
        self._waiting = FailedItem.objects.filter(run=run, retried_by=None)
        keys = list(self._waiting.values_list("key", flat=True))
        if not keys and not FailedItem.objects.filter(run=run).exists():
            raise RunRefused(gettext("Run %(run)d has no failed rows.") % {"run": run.pk})
        cls = registry.operation(run.operation)
        if issubclass(cls, Check):
            raise RunRefused(gettext("Run %(run)d is a scan. Scan again instead.") % {"run": run.pk})
        again = cls(store, run.params)
        again.selection, again.frozen = Selection(keys), run.plan["frozen"]
        self._repeated = again
        self.model, self.reads, self.writes = again.model, again.reads, again.writes  # type: ignore[misc]
        self.reasons, self.statistic_labels = again.reasons, again.statistic_labels  # type: ignore[misc]
        self.batch_size, self.undoable, self.creates_backup = again.batch_size, again.undoable, again.creates_backup
        self.permission, self.always_approved = again.permission, again.always_approved
        self.perform = None if again.perform is None else self._perform

    @property
    def _again(self) -> Operation:
        """The operation of the first run, at the time of this plan and for this run."""
        self._repeated.as_of, self._repeated.run_id = self.as_of, self.run_id
        return self._repeated

    def _failed(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return self._again.select(rows, self._again.selection.keys or ())

    def population(self) -> QuerySet[Any]:
        return self._failed(self._again.population())

    def queryset(self) -> QuerySet[Any]:
        return self._failed(self._again.queryset())

    def check_prerequisites(self) -> None:
        self._again.check_prerequisites()

    def bound(self) -> Key | None:
        return self._again.bound()

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        return self._again.fetch(rows, after=after, bound=bound, limit=limit)

    def process(self, row: Any) -> Outcome:
        return self._again.process(row)

    def _perform(self, row: Any) -> Outcome:
        return self._again.perform(row)  # type: ignore[misc]  # it is an action

    def label(self, row: Any) -> str:
        return self._again.label(row)

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return self._again.statistics(lambda rows: restrict(self._failed(rows)))

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return self._again.verify(after, left)

    def targets(self) -> list[Target]:
        return self._again.targets()

    def effective_risk(self) -> Risk:
        """Return the risk of the first run's operation: a retry of a delete is a delete."""
        return self._again.effective_risk()

    @property
    def superusers_only(self) -> bool:
        return self._again.superusers_only

    @property
    def requires_note(self) -> bool:
        return self._again.requires_note

    def checklist_facts(self, rows: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        return self._again.checklist_facts(rows)

    def on_finish(self) -> None:
        """Mark the rows that did not fail again as retried."""
        again = FailedItem.objects.filter(run=self.run_id).values_list("label", flat=True)
        self._waiting.exclude(label__in=list(again)).update(retried_by=self.run_id)
