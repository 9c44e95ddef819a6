"""Document 003, section 2: find dirty data of types A to F, and judge how soon it should be seen to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Priority, Schedule
from opsconsole.stores.rows import Key
from tasks.helix.dirty_data import NEEDS, QUESTIONS, ask
from tasks.helix.models import HelixJob

# Section 1.3: what a clean risks here.
RISKS = {"production": "high", "staging": "medium", "development": "low"}
RISK_WORDS = {"high": _("high"), "medium": _("medium"), "low": _("low")}


class ScanDirtyData(Check):
    title = _("Scan HELIX for dirty data")
    description = _(
        "Looks for the types A to F of dirty data in jobs, tasks and artifacts, and says how soon each should be "
        "seen to. Nothing is changed."
    )
    store_alias = "helix"
    model = HelixJob
    reads = NEEDS
    rules = tuple(QUESTIONS)
    schedule = Schedule("0 */6 * * *")
    reasons = {
        "A": _("a completed task without artifact"),
        "B": _("artifacts of a failed or vanished task"),
        "C": _("a job in progress whose tasks have all failed"),
        "D": _("a job in progress with a failed task that used up its retries"),
        "E": _("a job in progress with some failed tasks"),
        "F": _("artifacts on a task that is still to be worked on"),
    }
    messages = {
        "A": _("completed tasks without artifact: %(tasks)s"),
        "B": _("artifacts of failed or vanished tasks: %(artifacts)s"),
        "C": _("in progress, and all its tasks have failed: %(tasks)s"),
        "D": _("in progress, with failed tasks that used up their retries: %(tasks)s"),
        "E": _("in progress, and some of its tasks have failed: %(tasks)s"),
        "F": _("artifacts on tasks still to be worked on, whose next attempt will collide: %(artifacts)s"),
    }
    repairs = {
        **dict.fromkeys("ABCF", "helix.repair_dirty_jobs"),
        **dict.fromkeys("DE", "helix.clean_dirty_jobs"),
    }

    def run_rule(self, question: str) -> Iterable[FindingData]:
        """One finding for each job, and one for each task that is gone."""
        found: dict[tuple[int | None, int | None], tuple[str | None, list[int], list[int]]] = {}
        for job, status, task, artifact in ask(self.store, question):
            gone = task if job is None else None
            _status, tasks, artifacts = found.setdefault((job, gone), (status, [], []))
            if task is not None and (not tasks or tasks[-1] != task):
                tasks.append(task)
            if artifact is not None:
                artifacts.append(artifact)
        for (job, gone), (status, tasks, artifacts) in found.items():
            data = {"job_id": job, "task_ids": sorted(set(tasks)), "artifact_ids": sorted(artifacts)}
            yield FindingData(question, f"task {gone}" if job is None else str(job), data, _priority(status))

    def sentence(self, found: FindingData) -> str:
        counts = {"tasks": len(found.data["task_ids"]), "artifacts": len(found.data["artifact_ids"])}
        return str(self.messages[found.code]) % counts

    def target(self, found: FindingData) -> tuple[str, Key]:
        """The job; where it is not known, the first of the artifacts that nobody has."""
        job = found.data["job_id"]
        return ("artifacts", found.data["artifact_ids"][0]) if job is None else ("jobs", job)

    def as_json(self, found: FindingData) -> dict[str, Any]:
        return {"type": found.code, **found.data, "priority": found.priority, "detail": self.sentence(found)}

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        return super().report(found) | {"risk": RISKS[settings.ENVIRONMENT]}

    @classmethod
    def result_notes(cls, figures: Mapping[str, int]) -> list[str]:
        words = RISK_WORDS[RISKS[settings.ENVIRONMENT]]
        return [gettext("Risk of a clean in this environment: %(risk)s.") % {"risk": words}]


def _priority(job_status: str | None) -> str:
    """Section 3.1: a broken job that is active at once, what lies around from jobs that are over as planned."""
    if settings.ENVIRONMENT == "development":
        return Priority.PERIODIC.value
    return Priority.IMMEDIATE.value if job_status == "IN_PROGRESS" else Priority.PLANNED.value
