"""Comparison of tasks, their frameworks and the content tables. It reads only."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from opsconsole.engine.causes import Cause
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Priority
from opsconsole.escaping import for_terminal
from opsconsole.formatting import duration
from opsconsole.jsontext import Unreadable
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store
from roadmaps import framework, langgraph, resume
from roadmaps.causes import DIFFERS, MISSING, PARTIAL_RESULT, STUCK
from roadmaps.content import COMPLETED, COPIED, KEY, NEEDS, PARTS, TABLES, Content, Row, contents, roadmaps
from roadmaps.langgraph import Position
from roadmaps.models import Acceptance, RoadmapTask
from roadmaps.times import last_changed, stuck_before

BATCH = 500
SHOWN_CONCEPTS = 5
SHOWN_TITLE = 100  # characters
# Scans report a partial result as a finding. The commands do not, because the task is consistent.
PARTIAL = "partial_failure"

STATUS = RoadmapTask.Status
SETTLED = (STATUS.COMPLETED.value, STATUS.PARTIAL_FAILURE.value)


# Problems that a sync leaves behind only if something else is wrong: code -> title.
SYNC_REASONS = {
    "framework_behind_content": gettext_lazy("content is missing in the framework"),
    "framework_ahead_of_content": gettext_lazy("completed in the framework, without a row"),
    "reference_missing": gettext_lazy("completed part without a reference"),
    "reference_dangling": gettext_lazy("reference to a missing row"),
    "status_mismatch": gettext_lazy("task status does not match the content"),
    "roadmap_missing": gettext_lazy("roadmap missing or unreadable"),
}
URGENT = frozenset(("stuck", "no_checkpoint", "checkpoint_unreadable", "waits_for_a_person"))


class Task(NamedTuple):
    """Columns of a task that a check reads."""

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
    """Differences between one framework and the content tables. The lists name concepts, once per part."""

    concepts: int = 0
    framework: dict[str, int] = field(default_factory=no_parts)  # part -> concepts marked completed
    content: dict[str, int] = field(default_factory=no_parts)  # part -> concepts with a usable row
    references_complete: int = 0
    missing_in_framework: list[str] = field(default_factory=list)
    missing_in_content: list[str] = field(default_factory=list)
    without_reference: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # concepts without a usable row, each once

    @property
    def references_expected(self) -> int:
        """Return the number of concepts that have all their content."""
        return self.concepts - len(self.failed)


class Problem(NamedTuple):
    """A problem of one task. `code` is one of the documented codes; the rest are the values of its message."""

    code: str
    amount: int = 0  # of concepts or nodes; minutes if the task is stuck
    names: tuple[str, ...] = ()

    @property
    def detail(self) -> str:
        return message(self.code, self.amount, self.names)


class TaskReport(NamedTuple):
    """A task with its comparison and problems."""

    task: Task
    comparison: Comparison
    problems: tuple[Problem, ...]
    unreadable: str = ""  # code of the reason why the framework cannot be read
    accepted: bool = False
    name: str = ""  # title of the roadmap, or its key

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


def message(code: str, count: int = 0, names: Sequence[str] = ()) -> str:
    """Return the sentence that describes a problem."""
    shown = ", ".join(names) + (" …" if count > len(names) and names else "")
    if code == "stuck":
        return _("The task is processing and has not changed for %(time)s.") % {"time": duration(count * 60)}
    if code == "status_mismatch":
        return _("The status and failed concepts of the task do not match the content tables.")
    if code == "roadmap_missing":
        return _("The roadmap of the task does not exist, or its framework cannot be read.")
    if code == "no_checkpoint":
        return _("The workflow has no checkpoint to resume from.")
    if code == "checkpoint_unreadable":
        return _("The checkpoint of the workflow cannot be read: %(reason)s") % {"reason": shown}
    if code == "waits_for_a_person":
        return _("The workflow waits for a person at %(nodes)s.") % {"nodes": shown}
    texts = {
        "framework_behind_content": ngettext(
            "Content of %(count)d concept is missing in the framework: %(names)s",
            "Content of %(count)d concepts is missing in the framework: %(names)s",
            count,
        ),
        "framework_ahead_of_content": ngettext(
            "%(count)d concept is completed in the framework without a usable row: %(names)s",
            "%(count)d concepts are completed in the framework without a usable row: %(names)s",
            count,
        ),
        "reference_missing": ngettext(
            "%(count)d concept is completed without a reference: %(names)s",
            "%(count)d concepts are completed without a reference: %(names)s",
            count,
        ),
        "reference_dangling": ngettext(
            "%(count)d concept refers to a missing row: %(names)s",
            "%(count)d concepts refer to missing rows: %(names)s",
            count,
        ),
        PARTIAL: ngettext(
            "%(count)d concept failed, and the partial result is not accepted: %(names)s",
            "%(count)d concepts failed, and the partial result is not accepted: %(names)s",
            count,
        ),
    }
    return texts[code] % {"count": count, "names": shown}


# --- reading -------------------------------------------------------------------------------------------------


def task_reports(store: Store, as_of: datetime, tasks: QuerySet[RoadmapTask] | None = None) -> Iterator[TaskReport]:
    """Yield a report of every task, or of those in `tasks`, in key order.

    Each batch takes a constant number of statements.
    """
    rows = RoadmapTask.objects.using(store.alias) if tasks is None else tasks
    accepted = accepted_tasks(store)
    after: str | None = None
    while True:
        portion = rows.order_by("pk") if after is None else rows.order_by("pk").filter(pk__gt=after)
        with store.keyset_planner_hints():
            batch = [Task(*row) for row in portion.values_list(*TASK_COLUMNS)[:BATCH]]
        if not batch:
            return
        yield from _batch_reports(store, as_of, batch, accepted)
        after = batch[-1].task_id


def _batch_reports(
    store: Store, as_of: datetime, batch: list[Task], accepted: dict[str, set[str]]
) -> Iterator[TaskReport]:
    keys = {task.roadmap_id for task in batch if task.roadmap_id}
    found = roadmaps(store, keys)
    content = contents(store, found)
    stuck = {
        task.task_id: minutes
        for task in batch
        if (minutes := _stuck_minutes(task, content.get(task.roadmap_id or ""), as_of)) is not None
    }
    creations = {task.task_id for task in batch if task.task_id in stuck and task.task_type in (None, "creation")}
    positions = _positions(store, creations)
    compared: dict[str, tuple[Comparison, str]] = {}
    for task in batch:
        roadmap = found.get(task.roadmap_id or "")
        comparison, unreadable = Comparison(), "roadmap_missing"
        if roadmap is not None:
            if roadmap.roadmap_id not in compared:  # a roadmap may have several tasks
                compared[roadmap.roadmap_id] = compare_text(roadmap.framework, content[roadmap.roadmap_id])
            comparison, unreadable = compared[roadmap.roadmap_id]
        problems: list[Problem] = []
        if roadmap is None or not roadmap.deleted:
            if task.task_id in stuck:
                problems.append(Problem("stuck", stuck[task.task_id]))
            if task.task_id in creations:
                problems += _workflow_problems(positions.get(task.task_id))
            problems += _content_problems(task, comparison, readable=not unreadable, stuck=task.task_id in stuck)
        covered = accepted.get(task.task_id)
        is_accepted = (
            covered is not None and task.status == STATUS.PARTIAL_FAILURE and covered >= set(comparison.failed)
        )
        name = for_terminal((roadmap and roadmap.title) or task.roadmap_id or "", one_line=True)[:SHOWN_TITLE]
        yield TaskReport(task, comparison, tuple(problems), unreadable, is_accepted, name)


def accepted_tasks(store: Store) -> dict[str, set[str]]:
    """Return task -> the failed concepts that are accepted as final."""
    rows = Acceptance.objects.filter(identity=store.identity()).values_list("task_id", "failed_concepts")
    return {task: set(failed) for task, failed in rows}


def _positions(store: Store, task_ids: Collection[str]) -> dict[str, Position]:
    """Return the positions of the tasks' workflows. A graph that cannot be imported does not prevent that."""
    resumable = langgraph.threads_with_checkpoint(store, task_ids)
    return langgraph.positions(store, resumable, resume.known_shape(store) if resumable else None)


def _workflow_problems(position: Position | None) -> Iterator[Problem]:
    if position is None:
        yield Problem("no_checkpoint")
    elif position.unreadable:
        yield Problem("checkpoint_unreadable", 1, (position.unreadable,))
    elif position.waits_at:
        yield Problem("waits_for_a_person", len(position.waits_at), position.waits_at[:SHOWN_CONCEPTS])


def _content_problems(task: Task, found: Comparison, *, readable: bool, stuck: bool) -> Iterator[Problem]:
    if not readable:
        # A task without a roadmap is normal early in its work.
        if task.roadmap_id or stuck or task.status in SETTLED:
            yield Problem("roadmap_missing")
        return
    # The framework of a task at work may still be incomplete.
    if stuck or task.status not in _UNDER_WAY:
        for code, names in (
            ("framework_behind_content", found.missing_in_framework),
            ("framework_ahead_of_content", found.missing_in_content),
            ("reference_missing", found.without_reference),
            ("reference_dangling", found.dangling),
        ):
            if names:
                concepts = tuple(dict.fromkeys(names))
                yield Problem(code, len(concepts), concepts[:SHOWN_CONCEPTS])
    if _mismatched(task, found):
        yield Problem("status_mismatch")


_UNDER_WAY = (
    STATUS.PENDING.value,
    STATUS.PROCESSING.value,
    STATUS.HUMAN_REVIEW_PENDING.value,
    STATUS.CANCELLED.value,
)


def _stuck_minutes(task: Task, content: Content | None, as_of: datetime) -> int | None:
    """Return for how long a stuck task has not changed, None if it is not stuck. New content counts as a change."""
    if task.status != STATUS.PROCESSING:
        return None
    changed, since = last_changed(task), stuck_before(as_of)
    if changed is None or changed >= since:
        return None
    generated = content.last_generated() if content else None
    if generated is not None and generated >= since:
        return None
    return int((as_of - max(changed, generated or changed)).total_seconds() // 60)


def _mismatched(task: Task, found: Comparison) -> bool:
    if task.status == STATUS.COMPLETED:
        return bool(found.failed)
    if task.status == STATUS.PARTIAL_FAILURE:
        named = _named_concepts(task.failed_concepts)
        return not found.failed or named is None or set(map(str, named)) != set(found.failed)
    return bool(task.status == STATUS.FAILED and found.concepts and not found.failed)


def _named_concepts(text: str | None) -> list[Any] | None:
    """Return the concepts that a task's `failed_concepts` names, None if it names none."""
    try:
        document = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    found = document.get("concept_ids") if isinstance(document, dict) else None
    return found if isinstance(found, list) else None


# --- comparing ---------------------------------------------------------------------------------------------------


def compare_text(text: str | None, content: Content) -> tuple[Comparison, str]:
    """Return the comparison, and the code of the reason if the framework cannot be read."""
    if text is None:
        return Comparison(), "no_framework"
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return compare((concept.values for concept in framework.parse_concepts(text)), content), ""
        except Unreadable as error:
            return Comparison(), error.reason
    if not isinstance(document, dict):
        return Comparison(), "not_an_object"
    found = compare(framework.concepts_of(document), content)
    return found, "" if found.concepts else "no_concepts"


def compare(concepts: Iterable[dict[str, Any]], content: Content) -> Comparison:
    """Compare the three statuses and references of every concept with the content rows.

    Stores hold millions of concepts that match: the loop does the least for those.
    """
    found = Comparison()
    in_framework, in_content = [0, 0, 0], [0, 0, 0]
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
            row, marked = rows.get(name), get(status) == COMPLETED
            in_framework[place] += marked
            if row is None:
                complete = False
                failed[name] = None
                if marked:
                    found.missing_in_content.append(name)
                    if get(reference) and get(reference) not in content.other_keys.get((PARTS[place].name, name), ()):
                        found.dangling.append(name)
                continue
            in_content[place] += 1
            if marked and get(reference) == row[KEY] and get(first) == row[COPIED] and get(last) == row[-1]:
                continue
            complete &= _note_difference(found, name, place, marked, get(reference), row, content)
        found.references_complete += complete
    found.framework = {part.name: in_framework[place] for place, part in enumerate(PARTS)}
    found.content = {part.name: in_content[place] for place, part in enumerate(PARTS)}
    found.failed = list(failed)
    return found


def _note_difference(
    found: Comparison, name: str, place: int, marked: bool, reference: Any, row: Row, content: Content
) -> bool:
    """Note how a part differs from its row. Return whether it still refers to an existing row."""
    exists = reference == row[KEY] or reference in content.other_keys.get((PARTS[place].name, name), ())
    if marked and not reference:
        found.without_reference.append(name)
    elif marked and not exists:
        found.dangling.append(name)
    else:
        found.missing_in_framework.append(name)
    return bool(exists)


class TaskCheck(Check):
    """A check that compares tasks with their frameworks and content. It reports the codes of its `reasons`."""

    store_alias = "roadmaps"
    model = RoadmapTask
    reads = {RoadmapTask: TASK_COLUMNS, **NEEDS}

    def tasks(self) -> QuerySet[RoadmapTask]:
        """Return the tasks to compare, or those that the user named."""
        tasks = RoadmapTask.objects.using(self.store.alias)
        return tasks if self.chosen is None else tasks.filter(pk__in=list(self.chosen))

    def task_reports(self) -> Iterator[TaskReport]:
        """Yield the report of each task, with the problems that this check reports."""
        for report in task_reports(self.store, self.as_of, self.tasks()):
            yield report._replace(problems=tuple(one for one in report.problems if one.code in self.reasons))

    def run_rule(self, rule: str) -> Iterator[FindingData]:
        for report in self.task_reports():
            yield from self.findings_of(report)

    def findings_of(self, report: TaskReport) -> Iterator[FindingData]:
        for problem in report.problems:
            yield finding(report, problem, Priority.IMMEDIATE if problem.code in URGENT else Priority.PLANNED)

    def cause_for(self, found: FindingData) -> Cause:
        """Return one cause for everything that is wrong with a task, so that it is one incident."""
        if found.code == "roadmap_missing" or not found.data.get("total"):
            return MISSING
        if found.code == PARTIAL:
            return PARTIAL_RESULT
        # A task that is being processed has findings only if it is stuck.
        return STUCK if found.data["status"] == STATUS.PROCESSING else DIFFERS

    def subjects_of(self, rows: Mapping[str, Sequence[Key]]) -> Sequence[Key] | None:
        """Return these tasks and the tasks of these roadmaps. Deleted content does not say whose it was."""
        if any(model._meta.db_table in rows for model in TABLES):
            return None
        of_roadmaps = RoadmapTask.objects.using(self.store.alias).filter(
            roadmap_id__in=rows.get("roadmap_metadata", ())
        )
        return sorted({*rows.get("roadmap_tasks", ()), *of_roadmaps.values_list("pk", flat=True)})

    def sentence(self, found: FindingData) -> str:
        return message(found.code, int(found.data.get("count", 0)), found.data.get("names", ()))


def finding(report: TaskReport, problem: Problem, priority: Priority) -> FindingData:
    """Return a problem of a task as a finding."""
    data = {
        "roadmap_id": report.task.roadmap_id,
        "status": report.task.status,
        "count": problem.amount,
        "names": list(problem.names),
        "name": report.name,
        "done": report.comparison.references_expected,
        "total": report.comparison.concepts,
    }
    return FindingData(problem.code, report.task.task_id, data, priority.value)
