"""The tabs of the page of a run: findings, events, batches, failed and unchanged rows, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from django.db.models import Count
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from opsconsole.console.page_parts import (
    SHOWN_ROWS,
    Table,
    detail_words,
    finding_link,
    finding_title,
    finding_words,
    row_link,
    swatch,
)
from opsconsole.console.plan_page import PlanPage
from opsconsole.console.run_page import RunPage
from opsconsole.engine import checklist, wording
from opsconsole.engine.labels import reason_label, verb_label
from opsconsole.engine.models import Batch, Finding
from opsconsole.engine.operation import Priority
from opsconsole.formatting import copy_button, duration, format_number, format_time, labelled, listed

SHOWN_BATCHES = 60
SHOWN_KEYS = 20
SEARCHED_BATCHES = 50
TABS = ("events", "batches", "failed", "unchanged", "changes", "plan", "report")
CHECK_TABS = ("findings", "events", "batches", "failed", "report")


@dataclass(frozen=True)
class UnchangedRows:
    """The rows that remained unchanged for one reason, with links to the first of them."""

    outcome: SafeString
    reason: str
    count: int
    links: list[Any]


class RunTabs:
    """The tabs below a run. `current` is the code of the open one."""

    def __init__(self, page: RunPage, wanted: str, outcome: str = "", reason: str = "") -> None:
        self.page, self.run = page, page.run
        self.outcome, self.reason = outcome, reason  # the shown rows, of the tabs of failed and unchanged rows
        self.codes = CHECK_TABS if page.is_check else TABS
        self.current = wanted if wanted in self.codes else self.codes[0]

    @property
    def links(self) -> list[dict[str, Any]]:
        """The titles with counts. A run in progress has its counts in the live part of the page only."""
        titles = {
            "findings": _("Findings"),
            "events": _("Events"),
            "batches": _("Rules") if self.page.is_check else _("Batches"),
            "failed": _("Failed"),
            "unchanged": _("Unchanged"),
            "changes": _("Changes"),
            "plan": _("Plan"),
            "report": _("Report"),
        }
        counts = {
            "findings": sum(self.page.last_seen.values()) if self.page.is_check else 0,
            "batches": self.run.batches_done,
            "failed": self.run.failed,
            "unchanged": self.run.invalid + self.run.skipped,
            "changes": self.page.written,
        }
        with_counts = {} if self.page.live else counts
        return [
            {
                "title": f"{titles[code]} ({format_number(with_counts[code])})"
                if code in with_counts
                else titles[code],
                "link": f"?tab={code}#tabs",
                "active": code == self.current,
            }
            for code in self.codes
        ]

    @cached_property
    def plan(self) -> PlanPage:
        return PlanPage(self.run)

    @cached_property
    def findings(self) -> Table:
        """The first findings of this scan by priority."""
        found: list[Finding] = []
        for priority in Priority.values:  # each in the order of an index
            of_priority = self.run.findings.filter(priority=priority).order_by("code", "pk")
            found += of_priority[: SHOWN_ROWS - len(found)]
        rows = [
            [
                finding_title(self.page.cls, one.code),
                finding_link(one),
                one.get_priority_display(),
                finding_words(one),
                format_time(one.found_at),
            ]
            for one in found
        ]
        return Table([_("Problem"), _("Subject"), _("Priority"), _("Detail"), _("Since")], rows)

    @property
    def events(self) -> Table:
        rows = [
            [format_time(event.at), verb_label(event.verb), event.who, event.origin, detail_words(event)]
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
                format_number(_rows_read(batch)),
                format_number(batch.rows),
                _milliseconds(batch.seconds),
                format_time(batch.prepared_at),
            ]
            for batch in self._batches
        ]
        return Table([_("Batch"), _("Rows read"), _("Rows written"), _("Duration"), _("At")], rows)

    @property
    def charts(self) -> list[tuple[str, str]]:
        """Title and data of the charts: size and duration of the newest batches."""
        batches = self._batches[::-1]
        numbers = [batch.number for batch in batches]
        sizes = [_rows_read(batch) for batch in batches]
        times = [round(batch.seconds * 1000, 1) for batch in batches]
        return [
            (_("Rows per batch"), _chart(numbers, _("rows"), sizes, "var(--color-primary-600)")),
            (_("Milliseconds per batch"), _chart(numbers, _("milliseconds"), times, "var(--color-orange-500)")),
        ]

    @property
    def failed(self) -> list[tuple[str, Table]]:
        """Each reason with its count, and a table of its first rows."""
        items = self.run.failed_items.all()
        if self.reason:
            items = items.filter(reason=self.reason)
        groups = items.values_list("reason").annotate(count=Count("pk")).order_by("-count")
        return [
            (f"{reason_label(self.page.operation, reason)} ({format_number(count)})", self._failed(reason))
            for reason, count in groups
        ]

    def _failed(self, reason: str) -> Table:
        table = next(iter(self.run.writes), "")
        rows = [
            [
                row_link(self.run, table, item.key, item.label),
                item.error,
                _("settled by run %(run)d") % {"run": item.retried_by_id} if item.retried_by_id else _("open"),
            ]
            for item in self.run.failed_items.filter(reason=reason).order_by("pk")[:SHOWN_ROWS]
        ]
        return Table([_("Row"), _("Error"), _("State")], rows)

    @property
    def unchanged(self) -> list[UnchangedRows]:
        """The invalid and skipped rows by reason."""
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
            UnchangedRows(
                swatch(one.outcome),
                one.words,
                one.count,
                [
                    row_link(self.run, table, label, label)
                    for label in labels.get((one.outcome, one.reason), [])[:SHOWN_ROWS]
                ],
            )
            for one in wording.reason_counts(self.page.operation, self.run.reasons, ("invalid", "skipped"))
            if self.outcome in {"", one.outcome} and self.reason in {"", one.reason}
        ]

    # --- the report

    @property
    def report(self) -> list[tuple[str, Any]]:
        """The facts of the run for a printed record."""
        run, page = self.run, self.page
        rows = ", ".join(f"{table} {format_number(count)}" for table, count in run.plan.get("rows", {}).items())
        return [
            (_("Run"), run.pk),
            (_("Operation"), f"{page.title} ({run.operation})"),
            (_("Problem"), run.note or "–"),
            (_("Database"), page.database),
            (_("Selection"), self._selection),
            (_("Parameters"), ", ".join(f"{name}: {value}" for name, value in page.parameters) or "–"),
            (_("Rows"), rows or "–"),
            (_("Status"), page.status),
            (_("Started by"), f"{run.started_by} ({run.get_trigger_display()})"),
            *self._confirmations(),
            (_("Plan"), copy_button(run.digest)),
            (_("Code version"), run.code_version),
            (_("Created"), format_time(run.created_at)),
            (_("Started"), format_time(run.started_at)),
            (_("Ended"), format_time(run.finished_at)),
            (_("Elapsed"), page.took),
            (_("Rate"), page.rate),
            (_("Batches"), format_number(run.batches_done)),
            *([(_("Shards"), format_number(run.shard_count))] if run.shard_count > 1 else ()),
            (_("In scope"), format_number(run.total)),
        ]

    @property
    def _selection(self) -> str:
        """The selection with the first of its keys."""
        keys: Sequence[Any] = self.run.selection.get("keys") or ()
        if not keys:
            return self.page.selection
        more = "…" if len(keys) > SHOWN_KEYS else ""
        return f"{self.page.selection}: {', '.join(map(str, keys[:SHOWN_KEYS]))}{more}"

    def _confirmations(self) -> Iterator[tuple[str, str]]:
        """Yield the users who answered the checklist and who approved the run."""
        for event in self.run.events.filter(verb__in=("confirmed", "approved")).order_by("pk"):
            answered = event.detail.get("checklist", ())
            items = [str(checklist.ITEMS[code].title) for code in answered if code in checklist.ITEMS]
            if event.verb == "approved":
                yield _("Approved by"), event.who
            elif items:
                yield _("Checklist"), labelled(event.who, listed(items))

    @property
    def problems(self) -> list[SafeString | str]:
        """The error of the run, the rows that did not change, and the notes of users."""
        problems: list[SafeString | str] = [self.run.error] if self.run.error else []
        problems += [
            labelled(swatch(one.outcome), f"{one.words} ({format_number(one.count)})")
            for one in wording.reason_counts(self.page.operation, self.run.reasons, ("skipped", "invalid", "failed"))
        ]
        problems += [
            format_html("{} · {}", format_time(event.at), labelled(event.who, event.detail.get("text", "")))
            for event in self.run.events.filter(verb="note").order_by("pk")
        ]
        return problems


def _rows_read(batch: Batch) -> int:
    return batch.changed + batch.skipped + batch.invalid + batch.failed


def _chart(labels: list[int], unit: str, values: list[float] | list[int], color: str) -> str:
    dataset = {"label": unit, "data": values, "backgroundColor": color, "displayYAxis": True}
    return orjson.dumps({"labels": labels, "datasets": [dataset]}).decode()


def _milliseconds(seconds: float) -> str:
    return _("%(n)s ms") % {"n": format_number(seconds * 1000, 1)} if seconds < 1 else duration(seconds)
