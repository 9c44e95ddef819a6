"""The page of a run: its progress, its result, and the actions that are possible now."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

import orjson
from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.page_parts import (
    SHOWN_ROWS,
    Button,
    Described,
    Page,
    Table,
    described,
    detail_words,
    finding_link,
    finding_words,
    outcome_bar,
    row_link,
    swatch,
)
from opsconsole.console.plan_page import plan_differences
from opsconsole.engine import checklist, findings, lifecycle, registry
from opsconsole.engine.labels import reason_label, verb_label
from opsconsole.engine.leases import is_stale
from opsconsole.engine.lifecycle import Actor
from opsconsole.engine.models import ENDED, RESUMABLE, Batch, Finding, Freeze, Rejection, Request, Run, Status, Trigger
from opsconsole.engine.planner import OUTCOMES
from opsconsole.formatting import (
    copy_button,
    duration,
    duration_range,
    format_number,
    format_number_or_text,
    format_time,
)

SHOWN_BATCHES = 60
SHOWN_KEYS = 20
SEARCHED_BATCHES = 200
RATE_BATCHES = 200


class RunPage(Page):
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
        """Rows per second of the last minute while it runs, of the whole run after."""
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
        return outcome_bar(counts, max(self.run.total, self.run.seen))

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
        if run.status == Status.RUNNING and is_stale(run):
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
        if run.status in RESUMABLE or (run.status == Status.RUNNING and is_stale(run)):
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
        """Reason with its count, and the first of its rows."""
        rows = self.run.failed_items
        groups = rows.values_list("reason").annotate(count=Count("pk")).order_by("-count")
        return [
            (
                f"{reason} ({format_number(count)})",
                Table(
                    [_("Row"), _("Error"), _("State")],
                    [
                        [
                            row_link(self.run, next(iter(self.run.writes), ""), row.key, row.label),
                            row.error,
                            _("settled by run %(run)d") % {"run": row.retried_by_id}
                            if row.retried_by_id
                            else _("waits"),
                        ]
                        for row in rows.filter(reason=reason).order_by("pk")[:SHOWN_ROWS]
                    ],
                ),
            )
            for reason, count in groups
        ]

    @property
    def left(self) -> list[tuple[str, str, int, list[Any]]]:
        """Outcome, reason, rows, and the first labels, of rows that stayed as they were."""
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


def _chart(labels: list[int], unit: str, values: list[float] | list[int], color: str) -> str:
    dataset = {"label": unit, "data": values, "backgroundColor": color, "displayYAxis": True}
    return orjson.dumps({"labels": labels, "datasets": [dataset]}).decode()


def duration_milliseconds(seconds: float) -> str:
    return _("%(n)s ms") % {"n": format_number(seconds * 1000, 1)} if seconds < 1 else duration(seconds)
