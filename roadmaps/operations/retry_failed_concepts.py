"""Document 004: the concepts that failed are asked for again, in the platform's own way: tasks of type retry_*."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.display import figure
from opsconsole.operations.base import Changed, Operation, Outcome, Risk, RowChange, Skip, Unfit
from opsconsole.stores.rows import Key
from roadmaps import framework
from roadmaps.consistency import local_text
from roadmaps.content import NEEDS, PARTS, Content, Roadmap, contents, roadmaps
from roadmaps.models import RoadmapTask
from roadmaps.operations.sync_results import of_living_roadmap

STATUS = RoadmapTask.Status
OPEN = (STATUS.PENDING.value, STATUS.PROCESSING.value)
TYPES = {"tutorial": "retry_tutorial", "resources": "retry_resources", "quiz": "retry_quiz"}


class Partial(NamedTuple):
    """A task that failed in part, with its roadmap, its content, and what is being retried already."""

    pk: str
    task: Any
    roadmap: Roadmap | None
    content: Content
    asked: frozenset[tuple[str | None, str | None]]  # (concept, type) of open retries


class RetryFailedConcepts(Operation):
    title = _("Retry concepts that failed")
    description = _(
        "Makes a request for each part of a concept that has no content: tasks of type retry_tutorial, retry_resources "
        "and retry_quiz, pending, which the platform's workers take up. What is being retried is not asked for again."
    )
    store = "roadmaps"
    model = RoadmapTask
    reads = ("status", "user_id", "roadmap_id")
    writes = {
        "roadmap_tasks": (
            "task_id",
            "user_id",
            "status",
            "current_step",
            "user_request",
            "roadmap_id",
            "task_type",
            "concept_id",
            "content_type",
            "created_at",
            "updated_at",
        )
    }
    risk = Risk.CHANGE
    locks_units = True
    takes_chosen = True
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
    figure_labels = {"in_scope": _("failed in part, and not being retried"), "open": _("open retries")}

    def scope(self) -> QuerySet[RoadmapTask]:
        """Creation tasks that failed in part, whose roadmap nobody retries."""
        open_ones = RoadmapTask.objects.filter(
            roadmap_id=OuterRef("roadmap_id"), status__in=OPEN, task_type__startswith="retry_"
        )
        partial = self.domain().filter(of_living_roadmap(self), status=STATUS.PARTIAL_FAILURE, task_type="creation")
        return partial.filter(~Exists(open_ones))

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {**super().needs(), **NEEDS}

    @property
    def columns(self) -> tuple[str, ...]:
        """A unit is the task that failed; what is written are other rows."""
        return self.reads

    def fetch(self, units: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        tasks = super().fetch(units, after=after, bound=bound, limit=limit)
        found = roadmaps(self.at, {task.roadmap_id for task in tasks if task.roadmap_id})
        content = contents(self.at, found)
        asked: dict[str, set[tuple[str | None, str | None]]] = {}
        retries = self.domain().filter(roadmap_id__in=list(found), status__in=OPEN, task_type__startswith="retry_")
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

    def change(self, unit: Partial) -> Outcome:
        if unit.task.status != STATUS.PARTIAL_FAILURE:
            return Skip("not_partial")
        if unit.roadmap is None:
            return Unfit("roadmap_missing")
        if unit.roadmap.deleted:
            return Skip("deleted")
        try:
            concepts = framework.concepts_in(unit.roadmap.framework)
        except framework.Unreadable as error:
            return Unfit(error.reason)
        wanted = [
            (key, part.name)
            for key in dict.fromkeys(concept.key for concept in concepts)
            for part, rows in zip(PARTS, unit.content.rows, strict=True)
            if key not in rows and (key, TYPES[part.name]) not in unit.asked
        ]
        if not wanted:
            return Skip("nothing_failed")
        rows = [self._request(unit.task, concept, part) for concept, part in wanted]
        detail = gettext("%(count)d requests") % {"count": len(rows)}
        return Changed(rows, "asked", detail)

    def _request(self, task: Any, concept: str, part: str) -> RowChange:
        """A pending task of the platform. Its id follows from what is asked and when: a plan shows the very row."""
        now = local_text(self.as_of)
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{task.pk} {concept} {part} {self.as_of.isoformat()}"))
        request = {"roadmap_id": task.roadmap_id, "concept_id": concept, "content_type": part, "retry_of": task.pk}
        values = {
            "task_id": key,
            "user_id": task.user_id,
            "status": STATUS.PENDING.value,
            "current_step": "queued",
            "user_request": framework.as_text(
                request, binary=self.at.tables["roadmap_tasks"]["user_request"].type == "jsonb"
            ),
            "roadmap_id": task.roadmap_id,
            "task_type": TYPES[part],
            "concept_id": concept,
            "content_type": part,
            "created_at": now,
            "updated_at": now,
        }
        return RowChange("roadmap_tasks", key, None, values)

    def measure(self, narrow: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        open_ones = self.domain().filter(status__in=OPEN, task_type__startswith="retry_")
        return {"in_scope": narrow(self.scope()).count(), "open": open_ones.count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Chosen tasks stay chosen, and their requests stand once they are written."""
        return [] if self._chosen is not None else super().verify(after, left)

    def action_label(self, count: int) -> str:
        return ngettext("Retry the concepts of %(count)s task", "Retry the concepts of %(count)s tasks", count) % {
            "count": figure(count)
        }
