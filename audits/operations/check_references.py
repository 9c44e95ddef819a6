"""Document 001: rows that name what is not there, and tasks that wait for each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from django.db.models import Count, Exists, Min, Model, OuterRef
from django.utils.translation import gettext_lazy as _

from audits.models import GuardianVerdict, InboxEntry, TaskAudit
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Schedule
from tasks.agentos.models import (
    KbChunk,
    KbEmbedding,
    KbSource,
    MemoryItem,
    Project,
    ProjectRepo,
    Task,
    TaskArtifactRef,
    TaskDependency,
    TaskLineage,
    TaskRepoScope,
    WebuiMessage,
    WebuiSession,
)

SHOWN_TASKS = 20
READ_ROWS = 2_000


class Reference(NamedTuple):
    """A column that names rows of another table."""

    child: type[Model]
    column: str
    parent: type[Model]
    code: str

    @property
    def question(self) -> str:
        return f"{self.child._meta.db_table}.{self.column}"


REFERENCES = (
    Reference(TaskAudit, "task_id", Task, "dangling_task"),
    Reference(TaskLineage, "task_id", Task, "dangling_task"),
    Reference(TaskRepoScope, "task_id", Task, "dangling_task"),
    Reference(TaskDependency, "task_id", Task, "dangling_task"),
    Reference(TaskDependency, "depends_on_task_id", Task, "dangling_task"),
    Reference(GuardianVerdict, "task_id", Task, "dangling_task"),
    Reference(InboxEntry, "task_id", Task, "dangling_task"),
    Reference(TaskArtifactRef, "task_id", Task, "artifact_of_vanished_task"),
    Reference(Task, "session_id", WebuiSession, "dangling_session"),
    Reference(WebuiMessage, "session_id", WebuiSession, "dangling_session"),
    Reference(ProjectRepo, "project_id", Project, "dangling_project"),
    Reference(KbSource, "project_id", Project, "dangling_project"),
    Reference(MemoryItem, "project_id", Project, "dangling_project"),
    Reference(KbChunk, "source_id", KbSource, "dangling_source"),
    Reference(KbEmbedding, "chunk_id", KbChunk, "dangling_chunk"),
)
CYCLES = "dependency cycles"


class CheckReferences(Check):
    title = _("Check references")
    description = _(
        "Finds rows that name a task, project, session, source or chunk that is not there, and tasks that depend "
        "on each other in a circle."
    )
    store_alias = "agentos"
    model = Task
    schedule = Schedule("30 4 * * *")
    rules = (*(reference.question for reference in REFERENCES), CYCLES)
    messages = {
        "dangling_task": _("%(table)s.%(column)s names the task %(missing)s, which is not there (%(rows)d ×)"),
        "artifact_of_vanished_task": _("artifacts of the task %(missing)s, which is not there (%(rows)d ×)"),
        "dangling_session": _("%(table)s.%(column)s names the session %(missing)s, which is not there (%(rows)d ×)"),
        "dangling_project": _("%(table)s.%(column)s names the project %(missing)s, which is not there (%(rows)d ×)"),
        "dangling_source": _("chunks of the source %(missing)s, which is not there (%(rows)d ×)"),
        "dangling_chunk": _("the embedding of the chunk %(missing)s, which is not there (%(rows)d ×)"),
        "dependency_cycle": _("tasks that wait for each other (%(size)d): %(tasks)s"),
    }
    reasons = {
        "dangling_task": _("references to vanished tasks"),
        "artifact_of_vanished_task": _("artifacts of vanished tasks"),
        "dangling_session": _("references to vanished sessions"),
        "dangling_project": _("references to vanished projects"),
        "dangling_source": _("chunks of vanished sources"),
        "dangling_chunk": _("embeddings of vanished chunks"),
        "dependency_cycle": _("circles of tasks that wait for each other"),
    }

    def item_names(self) -> list[str]:
        """Only about tables that the store has: older ones lack some."""
        tables = self.store.tables
        asked = [
            one.question
            for one in REFERENCES
            if {one.column, one.child._meta.pk.column} <= set(tables.get(one.child._meta.db_table, ()))
            and one.parent._meta.pk.column in tables.get(one.parent._meta.db_table, ())
        ]
        return [*asked, CYCLES] if TaskDependency._meta.db_table in tables else asked

    def run_rule(self, question: str) -> Iterable[FindingData]:
        if question == CYCLES:
            return self._cycles()
        return self._dangling(next(one for one in REFERENCES if one.question == question))

    def target(self, found: FindingData) -> tuple[str, str]:
        """The first of the rows that name what is missing; of a circle, its first task."""
        if found.code == "dependency_cycle":
            return "tasks", found.subject
        return found.data["table"], found.data["first"]

    def _dangling(self, reference: Reference) -> Iterator[FindingData]:
        """One finding for each missing row, however many name it."""
        child, column = reference.child, reference.column
        there = reference.parent._default_manager.using(self.store.alias).filter(pk=OuterRef(column))
        rows = (
            child._default_manager.using(self.store.alias)
            .filter(~Exists(there), **{f"{column}__isnull": False})
            .order_by()
            .values_list(column)
            .annotate(rows=Count("pk"), first=Min("pk"))
        )
        table = child._meta.db_table
        for missing, count, first in rows.iterator(chunk_size=READ_ROWS):
            data = {"table": table, "column": column, "missing": missing, "rows": count, "first": str(first)}
            yield FindingData(reference.code, f"{reference.question} {missing}", data)

    def _cycles(self) -> Iterator[FindingData]:
        edges = TaskDependency.objects.using(self.store.alias).values_list("task_id", "depends_on_task_id")
        for circle in circles(edges.iterator(chunk_size=READ_ROWS)):
            shown = ", ".join(circle[:SHOWN_TASKS])
            yield FindingData("dependency_cycle", circle[0], {"size": len(circle), "tasks": shown})


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The groups of nodes that reach each other, sorted (Tarjan's strongly connected components, without
    recursion: chains may be longer than Python's stack).
    """
    after: dict[str, list[str]] = {}
    loops = set()
    for start, end in edges:
        after.setdefault(start, []).append(end)
        if start == end:
            loops.add(start)
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for root in after:
        if root in order:
            continue
        path: list[tuple[str, Iterator[str]]] = [(root, iter(after[root]))]
        order[root] = lowest[root] = len(order)
        waiting.append(root)
        on_stack.add(root)
        while path:
            node, ahead = path[-1]
            following = next(ahead, None)
            if following is None:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    group = _group(waiting, on_stack, node)
                    if len(group) > 1 or node in loops:
                        found.append(sorted(group))
            elif following not in order:
                order[following] = lowest[following] = len(order)
                waiting.append(following)
                on_stack.add(following)
                path.append((following, iter(after.get(following, ()))))
            elif following in on_stack:
                lowest[node] = min(lowest[node], order[following])
    return sorted(found)


def _group(waiting: list[str], on_stack: set[str], last: str) -> list[str]:
    group: list[Any] = []
    while not group or group[-1] != last:
        group.append(waiting.pop())
    on_stack.difference_update(group)
    return group
