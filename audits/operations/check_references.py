"""The check of references between AgentOS's tables (see docs/platforms/agentos.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from django.db.models import Count, Exists, Min, Model, OuterRef
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from audits.models import GuardianVerdict, InboxEntry, TaskAudit
from opsconsole.engine.causes import Cause
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Priority, Schedule
from tasks.agentos.cycles import cycles
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
    """A column that refers to the key of another table."""

    child: type[Model]
    column: str
    parent: type[Model]
    code: str

    @property
    def rule(self) -> str:
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
BY_HAND = _("Each finding names a referring row. Correct the reference, or delete the row.")
CAUSES = {
    cause.code: cause
    for cause in (
        Cause(
            "dangling_task",
            ngettext_lazy(
                "%(count)s reference leads to a missing task", "%(count)s references lead to missing tasks", "number"
            ),
            advice=BY_HAND,
        ),
        Cause(
            "artifact_of_vanished_task",
            ngettext_lazy(
                "%(count)s missing task still has artifacts", "%(count)s missing tasks still have artifacts", "number"
            ),
            advice=BY_HAND,
        ),
        Cause(
            "dangling_session",
            ngettext_lazy(
                "%(count)s reference leads to a missing session",
                "%(count)s references lead to missing sessions",
                "number",
            ),
            advice=BY_HAND,
        ),
        Cause(
            "dangling_project",
            ngettext_lazy(
                "%(count)s reference leads to a missing project",
                "%(count)s references lead to missing projects",
                "number",
            ),
            advice=BY_HAND,
        ),
        Cause(
            "dangling_source",
            ngettext_lazy(
                "%(count)s missing source still has chunks", "%(count)s missing sources still have chunks", "number"
            ),
            advice=BY_HAND,
        ),
        Cause(
            "dangling_chunk",
            ngettext_lazy(
                "%(count)s missing chunk still has embeddings",
                "%(count)s missing chunks still have embeddings",
                "number",
            ),
            advice=BY_HAND,
        ),
        Cause(
            "dependency_cycle",
            ngettext_lazy(
                "%(count)s group of tasks has a cyclic dependency",
                "%(count)s groups of tasks have cyclic dependencies",
                "number",
            ),
            advice=_("Each finding names the tasks of a cycle. Delete one of the dependencies between them."),
        ),
    )
}


class CheckReferences(Check):
    title = _("Check references")
    description = _(
        "Finds rows that refer to a missing task, project, session, source or chunk, and tasks that depend on each "
        "other in a cycle."
    )
    store_alias = "agentos"
    model = Task
    schedule = Schedule("30 4 * * *")
    rules = (*(reference.rule for reference in REFERENCES), CYCLES)
    messages = {
        "dangling_task": _("%(table)s.%(column)s refers to the missing task %(missing)s (%(rows)d ×)"),
        "artifact_of_vanished_task": _("artifacts of the missing task %(missing)s (%(rows)d ×)"),
        "dangling_session": _("%(table)s.%(column)s refers to the missing session %(missing)s (%(rows)d ×)"),
        "dangling_project": _("%(table)s.%(column)s refers to the missing project %(missing)s (%(rows)d ×)"),
        "dangling_source": _("chunks of the missing source %(missing)s (%(rows)d ×)"),
        "dangling_chunk": _("embedding of the missing chunk %(missing)s (%(rows)d ×)"),
        "dependency_cycle": _("%(size)d tasks depend on each other in a cycle: %(tasks)s"),
    }
    reasons = {
        "dangling_task": _("references to missing tasks"),
        "artifact_of_vanished_task": _("artifacts of missing tasks"),
        "dangling_session": _("references to missing sessions"),
        "dangling_project": _("references to missing projects"),
        "dangling_source": _("chunks of missing sources"),
        "dangling_chunk": _("embeddings of missing chunks"),
        "dependency_cycle": _("cyclic dependencies of tasks"),
    }

    causes = CAUSES

    def item_names(self) -> list[str]:
        """Return the rules whose tables and columns exist in the store."""
        tables = self.store.tables
        rules = [
            one.rule
            for one in REFERENCES
            if {one.column, one.child._meta.pk.column} <= set(tables.get(one.child._meta.db_table, ()))
            and one.parent._meta.pk.column in tables.get(one.parent._meta.db_table, ())
        ]
        return [*rules, CYCLES] if TaskDependency._meta.db_table in tables else rules

    def run_rule(self, rule: str) -> Iterable[FindingData]:
        if rule == CYCLES:
            return self._cycles()
        return self._dangling(next(one for one in REFERENCES if one.rule == rule))

    def target(self, found: FindingData) -> tuple[str, str]:
        """Return the first of the referring rows, or the first task of a cycle."""
        if found.code == "dependency_cycle":
            return "tasks", found.subject
        return found.data["table"], found.data["first"]

    def _dangling(self, reference: Reference) -> Iterator[FindingData]:
        """Yield one finding for each missing row."""
        child, column = reference.child, reference.column
        parents = reference.parent._default_manager.using(self.store.alias).filter(pk=OuterRef(column))
        rows = (
            child._default_manager.using(self.store.alias)
            .filter(~Exists(parents), **{f"{column}__isnull": False})
            .order_by()
            .values_list(column)
            .annotate(rows=Count("pk"), first=Min("pk"))
        )
        table = child._meta.db_table
        for missing, count, first in rows.iterator(chunk_size=READ_ROWS):
            data = {"table": table, "column": column, "missing": missing, "rows": count, "first": str(first)}
            yield FindingData(reference.code, f"{reference.rule} {missing}", data, Priority.PERIODIC.value)

    def _cycles(self) -> Iterator[FindingData]:
        edges = TaskDependency.objects.using(self.store.alias).values_list("task_id", "depends_on_task_id")
        for cycle in cycles(edges.iterator(chunk_size=READ_ROWS)):
            shown = ", ".join(cycle[:SHOWN_TASKS])
            data = {"size": len(cycle), "tasks": shown}
            yield FindingData("dependency_cycle", cycle[0], data, Priority.PERIODIC.value)
