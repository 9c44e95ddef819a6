"""An action that asks the platform to generate the failed concepts again. See docs/platforms/roadmaps.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Action, Risk
from opsconsole.engine.outcomes import Changes, Done, Invalid, Outcome, Skip
from opsconsole.jsontext import Unreadable
from opsconsole.stores.rows import Key
from roadmaps import framework
from roadmaps.content import NEEDS, PARTS
from roadmaps.models import RoadmapTask
from roadmaps.resume import NotConfigured, post
from roadmaps.task_scope import ROADMAP_REASONS, TaskOfRoadmap, of_existing_roadmap, with_roadmaps

STATUS = RoadmapTask.Status
OPEN = (STATUS.PENDING.value, STATUS.PROCESSING.value)
BATCH = "retry_batch"
TYPES = {"tutorial": "retry_tutorial", "resources": "retry_resources", "quiz": "retry_quiz"}


class RetryFailedConcepts(Action):
    title = _("Regenerate failed concepts")
    description = _(
        "Asks the platform, at ROADMAPS_RETRY_URL, to generate each missing part of a concept again. The platform "
        "starts its own workers, and nothing is written to the store. Parts with an open retry are left out."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = {RoadmapTask: ("status", "user_id", "roadmap_id"), **NEEDS}
    risk = Risk.EXTERNAL
    action_label = ngettext_lazy("Regenerate %(count)s concept", "Regenerate %(count)s concepts", "number")
    done_label = ngettext_lazy(
        "Regeneration of %(count)s concept requested", "Regeneration of %(count)s concepts requested", "number"
    )
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "asked": _("retry requested"),
        "nothing_failed": _("nothing failed, or all of it is being retried"),
        "not_partial": _("not partially failed"),
        **ROADMAP_REASONS,
    }
    statistic_labels = {"in_scope": _("partially failed, without a retry"), "open": _("open retries")}

    def queryset(self) -> QuerySet[RoadmapTask]:
        """Return partially failed creation tasks whose roadmap has no open retry."""
        retries = RoadmapTask.objects.filter(
            roadmap_id=OuterRef("roadmap_id"), status__in=OPEN, task_type__startswith="retry_"
        )
        partial = self.population().filter(
            of_existing_roadmap(self), status=STATUS.PARTIAL_FAILURE, task_type=RoadmapTask.Type.CREATION
        )
        return partial.filter(~Exists(retries))

    def check_prerequisites(self) -> None:
        """Refuse a plan without an endpoint: a row of type `retry_*` alone starts no worker of the platform."""
        if not settings.ROADMAPS_RETRY_URL:
            raise NotConfigured(
                gettext(
                    "Retrying failed concepts is not configured. Set ROADMAPS_RETRY_URL to the platform's endpoint."
                )
            )

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        found = with_roadmaps(self.store, super().fetch(rows, after=after, bound=bound, limit=limit))
        keys = {row.task.roadmap_id for row in found if row.roadmap is not None}
        retries: dict[str, set[tuple[str | None, str | None]]] = {}
        open_ones = self.population().filter(roadmap_id__in=keys, status__in=OPEN, task_type__startswith="retry_")
        for roadmap, concept, kind in open_ones.values_list("roadmap_id", "concept_id", "task_type"):
            retries.setdefault(str(roadmap), set()).add((concept, kind))
        return [row._replace(retries=frozenset(retries.get(row.task.roadmap_id, ()))) for row in found]

    def process(self, row: TaskOfRoadmap) -> Outcome:
        outcome, _wanted = self._request(row)
        return outcome

    def perform(self, row: TaskOfRoadmap) -> Outcome:
        outcome, wanted = self._request(row)
        if isinstance(outcome, Changes):
            document = {
                "task_id": row.pk,
                "roadmap_id": row.task.roadmap_id,
                "user_id": row.task.user_id,
                "concepts": [{"concept_id": concept, "content_type": part} for concept, part in wanted],
            }
            key = f"{row.pk}:retry:{self.run_id}"
            post(settings.ROADMAPS_RETRY_URL, document, key, gettext("The retry endpoint"))
        return outcome

    def _request(self, row: TaskOfRoadmap) -> tuple[Outcome, list[tuple[str, str]]]:
        """Return the outcome, and the (concept, part) pairs to request."""
        if row.task.status != STATUS.PARTIAL_FAILURE:
            return Skip("not_partial"), []
        if row.roadmap is None:
            return Invalid("roadmap_missing"), []
        if row.roadmap.deleted:
            return Skip("deleted"), []
        try:
            concepts = framework.parse_concepts(row.roadmap.framework)
        except Unreadable as error:
            return Invalid(error.reason), []
        wanted = [
            (key, part.name)
            for key in dict.fromkeys(concept.key for concept in concepts)
            for part, rows in zip(PARTS, row.content.rows, strict=True)
            if key not in rows and not {(key, TYPES[part.name]), (key, BATCH), (None, BATCH)} & row.retries
        ]
        if not wanted:
            return Skip("nothing_failed"), []
        detail = ngettext("%(count)d part", "%(count)d parts", len(wanted)) % {"count": len(wanted)}
        return Done("asked", detail, len({concept for concept, _part in wanted})), wanted

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        open_ones = self.population().filter(status__in=OPEN, task_type__startswith="retry_")
        if self.selection.keys is not None:
            open_ones = open_ones.filter(roadmap_id__in=restrict(self.population()).order_by().values("roadmap_id"))
        return {"in_scope": restrict(self.queryset()).count(), "open": open_ones.count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Verify nothing: the platform has accepted the request, and the checks report its result."""
        return []
