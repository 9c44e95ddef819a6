"""An action that resumes interrupted tasks from their checkpoints, then syncs and verifies them.

See docs/platforms/roadmaps.md.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import lifecycle, planner, registry, stored_plans, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Run, Trigger
from opsconsole.engine.operation import LONG_CLUSTER, Action, Operation, Risk, row_columns
from opsconsole.engine.outcomes import Done, Invalid, Outcome, Skip
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.selection import Selection
from opsconsole.stores.fields import SortableTimestamp
from opsconsole.stores.rows import Key
from roadmaps import attempts, langgraph, resume
from roadmaps.consistency import SYNC_REASONS, task_reports
from roadmaps.content import NEEDS, contents
from roadmaps.langgraph import Node, Position, Shape
from roadmaps.models import RoadmapTask
from roadmaps.resume import ResumeFailed
from roadmaps.task_scope import TASK_LABELS, is_active, of_existing_roadmap, stuck, task_figures
from roadmaps.times import local_bound

STATUS = RoadmapTask.Status
SYNCED = {"in_step", "generating"}  # reasons with which a sync may skip a recovered task
MAX_TASKS = 100_000  # sorted by age in memory
RECOVERABLE = (STATUS.PROCESSING.value, STATUS.FAILED.value)


class RecoverTasks(Action):
    title = _("Recover interrupted tasks")
    description = _(
        "Resumes each interrupted task from its last LangGraph checkpoint, with the configured graph or the platform's "
        "resume endpoint, then syncs and verifies its results. A task without a checkpoint becomes failed. Tasks that "
        "wait for a person or have an unreadable checkpoint are not resumed."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = {RoadmapTask: ("status", "current_step", "task_type", "created_at", "updated_at", "roadmap_id"), **NEEDS}
    risk = Risk.EXTERNAL
    action_label = ngettext_lazy("Recover %(count)s task", "Recover %(count)s tasks", "number")
    cluster = LONG_CLUSTER
    locks: ClassVar[tuple[str, ...]] = ("checkpoints",)
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "from_checkpoint": _("resumes from its checkpoint"),
        "over": _("workflow finished: its results are synced"),
        "recovered": _("recovered, synced and verified"),
        "generating": _("resumed; missing content may still be generated"),
        "checkpoint_unreadable": _("unreadable checkpoint: needs a person"),
        "no_checkpoint": _("no checkpoint: becomes failed"),
        "waits_for_a_person": _("waits for a person"),
        "not_interrupted": _("not interrupted: finished or not started"),
        "moves": _("active: a worker of the platform is working on it"),
        "left_for_people": _("failed to recover three times: needs a person"),
    }
    statistic_labels = {"in_scope": _("interrupted tasks"), **TASK_LABELS}
    done_label = ngettext_lazy("%(count)s task recovered", "%(count)s tasks recovered", "number")

    def queryset(self) -> QuerySet[RoadmapTask]:
        """Return interrupted creation tasks, without those that failed to recover three times."""
        return self.population().filter(interrupted(self))

    def check_prerequisites(self) -> None:
        """Refuse a plan if no workflow could be resumed."""
        try:
            self._require_backend()
        except resume.NotConfigured:
            keys = self.selection.keys
            if keys and not langgraph.threads_with_checkpoint(self.store, map(str, keys)):
                raise PlanRefused(gettext("No checkpoint exists from which the workflow could resume.")) from None
            raise

    def _require_backend(self) -> None:
        if not self._is_known:
            self._shape, self._is_known = resume.require_backend(self.store), True

    _shape: Shape | None = None
    _is_known = False

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Read the oldest tasks first."""
        tasks = sorted(super().fetch(rows, after=None, bound=bound, limit=MAX_TASKS), key=_age)
        if after is not None:
            begun = self.population().filter(pk=after).values_list("pk", *row_columns(self), named=True).first()
            tasks = [task for task in tasks if begun is None or _age(task) > _age(begun)]
        return tasks[:limit]

    # --- outcome of a task ---------------------------------------------------------------------------------

    def process(self, row: Any) -> Outcome:
        if skipped := self._skipped(row):
            return skipped
        position = self._position(row.pk)
        if position is None:
            return Done("no_checkpoint", amount=0)
        reason = "over" if position.is_finished else "from_checkpoint"
        return self._blocked(position) or Done(reason, _describe(position))

    def _skipped(self, row: Any) -> Skip | None:
        if row.status == STATUS.HUMAN_REVIEW_PENDING:
            return Skip("waits_for_a_person")
        if row.status not in RECOVERABLE:
            return Skip("not_interrupted")
        content = contents(self.store, [row.roadmap_id])[row.roadmap_id] if row.roadmap_id else None
        if is_active(row, content, timezone.now()):
            return Skip("moves")
        if self.selection.keys is None and attempts.failures(self.store.identity(), row.pk) >= attempts.MAX_FAILURES:
            return Skip("left_for_people")
        return None

    def _position(self, key: str) -> Position | None:
        self._require_backend()
        return langgraph.position(self.store, key, self._shape)

    def _blocked(self, position: Position) -> Skip | Invalid | None:
        """Return the outcome of a workflow that cannot be resumed."""
        if position.unreadable:
            return Invalid("checkpoint_unreadable")
        return Skip("waits_for_a_person") if position.waits_at else None

    def perform(self, row: Any) -> Outcome:
        if skipped := self._skipped(row):
            return skipped
        position = self._position(row.pk)
        if position is None:
            self._run("roadmaps.fail_unrecoverable", row.pk, {})
            return Done("no_checkpoint", amount=0)
        if blocked := self._blocked(position):
            return blocked
        with attempts.attempt(self.store.identity(), row.pk, self.run_id):
            handed_over = not position.is_finished and resume.resume(self.store, row.pk, position)
            after = self._position(row.pk)
            if after is not None and after.waits_at:
                return Skip("waits_for_a_person")
            if handed_over and (after is None or not after.is_finished):
                raise ResumeFailed(gettext("The workflow stopped before its end."))
            run = self._run("roadmaps.sync_results", row.pk, {"force": True, "handed_over": handed_over})
            if run.error or run.invalid or run.failed or set(run.reasons.get("skipped", ())) - SYNCED:
                raise ResumeFailed(gettext("The results could not be synced. See run %(run)d.") % {"run": run.pk})
            self._verify(row.pk)
        generating = "generating" in {**run.reasons.get("changed", {}), **run.reasons.get("skipped", {})}
        return Done("generating" if generating else "recovered", _describe(position))

    def _run(self, name: str, key: str, params: Mapping[str, Any]) -> Run:
        """Plan and run another operation on this task, in the name of the account that started this run."""
        cls = registry.operation(name)
        operation = planner.operation_on(cls, self.store, registry.clean(cls, params))
        planned = planner.plan(operation, Selection([key]))
        interrupted = stored_plans.same_command(operation, planned.selection)  # by the loss of its worker
        if interrupted is not None:
            return Executor(workers.claim(interrupted)).work()
        this_run = Run.objects.filter(pk=self.run_id or 0).first()
        actor = Actor(
            this_run.started_by if this_run else "console",
            f"{socket.gethostname()}:{os.getpid()}",
            Trigger(this_run.trigger) if this_run else Trigger.SHELL,
            this_run.user if this_run else None,
        )
        note = gettext("after run %(run)s") % {"run": self.run_id}
        return Executor(
            lifecycle.confirm(lifecycle.create_run(planned, actor, note=note), actor, background=False)
        ).work()

    def _verify(self, key: str) -> None:
        for report in task_reports(self.store, timezone.now(), self.population().filter(pk=key)):
            problems = [problem.detail for problem in report.problems if problem.code in SYNC_REASONS]
            if problems:
                raise ResumeFailed("; ".join(problems))

    # --- verification --------------------------------------------------------------------------------------

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return {"in_scope": restrict(self.queryset()).count(), **task_figures(self, restrict)}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Report unreadable checkpoints. Each task was verified when it ended, and selected tasks stay in scope."""
        chosen = self.selection.keys
        keys = self.queryset().values_list("pk", flat=True) if chosen is None else map(str, chosen)
        found = langgraph.positions(self.store, keys, self._shape)
        unreadable = sorted(key for key, position in found.items() if position.unreadable)
        problems = [] if chosen is not None else super().verify(after, left)
        if unreadable:
            text = ngettext(
                "The checkpoint of %(tasks)s cannot be read. Examine it before you resume the task.",
                "The checkpoints of %(tasks)s cannot be read. Examine them before you resume the tasks.",
                len(unreadable),
            )
            problems.append(text % {"tasks": ", ".join(unreadable[:5]) + (" …" if len(unreadable) > 5 else "")})
        return problems


def interrupted(operation: Operation) -> Q:
    """Match stuck creation tasks up to the maximum age that have not failed to recover three times."""
    since = operation.as_of - timedelta(hours=settings.TASK_RECOVERY_MAX_AGE_HOURS)
    young = models.lookups.GreaterThanOrEqual(
        SortableTimestamp(Coalesce(F("created_at"), F("updated_at"))), SortableTimestamp(Value(local_bound(since)))
    )
    failures = attempts.failures_by_task(operation.store.identity())
    given_up = [task for task, count in failures.items() if count >= attempts.MAX_FAILURES]
    return (
        stuck(operation)
        & of_existing_roadmap(operation)
        & Q(task_type=RoadmapTask.Type.CREATION.value)
        & Q(young)
        & ~Q(pk__in=given_up)
    )


def _age(row: Any) -> tuple[str, str]:
    return str(row.created_at or ""), row.pk


def _describe(position: Position) -> str:
    """Return the step of a checkpoint, and which nodes run next and why."""
    at = f"{timezone.localtime(position.at):%Y-%m-%d %H:%M:%S %Z}" if position.at else "–"
    where = gettext("step %(step)s, checkpoint of %(at)s") % {"step": position.step, "at": at}
    if position.is_finished:
        return gettext("%(where)s; no nodes left") % {"where": where}
    steps = [
        gettext("the conditional edge after %(name)s, which raised %(error)s") % one._asdict()
        for one in position.routers
    ]
    steps += [_describe_node(node, answered=position.answered) for node in position.nodes]
    return gettext("%(where)s; next: %(nodes)s") % {"where": where, "nodes": "; ".join(steps)}


def _describe_node(node: Node, *, answered: bool) -> str:
    name = gettext("the start") if node.name == langgraph.START else node.name
    if node.finished:
        return gettext("the nodes after %(node)s, which has finished") % {"node": name}
    if node.error:
        return gettext("%(node)s, which raised %(error)s") % {"node": name, "error": node.error}
    if answered:
        return gettext("%(node)s, because a person has answered") % {"node": name}
    return gettext("%(node)s, which had not finished") % {"node": name}
