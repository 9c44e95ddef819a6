"""Document 004's other way out: a person decides that a partial result is final."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django import forms
from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.models import Run
from opsconsole.engine.operation import Action, Risk
from opsconsole.engine.outcomes import Changes, Done, Outcome, Skip
from opsconsole.formatting import format_number
from roadmaps.consistency import TASK_COLUMNS, accepted_tasks, task_reports
from roadmaps.content import NEEDS
from roadmaps.models import Acceptance, RoadmapTask


class AcceptPartial(Action):
    title = _("Accept partial results as final")
    description = _(
        "Records that the concepts which failed need no further work: such a task is no open problem any more. "
        "The decision is kept in the console with its reason; nothing is written to the store."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = ("status",)
    risk = Risk.MAKE
    allow_out_of_scope = True
    writes_store = False
    reasons = {
        "accepted": _("accepted as final"),
        "withdrawn": _("no longer accepted"),
        "not_partial": _("not failed in part"),
        "accepted_before": _("accepted before"),
        "not_accepted": _("was not accepted"),
    }
    statistic_labels = {"in_scope": _("partial results to decide about"), "accepted": _("accepted")}

    class Params(forms.Form):
        reason = forms.CharField(
            required=False,
            max_length=2_000,
            label=_("reason"),
            help_text=_("why it is final; kept with the decision. Without it, the run's note is the reason"),
        )
        withdraw = forms.BooleanField(
            required=False, label=_("withdraw"), help_text=_("take the decision back instead")
        )

    @property
    def requires_note(self) -> bool:
        return not self.params.get("reason")

    def queryset(self) -> QuerySet[RoadmapTask]:
        partial, accepted = self.population().filter(status=RoadmapTask.Status.PARTIAL_FAILURE), list(self._accepted())
        return partial.filter(pk__in=accepted) if self._withdraws else partial.exclude(pk__in=accepted)

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {RoadmapTask: TASK_COLUMNS, **NEEDS}

    def process(self, row: Any) -> Outcome:
        failed, accepted = self._failed(row.pk)
        if self._withdraws:
            return Done("withdrawn") if row.pk in self._accepted() else Skip("not_accepted")
        if row.status != RoadmapTask.Status.PARTIAL_FAILURE:
            return Skip("not_partial")
        if accepted:
            return Skip("accepted_before")
        named = gettext("failed: %(concepts)s") % {"concepts": ", ".join(failed)}
        return Done("accepted", named)

    def perform(self, row: Any) -> Outcome:
        outcome = self.process(row)
        if isinstance(outcome, Changes):
            reason = self.params.get("reason") or Run.objects.get(pk=self.run_id or 0).note
            decided = Acceptance.objects.filter(identity=self.store.identity(), task_id=row.pk)
            decided.delete()
            if not self._withdraws:
                Acceptance.objects.create(
                    identity=self.store.identity(),
                    task_id=row.pk,
                    failed_concepts=self._failed(row.pk)[0],
                    reason=reason,
                    run_id=self.run_id,
                )
        return outcome

    def _failed(self, key: str) -> tuple[list[str], bool]:
        """The concepts that lack content now, and whether that was accepted already."""
        for state in task_reports(self.store, self.as_of, self.population().filter(pk=key)):
            return state.comparison.failed, state.accepted
        return [], False

    def _accepted(self) -> Mapping[str, set[str]]:
        return accepted_tasks(self.store)

    @property
    def _withdraws(self) -> bool:
        return bool(self.params.get("withdraw"))

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        return {"in_scope": restrict(self.queryset()).count(), "accepted": len(self._accepted())}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """The decision stands as soon as it is written."""
        return []

    def action_label(self, count: int) -> str:
        return ngettext("Accept %(count)s partial result", "Accept %(count)s partial results", count) % {
            "count": format_number(count)
        }
