"""An operation that writes generated content into the framework and the task, after a crash between the two.

See docs/platforms/roadmaps.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Invalid, Outcome, RowChange, Skip
from opsconsole.jsontext import Unreadable
from opsconsole.stores.rows import Key
from opsconsole.timestamps import format_timestamp
from roadmaps import framework, langgraph
from roadmaps.content import FAILED, NEEDS, PARTS, Content, Roadmap
from roadmaps.models import RoadmapTask
from roadmaps.task_scope import (
    ROADMAP_REASONS,
    TASK_LABELS,
    TaskOfRoadmap,
    is_active,
    of_existing_roadmap,
    stuck,
    task_figures,
    with_roadmaps,
)
from roadmaps.times import is_recent, last_changed

STATUS = RoadmapTask.Status
SKIPPED_STATUSES = {
    STATUS.PENDING.value: "not_started",
    STATUS.HUMAN_REVIEW_PENDING.value: "waits_for_a_person",
    STATUS.CANCELLED.value: "cancelled",
}
WRITTEN = ("status", "current_step", "failed_concepts", "execution_summary", "updated_at", "completed_at")


class SyncResults(Operation):
    title = _("Sync results to the framework")
    description = _(
        "Writes the statuses and references of existing content into the framework. The task becomes completed, or "
        "partially failed with a list of the failed concepts. Active tasks and deleted roadmaps are skipped. While a "
        "worker may still generate content, parts without content stay unchanged, and the task stays open."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = {RoadmapTask: ("roadmap_id", "created_at"), **NEEDS}
    writes = {"roadmap_metadata": ("framework_data",), "roadmap_tasks": WRITTEN}
    risk = Risk.CHANGE
    action_label = ngettext_lazy("Sync %(count)s concept", "Sync %(count)s concepts", "number")
    done_label = ngettext_lazy("%(count)s concept synced", "%(count)s concepts synced", "number")
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "completed": _("completed: every concept has its content"),
        "partial_failure": _("partially failed: some concepts have no content"),
        "generating": _("content may still be generated: only existing content is synced"),
        "in_step": _("framework and task match the content tables"),
        "moves": _("active: changed too recently to count as stuck"),
        "went_on": _("changed since the plan"),
        "not_started": _("not started yet"),
        "waits_for_a_person": _("waits for a person"),
        "cancelled": _("cancelled"),
        **ROADMAP_REASONS,
    }
    statistic_labels = {"in_scope": _("stuck or selected"), **TASK_LABELS}

    class Params(forms.Form):
        force = forms.BooleanField(
            required=False,
            label=_("force"),
            help_text=_("include selected tasks that are still active"),
        )
        handed_over = forms.BooleanField(
            required=False,
            label=_("handed over"),
            help_text=_(
                "the workflow has just ended and may have left work in a queue: parts without content stay unchanged"
            ),
        )

    def queryset(self) -> QuerySet[RoadmapTask]:
        """Return every stuck task of a roadmap that was not deleted."""
        return self.population().filter(stuck(self) & of_existing_roadmap(self))

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Read tasks of different roadmaps: a second task of a roadmap must see what is written for the first."""
        tasks: dict[Any, Any] = {}
        for task in super().fetch(rows, after=after, bound=bound, limit=limit):
            if task.roadmap_id and task.roadmap_id in tasks:
                break
            tasks[task.roadmap_id or (task.pk,)] = task
        processing = [task.pk for task in tasks.values() if task.status == STATUS.PROCESSING]
        checkpoints = langgraph.threads_with_checkpoint(self.store, processing)
        found = with_roadmaps(self.store, tasks.values())
        return [row._replace(checkpoint_at=checkpoints.get(row.pk)) for row in found]

    # --- outcome of a task --------------------------------------------------------------------------------------

    def process(self, row: TaskOfRoadmap) -> Outcome:
        task, roadmap = row.task, row.roadmap
        if task.status in SKIPPED_STATUSES:
            return Skip(SKIPPED_STATUSES[task.status])
        changed = last_changed(task)
        # A time in the future comes from another clock, so it does not tell whether the task changed since the plan.
        if changed is not None and self.as_of < changed <= timezone.now():
            return Skip("went_on")
        if is_active(task, row.content, self.as_of) and not self.params.get("force"):
            return Skip("moves")
        if roadmap is None:
            return Invalid("roadmap_missing")
        if roadmap.deleted:
            return Skip("deleted")
        try:
            concepts = framework.parse_concepts(roadmap.framework)
        except Unreadable as error:
            return Invalid(error.reason)
        complete = sum(not row.content.is_incomplete(concept.key) for concept in concepts)
        detail = gettext("%(complete)d of %(concepts)d concepts complete") % {
            "complete": complete,
            "concepts": len(concepts),
        }
        changes = self._framework_changes(concepts, row.content)
        amount = sum(any(value != FAILED for value in new.values()) for _concept, new in changes) or complete
        if complete < len(concepts) and self._is_generating(row):
            existing = self._framework_changes(concepts, row.content, existing_only=True)
            return self._sync_existing(row, self._framework(roadmap, existing), detail, amount)
        framework_data = self._framework(roadmap, changes)
        settled = self._settled(task, concepts, row.content)
        if framework_data == roadmap.framework and all(getattr(task, name) == value for name, value in settled.items()):
            return Skip("in_step")
        rows = self._framework_rows(roadmap, framework_data)
        now = format_timestamp(self.as_of, settings.ROADMAPS_TIME_ZONE)
        after = settled | {"updated_at": now, "completed_at": now}
        rows.append(RowChange.update("roadmap_tasks", task, **after))
        return Changes(rows, str(settled["status"]), detail, amount)

    def _is_generating(self, row: TaskOfRoadmap) -> bool:
        """Return whether a worker may still generate content, which changes only content and checkpoints."""
        if self.params.get("handed_over"):
            return True
        times = (row.content.last_generated(), row.checkpoint_at)
        return row.task.status == STATUS.PROCESSING and any(is_recent(at, self.as_of) for at in times)

    def _sync_existing(self, row: TaskOfRoadmap, framework_data: str | None, detail: str, amount: int) -> Outcome:
        """Write existing content into the framework. The task stays open, and counts as changed after a handover."""
        rows = self._framework_rows(row.roadmap, framework_data)
        before = {column: getattr(row.task, column) for column in WRITTEN}
        after = before | {"updated_at": format_timestamp(self.as_of, settings.ROADMAPS_TIME_ZONE)}
        if (rows or self.params.get("handed_over")) and row.task.status == STATUS.PROCESSING and before != after:
            rows.append(RowChange.update("roadmap_tasks", row.task, **after))
        return Changes(rows, "generating", detail, amount) if rows else Skip("generating")

    def _framework_rows(self, roadmap: Any, framework_data: str | None) -> list[RowChange]:
        if framework_data == roadmap.framework:
            return []
        texts = (roadmap.framework, framework_data)
        stored = [text.encode() if roadmap.blob and text is not None else text for text in texts]
        old, new = ({"framework_data": value} for value in stored)
        return [RowChange("roadmap_metadata", roadmap.roadmap_id, old, new)]

    def _framework_changes(
        self, concepts: list[framework.Concept], content: Content, *, existing_only: bool = False
    ) -> list[tuple[framework.Concept, dict[str, Any]]]:
        """Return the concepts whose values differ, with the new values."""
        changes = []
        for concept in concepts:
            expected = content.values_for(concept.key, existing_only=existing_only)
            new = {key: value for key, value in expected.items() if not _is_equal(concept.values.get(key), value)}
            if new:
                changes.append((concept, new))
        return changes

    def _framework(self, roadmap: Roadmap, changes: list[tuple[framework.Concept, dict[str, Any]]]) -> str | None:
        """Return the document with the new values."""
        if roadmap.framework is None or not changes:
            return roadmap.framework
        return framework.replace_values(
            roadmap.framework, changes, jsonb=self._is_jsonb("roadmap_metadata", "framework_data")
        )

    def _settled(self, task: Any, concepts: list[framework.Concept], content: Content) -> dict[str, Any]:
        """Return the values of the task once it has ended."""
        keys = list(dict.fromkeys(concept.key for concept in concepts))
        failed = [key for key in keys if content.is_incomplete(key)]
        summary = {
            part.summary_key: sum(key in rows for key in keys) for part, rows in zip(PARTS, content.rows, strict=True)
        }
        summary["failed_count"] = len(failed)
        return {
            "status": STATUS.PARTIAL_FAILURE.value if failed else STATUS.COMPLETED.value,
            "current_step": "content_generation" if failed else "completed",
            "failed_concepts": self._json("failed_concepts", task.failed_concepts, _failed(failed)),
            "execution_summary": self._json("execution_summary", task.execution_summary, summary),
        }

    def _json(self, column: str, old: str | None, document: Any) -> str | None:
        """Return the text of a document, or the stored text if it contains the same document."""
        if document is None:
            return None
        try:
            if old is not None and json.loads(old) == document:
                return old
        except (ValueError, RecursionError):
            pass
        return framework.as_text(document, jsonb=self._is_jsonb("roadmap_tasks", column))

    def _is_jsonb(self, table: str, column: str) -> bool:
        return self.store.tables[table][column].base == "jsonb"

    # --- verification -------------------------------------------------------------------------------------------

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return {"in_scope": restrict(self.queryset()).count(), **task_figures(self, restrict)}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Verify selected tasks by processing them again, because they stay in scope."""
        if self.selection.keys is None:
            return super().verify(after, left)
        return super().verify({"in_scope": self._still_to_do()}, 0)

    def _still_to_do(self) -> int:
        bound, after, left = self.bound(), None, 0
        rows = self.population().filter(pk__in=list(self.selection.keys or ()))
        while bound is not None and (batch := self.fetch(rows, after=after, bound=bound, limit=500)):
            left += sum(isinstance(self.process(row), Changes) for row in batch)
            after = batch[-1].pk
        return left


def _failed(keys: list[str]) -> dict[str, Any] | None:
    return {"count": len(keys), "concept_ids": keys} if keys else None


def _is_equal(old: Any, new: Any) -> bool:
    """Return whether two values are equal in JSON, where true is not 1."""
    return old == new and isinstance(old, bool) == isinstance(new, bool)
