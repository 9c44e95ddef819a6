"""The page of a plan: what would change, what would not, and what its confirmation requires."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from opsconsole.console.obstacle_list import ShownObstacle, shown
from opsconsole.console.page_parts import (
    REFUSALS,
    Page,
    Table,
    list_url,
    model_of,
    outcome_bar,
    row_changes,
    row_link,
    rows_link,
    swatch,
)
from opsconsole.engine import checklist, lifecycle, obstacles, stored_plans, wording
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.labels import outcome_label, reason_label
from opsconsole.engine.models import Run, Status, Trigger
from opsconsole.engine.obstacles import Obstacle
from opsconsole.engine.operation import Risk
from opsconsole.engine.planner import OUTCOMES, Plan, advice
from opsconsole.formatting import format_number_or_text

SHOWN_SAMPLE = 50
LISTED_KEYS = 100  # in an address
COMPARED_SECONDS = 0.5  # a plan that took longer to count is compared at the confirmation, not on its page


class PlanPage(Page):
    """A run that is not confirmed yet. `outcome` and `reason` choose the sampled rows to show."""

    def __init__(self, run: Run, user: Any = None, outcome: str = "", reason: str = "") -> None:
        super().__init__(run)
        self.user = user
        self.outcome, self.reason = outcome, reason

    def outcome_url(self, outcome: str, reason: str, count: int) -> str:
        if self.run.status != Status.PLANNED or not any(self._kind(one) == (outcome, reason) for one in self._sampled):
            return ""
        return f"?{urlencode({'outcome': outcome, 'reason': reason})}#sample"

    @staticmethod
    def _kind(entry: Mapping[str, Any]) -> tuple[str, str]:
        return entry["outcome"], entry["reason"]

    @property
    def _sampled(self) -> list[Mapping[str, Any]]:
        return list(self.run.plan.get("sample", ()))

    @property
    def shown_of(self) -> int | None:
        """The number of rows of the chosen outcome; None without a choice."""
        if not self.outcome:
            return None
        return sum(
            one.count
            for one in wording.reason_counts(self.operation, self.words.reasons)
            if (one.outcome, one.reason) == (self.outcome, self.reason)
        )

    @cached_property
    def scope_url(self) -> str:
        """The list of exactly the rows in scope; empty if no list shows them."""
        if self.cls is None or self.run.attached_path or not self.cls.selectable or self.run.parent_id:
            return ""
        keys = self.run.selection.get("keys")
        table = getattr(self.cls, "model", None)  # a delete by hand names its table in its parameters
        model = None if table is None else model_of(self.run.store, table._meta.db_table)
        if model is None:
            return ""
        if keys is not None:
            exact = len(keys) == self.run.total <= LISTED_KEYS
            names = ",".join(map(str, keys))
            is_list = exact and names.count(",") == len(keys) - 1
            return list_url(model, self.run.store, **{f"{model._meta.pk.name}__in": names}) if is_list else ""
        is_everything = not self.run.selection and not self.parameters
        return rows_link(self.cls, self.run.store) if is_everything and self.cls.problem is not None else ""

    @cached_property
    def words(self) -> wording.PlanWording:
        return wording.PlanWording.of_run(self.run, None if self.problem else self.operation)

    @property
    def sentence(self) -> str:
        return self.words.sentence()

    @property
    def action(self) -> str:
        return self.words.action

    @property
    def unchanged(self) -> list[str]:
        return self.words.unchanged()

    @property
    def estimates(self) -> list[str]:
        return self.words.estimates()

    @cached_property
    def counts(self) -> dict[str, int]:
        return self.words.counts

    @property
    def counted(self) -> bool:
        return self.words.counted

    @property
    def changing(self) -> int:
        return self.words.changing

    @property
    def seen(self) -> int:
        return sum(self.counts.values())

    @property
    def bar(self) -> list[dict[str, str]]:
        return outcome_bar(self.counts, max(self.seen, 1) if self.counted else self.run.total, self.operation)

    @property
    def outcomes(self) -> Table:
        return self._outcome_table(self.words.reasons, self.seen)

    @property
    def sample(self) -> Table:
        rows = []
        wanted = [one for one in self._sampled if not self.outcome or self._kind(one) == (self.outcome, self.reason)]
        for entry in _spread(wanted, SHOWN_SAMPLE):
            outcome = entry["outcome"]
            reason = reason_label(self.operation, entry["reason"]) if entry["reason"] else ""
            nothing = "–" if outcome == "changed" else _("unchanged")
            root = self._root(entry)
            rows.append(
                [
                    row_link(self.run, root["table"], root["key"], entry["label"]),
                    format_html('{}<small class="why">{}</small>', swatch(outcome, self.operation), reason),
                    row_changes(entry["rows"]) or entry["detail"] or nothing,
                ]
            )
        return Table([_("Row"), _("Outcome"), _("Before → after")], rows)

    def _root(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the row that a sampled entry links to: the one with its key in the operation's table, else any."""
        rows: Sequence[Mapping[str, Any]] = entry["rows"]
        table = next(iter(self.run.writes), "")
        same = (row for row in rows if row["table"] == table and row["key"] == entry["key"])
        if self.cls is not None and not self.cls.selectable:
            table = ""  # the key is a position in a list
        return next(same, rows[0] if rows else {"table": table, "key": entry["key"]})

    @cached_property
    def advice(self) -> list[str]:
        if self.problem:
            return []
        try:
            return advice(self.planned)
        except REFUSALS as error:
            return [str(error)]

    # --- the confirmation

    @property
    def _can_be_asked(self) -> bool:
        return self.cls is not None and not self.problem

    @property
    def can_be_confirmed(self) -> bool:
        return self.counted and self.changing > 0 and not self.problem

    @property
    def confirmation_phrase(self) -> str:
        """The text that must be typed to confirm; empty where a click is enough."""
        return self.operation.name if self._can_be_asked and lifecycle.needs_typing(self.operation) else ""

    @property
    def type_to_confirm(self) -> str:
        return wording.type_to_confirm(self.confirmation_phrase)

    @cached_property
    def checklist(self) -> list[checklist.ChecklistLine]:
        return [] if self.problem else checklist.lines(self.planned)

    @property
    def asks_checklist(self) -> bool:
        return self._can_be_asked and checklist.is_asked(self.operation)

    @cached_property
    def obstacles(self) -> list[ShownObstacle]:
        """The obstacles to the confirmation now, with the buttons that remove them."""
        return list(map(self._shown, self._found))

    @cached_property
    def _found(self) -> list[Obstacle]:
        return [obstacles.of_error(self.error)] if self.error is not None else list(self._obstacles())

    @cached_property
    def planned(self) -> Plan:
        """The stored plan. Its operation asks the store for its identity."""
        return stored_plans.plan_of(self.run)

    def _obstacles(self) -> Iterable[Obstacle]:
        if self.counted and not self.changing:
            return []
        limit = obstacles.RECOUNTED_ROWS if self.run.plan["seconds"] < COMPARED_SECONDS else 0
        actor = Actor("", "", Trigger.ADMIN, self.user)
        return obstacles.of_confirmation(self.run, self.planned, actor, limit=limit)

    def _shown(self, obstacle: Obstacle) -> ShownObstacle:
        return shown(obstacle, self.run, may_operate=self.may_operate, may_plan=self.may_plan)

    @property
    def waits(self) -> list[ShownObstacle]:
        """The reasons for which a confirmed run would wait."""
        missing = self.worker_missing if self.can_be_confirmed else ""
        return [ShownObstacle(missing)] if missing else []

    @property
    def may_operate(self) -> bool:
        return self.user is not None and bool(self.user.has_perm("operations.operate_run"))

    @property
    def may_plan(self) -> bool:
        """True if the user may replace this plan by a new one."""
        return self.may_operate

    @property
    def approval(self) -> str:
        """The sentence that a second approver is required, or an empty string."""
        return wording.approval_follows() if self._can_be_asked and lifecycle.needs_approval(self.operation) else ""

    @property
    def is_dangerous(self) -> bool:
        return self._can_be_asked and self.operation.effective_risk() in {Risk.DELETE, Risk.EXTERNAL}

    @property
    def fixed_batch(self) -> bool:
        return self.operation is not None and self.operation.batch_size is not None


def _spread(sample: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """Return at most `limit` entries, some of every outcome and reason, in key order."""
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in sample:
        kinds.setdefault((entry["outcome"], entry["reason"]), []).append(entry)
    each = max(1, limit // max(len(kinds), 1))
    chosen = {id(entry) for kind in kinds.values() for entry in kind[:each]}
    return [entry for entry in sample if id(entry) in chosen]


def drift(run: Run) -> Table | None:
    """Return how the data has changed since the plan that `run` replaces; None if it has not."""
    old = run.replaces
    if old is None or old.params != run.params or old.digest == run.digest:
        return None
    before, after = PlanPage(old), PlanPage(run)
    lines = [
        (after.statistic_label(name), old.before.get(name), value)
        for name, value in run.before.items()
        if isinstance(value, int)  # other figures, such as times, change without the rows
    ]
    if before.counted and after.counted:
        lines += [(outcome_label(name, after.operation), before.counts[name], after.counts[name]) for name in OUTCOMES]
    rows = [[label, format_number_or_text(was), format_number_or_text(now)] for label, was, now in lines if was != now]
    if not rows:
        rows = [[_("Values of the rows"), _("as planned"), _("changed, same count")]]
    return Table([_("Figure"), _("Planned"), _("Now")], rows)
