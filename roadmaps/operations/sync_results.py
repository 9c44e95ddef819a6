"""Document 004: content that was generated and never reached the framework, nor the task's status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django import forms
from django.conf import settings
from django.db import models
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Invalid, Outcome, RowChange, Skip
from opsconsole.formatting import format_number
from opsconsole.jsontext import Unreadable
from opsconsole.stores.fields import SortableTimestamp
from opsconsole.stores.rows import Key
from opsconsole.timestamps import format_timestamp
from roadmaps import framework, langgraph
from roadmaps.content import NEEDS, PARTS, TABLES, Content, Roadmap, contents, roadmaps
from roadmaps.models import RoadmapMetadata, RoadmapTask
from roadmaps.times import bound_text, is_at_work, last_moved, moved_at, stuck_before

STATUS = RoadmapTask.Status
LEFT_ALONE = {
    STATUS.PENDING.value: "not_started",
    STATUS.HUMAN_REVIEW_PENDING.value: "waits_for_a_person",
    STATUS.CANCELLED.value: "cancelled",
}
WRITTEN = ("status", "current_step", "failed_concepts", "execution_summary", "updated_at", "completed_at")


class TaskOfRoadmap(NamedTuple):
    """A task with its roadmap, what the content tables hold of it, and when its workflow last left a checkpoint."""

    pk: str
    task: Any
    roadmap: Roadmap | None
    content: Content
    checkpoint_at: datetime | None


class SyncResults(Operation):
    title = _("Sync results to the framework")
    description = _(
        "Writes into the framework what the content tables hold of each concept: statuses and references. "
        "The task becomes completed, or failed in part with the concepts that failed. "
        "A task that still moves is left alone, and so are roadmaps that were deleted. While a worker may still be "
        "generating content, parts without it stay as they are, and the task is not over."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = ("roadmap_id", "created_at")
    writes = {"roadmap_metadata": ("framework_data",), "roadmap_tasks": WRITTEN}
    risk = Risk.CHANGE
    locks_rows = True
    allow_out_of_scope = True  # whether they are stuck or not
    reasons = {
        "completed": _("completed: every concept has its content"),
        "partial_failure": _("failed in part: some concepts lack content"),
        "generating": _("content may still be generated: what is there is in the framework, the rest is left"),
        "in_step": _("framework and task are what the content tables say"),
        "moves": _("moved within the time after which a task counts as stuck"),
        "went_on": _("went on by itself since the plan"),
        "not_started": _("not started yet"),
        "waits_for_a_person": _("waits for a person"),
        "cancelled": _("cancelled"),
        "deleted": _("the roadmap was deleted"),
        "roadmap_missing": _("the roadmap is not there"),
        "no_framework": _("the roadmap has no framework"),
        "broken_framework": _("the framework is broken JSON"),
        "not_an_object": _("the framework is JSON that is no object"),
        "no_concepts": _("the framework has no concepts"),
        "too_deep": _("the framework is nested too deeply for any parser"),
    }
    statistic_labels = {
        "in_scope": _("stuck, or chosen"),
        **{f"status {status.value}": status.label for status in STATUS},
    }

    class Params(forms.Form):
        force = forms.BooleanField(
            required=False,
            label=_("force"),
            help_text=_("take a chosen task even if it moved within the time after which it counts as stuck"),
        )
        handed_over = forms.BooleanField(
            required=False,
            label=_("handed over"),
            help_text=_("the workflow has just ended, and may have left work to a queue: parts without content stay"),
        )

    # --- rows ----------------------------------------------------------------------------------------------

    def queryset(self) -> QuerySet[RoadmapTask]:
        """Every stuck task, but those of deleted roadmaps."""
        return self.population().filter(stuck(self) & of_living_roadmap(self))

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {**super().needs(), **NEEDS}

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Tasks of different roadmaps: the next task of one must see what is written for the first."""
        tasks: dict[Any, Any] = {}
        for task in super().fetch(rows, after=after, bound=bound, limit=limit):
            if task.roadmap_id and task.roadmap_id in tasks:
                break
            tasks[task.roadmap_id or (task.pk,)] = task
        found = roadmaps(self.store, (key for key in tasks if isinstance(key, str)))
        content = contents(self.store, found)
        at_work = [task.pk for task in tasks.values() if task.status == STATUS.PROCESSING]
        checkpoints = langgraph.threads(self.store, at_work)
        return [
            TaskOfRoadmap(
                task.pk,
                task,
                found.get(task.roadmap_id),
                content.get(task.roadmap_id) or Content(),
                checkpoints.get(task.pk),
            )
            for task in tasks.values()
        ]

    # --- what becomes of one ----------------------------------------------------------------------------------

    def process(self, row: TaskOfRoadmap) -> Outcome:
        task, roadmap = row.task, row.roadmap
        if task.status in LEFT_ALONE:
            return Skip(LEFT_ALONE[task.status])
        moved = last_moved(task)
        # What lies ahead of the clock was written by another clock, before the plan or after: `force` takes it, too.
        if moved is not None and self.as_of < moved <= timezone.now():
            return Skip("went_on")
        made = row.content.moved() if task.status == STATUS.PROCESSING else None
        at_work = any(is_at_work(task.status, at, self.as_of) for at in (moved, made))
        if at_work and not self.params.get("force"):
            return Skip("moves")
        if roadmap is None:
            return Invalid("roadmap_missing")
        if roadmap.deleted:
            return Skip("deleted")
        try:
            concepts = framework.concepts_in(roadmap.framework)
        except Unreadable as error:
            return Invalid(error.reason)
        complete = sum(not row.content.lacks(concept.key) for concept in concepts)
        detail = gettext("%(complete)d of %(concepts)d concepts complete") % {
            "complete": complete,
            "concepts": len(concepts),
        }
        # A worker that makes content, or was handed the work just now, touches nothing else.
        generating = self.params.get("handed_over") or any(
            is_at_work(task.status, at, self.as_of) for at in (made, row.checkpoint_at)
        )
        if generating and complete < len(concepts):
            return self._so_far(row, self._framework(roadmap, concepts, row.content, so_far=True), detail)
        framework_data = self._framework(roadmap, concepts, row.content)
        settled = self._settled(task, concepts, row.content)
        if framework_data == roadmap.framework and all(getattr(task, name) == value for name, value in settled.items()):
            return Skip("in_step")
        rows = self._framework_rows(roadmap, framework_data)
        now = format_timestamp(self.as_of, settings.ROADMAPS_TIME_ZONE)
        after = settled | {"updated_at": now, "completed_at": now}
        rows.append(RowChange.update("roadmap_tasks", task, **after))
        return Changes(rows, str(settled["status"]), detail)

    def _so_far(self, row: TaskOfRoadmap, framework_data: str | None, detail: str) -> Outcome:
        """What is there goes into the framework; the task is not over. What was handed over just now has moved."""
        rows = self._framework_rows(row.roadmap, framework_data)
        before = {column: getattr(row.task, column) for column in WRITTEN}
        after = before | {"updated_at": format_timestamp(self.as_of, settings.ROADMAPS_TIME_ZONE)}
        if (rows or self.params.get("handed_over")) and row.task.status == STATUS.PROCESSING and before != after:
            rows.append(RowChange.update("roadmap_tasks", row.task, **after))
        return Changes(rows, "generating", detail) if rows else Skip("generating")

    def _framework_rows(self, roadmap: Any, framework_data: str | None) -> list[RowChange]:
        if framework_data == roadmap.framework:
            return []
        texts = (roadmap.framework, framework_data)
        stored = [text.encode() if roadmap.blob and text is not None else text for text in texts]
        old, new = ({"framework_data": value} for value in stored)
        return [RowChange("roadmap_metadata", roadmap.roadmap_id, old, new)]

    def _framework(
        self, roadmap: Roadmap, concepts: list[framework.Concept], content: Content, *, so_far: bool = False
    ) -> str | None:
        """The document with what differs replaced. `so_far`: parts without a row stay as they are."""
        changes = []
        for concept in concepts:
            wanted = content.wanted(concept.key, so_far=so_far)
            differs = {key: value for key, value in wanted.items() if not _same(concept.values.get(key), value)}
            if differs:
                changes.append((concept, differs))
        if roadmap.framework is None or not changes:
            return roadmap.framework
        return framework.replaced(
            roadmap.framework, changes, binary=self._is_binary("roadmap_metadata", "framework_data")
        )

    def _settled(self, task: Any, concepts: list[framework.Concept], content: Content) -> dict[str, Any]:
        """What the task says once it is over."""
        keys = list(dict.fromkeys(concept.key for concept in concepts))
        failed = [key for key in keys if content.lacks(key)]
        summary = {
            part.counted: sum(key in rows for key in keys) for part, rows in zip(PARTS, content.rows, strict=True)
        }
        summary["failed_count"] = len(failed)
        return {
            "status": STATUS.PARTIAL_FAILURE.value if failed else STATUS.COMPLETED.value,
            "current_step": "content_generation" if failed else "completed",
            "failed_concepts": self._json("failed_concepts", task.failed_concepts, _failed(failed)),
            "execution_summary": self._json("execution_summary", task.execution_summary, summary),
        }

    def _json(self, column: str, old: str | None, document: Any) -> str | None:
        """The document's text; one that says the same stays as it is written."""
        if document is None:
            return None
        try:
            if old is not None and json.loads(old) == document:
                return old
        except (ValueError, RecursionError):
            pass
        return framework.as_text(document, binary=self._is_binary("roadmap_tasks", column))

    def _is_binary(self, table: str, column: str) -> bool:
        return self.store.tables[table][column].base == "jsonb"

    # --- how one sees that it worked --------------------------------------------------------------------------

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        by_status = restrict(self.population()).order_by().values_list("status").annotate(tasks=Count("pk"))
        figures = {f"status {status}": tasks for status, tasks in by_status.order_by("status")}
        return {"in_scope": restrict(self.queryset()).count(), **figures}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Chosen tasks stay chosen: they are judged once more."""
        if self._chosen is None:
            return super().verify(after, left)
        return super().verify({"in_scope": self._still_to_do()}, 0)

    def _still_to_do(self) -> int:
        bound, after, left = self.bound(), None, 0
        rows = self.population().filter(pk__in=list(self._chosen or ()))
        while bound is not None and (batch := self.fetch(rows, after=after, bound=bound, limit=500)):
            left += sum(isinstance(self.process(row), Changes) for row in batch)
            after = batch[-1].pk
        return left

    def action_label(self, count: int) -> str:
        return ngettext("Sync %(count)s task", "Sync %(count)s tasks", count) % {"count": format_number(count)}


def stuck(operation: Operation) -> Q:
    """Processing, and neither the task nor its content moved for the configured time, in the store's own zone."""
    since = SortableTimestamp(Value(bound_text(stuck_before(operation.as_of))))
    moved = SortableTimestamp(Coalesce(F("updated_at"), F("created_at")))
    found = Q(status=STATUS.PROCESSING.value) & Q(models.lookups.LessThan(moved, since))
    for model in TABLES:
        made = models.lookups.GreaterThanOrEqual(SortableTimestamp(F("generated_at")), since)
        found &= ~Q(Exists(model._default_manager.filter(made, roadmap_id=OuterRef("roadmap_id"))))
    return found


def of_living_roadmap(operation: Operation) -> Q:
    """Its roadmap was not deleted, as far as the store knows such a thing."""
    if "deleted_at" not in operation.store.tables["roadmap_metadata"]:
        return Q()
    deleted = RoadmapMetadata.objects.filter(pk=OuterRef("roadmap_id"), deleted_at__isnull=False)
    return ~Q(Exists(deleted))


def moving(operation: Operation, keys: Sequence[Key]) -> list[str]:
    """Those of the tasks that are at work, or whose content is being made."""
    moved = Coalesce("updated_at", "created_at")
    rows = operation.population().filter(pk__in=list(keys), status=STATUS.PROCESSING.value).order_by("pk")
    found = list(rows.values_list("pk", "status", moved, "roadmap_id"))
    content = contents(operation.store, {roadmap for *_rest, roadmap in found if roadmap})
    return [
        str(key)
        for key, status, text, roadmap in found
        if any(
            is_at_work(status, at, operation.as_of)
            for at in (moved_at(text), content[roadmap].moved() if roadmap else None)
        )
    ]


def _failed(keys: list[str]) -> dict[str, Any] | None:
    return {"count": len(keys), "concept_ids": keys} if keys else None


def _same(said: Any, wanted: Any) -> bool:
    """Equal as JSON has it: a number is no truth value."""
    return said == wanted and isinstance(said, bool) == isinstance(wanted, bool)
