"""The page of a plan: what would change, what would not, and what its confirmation requires."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import orjson
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.page_parts import REFUSALS, Page, Table, outcome_bar, row_changes, row_link, swatch
from opsconsole.engine import checklist, lifecycle
from opsconsole.engine.labels import outcome_label, reason_label
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Risk
from opsconsole.engine.planner import OUTCOMES, advice
from opsconsole.formatting import (
    duration,
    duration_range,
    format_number,
    format_number_or_text,
)


class PlanPage(Page):
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
        """Rows that would change, as far as they are counted."""
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
        return outcome_bar(self.counts, self.run.total if not self.counted else max(self.seen, 1))

    @property
    def outcomes(self) -> Table:
        return self._outcome_table(self.reasons, self.seen)

    @property
    def sample(self) -> Table:
        rows = []
        for entry in _spread(self.run.plan["sample"]):
            reason = reason_label(self.operation, entry["reason"]) if entry["reason"] else ""
            changes = [row_changes(row, named=len(entry["rows"]) > 1) for row in entry["rows"]]
            root = self._root(entry)
            rows.append(
                [
                    row_link(self.run, root["table"], root["key"], entry["label"]),
                    format_html('{}<small class="why">{}</small>', swatch(entry["outcome"]), reason),
                    format_html_join("", "{}", ((change,) for change in changes))
                    or entry["detail"]
                    or (_("unchanged") if entry["outcome"] != "changed" else "–"),
                ]
            )
        return Table([_("Row"), _("Outcome"), _("Before → after")], rows)

    def _root(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The row that stands for the row: its own in the first table, where it has one there."""
        rows: list[dict[str, Any]] = entry["rows"]
        table = next(iter(self.run.writes), "")
        own = (row for row in rows if row["table"] == table and row["key"] == entry["key"])
        if self.cls is not None and not self.cls.selectable:
            table = ""  # the row's key is its place in a list
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
