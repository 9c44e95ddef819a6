"""An action that records the decision that a partial result is final. See docs/platforms/roadmaps.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.models import Run
from opsconsole.engine.operation import Action, Risk
from opsconsole.engine.outcomes import Changes, Done, Outcome, Skip
from roadmaps.consistency import TASK_COLUMNS, accepted_tasks, task_reports
from roadmaps.content import NEEDS
from roadmaps.models import Acceptance, RoadmapTask


class AcceptPartial(Action):
    title = _("Accept partial results as final")
    description = _(
        "Records that the failed concepts of a task need no further work, so that the task is no longer reported as a "
        "problem. The console keeps the decision with its reason; nothing is written to the store."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = {RoadmapTask: TASK_COLUMNS, **NEEDS}
    risk = Risk.REPRODUCE
    action_label = ngettext_lazy("Accept %(count)s partial result", "Accept %(count)s partial results", "number")
    done_label = ngettext_lazy("%(count)s decision recorded", "%(count)s decisions recorded", "number")
    allow_out_of_scope = True
    writes_store = False
    reasons = {
        "accepted": _("accepted as final"),
        "withdrawn": _("no longer accepted"),
        "not_partial": _("not partially failed"),
        "accepted_before": _("already accepted"),
        "not_accepted": _("not accepted"),
    }
    statistic_labels = {"in_scope": _("partial results without a decision"), "accepted": _("accepted")}

    class Params(forms.Form):
        reason = forms.CharField(
            required=False,
            max_length=2_000,
            label=_("reason"),
            help_text=_("why the result is final; default: the note of the run"),
        )
        withdraw = forms.BooleanField(required=False, label=_("withdraw"), help_text=_("withdraw the decision instead"))

    @property
    def requires_note(self) -> bool:
        return not self.params.get("reason")

    def queryset(self) -> QuerySet[RoadmapTask]:
        partial = self.population().filter(status=RoadmapTask.Status.PARTIAL_FAILURE)
        accepted = list(accepted_tasks(self.store))
        return partial.filter(pk__in=accepted) if self._withdraws else partial.exclude(pk__in=accepted)

    def process(self, row: Any) -> Outcome:
        failed, accepted = self._failed(row.pk)
        if self._withdraws:
            return Done("withdrawn") if row.pk in accepted_tasks(self.store) else Skip("not_accepted")
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
        """Return the concepts without content, and whether that result is already accepted."""
        for report in task_reports(self.store, self.as_of, self.population().filter(pk=key)):
            return report.comparison.failed, report.accepted
        return [], False

    @property
    def _withdraws(self) -> bool:
        return bool(self.params.get("withdraw"))

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        accepted = self.population().filter(pk__in=list(accepted_tasks(self.store)))
        selected = accepted.filter(pk__in=restrict(self.population()).order_by().values("pk"))
        return {"in_scope": restrict(self.queryset()).count(), "accepted": selected.count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Verify nothing: the decision is saved in the console itself."""
        return []
