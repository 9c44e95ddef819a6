"""A check for dirty data of types A to F. See docs/platforms/helix.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.causes import Cause
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Schedule
from opsconsole.stores.rows import Key
from tasks.helix.causes import CAUSES, ORPHANED_ARTIFACTS
from tasks.helix.dirty_data import NEEDS, QUERIES, TYPE_LABELS, among, find, priority_of
from tasks.helix.models import HelixJob, HelixTask

RISKS = {"production": "high", "staging": "medium", "development": "low"}
RISK_LABELS = {"high": _("high"), "medium": _("medium"), "low": _("low")}


class ScanDirtyData(Check):
    title = _("Scan HELIX for dirty data")
    description = _(
        "Finds dirty data of types A to F in jobs, tasks and artifacts, with a priority for each finding. Nothing is "
        "changed."
    )
    store_alias = "helix"
    model = HelixJob
    reads = NEEDS
    rules = tuple(QUERIES)
    schedule = Schedule("0 */6 * * *")
    reasons = TYPE_LABELS
    messages = {
        "A": _("completed tasks without an artifact: %(tasks)s"),
        "B": _("artifacts of failed or missing tasks: %(artifacts)s"),
        "C": _("in progress, but all tasks have failed: %(tasks)s"),
        "D": _("in progress, with failed tasks without retries left: %(tasks)s"),
        "E": _("in progress, and some tasks have failed: %(tasks)s"),
        "F": _("artifacts of tasks that still have to run, whose next attempt will collide: %(artifacts)s"),
    }
    causes = CAUSES

    def run_rule(self, rule: str) -> Iterable[FindingData]:
        """Yield one finding for each job, and one for each missing task."""
        found: dict[tuple[int | None, int | None], tuple[str | None, list[int], list[int]]] = {}
        chosen = None if self.chosen is None else {int(key) for key in self.chosen}
        for job, status, task, artifact in find(self.store, rule, chosen):
            missing = task if job is None else None
            _status, tasks, artifacts = found.setdefault((job, missing), (status, [], []))
            if task is not None and (not tasks or tasks[-1] != task):
                tasks.append(task)
            if artifact is not None:
                artifacts.append(artifact)
        for (job, missing), (status, tasks, artifacts) in found.items():
            data = {"job_id": job, "task_ids": sorted(set(tasks)), "artifact_ids": sorted(artifacts)}
            yield FindingData(rule, f"task {missing}" if job is None else str(job), data, priority_of(status))

    def sentence(self, found: FindingData) -> str:
        counts = {"tasks": len(found.data["task_ids"]), "artifacts": len(found.data["artifact_ids"])}
        return str(self.messages[found.code]) % counts

    def cause_for(self, found: FindingData) -> Cause:
        return ORPHANED_ARTIFACTS if found.data["job_id"] is None else super().cause_for(found)

    @classmethod
    def cause_called(cls, code: str) -> Cause:
        return ORPHANED_ARTIFACTS if code == ORPHANED_ARTIFACTS.code else super().cause_called(code)

    def target(self, found: FindingData) -> tuple[str, Key]:
        """Return the job, or the first artifact of a missing task."""
        job = found.data["job_id"]
        return ("artifacts", found.data["artifact_ids"][0]) if job is None else ("jobs", job)

    def subjects_of(self, rows: Mapping[str, Sequence[Key]]) -> Sequence[Key] | None:
        """Return the jobs of these rows; deleted artifacts do not say whose they were."""
        if "artifacts" in rows:
            return None
        tasks = HelixTask.objects.using(self.store.alias).filter(pk__in=among(self.store, rows.get("tasks", ())))
        return sorted({*rows.get("jobs", ()), *tasks.values_list("job_id", flat=True)})

    def as_json(self, found: FindingData) -> dict[str, Any]:
        return {"type": found.code, **found.data, "priority": found.priority, "detail": self.sentence(found)}

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        return super().report(found) | {"risk": RISKS[settings.ENVIRONMENT]}

    @classmethod
    def result_notes(cls, figures: Mapping[str, int]) -> list[str]:
        label = RISK_LABELS[RISKS[settings.ENVIRONMENT]]
        return [gettext("Risk of cleaning in this environment: %(risk)s.") % {"risk": label}]
