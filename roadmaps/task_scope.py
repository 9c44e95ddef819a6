"""Which tasks an operation works on, read together with their roadmaps and content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Operation
from opsconsole.jsontext import Unreadable
from opsconsole.stores.fields import SortableTimestamp
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store
from roadmaps import framework
from roadmaps.content import COMPLETED, PARTS, TABLES, Content, Roadmap, contents, roadmaps
from roadmaps.models import RoadmapMetadata, RoadmapTask
from roadmaps.times import is_recent, last_changed, local_bound, stuck_before

# Why a task's roadmap cannot be used: code -> label.
ROADMAP_REASONS = {
    "deleted": _("the roadmap was deleted"),
    "roadmap_missing": _("the roadmap does not exist"),
    "no_framework": _("the roadmap has no framework"),
    "broken_framework": _("the framework is broken JSON"),
    "not_an_object": _("the framework is JSON, but not an object"),
    "no_concepts": _("the framework has no concepts"),
    "too_deep": _("the framework is nested too deeply"),
}


# Labels of the figures of `task_figures`.
TASK_LABELS = {
    "concepts": _("concepts completed in the framework"),
    "task": _("task"),
    **{f"status {status.value}": status.label for status in RoadmapTask.Status},
}
MEASURED_TASKS = 200  # selected tasks whose frameworks are read for a figure


class TaskOfRoadmap(NamedTuple):
    """A task with its roadmap and content."""

    pk: str
    task: Any
    roadmap: Roadmap | None
    content: Content
    checkpoint_at: datetime | None = None  # time of the newest checkpoint, where an operation reads it
    retries: frozenset[tuple[str | None, str | None]] = frozenset()  # (concept, type) of open retries, likewise


def with_roadmaps(store: Store, tasks: Iterable[Any]) -> list[TaskOfRoadmap]:
    """Return tasks with their roadmaps and content, read in a constant number of statements."""
    tasks = list(tasks)
    found = roadmaps(store, {task.roadmap_id for task in tasks if task.roadmap_id})
    content = contents(store, found)
    return [
        TaskOfRoadmap(task.pk, task, found.get(task.roadmap_id), content.get(task.roadmap_id) or Content())
        for task in tasks
    ]


def task_figures(operation: Operation, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
    """Return the statuses of the tasks; of few selected ones also how many concepts their frameworks complete."""
    tasks = restrict(operation.population()).order_by()
    statuses = dict(tasks.values_list("status").annotate(tasks=Count("pk")).order_by("status"))
    figures: dict[str, Any] = {f"status {status}": count for status, count in statuses.items()}
    if operation.selection.keys is None or len(operation.selection.keys) > MEASURED_TASKS:
        return figures
    if sum(statuses.values()) == 1:
        figures = {"task": next(iter(figures))}
    keys = set(tasks.filter(roadmap_id__gt="").values_list("roadmap_id", flat=True))
    done = total = 0
    for roadmap in roadmaps(operation.store, keys).values():
        try:
            concepts = framework.parse_concepts(roadmap.framework)
        except Unreadable:
            continue
        total += len(concepts)
        done += sum(all(one.values.get(part.status) == COMPLETED for part in PARTS) for one in concepts)
    return {"concepts": [done, total], **figures}


def stuck(operation: Operation) -> Q:
    """Match processing tasks of which neither the row nor the content has changed for the configured time."""
    since = SortableTimestamp(Value(local_bound(stuck_before(operation.as_of))))
    changed = SortableTimestamp(Coalesce(F("updated_at"), F("created_at")))
    found = Q(status=RoadmapTask.Status.PROCESSING.value) & Q(models.lookups.LessThan(changed, since))
    for model in TABLES:
        recent = models.lookups.GreaterThanOrEqual(SortableTimestamp(F("generated_at")), since)
        found &= ~Q(Exists(model._default_manager.filter(recent, roadmap_id=OuterRef("roadmap_id"))))
    return found


def of_existing_roadmap(operation: Operation) -> Q:
    """Match tasks whose roadmap was not deleted. Older stores do not record that."""
    if "deleted_at" not in operation.store.tables["roadmap_metadata"]:
        return Q()
    deleted = RoadmapMetadata.objects.filter(pk=OuterRef("roadmap_id"), deleted_at__isnull=False)
    return ~Q(Exists(deleted))


def is_active(task: Any, content: Content | None, as_of: datetime) -> bool:
    """Return whether a worker of the platform still works on a task: its row or its content changed recently."""
    if task.status != RoadmapTask.Status.PROCESSING:
        return False
    return is_recent(last_changed(task), as_of) or (content is not None and is_recent(content.last_generated(), as_of))


def active_tasks(operation: Operation, keys: Sequence[Key]) -> list[str]:
    """Return those of the tasks on which a worker of the platform still works."""
    rows = operation.population().filter(pk__in=list(keys), status=RoadmapTask.Status.PROCESSING.value).order_by("pk")
    columns = ("pk", "status", "updated_at", "created_at", "roadmap_id")
    tasks: list[Any] = list(rows.values_list(*columns, named=True))
    content = contents(operation.store, {task.roadmap_id for task in tasks if task.roadmap_id})
    return [str(task.pk) for task in tasks if is_active(task, content.get(task.roadmap_id), operation.as_of)]
