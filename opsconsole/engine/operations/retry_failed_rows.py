"""Try again the rows that a run set aside, by the same operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django import forms
from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import registry
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import FailedItem
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Outcome
from opsconsole.engine.stored_plans import get_run, store_of
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store


class RetryFailedRows(Operation):
    title = _("Retry units set aside")
    description = _("Runs the operation again for the units that a run set aside, and for these alone.")
    risk = Risk.CHANGE
    targets_run = True

    class Params(forms.Form):
        run = forms.IntegerField(min_value=1, label=_("run"), help_text=_("the run that set them aside"))

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        run = get_run(self.params["run"])
        self._waiting = FailedItem.objects.filter(run=run, retried_by=None)
        self._keys = list(self._waiting.values_list("key", flat=True))
        if not self._keys and not self._waiting.model.objects.filter(run=run).exists():
            raise RunRefused(gettext("Run %(run)d has no failed rows.") % {"run": run.pk})
        cls = registry.operation(run.operation)
        if issubclass(cls, Check):
            raise RunRefused(gettext("Run %(run)d only read: scan again instead.") % {"run": run.pk})
        self._repeated = cls(store, run.params)
        self.model, self.writes = self._again.model, self._again.writes  # type: ignore[misc]  # as of that run
        self.batch_size, self.reasons = self._again.batch_size, self._again.reasons  # type: ignore[misc]
        self.perform = None if self._again.perform is None else self._act
        self.statistic_labels = self._again.statistic_labels  # type: ignore[misc]
        self.volatile_statistics = self._again.volatile_statistics
        self.undoable, self.creates_backup = self._again.undoable, self._again.creates_backup

    def effective_risk(self) -> Risk:
        """Return the risk of that run's operation: a retry of a delete is a delete."""
        return self._again.effective_risk()

    @property
    def superusers_only(self) -> bool:
        return self._again.superusers_only

    @property
    def requires_note(self) -> bool:
        return self._again.requires_note

    def checklist_facts(self, rows: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        return self._again.checklist_facts(rows)

    @property
    def _again(self) -> Operation:
        """That run's operation, at this plan's moment and for this run."""
        self._repeated.as_of, self._repeated.run_id = self.as_of, self.run_id
        return self._repeated

    @classmethod
    def resolve_store(cls, params: Mapping[str, Any]) -> Store:
        return store_of(get_run(params["run"]))

    def population(self) -> QuerySet[Any]:
        return self._again.select(self._again.population(), self._keys)

    def queryset(self) -> QuerySet[Any]:
        return self._again.select(self._again.queryset(), self._keys)

    def bound(self) -> Key | None:
        return self._again.bound()

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        return self._again.fetch(rows, after=after, bound=bound, limit=limit)

    def next_key(self, rows: QuerySet[Any], *, after: Key | None, bound: Key) -> Key | None:
        return self._again.next_key(rows, after=after, bound=bound)

    def targets(self) -> list[Target]:
        return self._again.targets()

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return self._again.needs()

    def process(self, row: Any) -> Outcome:
        return self._again.process(row)

    def _act(self, row: Any) -> Outcome:
        return self._again.perform(row)  # type: ignore[misc]  # it has one

    def label(self, row: Any) -> str:
        return self._again.label(row)

    @property
    def key_name(self) -> str:
        return self._again.key_name

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return self._again.statistics(lambda rows: restrict(self._again.select(rows, self._keys)))

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return self._again.verify(after, left)

    def on_finish(self, run_id: int) -> None:
        """What this run did not set aside again is settled."""
        again = FailedItem.objects.filter(run_id=run_id).values_list("label", flat=True)
        self._waiting.exclude(label__in=list(again)).update(retried_by=run_id)
