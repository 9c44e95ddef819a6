"""Sentences about plans and runs. Pages and the shell share them: plain text, without HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from django.db import DatabaseError
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine import checklist, lifecycle, queue
from opsconsole.engine.checks import Check
from opsconsole.engine.findings import MOVES
from opsconsole.engine.labels import action_label, operation_title, outcome_label, reason_label
from opsconsole.engine.leases import is_stale
from opsconsole.engine.models import Request, Run, Status
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.planner import OUTCOMES, Plan
from opsconsole.engine.registry import operations
from opsconsole.formatting import duration, duration_range, format_number, format_number_or_text
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnavailable

_Reasons = Mapping[str, Mapping[str, int]]
COMPRESSION = 3  # of before-images, about


@dataclass(frozen=True)
class ReasonCount:
    """The rows of one outcome that have the same reason."""

    outcome: str
    reason: str
    words: str
    count: int


def reason_counts(
    operation: Operation | type[Operation] | None, reasons: _Reasons, outcomes: Sequence[str] = OUTCOMES
) -> list[ReasonCount]:
    """Return the counts per outcome and reason, the largest of each outcome first."""
    return [
        ReasonCount(outcome, reason, reason_label(operation, reason) if reason else "", count)
        for outcome in outcomes
        for reason, count in sorted(reasons.get(outcome, {}).items(), key=lambda item: -item[1])
        if count
    ]


def statistic_label(operation: Operation | type[Operation] | None, name: str) -> str:
    """Return the label of a figure. The figure of one value of a column is named "COLUMN VALUE"."""
    labels = operation.statistic_labels if operation is not None else {}
    column, space, value = name.partition(" ")
    if name not in labels and column in labels:
        return f"{labels[column]}{space}{value}"
    return str(labels.get(name, name.replace("_", " ")))


def figure_rows(
    operation: Operation | type[Operation] | None,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    selected: bool,
) -> list[tuple[str, str, str]]:
    """Return label, value before and value after of each figure of a run.

    The number of selected rows proves nothing if it is the same after the run, so it is left out.
    """
    names = dict.fromkeys((*before, *after))
    if before.get("in_scope") == after.get("in_scope") and operation is not None:
        counts_selection = not operation.selectable or (selected and operation.allow_out_of_scope)
        names = dict.fromkeys(name for name in names if not (counts_selection and name == "in_scope"))
    return [
        (
            statistic_label(operation, name),
            figure_text(operation, before.get(name), after.get(name)),
            figure_text(operation, after.get(name), before.get(name)),
        )
        for name in names
    ]


def figure_text(operation: Operation | type[Operation] | None, value: Any, other: Any = None) -> str:
    """Return a figure in words. A code shows its label. A count that is missing at one of two times is 0."""
    if value is None and isinstance(other, int):
        value = 0
    if isinstance(value, str) and operation is not None and value in operation.statistic_labels:
        return statistic_label(operation, value)
    return format_number_or_text(value)


# --- the plan ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanWording:
    """Sentences about a plan. It has no `operation` when the code or the store of the operation is gone."""

    name: str
    store: str
    operation: Operation | None
    total: int
    counted: bool
    reasons: _Reasons
    writes: Mapping[str, Sequence[str]]
    amount: int
    sample: Sequence[Mapping[str, Any]]
    seconds: float
    bound: Any
    has_selection: bool
    has_parent: bool

    @classmethod
    def of_run(cls, run: Run, operation: Operation | None) -> PlanWording:
        kept = run.plan
        return cls(
            run.operation,
            run.store,
            operation,
            run.total,
            bool(kept["counted"]),
            kept["reasons"],
            run.writes,
            kept.get("amount", 0),
            kept["sample"],
            kept["seconds"],
            run.bound,
            bool(run.selection),
            run.parent_id is not None,
        )

    @classmethod
    def of_plan(cls, planned: Plan) -> PlanWording:
        operation = planned.operation
        return cls(
            operation.name,
            operation.store.name,
            operation,
            planned.total,
            planned.counted,
            planned.reasons,
            operation.writes,
            planned.amount,
            planned.sample,
            planned.seconds,
            planned.bound,
            bool(planned.selection.as_json()),
            bool(operation.params.get("run")),
        )

    @property
    def counts(self) -> dict[str, int]:
        return {outcome: sum(self.reasons.get(outcome, {}).values()) for outcome in OUTCOMES}

    @property
    def changing(self) -> int:
        """The number of rows that change; all rows in scope while the outcomes are not counted."""
        return self.counts["changed"] if self.counted else self.total

    @property
    def action(self) -> str:
        """The confirmation as an imperative with the figure."""
        return operation_title(self.name) if self.operation is None else action_label(self.operation, self._figure)

    @property
    def _figure(self) -> int:
        """The changes in the figure of the operation's button, such as tasks of a job."""
        return (self.counted and self.amount) or self.changing

    def sentence(self) -> str:
        """Return what the plan does, with the figures."""
        if not self.total:
            return _("No row of %(store)s is in scope.") % {"store": self.store}
        values = {"action": self.action, "total": format_number(self.total), "store": self.store}
        if not self.counted:
            return _("%(action)s in %(store)s, at most: outcomes are not counted yet.") % values
        if not self.changing:
            return ngettext(
                "Nothing would change: the only row in scope in %(store)s remains unchanged.",
                "Nothing would change: all %(total)s rows in scope in %(store)s remain unchanged.",
                self.total,
            ) % (values)
        unchanged = self.total - self.changing
        if not unchanged and self.has_selection:
            return _("%(action)s in %(store)s: all selected rows.") % values
        if not unchanged:
            return _("%(action)s in %(store)s: all rows in scope.") % values
        values["staying"] = format_number(unchanged)
        if self._figure != self.changing:  # the figure does not count rows
            return ngettext(
                "%(action)s in %(store)s; %(staying)s of %(total)s rows in scope remains unchanged.",
                "%(action)s in %(store)s; %(staying)s of %(total)s rows in scope remain unchanged.",
                unchanged,
            ) % (values)
        return ngettext(
            "%(action)s of %(total)s in scope in %(store)s; %(staying)s remains unchanged.",
            "%(action)s of %(total)s in scope in %(store)s; %(staying)s remain unchanged.",
            unchanged,
        ) % (values)

    def unchanged(self) -> list[str]:
        """Return which tables, columns and rows the run does not touch."""
        if not self.writes:
            operation = self.operation
            only_reads = operation is not None and (operation.risk == Risk.READ or not operation.writes_store)
            return [_("No row of %(store)s is changed.") % {"store": self.store}] if only_reads else []
        columns = ", ".join(f"{table}.{name}" for table, names in self.writes.items() for name in names)
        tables = ", ".join(table for table, names in self.writes.items() if not names)
        sentences = [_("Only these columns may be written: %(columns)s.") % {"columns": columns}] if columns else []
        if tables and columns:
            sentences.append(_("Whole rows of these tables may be deleted: %(tables)s.") % {"tables": tables})
        elif tables:
            sentences.append(_("Only rows of %(tables)s may change.") % {"tables": tables})
        if self.bound is not None and not self.has_parent and self.operation is not None and self.operation.selectable:
            sentences.append(
                _("Rows created after the plan are not changed. The last key is %(bound)s.") % {"bound": self.bound}
            )
        for outcome in ("invalid", "failed", "skipped"):
            found = reason_counts(self.operation, self.reasons, (outcome,))
            if found:
                why = ", ".join(f"{one.words} ({format_number(one.count)})" for one in found)
                values = {"outcome": outcome_label(outcome), "why": why}
                sentences.append(_("%(outcome)s, unchanged: %(why)s.") % values)
        return sentences

    def estimates(self) -> list[str]:
        """Return the expected time, the size of the before-images, and whether the run can be undone."""
        if not self.changing:
            return []
        sentences = [*self._time()]
        if self.operation is not None and not self.operation.undoable:
            return [*sentences, _("The changes cannot be undone.")]
        sampled = [entry["rows"] for entry in self.sample if entry["rows"]]
        if sampled:
            size = len(orjson.dumps(sampled, default=str)) / len(sampled) * self.changing / COMPRESSION
            sentences.append(
                _("The before-images take about %(size)s in the console's database.") % {"size": filesizeformat(size)}
            )
        return [*sentences, _("The run can be undone until its before-images are pruned.")]

    def _time(self) -> Iterator[str]:
        last = self._last_run()
        if last is not None and last.rows_per_second:
            seconds = self.total / last.rows_per_second
            yield _("Expected time: %(time)s, at the rate of run %(run)d.") % {
                "time": duration_range(seconds * 0.8, seconds * 1.4),
                "run": last.pk,
            }
        elif self.counted:
            yield _("Expected time: %(time)s. Counting the outcomes took %(counting)s.") % {
                "time": duration_range(self.seconds * 1.5, self.seconds * 5),
                "counting": duration(self.seconds),
            }

    def _last_run(self) -> Run | None:
        runs = Run.objects.filter(operation=self.name, store=self.store, elapsed_seconds__gt=1, status=Status.SUCCEEDED)
        try:
            Store(DEFAULT, DEFAULT).require_file()  # a query would create a missing SQLite file
            return runs.only("elapsed_seconds", *OUTCOMES).order_by("-pk").first()
        except (DatabaseError, StoreUnavailable):  # the shell plans without the console's database
            return None


# --- the confirmation --------------------------------------------------------------------------------------


def type_to_confirm(phrase: str) -> str:
    return _("Type %(name)s to confirm.") % {"name": phrase}


def approval_follows() -> str:
    return _("After your confirmation, a second approver must approve the run.")


def confirmation_needs(operation: Operation) -> list[str]:
    """Return what a confirmation still needs: first what blocks it, such as a backup, then the approval."""
    blocking = checklist.blocking_reason(operation)
    return [*([blocking] if blocking else []), *([approval_follows()] if lifecycle.needs_approval(operation) else [])]


# --- the run -----------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """A sentence about the state of a run, and the time since when it holds."""

    text: str
    since: datetime | None = None


def progress(run: Run) -> str:
    values = {"seen": format_number(run.seen), "total": format_number(run.total)}
    cls = operations().get(run.operation)
    if cls is not None and issubclass(cls, Check):
        return _("%(seen)s of %(total)s rules") % values
    return _("%(seen)s of %(total)s") % values


def rate(rows_per_second: float) -> str:
    return _("%(rate)s rows/s") % {"rate": format_number(round(rows_per_second))}


def scan_changes(after: Mapping[str, int]) -> str:
    """Return how the findings changed since the previous scan."""
    return _("%(new)s new, %(persisting)s persisting, %(resolved)s resolved since the previous scan.") % {
        name: format_number(after[name]) for name in MOVES
    }


def worker_missing(cluster: str = "") -> str:
    """Return that the queue has no worker and how to start one, or an empty string."""
    seen = queue.worker_seen(cluster)
    if seen is not None and timezone.now() - seen < queue.WORKER_SEEN:
        return ""
    if queue.worker_starts(cluster):
        return _("Starting… The worker reports within a minute.")
    command = f"Q_CLUSTER_NAME={cluster} python manage.py qcluster" if cluster else "python manage.py qcluster"
    if seen is None and cluster:
        return _("No worker for long steps has been seen yet. Start one with: %(command)s") % {"command": command}
    if seen is None:
        return _("No worker has been seen yet. Start one with: %(command)s") % {"command": command}
    return _("No worker has been seen for %(time)s. Start one with: %(command)s") % {
        "time": duration((timezone.now() - seen).total_seconds()),
        "command": command,
    }


def status_messages(run: Run) -> list[Message]:
    """Return why a run makes no progress, since when, and what ends it."""
    if run.ended:
        return []
    messages = []
    if run.status == Status.RUNNING and run.request:
        messages.append(Message(_requested(run)))
    frozen = lifecycle.freeze_reason()
    if frozen:
        messages.append(Message(_("%(reason)s. Unfreeze the runs to resume them.") % {"reason": frozen}))
    elif run.waiting:
        messages.append(Message(_("Waiting: %(reason)s") % {"reason": run.waiting}, run.waiting_since))
    if ending := _what_ends_it(run, frozen=bool(frozen)):
        messages.append(Message(ending))
    return messages


def _requested(run: Run) -> str:
    if run.request == Request.PAUSE:
        return _("A pause is requested. The worker stops after this batch.")
    return _("Cancellation is requested. The worker stops after this batch.")


def _what_ends_it(run: Run, *, frozen: bool) -> str:
    background = run.in_background
    if run.status == Status.RUNNING and is_stale(run):
        if background:
            return _("The worker has stopped. Another worker continues the run within two minutes.")
        return _("The process has stopped. Repeat the command or resume the run to continue.")
    if run.status == Status.RUNNING and run.waiting and not frozen:
        return _("The run retries automatically.")
    if run.status == Status.INTERRUPTED:
        if background:
            return _("The run was interrupted. It continues within two minutes, or when you resume it.")
        return _("The run was interrupted. Repeat the command or resume the run to continue.")
    if run.status == Status.PAUSED:
        return _("The run is paused. Resume it to continue.")
    if run.status == Status.AWAITING_APPROVAL:
        return _("The run waits for a second approver.")
    if run.status == Status.QUEUED:
        cls = operations().get(run.operation)
        missing = worker_missing(cls.cluster if cls is not None else "")
        return missing or _("The run is queued. A worker starts it within seconds.")
    return ""
