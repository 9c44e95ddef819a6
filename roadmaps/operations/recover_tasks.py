"""Document 004: an interrupted task goes on from its LangGraph checkpoint, is synced, and verified."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import lifecycle, planner, registry
from opsconsole.engine.executor import Executor
from opsconsole.engine.lifecycle import Actor
from opsconsole.engine.models import Run, Trigger
from opsconsole.engine.operation import LONG_CLUSTER, Action, Operation, Risk
from opsconsole.engine.outcomes import Done, Invalid, Outcome, Skip
from opsconsole.engine.selection import Selection
from opsconsole.formatting import format_number
from opsconsole.stores.fields import SortableTimestamp
from opsconsole.stores.rows import Key
from roadmaps import attempts, langgraph, resume
from roadmaps.consistency import task_reports
from roadmaps.content import NEEDS, contents
from roadmaps.langgraph import Node, Position, Shape
from roadmaps.models import RoadmapTask
from roadmaps.operations.sync_results import of_living_roadmap, stuck
from roadmaps.operations.verify_sync import CODES
from roadmaps.resume import ResumeFailed
from roadmaps.times import bound_text, is_at_work, last_moved

STATUS = RoadmapTask.Status
ONCE_INTERRUPTED = (STATUS.PROCESSING.value, STATUS.FAILED.value)


class RecoverTasks(Action):
    title = _("Recover interrupted tasks")
    description = _(
        "Goes on with each interrupted task from its last LangGraph checkpoint, through the configured graph or the "
        "platform's resume endpoint; then syncs its results and verifies them. What has no checkpoint becomes failed. "
        "Where the workflow waits for a person, or its checkpoint can't be read, nothing is run."
    )
    store_alias = "roadmaps"
    model = RoadmapTask
    reads = ("status", "current_step", "task_type", "created_at", "updated_at", "roadmap_id")
    risk = Risk.OUTSIDE
    cluster = LONG_CLUSTER
    locks: ClassVar[tuple[str, ...]] = ("checkpoints",)
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "from_checkpoint": _("goes on from its checkpoint"),
        "over": _("its workflow is over: its results are synced"),
        "recovered": _("recovered, synced and verified"),
        "generating": _("went on; the content that is still missing may be on its way"),
        "checkpoint_unreadable": _("the checkpoint can't be read: left to a person"),
        "no_checkpoint": _("no checkpoint: becomes failed"),
        "waits_for_a_person": _("waits for a person"),
        "not_interrupted": _("not interrupted: it is over, or has not begun"),
        "moves": _("moves: a worker of the platform has it"),
        "left_for_people": _("failed to recover three times: left for a person"),
    }
    statistic_labels = {"in_scope": _("interrupted tasks")}

    def queryset(self) -> QuerySet[RoadmapTask]:
        """Stuck creation tasks that are young enough; what failed three times is left for a person."""
        return self.population().filter(interrupted(self))

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {**super().needs(), **NEEDS}

    def bound(self) -> Key | None:
        """Refuses at once where nothing could go on."""
        self._require_backend()
        return super().bound()

    def _require_backend(self) -> None:
        if not self._is_known:
            self._shape, self._is_known = resume.require_backend(self.store), True

    _shape: Shape | None = None
    _is_known = False

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Oldest first."""
        tasks = sorted(super().fetch(rows, after=None, bound=bound, limit=_FEW), key=_age)
        if after is not None:
            begun = self.population().filter(pk=after).values_list("pk", *self.columns, named=True).first()
            tasks = [task for task in tasks if begun is None or _age(task) > _age(begun)]
        return tasks[:limit]

    # --- what becomes of one -----------------------------------------------------------------------------

    def process(self, row: Any) -> Outcome:
        """Where it stands, as the checkpoint says: which nodes run next, and why."""
        left = self._left_alone(row)
        if left is not None:
            return left
        position = self._position(row.pk)
        if position is None:
            return Done("no_checkpoint")
        return self._held(position) or Done("over" if position.over else "from_checkpoint", _words(position))

    def _left_alone(self, row: Any) -> Skip | None:
        if row.status == STATUS.HUMAN_REVIEW_PENDING:
            return Skip("waits_for_a_person")
        if row.status not in ONCE_INTERRUPTED:
            return Skip("not_interrupted")
        made = contents(self.store, [row.roadmap_id])[row.roadmap_id].moved() if row.roadmap_id else None
        if any(is_at_work(row.status, at, timezone.now()) for at in (last_moved(row), made)):
            return Skip("moves")
        if self._chosen is None and attempts.failures(self.store.identity(), row.pk) >= attempts.MAX_FAILURES:
            return Skip("left_for_people")
        return None

    def _position(self, key: str) -> Position | None:
        self._require_backend()
        return langgraph.position(self.store, key, self._shape)

    def _held(self, position: Position) -> Skip | Invalid | None:
        """Why nothing is run."""
        if position.unreadable:
            return Invalid("checkpoint_unreadable")
        return Skip("waits_for_a_person") if position.asks else None

    def perform(self, row: Any) -> Outcome:
        left = self._left_alone(row)
        if left is not None:
            return left
        position = self._position(row.pk)
        if position is None:
            self._run("roadmaps.fail_unrecoverable", row.pk, {})
            return Done("no_checkpoint")
        held = self._held(position)
        if held is not None:
            return held
        with attempts.attempt(self.store.identity(), row.pk, self.run_id):
            handed_over = not position.over and resume.resume(self.store, row.pk, position)
            after = self._position(row.pk)
            if after is not None and after.asks:
                return Skip("waits_for_a_person")
            if handed_over and (after is None or not after.over):
                raise ResumeFailed(gettext("The workflow stopped before its end."))
            run = self._run("roadmaps.sync_results", row.pk, {"force": True, "handed_over": handed_over})
            if run.error or run.invalid or run.failed or set(run.reasons.get("skipped", ())) - _FINE:
                raise ResumeFailed(gettext("The results could not be synced: see run %(run)d.") % {"run": run.pk})
            self._verify(row.pk)
        generating = "generating" in {**run.reasons.get("changed", {}), **run.reasons.get("skipped", {})}
        return Done("generating" if generating else "recovered", _words(position))

    def _run(self, name: str, key: str, params: Mapping[str, Any]) -> Run:
        """Another operation on this one task: planned and run like any, in the name of who started this one."""
        cls = registry.operation(name)
        operation = planner.operation_on(cls, self.store, registry.clean(cls, params))
        planned = planner.plan(operation, Selection([key]))
        begun = lifecycle.same_command(operation, planned.selection)  # by a worker that was lost
        if begun is not None:
            return Executor(lifecycle.claim(begun)).work()
        mine = Run.objects.filter(pk=self.run_id or 0).first()
        actor = Actor(
            mine.started_by if mine else "console",
            f"{socket.gethostname()}:{os.getpid()}",
            Trigger(mine.trigger) if mine else Trigger.SHELL,
            mine.user if mine else None,
        )
        note = gettext("after run %(run)s") % {"run": self.run_id}
        return Executor(
            lifecycle.confirm(lifecycle.create_run(planned, actor, note=note), actor, background=False)
        ).work()

    def _verify(self, key: str) -> None:
        for state in task_reports(self.store, timezone.now(), self.population().filter(pk=key)):
            wrong = [problem.detail for problem in state.problems if problem.code in CODES]
            if wrong:
                raise ResumeFailed("; ".join(wrong))

    # --- how one sees that it worked ---------------------------------------------------------------------

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        return {"in_scope": restrict(self.queryset()).count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Each was verified when it was over; chosen tasks stay chosen. What can't be read waits for a person."""
        keys = self.queryset().values_list("pk", flat=True) if self._chosen is None else map(str, self._chosen)
        found = langgraph.positions(self.store, keys, self._shape)
        unreadable = sorted(key for key, position in found.items() if position.unreadable)
        problems = [] if self._chosen is not None else super().verify(after, left)
        if unreadable:
            text = ngettext(
                "The checkpoint of %(tasks)s can't be read. A person must look at it.",
                "The checkpoints of %(tasks)s can't be read. A person must look at them.",
                len(unreadable),
            )
            problems.append(text % {"tasks": ", ".join(unreadable[:5]) + (" …" if len(unreadable) > 5 else "")})
        return problems

    def action_label(self, count: int) -> str:
        return ngettext("Recover %(count)s task", "Recover %(count)s tasks", count) % {"count": format_number(count)}


_FINE = {"in_step", "generating"}  # what a sync may say and be right
_FEW = 100_000  # tasks that are interrupted at once


def interrupted(operation: Operation) -> Q:
    """Creation tasks that are stuck, and begun within the maximal age."""
    since = operation.as_of - timedelta(hours=settings.TASK_RECOVERY_MAX_AGE_HOURS)
    young = models.lookups.GreaterThanOrEqual(
        SortableTimestamp(Coalesce(F("created_at"), F("updated_at"))), SortableTimestamp(Value(bound_text(since)))
    )
    given_up = [
        task
        for task, failed in attempts.left_for_people(operation.store.identity()).items()
        if failed >= attempts.MAX_FAILURES
    ]
    return (
        stuck(operation)
        & of_living_roadmap(operation)
        & Q(task_type=RoadmapTask.Type.CREATION.value)
        & Q(young)
        & ~Q(pk__in=given_up)
    )


def _age(row: Any) -> tuple[str, str]:
    return str(row.created_at or ""), row.pk


def _words(position: Position) -> str:
    at = f"{position.at.astimezone(settings.ROADMAPS_TIME_ZONE):%Y-%m-%d %H:%M:%S %Z}" if position.at else "–"
    where = gettext("step %(step)s, checkpoint of %(at)s") % {"step": position.step, "at": at}
    if position.over:
        return gettext("%(where)s; no node is left to run") % {"where": where}
    steps = [
        gettext("the conditional edge behind %(name)s, which raised %(error)s") % one._asdict()
        for one in position.routers
    ]
    steps += [_why(node, position.answered) for node in position.nodes]
    return gettext("%(where)s; next: %(nodes)s") % {"where": where, "nodes": "; ".join(steps)}


def _why(node: Node, answered: bool) -> str:
    """A node that runs next, and why."""
    name = gettext("the start") if node.name == langgraph.START else node.name
    if node.finished:
        return gettext("what follows %(node)s, which has finished") % {"node": name}
    if node.error:
        return gettext("%(node)s, which raised %(error)s") % {"node": name, "error": node.error}
    if answered:
        return gettext("%(node)s, for which a person has answered") % {"node": name}
    return gettext("%(node)s, which had not finished") % {"node": name}
