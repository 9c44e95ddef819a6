"""A check for orphaned artifacts and completed tasks without an artifact. See docs/platforms/helix.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import Check, FindingData
from opsconsole.stores.rows import Key
from tasks.helix.causes import ORPHANED_ARTIFACTS, WITHOUT_ARTIFACT
from tasks.helix.dirty_data import FETCHED_ROWS, NEEDS, priority_of
from tasks.helix.models import HelixJob

QUERIES = {
    "orphaned_artifact": """
        SELECT a.id, a.task_id, a.name FROM artifacts AS a LEFT JOIN tasks AS t ON a.task_id = t.id WHERE t.id IS NULL
    """,
    "completed_without_artifact": """
        SELECT t.id, t.job_id, t.agent_id FROM tasks AS t
        WHERE t.status = 'COMPLETED' AND NOT EXISTS (SELECT 1 FROM artifacts AS a WHERE a.task_id = t.id)
    """,
}
COLUMNS = {
    "orphaned_artifact": ("artifact_id", "task_id", "name"),
    "completed_without_artifact": ("task_id", "job_id", "agent_id"),
}


class VerifyDirtyCleanup(Check):
    title = _("Verify HELIX after a clean")
    description = _("Finds artifacts without a task, and completed tasks without an artifact. Nothing is changed.")
    store_alias = "helix"
    model = HelixJob
    reads = {model: columns for model, columns in NEEDS.items() if model is not HelixJob}
    rules = tuple(QUERIES)
    reasons = {
        "orphaned_artifact": _("artifact of a missing task"),
        "completed_without_artifact": _("completed task without an artifact"),
    }
    messages = {
        "orphaned_artifact": _("artifact %(artifact_id)s (%(name)s) refers to task %(task_id)s, which does not exist"),
        "completed_without_artifact": _(
            "task %(task_id)s of job %(job_id)s (%(agent_id)s) is completed without an artifact"
        ),
    }
    causes = {"orphaned_artifact": ORPHANED_ARTIFACTS, "completed_without_artifact": WITHOUT_ARTIFACT}

    def target(self, found: FindingData) -> tuple[str, Key]:
        """Return the job of a task, which is what repairs work on, or the artifact."""
        return ("artifacts", found.subject) if found.code == "orphaned_artifact" else ("jobs", found.data["job_id"])

    def run_rule(self, rule: str) -> Iterable[FindingData]:
        with self.store.connection.cursor() as cursor:
            cursor.execute(QUERIES[rule])
            while rows := cursor.fetchmany(FETCHED_ROWS):
                for row in rows:
                    data: dict[str, Any] = dict(zip(COLUMNS[rule], row, strict=True))
                    yield FindingData(rule, str(row[0]), data, priority_of(None))
