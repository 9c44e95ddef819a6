"""Document 003, section 4: remove jobs with dirty data, artifacts first, then tasks, then the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.db import models
from django.db.models import Max, QuerySet
from django.utils import timezone
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.models import Batch
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Outcome, RowChange, Skip
from opsconsole.formatting import duration, format_number
from opsconsole.redaction import shown_url
from opsconsole.stores.errors import first_line
from opsconsole.stores.rows import Key
from opsconsole.timestamps import parse_timestamp
from tasks.helix.dirty_data import NEEDS, JobWithTasks, among, dirty_jobs, jobs_with_all
from tasks.helix.models import HelixArtifact, HelixJob, HelixTask

HEALTH_SECONDS = 5.0
MOVES_SECONDS = 600.0  # a platform whose newest change is younger than this is at work
SHOWN_SESSIONS = 10


class CleanDirtyJobs(Operation):
    title = _("Clean dirty HELIX jobs")
    description = _(
        "Deletes jobs that have a finding, each with its tasks and artifacts in a transaction of its own. "
        "Only what the plan showed goes: a job that has changed since is left alone and listed."
    )
    store_alias = "helix"
    model = HelixJob
    reads = NEEDS
    writes = {"jobs": (), "tasks": (), "artifacts": ()}
    risk = Risk.DELETE
    action_label = ngettext_lazy("Delete %(count)s job", "Delete %(count)s jobs", "number")
    batch_size = 1
    locks_rows = True
    allow_out_of_scope = True
    reasons = {
        "no_finding": _("without a finding"),
        "forced": _("without a finding, forced"),
    }
    statistic_labels = {
        "in_scope": _("jobs to clean"),
        "tasks": _("their tasks"),
        "artifacts": _("their artifacts"),
    }

    class Params(forms.Form):
        force = forms.BooleanField(
            required=False,
            label=_("force"),
            help_text=_("also jobs without a finding, to reset development data; say why in the note"),
        )

    _listed: tuple[QuerySet[Any], list[int]] | None = None

    @property
    def _forced(self) -> bool:
        return bool(self.params.get("force"))

    @property
    def requires_note(self) -> bool:
        return self._forced

    def queryset(self) -> QuerySet[HelixJob]:
        return self.population() if self._forced else self.population().filter(pk__in=dirty_jobs())

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        """Those named, with a finding or not: what becomes of each is said of each."""
        return self.population().filter(pk__in=among(self.store, keys))

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        # The questions are asked once, not for every job: `change` judges each anew.
        if self._listed is None or self._listed[0] is not rows:
            self._listed = rows, sorted(rows.values_list("pk", flat=True))
        keys = [key for key in self._listed[1] if (after is None or int(after) < key) and key <= int(bound)]
        for start in range(0, len(keys), limit):
            if found := jobs_with_all(self.store, keys[start : start + limit]):
                return found
        return []

    def process(self, row: JobWithTasks) -> Outcome:
        problems = row.problems()
        if not problems and not self._forced:
            return Skip("no_finding")
        artifacts = [RowChange.delete("artifacts", one) for task in row.tasks for one in task.artifacts]
        tasks = [RowChange.delete("tasks", task.row) for task in row.tasks]
        rows = [*artifacts, *tasks, RowChange.delete("jobs", row.row)]
        return Changes(rows, ", ".join(problems) or "forced")

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        jobs = list(restrict(self.queryset()).values_list("pk", flat=True))
        tasks = HelixTask.objects.using(self.store.alias).filter(job_id__in=among(self.store, jobs))
        artifacts = HelixArtifact.objects.using(self.store.alias).filter(task_id__in=tasks.values("pk"))
        return {"in_scope": len(jobs), "tasks": tasks.count(), "artifacts": artifacts.count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """The document's consistency queries for what was cleaned, and whether the platform still answers."""
        return [*super().verify(after, left), *self._leftovers(), *health_problems()]

    def _leftovers(self) -> list[str]:
        """Artifacts and tasks that have lost what they belonged to."""
        gone: dict[str, list[Key]] = {table: [] for table in self.writes}
        for batch in Batch.objects.filter(run=self.run_id, rows__gt=0).iterator(chunk_size=50):
            for write in batch.writes:
                gone[write.table].extend(row[0] for row in write.rows)
        tasks = HelixTask.objects.using(self.store.alias).filter(job_id__in=among(self.store, gone["jobs"])).count()
        artifacts = (
            HelixArtifact.objects.using(self.store.alias).filter(task_id__in=among(self.store, gone["tasks"])).count()
        )
        if not tasks and not artifacts:
            return []
        return [
            gettext("%(tasks)s tasks and %(artifacts)s artifacts of what was cleaned are still there: scan again.")
            % {"tasks": format_number(tasks), "artifacts": format_number(artifacts)}
        ]

    def checklist_facts(self, rows: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        sessions = dict(
            rows.filter(session_id__gt="").order_by().values_list("session_id").annotate(jobs=models.Count("pk"))
        )
        statuses = Counter(dict(rows.order_by().values_list("status").annotate(jobs=models.Count("pk"))))
        return {
            "ownership": [
                gettext("Jobs by status: %(statuses)s.")
                % {
                    "statuses": ", ".join(
                        f"{status} {format_number(count)}" for status, count in sorted(statuses.items())
                    )
                }
            ],
            "dependencies": [
                self._movement(),
                gettext("No session refers to these jobs.")
                if not sessions
                else ngettext(
                    "%(count)s session refers to these jobs: %(names)s",
                    "%(count)s sessions refer to these jobs: %(names)s",
                    len(sessions),
                )
                % {
                    "count": format_number(len(sessions)),
                    "names": ", ".join(sorted(sessions)[:SHOWN_SESSIONS])
                    + ("…" if len(sessions) > SHOWN_SESSIONS else ""),
                },
            ],
        }

    def _movement(self) -> str:
        """Whether the platform still works on its data."""
        newest = [
            model._default_manager.using(self.store.alias).aggregate(at=Max("updated_at"))["at"]
            for model in (HelixJob, HelixTask)
        ]
        moments = [at for at in (parse_timestamp(str(text)) for text in newest if text) if at is not None]
        if not moments:
            return gettext("When the platform last changed something is not known.")
        ago = max((timezone.now() - max(moments)).total_seconds(), 0.0)
        words = (
            gettext("The platform still moves: its newest change is %(ago)s old.")
            if ago < MOVES_SECONDS
            else gettext("The platform stands still: its newest change is %(ago)s old.")
        )
        return words % {"ago": duration(ago)}


def health_problems() -> list[str]:
    """Document 003, section 5.2: what the platform's health endpoint says, where one is configured."""
    url = settings.HELIX_HEALTH_URL
    if not url:
        return []
    import httpx  # slow to import, and few runs need it

    try:
        httpx.get(url, timeout=HEALTH_SECONDS, follow_redirects=True).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [
            gettext("The platform's health endpoint %(url)s does not answer as it should: %(reason)s")
            % {"url": shown_url(url), "reason": first_line(error)}
        ]
    return []
