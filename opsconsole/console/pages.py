"""What the plan page and the run page show: figures in words, and where each leads."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple

import orjson
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count
from django.template.defaultfilters import filesizeformat
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine import checklist, findings, lifecycle, notifications, queue, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.labels import STATUS_VARIANTS, operation_title, outcome_label, reason_label, verb_label
from opsconsole.engine.lifecycle import Actor
from opsconsole.engine.models import ENDED, RESUMABLE, Batch, Finding, Freeze, Rejection, Request, Run, Status, Trigger
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.planner import OUTCOMES, PlanRefused, advice
from opsconsole.engine.registry import InvalidParameters, UnknownOperation
from opsconsole.engine.selection import Selection
from opsconsole.formatting import (
    copy_button,
    difference,
    duration,
    duration_range,
    format_number,
    format_number_or_text,
    format_time,
)
from opsconsole.stores.router import store_of as store_of_model
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store, StoreUnavailable, all_stores

REFUSALS = (RunRefused, PlanRefused, UnknownOperation, InvalidParameters, StoreUnavailable)

SHOWN_ROWS = 100
SHOWN_BATCHES = 60
SHOWN_KEYS = 20
SEARCHED_BATCHES = 200
RATE_BATCHES = 200
BACKUP = "backups.backup_store"
NEVER = timedelta(days=36_500)


class Table(NamedTuple):
    """As the theme's table component wants it."""

    headers: list[Any]
    rows: list[list[Any]]


class Button(NamedTuple):
    """A button: what it does, what it says, how it looks."""

    name: str
    label: str
    variant: str = "default"


class Described(NamedTuple):
    """An operation for templates, which would call its class."""

    name: str
    title: str
    description: str
    risk: str
    targets_run: bool
    is_check: bool


def described(cls: type[Operation]) -> Described:
    risk = str(getattr(getattr(cls, "risk", None), "label", ""))
    is_check = issubclass(cls, Check)
    return Described(cls.name, str(cls.title), str(cls.description), risk, cls.targets_run, is_check)


class _Page:
    asks_server = True  # which database it is

    def __init__(self, run: Run) -> None:
        self.run = run
        self.problem = ""  # why the operation can't be asked: its code or its store is gone
        self.cls = registry.operations().get(run.operation)
        self.operation: Any = self.cls
        try:
            self.operation = lifecycle.operation_of(run, ask_server=self.asks_server)
        except REFUSALS as error:
            self.problem = str(error)

    @property
    def title(self) -> str:
        return operation_title(self.run.operation)

    @property
    def is_check(self) -> bool:
        return self.cls is not None and issubclass(self.cls, Check)

    @property
    def status(self) -> str:
        return self.run.get_status_display()

    @property
    def variant(self) -> str:
        return STATUS_VARIANTS[self.run.status]

    @property
    def database(self) -> str:
        return _("%(store)s, %(location)s") % {"store": self.run.store, "location": self.run.location}

    @property
    def selection(self) -> str:
        return Selection(**self.run.selection).words()

    @cached_property
    def rows_url(self) -> str:
        """The list that shows the units, narrowed as the selection was."""
        table = next(iter(self.run.writes), "")
        model = _admin_models().get((self.run.store, table))
        if model is None or self.run.attached_path:
            return ""
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        return f"{url}?{self.run.selection['query']}" if self.run.selection.get("query") else url

    @property
    def parameters(self) -> list[tuple[str, Any]]:
        """Label and value of each parameter."""
        form_fields = self.operation.Params.base_fields if self.operation is not None else {}
        return [
            (str(form_fields[name].label or name) if name in form_fields else name, _plain(value))
            for name, value in self.run.params.items()
            if value is not None
            and value != ""  # a list has no hash
            and not (name in form_fields and form_fields[name].widget.is_hidden)
        ]

    def figure_label(self, name: str) -> str:
        labels = self.operation.statistic_labels if self.operation is not None else {}
        return str(labels.get(name, name.replace("_", " ")))

    def _outcome_table(self, reasons: dict[str, dict[str, int]], whole: int) -> Table:
        rows = []
        for outcome in OUTCOMES:
            for reason, count in sorted(reasons.get(outcome, {}).items(), key=lambda item: -item[1]):
                if count:
                    rows.append(
                        [
                            swatch(outcome),
                            reason_label(self.operation, reason) if reason else "–",
                            format_number(count),
                            _share(count, whole),
                        ]
                    )
        return Table([_("Outcome"), _("Why"), _("Rows"), _("Share")], rows)

    @property
    def worker_missing(self) -> str:
        """What to say when nobody works on the queue."""
        cluster = self.cls.cluster if self.cls is not None else ""
        seen = queue.worker_seen(cluster)
        if seen is not None and timezone.now() - seen < queue.WORKER_SEEN:
            return ""
        command = f"Q_CLUSTER_NAME={cluster} python manage.py qcluster" if cluster else "python manage.py qcluster"
        start = _("Start one with: %(command)s") % {"command": command}
        if seen is None:
            return _("No worker has been seen yet.") + " " + start
        ago = duration((timezone.now() - seen).total_seconds())
        return _("No worker has been seen for %(time)s.") % {"time": ago} + " " + start


def swatch(outcome: str) -> SafeString:
    """An outcome's word with its colour in the bar."""
    return format_html('<span class="swatch outcome-{}" aria-hidden="true"></span>{}', outcome, outcome_label(outcome))


def _bar(counts: dict[str, int], whole: int) -> list[dict[str, str]]:
    """Parts of a stacked bar, in per cent as CSS writes them."""
    return [
        {
            "value": f"{100 * counts[outcome] / whole:.3f}",
            "title": f"{outcome_label(outcome)}: {format_number(counts[outcome])}",
            "progress_class": f"outcome-{outcome}",
        }
        for outcome in OUTCOMES
        if whole and counts[outcome]
    ]


def _share(part: int, whole: int) -> str:
    if 0 < part < whole / 1000:
        return _("below 0.1 %")
    return _("%(percent)s %%") % {"percent": format_number(100 * part / whole, 1)} if whole else "–"


def _admin_models() -> dict[tuple[str, str], Any]:
    return {(store_of_model(model), model._meta.db_table): model for model in admin.site._registry}


def row_link(run: Run, table: str, key: Key, text: str) -> SafeString | str:
    """A row's name, linked to its page where it has one. A file outside the console has none."""
    model = None if run.attached_path else _admin_models().get((run.store, table))
    if model is None:
        return copy_button(text)
    try:
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(key)])
    except NoReverseMatch:
        return copy_button(text)
    return format_html('<a href="{}" class="row-link">{}</a>', url, text)


def _changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> SafeString:
    """The columns of one row before and after, differences marked."""
    if before is None:
        before = dict.fromkeys(after or {})
        note = format_html("<em>{}</em> ", _("new row"))
    elif after is None:
        after = dict.fromkeys(before)
        note = format_html("<em>{}</em> ", _("row deleted"))
    else:
        note = SafeString()
    lines = format_html_join(
        "",
        "<div><dt>{}</dt><dd>{}</dd></div>",
        ((name, difference(_clip(value), _clip((after or {}).get(name)))) for name, value in before.items()),
    )
    return format_html('{}<dl class="changes">{}</dl>', note, lines)


def _row_changes(row: dict[str, Any], *, named: bool) -> SafeString:
    """One of the rows of a unit; `named` where it has several."""
    changes = _changes(row["before"], row["after"])
    return format_html("<strong>{} {}</strong> {}", row["table"], row["key"], changes) if named else changes


def _clip(value: Any) -> Any:
    return f"{value[:500]}…" if isinstance(value, str) and len(value) > 500 else value


# --- the plan --------------------------------------------------------------------------------------------


class PlanPage(_Page):
    """A run that is not confirmed yet."""

    @property
    def reasons(self) -> dict[str, dict[str, int]]:
        reasons: dict[str, dict[str, int]] = self.run.plan["reasons"]
        return reasons

    @property
    def counts(self) -> dict[str, int]:
        return {outcome: sum(self.reasons.get(outcome, {}).values()) for outcome in OUTCOMES}

    @property
    def counted(self) -> bool:
        return bool(self.run.plan["counted"])

    @property
    def seen(self) -> int:
        return sum(self.counts.values())

    @property
    def percent(self) -> str:
        return f"{100 * self.seen / self.run.total:.2f}" if self.run.total else "0"

    @property
    def changing(self) -> int:
        """Units that would change, as far as they are counted."""
        return self.counts["changed"] if self.counted else self.run.total

    @property
    def action(self) -> str:
        """What the button says."""
        if self.problem:
            return self.title
        label: str = self.operation.action_label(self.changing)
        return label

    @property
    def sentence(self) -> str:
        """What this will do, with the figures."""
        run = self.run
        if not run.total:
            return _("No row of %(store)s is in scope.") % {"store": run.store}
        values = {"action": self.action, "total": format_number(run.total), "store": run.store}
        if not self.counted:
            return _("%(action)s in %(store)s, at most: outcomes are not counted yet.") % values
        if not self.changing:
            return _("Nothing would change: all %(total)s rows in scope in %(store)s remain unchanged.") % values
        staying = run.total - self.changing
        if not staying:
            if run.selection:
                return _("%(action)s in %(store)s: all selected rows.") % values
            return _("%(action)s in %(store)s: all rows in scope.") % values
        return ngettext(
            "%(action)s of %(total)s in scope in %(store)s; %(staying)s remains unchanged.",
            "%(action)s of %(total)s in scope in %(store)s; %(staying)s remain unchanged.",
            staying,
        ) % {**values, "staying": format_number(staying)}

    @property
    def bar(self) -> list[dict[str, str]]:
        return _bar(self.counts, self.run.total if not self.counted else max(self.seen, 1))

    @property
    def outcomes(self) -> Table:
        return self._outcome_table(self.reasons, self.seen)

    @property
    def sample(self) -> Table:
        rows = []
        for entry in _spread(self.run.plan["sample"]):
            reason = reason_label(self.operation, entry["reason"]) if entry["reason"] else ""
            changes = [_row_changes(row, named=len(entry["rows"]) > 1) for row in entry["rows"]]
            root = self._root(entry)
            rows.append(
                [
                    row_link(self.run, root["table"], root["key"], entry["unit"]),
                    format_html('{}<small class="why">{}</small>', swatch(entry["outcome"]), reason),
                    format_html_join("", "{}", ((change,) for change in changes))
                    or entry["detail"]
                    or (_("unchanged") if entry["outcome"] != "changed" else "–"),
                ]
            )
        return Table([_("Row"), _("Outcome"), _("Before → after")], rows)

    def _root(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The row that stands for the unit: its own in the first table, where it has one there."""
        rows: list[dict[str, Any]] = entry["rows"]
        table = next(iter(self.run.writes), "")
        own = (row for row in rows if row["table"] == table and row["key"] == entry["key"])
        if self.cls is not None and not self.cls.selectable:
            table = ""  # the unit's key is its place in a list
        return next(own, rows[0] if rows else {"table": table, "key": entry["key"]})

    @property
    def write_scope(self) -> list[str]:
        if not self.run.writes:
            return [_("No row of %(store)s is changed.") % {"store": self.run.store}]
        columns = ", ".join(f"{table}.{name}" for table, names in self.run.writes.items() for name in names)
        whole = ", ".join(table for table, names in self.run.writes.items() if not names)
        sentences = [_("Only these columns may be written: %(columns)s.") % {"columns": columns}] if columns else []
        if whole:
            words = (
                _("Whole rows of these tables may be deleted: %(tables)s.")
                if columns
                else _("Only rows of %(tables)s may change.")
            )
            sentences.append(words % {"tables": whole})
        if self.run.bound is not None and self.run.parent_id is None and self.cls is not None and self.cls.selectable:
            sentences.append(
                _("Rows created after the plan are not changed. The last key is %(bound)s.") % {"bound": self.run.bound}
            )
        for outcome in ("invalid", "failed", "skipped"):
            if self.counts[outcome]:
                why = ", ".join(
                    f"{reason_label(self.operation, reason)} ({format_number(count)})"
                    for reason, count in self.reasons[outcome].items()
                )
                sentences.append(
                    _("%(outcome)s, unchanged: %(why)s.") % {"outcome": outcome_label(outcome), "why": why}
                )
        return sentences

    @property
    def estimates(self) -> list[str]:
        """Time, size of the before-images, and until when it can be undone."""
        run, sentences = self.run, []
        if not self.changing:
            return []
        last = (
            Run.objects.filter(operation=run.operation, store=run.store, elapsed_seconds__gt=1, status=Status.SUCCEEDED)
            .only("elapsed_seconds", *OUTCOMES)
            .order_by("-pk")
            .first()
        )
        if last is not None and last.rows_per_second:
            seconds = run.total / last.rows_per_second
            sentences.append(
                _("Expected time: %(time)s, at the rate of run %(run)d.")
                % {"time": duration_range(seconds * 0.8, seconds * 1.4), "run": last.pk}
            )
        elif self.counted:
            reading = run.plan["seconds"]
            sentences.append(
                _("Expected time: %(time)s. Counting the outcomes took %(counting)s.")
                % {"time": duration_range(reading * 1.5, reading * 5), "counting": duration(reading)}
            )
        if self.operation is not None and not self.operation.undoable:
            return [*sentences, _("The changes cannot be undone.")]
        sampled = [entry["rows"] for entry in run.plan["sample"] if entry["rows"]]
        if sampled:
            size = len(orjson.dumps(sampled, default=str)) / len(sampled) * self.changing / 3
            sentences.append(
                _("The before-images take about %(size)s in the console's database.") % {"size": filesizeformat(size)}
            )
        sentences.append(_("The run can be undone until its before-images are pruned."))
        return sentences

    @cached_property
    def advice(self) -> list[str]:
        if self.problem:
            return []
        try:
            return advice(lifecycle.plan_of(self.run))
        except REFUSALS as error:
            return [str(error)]

    @property
    def _asked(self) -> bool:
        """Whether the operation can be asked about this plan: its code and its store are there."""
        return self.cls is not None and not self.problem

    @property
    def confirmation_phrase(self) -> str:
        """What must be typed to confirm; empty where a click is enough."""
        return self.operation.name if self._asked and lifecycle.needs_typing(self.operation) else ""

    @cached_property
    def checklist(self) -> list[checklist.ChecklistLine]:
        """What deletes has one: facts, and what a person confirms."""
        return [] if self.problem else checklist.lines(lifecycle.plan_of(self.run))

    @property
    def asks_checklist(self) -> bool:
        """Whether its items must be confirmed here."""
        return self._asked and checklist.is_asked(self.operation)

    @cached_property
    def blocking_reason(self) -> str:
        """Why it can't be confirmed now."""
        return checklist.blocking_reason(self.operation) if self._asked else ""

    @property
    def approval(self) -> bool:
        return self._asked and lifecycle.needs_approval(self.operation)

    @property
    def danger(self) -> bool:
        return self._asked and self.operation.effective_risk() in {Risk.DELETE, Risk.OUTSIDE}

    @property
    def fixed_batch(self) -> bool:
        return self.operation is not None and self.operation.batch_size is not None


def _spread(sample: list[dict[str, Any]], limit: int = 50) -> list[dict[str, Any]]:
    """At most `limit` of the sample, of every kind some, in key order."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in sample:
        kinds.setdefault((entry["outcome"], entry["reason"]), []).append(entry)
    each = max(1, limit // max(len(kinds), 1))
    chosen = {id(entry) for kind in kinds.values() for entry in kind[:each]}
    return [entry for entry in sample if id(entry) in chosen]


def plan_differences(old: Run, new: Run) -> Table:
    """What moved between two plans of the same thing."""
    before, after = PlanPage(old), PlanPage(new)
    lines = [
        (after.figure_label(name), old.before.get(name), value)
        for name, value in new.before.items()
        if name not in after.operation.volatile_statistics
    ]
    if before.counted and after.counted:
        lines += [(outcome_label(name), before.counts[name], after.counts[name]) for name in OUTCOMES]
    rows = [[label, format_number_or_text(was), format_number_or_text(now)] for label, was, now in lines if was != now]
    if not rows:
        rows = [[_("Values of the rows"), _("as planned"), _("changed, same count")]]
    return Table([_("Figure"), _("Planned"), _("Now")], rows)


# --- the run ------------------------------------------------------------------------------------------------


class RunPage(_Page):
    """A run from its confirmation on."""

    asks_server = False

    def __init__(self, run: Run, user: AbstractBaseUser) -> None:
        super().__init__(run)
        self.user = user

    @property
    def live(self) -> bool:
        return not self.run.ended

    @cached_property
    def state(self) -> str:
        """Changes whenever the buttons do."""
        return f"{self.run.status}-{self.run.request}"

    @property
    def percent(self) -> str:
        if self.run.status == Status.SUCCEEDED:
            return "100"
        return f"{min(100.0, 100 * self.run.seen / self.run.total):.2f}" if self.run.total else "0"

    @property
    def done(self) -> str:
        values = {"seen": format_number(self.run.seen), "total": format_number(self.run.total)}
        if self.is_check:
            return _("%(seen)s of %(total)s rules") % values
        return _("%(seen)s of %(total)s") % values

    @cached_property
    def _rate(self) -> float:
        """Units per second of the last minute while it runs, of the whole run after."""
        run = self.run
        if run.status != Status.RUNNING:
            return float(run.rows_per_second)
        now = timezone.now()
        recent = [
            (at, sum(units))
            for at, *units in run.batches.order_by("-number").values_list("prepared_at", *OUTCOMES)[:RATE_BATCHES]
            if now - at < timedelta(minutes=1)
        ]
        if not recent:
            return 0.0
        seconds = (now - recent[-1][0]).total_seconds()
        rate: float = sum(units for _at, units in recent) / max(seconds, 0.2)
        return rate

    @property
    def rate(self) -> str:
        return _("%(rate)s rows/s") % {"rate": format_number(round(self._rate))} if self._rate else "–"

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
        return _bar(counts, max(self.run.total, self.run.seen))

    @property
    def figures(self) -> list[tuple[SafeString, str]]:
        return [(swatch(outcome), format_number(getattr(self.run, outcome))) for outcome in OUTCOMES]

    @property
    def outcomes(self) -> Table:
        return self._outcome_table(self.run.reasons, self.run.seen)

    # --- if it does not move, why, since when, and what ends it

    @cached_property
    def status_messages(self) -> list[SafeString | str]:
        run = self.run
        asked = {
            Request.PAUSE: _("A pause is requested. The worker stops after this batch."),
            Request.CANCEL: _("Cancellation is requested. The worker stops after this batch."),
        }
        sentences: list[SafeString | str] = []
        if run.status == Status.RUNNING and run.request:
            sentences.append(asked[Request(run.request)])
        hold = Freeze.objects.order_by("pk").first() if self.live else None
        if hold is not None:
            held = _("All runs are frozen by %(who)s: %(note)s. Run `runs unfreeze` to resume them.")
            sentences.append(held % {"who": hold.who, "note": hold.note})
        elif run.waiting and self.live:
            since = format_html(" ({} {})", _("since"), format_time(run.waiting_since)) if run.waiting_since else ""
            sentences.append(format_html("{}{}{}", _("Waiting: "), run.waiting, since))
        if run.status == Status.RUNNING and lifecycle.is_stale(run):
            sentences.append(
                _("The worker has stopped. Another worker continues the run within two minutes.")
                if run.in_background
                else _("The process has stopped. Repeat the command or select Resume to continue.")
            )
        elif run.status == Status.RUNNING and run.waiting and hold is None:
            sentences.append(_("The run retries automatically."))
        elif run.status == Status.INTERRUPTED:
            sentences.append(
                _("The run was interrupted. It continues within two minutes, or select Resume.")
                if run.in_background
                else _("The run was interrupted. Select Resume or repeat the command to continue.")
            )
        elif run.status == Status.PAUSED:
            sentences.append(_("The run is paused. Select Resume to continue."))
        elif run.status == Status.AWAITING_APPROVAL:
            sentences.append(_("The run waits for a second approver."))
        elif run.status == Status.QUEUED:
            sentences.append(self.worker_missing or _("The run is queued. A worker starts it within seconds."))
        return sentences

    @property
    def actions(self) -> list[Button]:
        """What this person can do now, and nothing else."""
        run, may = self.run, self.user.has_perm  # type: ignore[attr-defined]
        actions = [Button("approve", _("Approve"), "primary")] if self.may_approve else []
        if not may("operations.operate_run"):
            return actions
        if run.status in RESUMABLE or (run.status == Status.RUNNING and lifecycle.is_stale(run)):
            actions.append(Button("resume", _("Resume"), "primary"))
        if run.status in {Status.RUNNING, Status.QUEUED} and not run.request:
            actions.append(Button("pause", _("Pause")))
        if run.status not in ENDED and run.request != Request.CANCEL:
            actions.append(Button("cancel", _("Cancel the run")))
        if run.ended and self.waiting_aside and not self.is_check:
            actions.append(Button("retry", self.retry_label, "primary"))
        if run.undoable and run.ended and self.operation is not None and self.operation.undoable:
            actions.append(Button("undo", _("Plan undo")))
        return actions

    @cached_property
    def may_approve(self) -> bool:
        """Whether this person can approve it now."""
        actor = Actor(self.user.get_username(), "", Trigger.ADMIN, self.user)  # type: ignore[arg-type]
        return self.run.status == Status.AWAITING_APPROVAL and not lifecycle.refusal_to_approve(self.run, actor)

    @property
    def may_reject(self) -> bool:
        """Whether this person can reject it now."""
        may = self.user.has_perm("operations.approve_run")  # type: ignore[attr-defined]
        return may and self.run.status == Status.AWAITING_APPROVAL

    @property
    def rejection(self) -> str:
        """Why it was rejected."""
        reason = self.run.rejection
        return str(Rejection(reason).label) if reason in Rejection.values else reason

    @cached_property
    def replacement(self) -> Run | None:
        """The plan that was made when its rows had changed."""
        return self.run.replacements.order_by("-pk").first()

    @property
    def drift(self) -> Table | None:
        return None if self.replacement is None else plan_differences(self.run, self.replacement)

    @cached_property
    def waiting_aside(self) -> int:
        """Return the number of failed rows that no retry has settled."""
        return self.run.failed_items.filter(retried_by=None).count() if self.run.failed else 0

    @property
    def retry_label(self) -> str:
        return ngettext("Retry %(n)s failed row", "Retry %(n)s failed rows", self.waiting_aside) % {
            "n": format_number(self.waiting_aside)
        }

    # --- after the end

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
                [_("Problem"), _("Meaning"), _("Findings")],
                [[code, reason_label(self.cls, code), format_number(n)] for code, n in self.found.items()],
            )
        rows = [
            [self.figure_label(name), format_number_or_text(before.get(name)), format_number_or_text(value)]
            for name, value in after.items()
        ]
        return Table([_("Figure"), _("Before"), _("After")], rows)

    @property
    def summary(self) -> list[str]:
        return (
            list(self.operation.result_notes(self.run.after)) if self.operation is not None and self.run.after else []
        )

    @property
    def next_step(self) -> tuple[str, str] | None:
        """Address and words of the next useful thing."""
        if not self.run.ended:
            return None
        if self.run.failed:
            return "?tab=failed", _("View failed rows")
        if self.run.changed and any(self.run.batches.values_list("rows", flat=True)[:1]):
            return "?tab=changes", _("View changes")
        return (self.rows_url, _("View rows")) if self.rows_url else None

    # --- tabs

    def tabs(self, current: str) -> list[dict[str, Any]]:
        """Counts only once they stand still: the live part of the page has them until then."""
        run = self.run
        if self.is_check:
            found: list[tuple[str, str, int | None]] = [
                ("findings", _("Findings"), sum(self.found.values())),
                ("events", _("Events"), None),
                ("batches", _("Rules"), run.batches_done),
                ("failed", _("Failed"), run.failed),
                ("report", _("Report"), None),
            ]
            return self._linked(found, current)
        found = [
            ("events", _("Events"), None),
            ("batches", _("Batches"), run.batches_done),
            ("failed", _("Failed"), run.failed),
            ("left", _("Unchanged"), run.invalid + run.skipped),
            ("changes", _("Changes"), run.changed),
            ("plan", _("Plan"), None),
            ("report", _("Report"), None),
        ]
        return self._linked(found, current)

    def _linked(self, found: list[tuple[str, str, int | None]], current: str) -> list[dict[str, Any]]:
        return [
            {
                "title": title if count is None or self.live else f"{title} ({format_number(count)})",
                "link": f"?tab={name}#tabs",
                "active": name == current,
            }
            for name, title, count in found
        ]

    @cached_property
    def found(self) -> dict[str, int]:
        """Code → findings of this scan."""
        return {code: count for code, count in self.run.after.items() if code not in findings.MOVES}

    @property
    def moves(self) -> str:
        """How the findings moved since the previous scan."""
        if not self.is_check or not self.run.after:
            return ""
        return _("%(new)s new, %(persisting)s persisting, %(resolved)s resolved since the previous scan.") % {
            name: format_number(self.run.after[name]) for name in findings.MOVES
        }

    @property
    def findings(self) -> Table:
        """The first of what this scan found, most urgent first."""
        rows = Finding.objects.filter(last_run=self.run).order_by("priority", "code", "pk")[:SHOWN_ROWS]
        return Table(
            [_("Problem"), _("Subject"), _("Priority"), _("Detail"), _("Since")],
            [
                [
                    one.code,
                    finding_link(one),
                    one.get_priority_display(),
                    finding_words(one),
                    format_time(one.found_at),
                ]
                for one in rows
            ],
        )

    @property
    def repairs(self) -> list[Described]:
        """The operations that repair what was found."""
        names = getattr(self.cls, "repairs", {})
        wanted = dict.fromkeys(names[code] for code in self.found if code in names)
        return [described(cls) for name, cls in registry.operations().items() if name in wanted]

    @property
    def events(self) -> Table:
        rows = [
            [format_time(event.at), verb_label(event.verb), event.who, event.origin, detail_words(event.detail)]
            for event in self.run.events.order_by("-pk")[:SHOWN_ROWS]
        ]
        return Table([_("When"), _("What"), _("Who"), _("From"), _("Detail")], rows)

    @cached_property
    def _batches(self) -> list[Batch]:
        return list(self.run.batches.defer("before_image").order_by("-number")[:SHOWN_BATCHES])

    @property
    def batches(self) -> Table:
        rows = [
            [
                format_html('<a class="row-link" href="?tab=changes&amp;batch={0}#tabs">{0}</a>', batch.number),
                format_number(batch.changed + batch.skipped + batch.invalid + batch.failed),
                format_number(batch.rows),
                duration_milliseconds(batch.seconds),
                format_time(batch.prepared_at),
            ]
            for batch in self._batches
        ]
        return Table([_("Batch"), _("Rows read"), _("Rows written"), _("Duration"), _("At")], rows)

    @property
    def charts(self) -> list[tuple[str, str]]:
        """Title and data, for the theme's chart: size and duration of the newest batches."""
        batches = self._batches[::-1]
        numbers = [batch.number for batch in batches]
        sizes = [batch.changed + batch.skipped + batch.invalid + batch.failed for batch in batches]
        times = [round(batch.seconds * 1000, 1) for batch in batches]
        return [
            (_("Rows per batch"), _chart(numbers, _("rows"), sizes, "var(--color-primary-600)")),
            (
                _("Milliseconds per batch"),
                _chart(numbers, _("milliseconds"), times, "var(--color-orange-500)"),
            ),
        ]

    @property
    def failed(self) -> list[tuple[str, Table]]:
        """Reason with its count, and the first of its units."""
        units = self.run.failed_items
        groups = units.values_list("reason").annotate(count=Count("pk")).order_by("-count")
        return [
            (
                f"{reason} ({format_number(count)})",
                Table(
                    [_("Row"), _("Error"), _("State")],
                    [
                        [
                            row_link(self.run, next(iter(self.run.writes), ""), unit.key, unit.label),
                            unit.error,
                            _("settled by run %(run)d") % {"run": unit.retried_by_id}
                            if unit.retried_by_id
                            else _("waits"),
                        ]
                        for unit in units.filter(reason=reason).order_by("pk")[:SHOWN_ROWS]
                    ],
                ),
            )
            for reason, count in groups
        ]

    @property
    def left(self) -> list[tuple[str, str, int, list[Any]]]:
        """Outcome, reason, units, and the first labels, of units that stayed as they were."""
        labels: dict[tuple[str, str], list[str]] = {}
        batches = self.run.batches.exclude(skipped=0, invalid=0).order_by("number")[:SEARCHED_BATCHES]
        for batch in batches.iterator(chunk_size=5):
            for outcome, reasons in batch.unchanged.items():
                for reason, found in reasons.items():
                    labels.setdefault((outcome, reason), []).extend(found)
            if labels and all(len(found) >= SHOWN_ROWS for found in labels.values()):
                break
        table = next(iter(self.run.writes), "")
        return [
            (
                swatch(outcome),
                reason_label(self.operation, reason),
                count,
                [row_link(self.run, table, label, label) for label in labels.get((outcome, reason), [])[:SHOWN_ROWS]],
            )
            for outcome in ("invalid", "skipped")
            for reason, count in self.run.reasons.get(outcome, {}).items()
            if count
        ]

    @property
    def report(self) -> list[tuple[str, Any]]:
        """When, who, why, where and how: what a record of the run needs first."""
        run = self.run
        return [
            (_("Run"), run.pk),
            (_("Operation"), f"{self.title} ({run.operation})"),
            (_("Problem"), run.note or "–"),
            (_("Database"), self.database),
            (_("Selection"), self._selected),
            (_("Parameters"), ", ".join(f"{name}: {value}" for name, value in self.parameters) or "–"),
            (
                _("Rows"),
                ", ".join(f"{table} {format_number(n)}" for table, n in run.plan.get("rows", {}).items()) or "–",
            ),
            (_("Status"), self.status),
            (_("Started by"), f"{run.started_by} ({run.get_trigger_display()})"),
            *self._agreed,
            (_("Plan"), copy_button(run.digest)),
            (_("Code version"), run.code_version),
            (_("Created"), format_time(run.created_at)),
            (_("Started"), format_time(run.started_at)),
            (_("Ended"), format_time(run.finished_at)),
            (_("Worked"), self.took),
            (_("Rate"), self.rate),
            (_("Batches"), format_number(run.batches_done)),
            (_("In scope"), format_number(run.total)),
        ]

    @property
    def _selected(self) -> str:
        """What was chosen, with the first of its keys."""
        keys = self.run.selection.get("keys")
        if not keys:
            return self.selection
        return f"{self.selection}: {', '.join(map(str, keys[:SHOWN_KEYS]))}{'…' if len(keys) > SHOWN_KEYS else ''}"

    @cached_property
    def _agreed(self) -> list[tuple[str, Any]]:
        """Who confirmed the checklist, and who approved."""
        found: list[tuple[str, Any]] = []
        for event in self.run.events.filter(verb__in=("confirmed", "approved")).order_by("pk"):
            items = [
                str(checklist.ITEMS[code].title)
                for code in event.detail.get("checklist", ())
                if code in checklist.ITEMS
            ]
            if event.verb == "approved":
                found.append((_("Approved by"), event.who))
            elif items:
                found.append((_("Checklist"), f"{event.who}: {', '.join(items)}"))
        return found

    @property
    def problems(self) -> list[SafeString | str]:
        """What went wrong, what stayed as it was, and what people noted."""
        run = self.run
        found: list[SafeString | str] = [run.error] if run.error else []
        found += [
            format_html("{}: {} ({})", swatch(outcome), reason_label(self.operation, reason), format_number(count))
            for outcome in ("skipped", "invalid", "failed")
            for reason, count in run.reasons.get(outcome, {}).items()
            if count
        ]
        found += [
            format_html("{} · {}: {}", format_time(event.at), event.who, event.detail.get("text", ""))
            for event in run.events.filter(verb="note").order_by("pk")
        ]
        return found


class FreezePage:
    """The state of the freeze, the runs that it stops, and the newest backups."""

    @cached_property
    def hold(self) -> Freeze | None:
        return Freeze.objects.order_by("pk").first()

    @cached_property
    def unfinished(self) -> list[Run]:
        """Runs that it stops, newest first."""
        runs = Run.objects.exclude(status__in=(*ENDED, Status.PLANNED)).defer("plan", "selection", "reasons")
        return list(runs.order_by("-pk")[:SHOWN_ROWS])

    @property
    def told(self) -> str:
        """Return where alerts are sent."""
        names = ", ".join(str(channel.label) for channel in notifications.channels())
        if not names:
            return _("No alerts will be sent: ALERT_EMAILS and ALERT_WEBHOOK_URL are not set.")
        return _("Alerts are sent by %(channels)s.") % {"channels": names}

    @cached_property
    def backups(self) -> list[tuple[str, str, str]]:
        """Store, its title, and its newest verified backup; empty where the console makes none."""
        if BACKUP not in registry.operations():
            return []
        return [(store.alias, store.title, checklist.backup_words(store)) for store in all_stores()]


def _check_of(finding: Finding) -> Check | None:
    """The check that found it, None where its code is gone. It is asked for words only, so any store will do."""
    cls = registry.operations().get(finding.operation)
    return cls(Store(finding.store, finding.store)) if cls is not None and issubclass(cls, Check) else None


def finding_place(finding: Finding) -> tuple[str, Key] | None:
    """Table and key of the row that a finding is about; None where the check's code is gone."""
    check = _check_of(finding)
    return None if check is None else check.target(findings.found_of(finding))


def finding_link(finding: Finding) -> SafeString | str:
    """The row that a finding is about, where it has a page."""
    place = finding_place(finding)
    return copy_button(finding.subject) if place is None else row_link(finding.last_run, *place, finding.subject)


def finding_words(finding: Finding) -> str:
    """What is wrong, in the reader's language."""
    check = _check_of(finding)
    return finding.code if check is None else check.sentence(findings.found_of(finding))


class Changes:
    """What a run wrote, a batch at a time or the rows of one key."""

    def __init__(self, page: RunPage, *, key: str = "", batch: int | None = None) -> None:
        self.page, self.key = page, key.strip()
        self.numbers = list(
            page.run.batches.filter(rows__gt=0, committed=True).order_by("number").values_list("number", "cursor")
        )
        self.number = batch
        if not self.key and self.numbers:
            known = [number for number, _cursor in self.numbers]
            place = min(bisect.bisect_left(known, batch or 0), len(known) - 1)
            self.number = known[place]
            self.previous = known[place - 1] if place else None
            self.following = known[place + 1] if place + 1 < len(known) else None

    @property
    def incomplete(self) -> bool:
        """Whether the search did not look at every batch."""
        return bool(self.key) and not self._by_cursor and len(self.numbers) > SEARCHED_BATCHES

    @cached_property
    def _by_cursor(self) -> list[int]:
        """The batches that can hold the key, where keys and cursors compare."""
        cursors = [cursor for _number, cursor in self.numbers]
        try:
            wanted: Any = int(self.key) if cursors and isinstance(cursors[0], int) else self.key
            place = bisect.bisect_left(cursors, wanted)
        except (ValueError, TypeError):
            return []
        return [number for number, _cursor in self.numbers[place : place + 1]]

    def _found(self) -> Iterator[tuple[int, Any, Any]]:
        numbers: Iterable[int] = [self.number] if self.number and not self.key else []
        if self.key:
            # The key may be of another table than the units': the first batches are searched as well.
            numbers = dict.fromkeys([*self._by_cursor, *(n for n, _c in self.numbers[:SEARCHED_BATCHES])])
        for number in numbers:
            batch = self.page.run.batches.get(number=number)
            for write in batch.writes:
                for row in write.rows:
                    if not self.key or str(row[0]) == self.key:
                        yield number, write, row

    @cached_property
    def table(self) -> Table:
        rows = []
        for number, write, (key, old, new) in self._found():
            before = None if old is None else dict(zip(write.columns, old, strict=True))
            after = None if new is None else dict(zip(write.columns, new, strict=True))
            rows.append(
                [
                    row_link(self.page.run, write.table, key, str(key)),
                    write.table,
                    _changes(before, after),
                    number,
                ]
            )
            if len(rows) >= SHOWN_ROWS:
                break
        return Table([_("Row"), _("Table"), _("Before → after"), _("Batch")], rows)


def _chart(labels: list[int], unit: str, values: list[float] | list[int], color: str) -> str:
    dataset = {"label": unit, "data": values, "backgroundColor": color, "displayYAxis": True}
    return orjson.dumps({"labels": labels, "datasets": [dataset]}).decode()


def duration_milliseconds(seconds: float) -> str:
    return _("%(n)s ms") % {"n": format_number(seconds * 1000, 1)} if seconds < 1 else duration(seconds)


def detail_words(detail: dict[str, Any]) -> SafeString | str:
    """An event's detail in one line, without what is empty."""
    parts = [
        (name.replace("_", " "), _plain(value)) for name, value in detail.items() if value not in ("", None, {}, [])
    ]
    return format_html('<span class="detail">{}</span>', format_html_join(" · ", "{}: {}", parts)) if parts else ""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(_plain(item)) for item in value)
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, str) and len(value) == 64 and value.isalnum():
        return value[:12]
    return str(value) if isinstance(value, Promise) else value
