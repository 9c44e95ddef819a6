"""A task, its framework and its content tables side by side, and what does not fit: read-only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine.checks import Check, FindingData
from opsconsole.formatting import duration
from opsconsole.jsontext import Unreadable
from opsconsole.stores.store import Store
from roadmaps import framework, langgraph, resume
from roadmaps.content import COMPLETED, COPIED, KEY, NEEDS, PARTS, Content, Row, contents, roadmaps
from roadmaps.langgraph import Position
from roadmaps.models import Acceptance, RoadmapTask
from roadmaps.times import last_moved, stuck_before

BATCH = 500
SHOWN_CONCEPTS = 5
PARTIAL = "partial_failure"  # a finding of scans, and no problem of the commands: the task is consistent

STATUS = RoadmapTask.Status
SETTLED = (STATUS.COMPLETED.value, STATUS.PARTIAL_FAILURE.value)


class Task(NamedTuple):
    """The columns of a task that a check reads."""

    task_id: str
    roadmap_id: str | None
    status: str
    current_step: str | None
    task_type: str | None
    updated_at: str | None
    failed_concepts: str | None
    created_at: str | None


TASK_COLUMNS = Task._fields


def no_parts() -> dict[str, int]:
    return dict.fromkeys((part.name for part in PARTS), 0)


@dataclass(slots=True)
class Comparison:
    """One framework against the content tables. The lists name concepts, once per part."""

    concepts: int = 0
    framework: dict[str, int] = field(default_factory=no_parts)  # part → concepts marked completed
    content: dict[str, int] = field(default_factory=no_parts)  # part → concepts with a usable row
    references_complete: int = 0
    behind: list[str] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # concepts that lack a usable row


class Problem(NamedTuple):
    """`code` of the commands' contract; `places` (or minutes) and `names` are what its sentence is made of."""

    code: str
    places: int = 0
    names: tuple[str, ...] = ()

    @property
    def detail(self) -> str:
        return sentence(self.code, self.places, self.names)


class TaskReport(NamedTuple):
    """A task with all that was found about it."""

    task: Task
    comparison: Comparison
    problems: tuple[Problem, ...]
    unreadable: str = ""  # why the framework can't be read, as a code
    accepted: bool = False

    def as_json(self) -> dict[str, Any]:
        task, found = self.task, self.comparison
        return {
            "task_id": task.task_id,
            "roadmap_id": task.roadmap_id,
            "status": task.status,
            "current_step": task.current_step,
            "concepts": found.concepts,
            "framework": found.framework,
            "content": found.content,
            "references_complete": found.references_complete,
            "problems": [{"code": problem.code, "detail": problem.detail} for problem in self.problems],
        }


def sentence(code: str, count: int = 0, names: Sequence[str] = ()) -> str:
    """A problem in words."""
    shown = ", ".join(names) + (" …" if count > len(names) and names else "")
    if code == "stuck":
        return _("processing, and unchanged for %(time)s") % {"time": duration(count * 60)}
    if code == "status_mismatch":
        return _("the task's status and its failed concepts are not what the content tables justify")
    if code == "roadmap_missing":
        return _("the task's roadmap is not there, or its framework can't be read")
    if code == "no_checkpoint":
        return _("the workflow left no checkpoint to go on from")
    if code == "checkpoint_unreadable":
        return _("the workflow's checkpoint can't be read: %(reason)s") % {"reason": shown}
    if code == "waits_for_a_person":
        return _("the workflow waits for a person at %(nodes)s") % {"nodes": shown}
    words = {
        "framework_behind_content": ngettext(
            "the framework is behind the content tables for %(count)d concept: %(names)s",
            "the framework is behind the content tables for %(count)d concepts: %(names)s",
            count,
        ),
        "framework_ahead_of_content": ngettext(
            "the framework says completed without a usable row for %(count)d concept: %(names)s",
            "the framework says completed without a usable row for %(count)d concepts: %(names)s",
            count,
        ),
        "reference_missing": ngettext(
            "%(count)d concept is completed without a reference: %(names)s",
            "%(count)d concepts are completed without a reference: %(names)s",
            count,
        ),
        "reference_dangling": ngettext(
            "%(count)d concept refers to a row that is not there: %(names)s",
            "%(count)d concepts refer to rows that are not there: %(names)s",
            count,
        ),
        PARTIAL: ngettext(
            "%(count)d concept failed, and nobody has accepted that as final: %(names)s",
            "%(count)d concepts failed, and nobody has accepted that as final: %(names)s",
            count,
        ),
    }
    return words[code] % {"count": count, "names": shown}


# --- reading -------------------------------------------------------------------------------------------------


def task_reports(store: Store, as_of: datetime, tasks: QuerySet[RoadmapTask] | None = None) -> Iterator[TaskReport]:
    """Every task (or those of `tasks`) with its state, in key order: a constant number of statements per batch."""
    rows = RoadmapTask.objects.using(store.alias) if tasks is None else tasks
    accepted = accepted_tasks(store)
    after: str | None = None
    while True:
        portion = rows.order_by("pk") if after is None else rows.order_by("pk").filter(pk__gt=after)
        with store.keyset_planner_hints():
            batch = [Task(*row) for row in portion.values_list(*TASK_COLUMNS)[:BATCH]]
        if not batch:
            return
        yield from _states(store, as_of, batch, accepted)
        after = batch[-1].task_id


def _states(store: Store, as_of: datetime, batch: list[Task], accepted: dict[str, set[str]]) -> Iterator[TaskReport]:
    keys = {task.roadmap_id for task in batch if task.roadmap_id}
    found = roadmaps(store, keys)
    content = contents(store, found)
    stuck = {
        task.task_id: minutes
        for task in batch
        if (minutes := _stuck_minutes(task, content.get(task.roadmap_id or ""), as_of)) is not None
    }
    creations = [task.task_id for task in batch if task.task_id in stuck and task.task_type in (None, "creation")]
    workflows = _workflows(store, creations)
    compared: dict[str, tuple[Comparison, str]] = {}
    for task in batch:
        roadmap = found.get(task.roadmap_id or "")
        comparison, unreadable = Comparison(), "roadmap_missing"
        if roadmap is not None:
            if roadmap.roadmap_id not in compared:  # a roadmap may have several tasks
                compared[roadmap.roadmap_id] = compare_text(roadmap.framework, content[roadmap.roadmap_id])
            comparison, unreadable = compared[roadmap.roadmap_id]
        problems: list[Problem] = []
        deleted = roadmap is not None and roadmap.deleted  # then nothing of it is anybody's problem
        if task.task_id in stuck and not deleted:
            problems.append(Problem("stuck", stuck[task.task_id]))
        if task.task_id in creations and not deleted:
            problems += _of_workflow(workflows.get(task.task_id))
        if deleted:
            pass
        elif roadmap is None or unreadable:
            if _should_have_roadmap(task, task.task_id in stuck):
                problems.append(Problem("roadmap_missing"))
        else:
            # While a task works, its framework may be behind: only what has stopped is compared.
            if task.task_id in stuck or task.status not in _UNDER_WAY:
                problems += _problems(comparison)
            if _mismatched(task, comparison):
                problems.append(Problem("status_mismatch"))
        covered = accepted.get(task.task_id)
        is_accepted = (
            covered is not None and task.status == STATUS.PARTIAL_FAILURE and covered >= set(comparison.failed)
        )
        yield TaskReport(task, comparison, tuple(problems), unreadable, is_accepted)


_UNDER_WAY = (
    STATUS.PENDING.value,
    STATUS.PROCESSING.value,
    STATUS.HUMAN_REVIEW_PENDING.value,
    STATUS.CANCELLED.value,
)


def accepted_tasks(store: Store) -> dict[str, set[str]]:
    """Task → the failed concepts that somebody has accepted as final."""
    rows = Acceptance.objects.filter(identity=store.identity()).values_list("task_id", "failed_concepts")
    return {task: set(failed) for task, failed in rows}


def _workflows(store: Store, creations: list[str]) -> dict[str, Position]:
    """Where the workflows of stuck tasks stand. A graph that can't be had says nothing against their checkpoints."""
    there = langgraph.threads(store, creations)
    return langgraph.positions(store, there, resume.known_shape(store) if there else None)


def _of_workflow(position: Position | None) -> Iterator[Problem]:
    if position is None:
        yield Problem("no_checkpoint")
    elif position.unreadable:
        yield Problem("checkpoint_unreadable", 1, (position.unreadable,))
    elif position.asks:
        yield Problem("waits_for_a_person", len(position.asks), position.asks[:SHOWN_CONCEPTS])


def _stuck_minutes(task: Task, content: Content | None, as_of: datetime) -> int | None:
    """For how long a processing task has not moved, where it should have: content that is being made is movement."""
    if task.status != STATUS.PROCESSING:
        return None
    at, since = last_moved(task), stuck_before(as_of)
    if at is None or at >= since:
        return None
    made = content.moved() if content else None
    return int((as_of - max(at, made or at)).total_seconds() // 60) if made is None or made < since else None


def _should_have_roadmap(task: Task, stuck: bool) -> bool:
    """Early in its work a task has none yet."""
    return bool(task.roadmap_id) or stuck or task.status in SETTLED


def _mismatched(task: Task, found: Comparison) -> bool:
    if task.status == STATUS.COMPLETED:
        return bool(found.failed)
    if task.status == STATUS.PARTIAL_FAILURE:
        named = failed_in(task.failed_concepts)
        return not found.failed or named is None or set(map(str, named)) != set(found.failed)
    return bool(task.status == STATUS.FAILED and found.concepts and not found.failed)


def failed_in(text: str | None) -> list[Any] | None:
    """The concepts that a task's `failed_concepts` names; None where it names none."""
    try:
        document = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    found = document.get("concept_ids") if isinstance(document, dict) else None
    return found if isinstance(found, list) else None


def _problems(found: Comparison) -> Iterator[Problem]:
    for code, names in (
        ("framework_behind_content", found.behind),
        ("framework_ahead_of_content", found.ahead),
        ("reference_missing", found.missing),
        ("reference_dangling", found.dangling),
    ):
        if names:
            concepts = tuple(dict.fromkeys(names))
            yield Problem(code, len(concepts), concepts[:SHOWN_CONCEPTS])


# --- comparing ---------------------------------------------------------------------------------------------------


def compare_text(text: str | None, content: Content) -> tuple[Comparison, str]:
    """The comparison, and a code where the framework can't be read."""
    if text is None:
        return Comparison(), "no_framework"
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return compare((concept.values for concept in framework.concepts_in(text)), content), ""
        except Unreadable as error:
            return Comparison(), error.reason
    if not isinstance(document, dict):
        return Comparison(), "not_an_object"
    found = compare(framework.read(document), content)
    return found, "" if found.concepts else "no_concepts"


def compare(concepts: Iterable[dict[str, Any]], content: Content) -> Comparison:
    """Every concept's three statuses and references against the rows. What fits is passed over as fast as may be."""
    found = Comparison()
    says, has = [0, 0, 0], [0, 0, 0]
    failed: dict[str, None] = {}
    parts = [
        (place, part.status, part.reference, part.copied[0], part.copied[-1], rows)
        for place, (part, rows) in enumerate(zip(PARTS, content.rows, strict=True))
    ]
    for concept in concepts:
        found.concepts += 1
        get = concept.get
        name = concept["concept_id"]
        complete = True
        for place, status, reference, first, last, rows in parts:
            row, said = rows.get(name), get(status) == COMPLETED
            says[place] += said
            if row is None:
                complete = False
                failed[name] = None
                if said:
                    found.ahead.append(name)
                    if get(reference) and get(reference) not in content.others.get((PARTS[place].name, name), ()):
                        found.dangling.append(name)
                continue
            has[place] += 1
            if said and get(reference) == row[KEY] and get(first) == row[COPIED] and get(last) == row[-1]:
                continue
            complete &= _differs(found, name, place, said, get(reference), row, content)
        found.references_complete += complete
    found.framework = {part.name: says[place] for place, part in enumerate(PARTS)}
    found.content = {part.name: has[place] for place, part in enumerate(PARTS)}
    found.failed = list(failed)
    return found


def _differs(found: Comparison, name: str, place: int, said: bool, reference: Any, row: Row, content: Content) -> bool:
    """What is wrong with a part that has a row; whether it refers to a row nevertheless."""
    fits = reference == row[KEY] or reference in content.others.get((PARTS[place].name, name), ())
    if said and not reference:
        found.missing.append(name)
    elif said and not fits:
        found.dangling.append(name)
    else:
        found.behind.append(name)
    return bool(fits)


class TaskCheck(Check):
    """A check that compares tasks with their frameworks and content."""

    store_alias = "roadmaps"
    model = RoadmapTask

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {RoadmapTask: TASK_COLUMNS, **NEEDS}

    def tasks(self) -> QuerySet[RoadmapTask]:
        """Return the tasks to compare, or those that the user named."""
        tasks = RoadmapTask.objects.using(self.store.alias)
        return tasks if self.chosen is None else tasks.filter(pk__in=list(self.chosen))

    def task_reports(self) -> Iterator[TaskReport]:
        return task_reports(self.store, self.as_of, self.tasks())

    def sentence(self, found: FindingData) -> str:
        return sentence(found.code, int(found.data.get("count", 0)), found.data.get("names", ()))
