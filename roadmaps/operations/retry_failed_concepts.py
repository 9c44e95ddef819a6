"""Document 004: the platform is asked to make the concepts that failed again. Only it knows its workers' queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Action, Risk
from opsconsole.engine.outcomes import Changes, Done, Invalid, Outcome, Skip
from opsconsole.formatting import format_number
from opsconsole.jsontext import Unreadable
from opsconsole.stores.rows import Key
from roadmaps import framework
from roadmaps.content import NEEDS, PARTS, Content, Roadmap, contents, roadmaps
from roadmaps.models import RoadmapTask
from roadmaps.operations.sync_results import of_living_roadmap
from roadmaps.resume import NotConfigured, post

STATUS = RoadmapTask.Status
OPEN = (STATUS.PENDING.value, STATUS.PROCESSING.value)
BATCH = "retry_batch"
TYPES = {"tutorial": "retry_tutorial", "resources": "retry_resources", "quiz": "retry_quiz"}


class Partial(NamedTuple):
    """A task that failed in part, with its roadmap, its content, and what is being retried already."""

    pk: str
    task: Any
    roadmap: Roadmap | None
    content: Content
    asked: frozenset[tuple[str | None, str | None]]  # (concept, type) of open retries


class RetryFailedConcepts(Action):
    title = _("Retry concepts that failed")
    description = _(
        "Asks the platform, at ROADMAPS_RETRY_URL, for each part of a concept that has no content. The platform starts "
        "its own workers; nothing is written to the store. What is being retried is not asked for again."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = ("status", "user_id", "roadmap_id")
    risk = Risk.OUTSIDE
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "asked": _("asked for again"),
        "nothing_failed": _("nothing failed, or all of it is being retried"),
        "not_partial": _("not failed in part"),
        "deleted": _("the roadmap was deleted"),
        "roadmap_missing": _("the roadmap is not there"),
        "no_framework": _("the roadmap has no framework"),
        "broken_framework": _("the framework is broken JSON"),
        "not_an_object": _("the framework is JSON that is no object"),
        "no_concepts": _("the framework has no concepts"),
        "too_deep": _("the framework is nested too deeply for any parser"),
    }
    statistic_labels = {"in_scope": _("failed in part, and not being retried"), "open": _("open retries")}

    def queryset(self) -> QuerySet[RoadmapTask]:
        """Creation tasks that failed in part, whose roadmap nobody retries."""
        open_ones = RoadmapTask.objects.filter(
            roadmap_id=OuterRef("roadmap_id"), status__in=OPEN, task_type__startswith="retry_"
        )
        partial = self.population().filter(of_living_roadmap(self), status=STATUS.PARTIAL_FAILURE, task_type="creation")
        return partial.filter(~Exists(open_ones))

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {**super().needs(), **NEEDS}

    def bound(self) -> Key | None:
        """Refuses at once where nobody could be asked. Rows of the platform's own kind would start no worker of it."""
        if not settings.ROADMAPS_RETRY_URL:
            raise NotConfigured(
                gettext(
                    "Failed concepts can't be retried from here: set ROADMAPS_RETRY_URL to the platform's endpoint for "
                    "that. Nothing was written."
                )
            )
        return super().bound()

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        tasks = super().fetch(rows, after=after, bound=bound, limit=limit)
        found = roadmaps(self.store, {task.roadmap_id for task in tasks if task.roadmap_id})
        content = contents(self.store, found)
        asked: dict[str, set[tuple[str | None, str | None]]] = {}
        retries = self.population().filter(roadmap_id__in=list(found), status__in=OPEN, task_type__startswith="retry_")
        for roadmap, concept, kind in retries.values_list("roadmap_id", "concept_id", "task_type"):
            asked.setdefault(str(roadmap), set()).add((concept, kind))
        return [
            Partial(
                task.pk,
                task,
                found.get(task.roadmap_id),
                content.get(task.roadmap_id) or Content(),
                frozenset(asked.get(task.roadmap_id, ())),
            )
            for task in tasks
        ]

    def process(self, row: Partial) -> Outcome:
        outcome, _wanted = self._asked_for(row)
        return outcome

    def perform(self, row: Partial) -> Outcome:
        outcome, wanted = self._asked_for(row)
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

    def _asked_for(self, row: Partial) -> tuple[Outcome, list[tuple[str, str]]]:
        """What becomes of it, and the parts that the platform is asked for."""
        if row.task.status != STATUS.PARTIAL_FAILURE:
            return Skip("not_partial"), []
        if row.roadmap is None:
            return Invalid("roadmap_missing"), []
        if row.roadmap.deleted:
            return Skip("deleted"), []
        try:
            concepts = framework.concepts_in(row.roadmap.framework)
        except Unreadable as error:
            return Invalid(error.reason), []
        wanted = [
            (key, part.name)
            for key in dict.fromkeys(concept.key for concept in concepts)
            for part, rows in zip(PARTS, row.content.rows, strict=True)
            if key not in rows and not {(key, TYPES[part.name]), (key, BATCH), (None, BATCH)} & row.asked
        ]
        if not wanted:
            return Skip("nothing_failed"), []
        detail = ngettext("%(count)d part", "%(count)d parts", len(wanted)) % {"count": len(wanted)}
        return Done("asked", detail), wanted

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        open_ones = self.population().filter(status__in=OPEN, task_type__startswith="retry_")
        return {"in_scope": restrict(self.queryset()).count(), "open": open_ones.count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """The platform has taken it; what becomes of it is seen by the checks."""
        return []

    def action_label(self, count: int) -> str:
        return ngettext("Retry the concepts of %(count)s task", "Retry the concepts of %(count)s tasks", count) % {
            "count": format_number(count)
        }
