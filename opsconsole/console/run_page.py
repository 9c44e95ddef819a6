"""The page of a run: its progress, its result, and the actions that are possible now."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, Sum
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.page_parts import (
    Button,
    Described,
    Page,
    Table,
    described,
    figure,
    finding_title,
    list_url,
    outcome_bar,
    swatch,
)
from opsconsole.console.plan_page import drift
from opsconsole.console.store_urls import urlconf
from opsconsole.engine import findings, history, incidents, registry, wording
from opsconsole.engine.labels import result_label
from opsconsole.engine.leases import is_stale
from opsconsole.engine.models import ENDED, RESUMABLE, Finding, Incident, Rejection, Request, Run, Status
from opsconsole.engine.planner import OUTCOMES
from opsconsole.formatting import (
    duration,
    duration_range,
    format_number,
    format_time,
    labelled_text,
)

RATE_BATCHES = 200


class RunPage(Page):
    """A confirmed run that does not wait for approval: `ApprovalPage` shows one that does."""

    asks_server = False

    def __init__(self, run: Run, user: AbstractBaseUser) -> None:
        super().__init__(run)
        self.user = user

    @property
    def live(self) -> bool:
        return not self.run.ended

    @cached_property
    def state(self) -> str:
        """A value that differs when the possible actions differ."""
        return f"{self.run.status}-{self.run.request}"

    @property
    def percent(self) -> str:
        if self.run.status == Status.SUCCEEDED:
            return "100"
        return f"{min(100.0, 100 * self.run.seen / self.run.total):.2f}" if self.run.total else "0"

    @property
    def done(self) -> str:
        return wording.progress(self.run)

    @cached_property
    def _rate(self) -> float:
        """Rows per second: of the last minute while it runs, of the whole run afterwards."""
        run = self.run
        if run.status != Status.RUNNING:
            return float(run.rows_per_second)
        now = timezone.now()
        recent = [
            (at, sum(rows))
            for at, *rows in run.batches.order_by("-number").values_list("prepared_at", *OUTCOMES)[:RATE_BATCHES]
            if now - at < timedelta(minutes=1)
        ]
        if not recent:
            return 0.0
        seconds = (now - recent[-1][0]).total_seconds()
        rate: float = sum(rows for _at, rows in recent) / max(seconds, 0.2)
        return rate

    @property
    def rate(self) -> str:
        return wording.rate(self._rate) if self._rate else "–"

    @property
    def time_left(self) -> str:
        remaining = self.run.total - self.run.seen
        if self.run.status != Status.RUNNING or not self._rate or remaining <= 0:
            return "–"
        return duration_range(remaining / self._rate * 0.8, remaining / self._rate * 1.4)

    @property
    def took(self) -> str:
        return duration(self.run.elapsed_seconds) if self.run.elapsed_seconds else "–"

    @property
    def bar(self) -> list[dict[str, str]]:
        counts = {outcome: getattr(self.run, outcome) for outcome in OUTCOMES}
        return outcome_bar(counts, max(self.run.total, self.run.seen), self.operation)

    @property
    def figures(self) -> list[tuple[SafeString, str]]:
        counts = {outcome: getattr(self.run, outcome) for outcome in OUTCOMES}
        return [
            (swatch(outcome, self.operation), figure(self.outcome_url(outcome, "", count), count))
            for outcome, count in counts.items()
        ]

    def outcome_url(self, outcome: str, reason: str, count: int) -> str:
        if not self.run.ended:
            return ""  # the figures still change
        if outcome == "changed":
            return "?tab=changes#tabs" if count == self.written else ""
        query = {"tab": "failed"} if outcome == "failed" else {"tab": "unchanged", "outcome": outcome}
        return f"?{urlencode({**query, 'reason': reason} if reason else query)}#tabs"

    @cached_property
    def written(self) -> int:
        """The number of rows of all tables that the run wrote."""
        return self.run.batches.filter(committed=True).aggregate(rows=Sum("rows"))["rows"] or 0

    @property
    def outcomes(self) -> Table:
        return self._outcome_table(self.run.reasons, self.run.seen)

    @cached_property
    def status_messages(self) -> list[SafeString | str]:
        """The reasons why the run makes no progress, since when, and what ends them."""
        return [
            format_html("{} ({} {})", one.text, _("since"), format_time(one.since)) if one.since else one.text
            for one in wording.status_messages(self.run)
        ]

    @property
    def needs_attention(self) -> bool:
        """Return whether the run waits for something that may need a person."""
        return bool(self.run.waiting or (self.run.status == Status.QUEUED and self.worker_missing))

    @property
    def actions(self) -> list[Button]:
        """The actions that this user can take now."""
        run, actions = self.run, list[Button]()
        if not self.user.has_perm("operations.operate_run"):  # type: ignore[attr-defined]
            return actions
        if run.status in RESUMABLE or (run.status == Status.RUNNING and is_stale(run)):
            actions.append(Button("resume", _("Resume"), "primary"))
        if run.status in {Status.RUNNING, Status.QUEUED} and not run.request:
            actions.append(Button("pause", _("Pause")))
        if run.status not in ENDED and run.request != Request.CANCEL:
            actions.append(Button("cancel", _("Cancel the run")))
        if run.ended and self.unsettled and not self.is_check:
            actions.append(Button("retry", self.retry_label, "primary"))
        can_undo = self.operation is not None and self.operation.undoable and self.undone_by is None
        if run.ended and can_undo and run.undoable:
            label = ngettext("Undo %(count)s row change…", "Undo %(count)s row changes…", self.written)
            actions.append(Button("undo", label % {"count": format_number(self.written)}))
        return actions

    @cached_property
    def undone_by(self) -> Run | None:
        """The run that undid this one."""
        return history.undone_by([self.run]).get(self.run.pk)

    @property
    def result(self) -> str:
        """The result of the run, or the title of its operation."""
        return result_label(self.run) if self.run.ended else self.title

    @property
    def incident_change(self) -> tuple[int, int] | None:
        """The open problems of the incident before and after this run."""
        incident = self.run.incident
        if incident is None or not self.run.ended:
            return None
        entries = incident.history
        for place, entry in enumerate(entries):
            if entry["run"] == self.run.pk and place:
                return entries[place - 1]["count"], entry["count"]
        return incident.count, incident.count

    @cached_property
    def next_incidents(self) -> list[Incident]:
        """The incident if it is still open, and other open incidents about the same row."""
        incident = self.run.incident
        if incident is None or not self.run.ended:
            return []
        mine = [] if incident.resolved_at else [incident]
        return [*mine, *incidents.others_of_same_row(incident)]

    @property
    def rejection(self) -> str:
        """Who rejected the run and why, or why it was rejected automatically."""
        if self.run.rejection_code or not self.run.rejection:
            return labelled_text(_("Rejected"), self.run.rejection_words) if self.run.rejection_words else ""
        event = self.run.events.filter(verb="rejected").order_by("-pk").first()
        who = event.who if event is not None else "–"
        return _("Rejected by %(who)s: %(reason)s") % {"who": who, "reason": self.run.rejection}

    @cached_property
    def replacement(self) -> Run | None:
        """The plan that replaces this one."""
        return self.run.replacements.order_by("-pk").first()

    @property
    def may_plan_again(self) -> bool:
        """True if the run was not approved, and the user may plan it again with the same parameters."""
        is_open = self.run.status == Status.REJECTED and self.replacement is None and self.operation is not None
        return is_open and bool(self.user.has_perm("operations.operate_run"))  # type: ignore[attr-defined]

    @property
    def drift(self) -> Table | None:
        return None if self.replacement is None else drift(self.replacement)

    @property
    def rows_changed(self) -> bool:
        """Return whether the run was stopped because its rows had changed after the confirmation."""
        return self.run.rejection_code == Rejection.ROWS_CHANGED

    @cached_property
    def unsettled(self) -> int:
        """Return the number of failed rows that no retry has settled."""
        return self.run.failed_items.filter(retried_by=None).count() if self.run.failed else 0

    @property
    def retry_label(self) -> str:
        return ngettext("Retry %(n)s failed row", "Retry %(n)s failed rows", self.unsettled) % {
            "n": format_number(self.unsettled)
        }

    # --- after the end of the run

    @property
    def verification_title(self) -> str:
        return _("Findings") if self.is_check else _("Verification")

    @property
    def verification(self) -> Table | None:
        before, after = self.run.before, self.run.after
        if not self.run.ended or not after:
            return None
        if self.is_check:
            return Table(
                [_("Problem"), _("Findings")],
                [
                    [finding_title(self.cls, code), figure(self._findings_url(code, n), n)]
                    for code, n in self.found.items()
                ],
            )
        rows = wording.figure_rows(self.operation, before, after, selected=bool(self.run.selection))
        return Table([_("Figure"), _("Before"), _("After")], [list(row) for row in rows]) if rows else None

    @cached_property
    def last_seen(self) -> dict[str, int]:
        """Code → the findings that no later scan has seen."""
        counts: dict[str, int] = {}
        # Grouped by priority, too, in the order of an index: otherwise SQLite sorts all findings.
        groups = self.run.findings.order_by().values_list("priority", "code").annotate(count=Count("*"))
        for _priority, code, count in groups:
            counts[code] = counts.get(code, 0) + count
        return counts

    def _findings_url(self, code: str, count: int) -> str:
        if self.last_seen.get(code) != count:
            return ""  # a later scan saw some of them again
        return list_url(Finding, last_run__id__exact=self.run.pk, code=code)

    @property
    def summary(self) -> list[str]:
        return (
            list(self.operation.result_notes(self.run.after)) if self.operation is not None and self.run.after else []
        )

    @property
    def may_leave_space(self) -> bool:
        """Return whether the run deleted rows, whose space the store may not have given back."""
        deletes = self.run.ended and not self.run.attached_path and () in map(tuple, self.run.writes.values())
        return deletes and self.run.changed > 0

    @property
    def next_step(self) -> tuple[str, str] | None:
        """The address and the label of the most useful next page."""
        if not self.run.ended:
            return None
        if self.run.failed:
            return "?tab=failed", _("View failed rows")
        if self.run.changed and any(self.run.batches.values_list("rows", flat=True)[:1]):
            return "?tab=changes", _("View changes")
        return (self.rows_url, _("View rows")) if self.rows_url else None

    @cached_property
    def found(self) -> dict[str, int]:
        """The number of findings of this scan by code."""
        if not self.is_check:
            return {}  # the figures of other operations may be texts
        return {code: count for code, count in self.run.after.items() if code not in findings.MOVES}

    @property
    def scan_changes(self) -> str:
        return wording.scan_changes(self.run.after) if self.is_check and self.run.after else ""

    @property
    def repairs(self) -> list[tuple[Described, str]]:
        """The operations that repair the findings, with the address that plans them in the store of the run."""
        if self.run.attached_path:
            return []  # pages do not plan runs on files
        causes = getattr(self.cls, "causes", {})
        wanted = {name for code in self.found if code in causes for name in causes[code].repairs[:1]}
        return [
            (described(cls), reverse("plan", urlconf(self.run.store), args=[name]))
            for name, cls in registry.operations().items()
            if name in wanted
        ]
