"""An operation that deletes dirty jobs with their tasks and artifacts. See docs/platforms/helix.md."""

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
from opsconsole.engine.outcomes import Changes, Outcome, RowChange, Skip
from opsconsole.formatting import duration, format_number
from opsconsole.redaction import shown_url
from opsconsole.stores.errors import first_line
from opsconsole.stores.rows import Key
from opsconsole.timestamps import parse_timestamp
from tasks.helix.dirty_data import TYPE_LABELS, JobWithTasks, among, dirty_jobs
from tasks.helix.job_operation import JobOperation
from tasks.helix.models import HelixArtifact, HelixJob, HelixTask

HEALTH_SECONDS = 5.0
ACTIVE_SECONDS = 600.0  # a platform with a newer change than this is active
SHOWN_SESSIONS = 10


class CleanDirtyJobs(JobOperation):
    title = _("Delete dirty HELIX jobs")
    description = _(
        "Deletes jobs that have a finding, each with its tasks and artifacts in a separate transaction. "
        "Only rows that the plan showed are deleted: a job that has changed since is skipped and listed."
    )
    writes = {"jobs": (), "tasks": (), "artifacts": ()}
    action_label = ngettext_lazy("Delete %(count)s job", "Delete %(count)s jobs", "number")
    done_label = ngettext_lazy("%(count)s job deleted", "%(count)s jobs deleted", "number")
    reasons = TYPE_LABELS | {
        "no_finding": _("without a finding"),
        "forced": _("without a finding, forced"),
    }
    statistic_labels = {
        "in_scope": _("jobs to delete"),
        "tasks": _("their tasks"),
        "artifacts": _("their artifacts"),
    }

    class Params(forms.Form):
        force = forms.BooleanField(
            required=False,
            label=_("force"),
            help_text=_("include jobs without a finding, to reset development data; the note must give the reason"),
        )

    @property
    def _forced(self) -> bool:
        return bool(self.params.get("force"))

    @property
    def requires_note(self) -> bool:
        return self._forced

    def queryset(self) -> QuerySet[HelixJob]:
        return self.population() if self._forced else self.population().filter(pk__in=dirty_jobs())

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
        """Verify that nothing of the deleted jobs remains and that the platform is healthy."""
        return [*super().verify(after, left), *self._leftovers(), *health_problems()]

    def _leftovers(self) -> list[str]:
        """Report tasks and artifacts that still refer to deleted rows."""
        deleted: dict[str, list[Key]] = {table: [] for table in self.writes}
        for batch in Batch.objects.filter(run=self.run_id, rows__gt=0).iterator(chunk_size=50):
            for write in batch.writes:
                deleted[write.table].extend(row[0] for row in write.rows)
        tasks = HelixTask.objects.using(self.store.alias).filter(job_id__in=among(self.store, deleted["jobs"])).count()
        artifacts = (
            HelixArtifact.objects.using(self.store.alias)
            .filter(task_id__in=among(self.store, deleted["tasks"]))
            .count()
        )
        if not tasks and not artifacts:
            return []
        return [
            gettext("%(tasks)s tasks and %(artifacts)s artifacts of deleted rows remain. Scan again.")
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
                self._last_change(),
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

    def _last_change(self) -> str:
        """Tell whether the platform is still changing its data."""
        newest = [
            model._default_manager.using(self.store.alias).aggregate(at=Max("updated_at"))["at"]
            for model in (HelixJob, HelixTask)
        ]
        times = [at for at in (parse_timestamp(str(text)) for text in newest if text) if at is not None]
        if not times:
            return gettext("It is not known when the platform last changed a row.")
        ago = max((timezone.now() - max(times)).total_seconds(), 0.0)
        text = (
            gettext("The platform is active. Its last change was %(ago)s ago.")
            if ago < ACTIVE_SECONDS
            else gettext("The platform is idle. Its last change was %(ago)s ago.")
        )
        return text % {"ago": duration(ago)}


def health_problems() -> list[str]:
    """Report a failure of the platform's health endpoint, if one is configured."""
    url = settings.HELIX_HEALTH_URL
    if not url:
        return []
    import httpx  # the import is slow, and few runs need it

    try:
        httpx.get(url, timeout=HEALTH_SECONDS, follow_redirects=True).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [
            gettext("The health check %(url)s of the platform failed: %(reason)s")
            % {"url": shown_url(url), "reason": first_line(error)}
        ]
    return []
