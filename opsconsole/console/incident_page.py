"""The page of an incident: evidence, the recommended repair and the others, the timeline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from django.contrib.auth.models import User
from django.db.models import Count
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.page_parts import (
    Described,
    described,
    finding_link,
    finding_words,
    list_url,
    rows_link,
    value_changes,
)
from opsconsole.engine import incidents, registry, repairs
from opsconsole.engine.checks import Check
from opsconsole.engine.labels import INCIDENT_LABELS, reason_label, verb_label
from opsconsole.engine.lifecycle import needs_approval, needs_typing
from opsconsole.engine.models import Finding, Incident, IncidentState, Run
from opsconsole.engine.operation import Risk
from opsconsole.engine.repairs import Repair
from opsconsole.formatting import duration, format_number, format_time, labelled
from opsconsole.stores.platforms import store_title

SHORT_SAMPLE = 2_000  # characters of HTML that are shown at once
SHOWN_SAMPLE = 5  # rows before and after
VARIANTS = {"immediate": "danger", "planned": "warning", "periodic": "info"}
STATE_VARIANTS = {
    IncidentState.OPEN: "danger",
    IncidentState.ACKNOWLEDGED: "warning",
    IncidentState.SNOOZED: "default",
    IncidentState.IGNORED: "default",
    IncidentState.RESOLVED: "success",
}


class Evidence(NamedTuple):
    """A figure of an incident, with the link to exactly its rows."""

    label: str
    figure: int
    link: str


class ShownRepair(NamedTuple):
    """A repair as the page shows it."""

    name: str
    label: str
    operation: Described
    refusal: str
    deletes: bool
    is_direct: bool  # a click executes it; otherwise it leads to the plan
    effect: Sequence[str]  # what it does, in a few words each
    outcomes: Sequence[tuple[str, str]]  # reason, number of rows
    processed: int  # rows that the outcomes are about, if the incident has more; otherwise 0
    sample: Sequence[tuple[SafeString | str, SafeString | str]]  # row, before and after
    digest: str

    @property
    def is_short(self) -> bool:
        return sum(len(change) for _row, change in self.sample) < SHORT_SAMPLE


def signed_change(incident: Incident) -> str:
    """Return how the count has changed, with its sign; empty if it has not."""
    before, now = incident.previous_count, incident.count
    if before is None or before == now:
        return ""
    return f"{'+' if now > before else '−'}{format_number(abs(now - before))}"


class IncidentPage:
    """Everything on the page of an incident."""

    def __init__(self, incident: Incident, user: Any) -> None:
        self.incident = incident
        self.user = user

    @cached_property
    def title(self) -> str:
        return incidents.title_of(self.incident)

    @property
    def state(self) -> str:
        return str(self.incident.state.label)

    @property
    def state_variant(self) -> str:
        return STATE_VARIANTS[self.incident.state]

    @property
    def priority_variant(self) -> str:
        return VARIANTS.get(self.incident.priority, "info")

    @property
    def store_title(self) -> str:
        return store_title(self.incident.store)

    @property
    def age(self) -> str:
        until = self.incident.resolved_at or timezone.now()
        return duration((until - self.incident.opened_at).total_seconds())

    @property
    def change(self) -> str:
        return signed_change(self.incident)

    @property
    def progress(self) -> dict[str, Any] | None:
        """Return the done part of a whole, where the cause reports one."""
        done, total = self.incident.data.get("done"), self.incident.data.get("total")
        if not isinstance(done, int) or not isinstance(total, int) or not total:
            return None
        return {"done": done, "total": total, "percent": f"{100 * done / total:.1f}"}

    @cached_property
    def evidence(self) -> list[Evidence]:
        """Return the figures, each with a link to its rows."""
        incident = self.incident
        source = registry.operations().get(incident.source)
        if incident.is_count:
            link = rows_link(source, incident.store) if source is not None else ""
            return [Evidence(_("rows waiting for a repair"), incident.count, link)]
        rows = Finding.objects.filter(incident=incident, resolved_at=None).order_by("operation", "code")
        shown = {"state": "open", "incident__id__exact": incident.pk}
        return [
            Evidence(
                _code_label(row["operation"], row["code"]),
                row["count"],
                list_url(Finding, **shown, operation=row["operation"], code=row["code"]),
            )
            for row in rows.values("operation", "code").annotate(count=Count("*"))
        ]

    @cached_property
    def sentences(self) -> list[tuple[str, str]]:
        """Return the first findings in words, with the links to their rows."""
        found = Finding.objects.filter(incident=self.incident, resolved_at=None).select_related("last_run")
        first = found.order_by("resolved_at", "operation", "code")[:SHOWN_SAMPLE]  # the order of an index
        return [(finding_link(one), finding_words(one)) for one in first]

    # --- repairs

    @cached_property
    def _repairs(self) -> list[Repair]:
        if self.incident.resolved_at is not None:
            return []
        return repairs.repairs_of(self.incident)

    @property
    def advice(self) -> str:
        """Return what to do, if no repair is possible now."""
        if self.incident.resolved_at is not None or any(repair.possible or repair.waits for repair in self._repairs):
            return ""
        return incidents.advice_for(self.incident)

    @cached_property
    def recommended(self) -> ShownRepair | None:
        repair = repairs.recommended(self._repairs)
        return None if repair is None else self._shown(repair)

    @property
    def others(self) -> list[ShownRepair]:
        best = repairs.recommended(self._repairs)
        return [self._shown(repair) for repair in self._repairs if repair is not best]

    def _shown(self, repair: Repair) -> ShownRepair:
        cls = repair.operation
        return ShownRepair(
            cls.name,
            repair.label,
            described(cls),
            repair.refusal,
            repair.deletes,
            self._is_direct(repair),
            _effect(repair),
            [(label, format_number(count)) for label, count in repair.outcomes],
            0 if repair.is_complete else repair.processed,
            [
                (f"{row['table']} {row['key']}", value_changes(row["before"], row["after"]))
                for entry in repair.sample[:SHOWN_SAMPLE]
                for row in entry["rows"]
            ][: 2 * SHOWN_SAMPLE],
            repair.digest,
        )

    def _is_direct(self, repair: Repair) -> bool:
        if not repair.possible or not repair.digest:
            return False
        operation = repairs.operation_for(self.incident, repair.operation)
        return operation.effective_risk() in {Risk.FILL, Risk.CHANGE} and not (
            needs_typing(operation) or needs_approval(operation) or operation.requires_note
        )

    @cached_property
    def next_steps(self) -> list[Incident]:
        """Return other open incidents about the same row."""
        return incidents.others_of_same_row(self.incident)

    # --- the record

    @cached_property
    def timeline(self) -> list[tuple[datetime, str]]:
        return [(entry["at"], _entry(entry)) for entry in incidents.timeline(self.incident)]

    @cached_property
    def runs(self) -> list[Run]:
        return list(Run.objects.filter(incident=self.incident).order_by("-pk").without_documents())

    @property
    def owners(self) -> list[User]:
        return list(User.objects.filter(is_active=True, is_staff=True).order_by("username"))

    @property
    def may_handle(self) -> bool:
        return bool(self.user.has_perm("operations.handle_incident"))

    @property
    def may_operate(self) -> bool:
        return bool(self.user.has_perm("operations.operate_run"))


def _code_label(operation: str, code: str) -> str:
    cls = registry.operations().get(operation)
    if cls is None or not issubclass(cls, Check):
        return code
    label = reason_label(cls, code)
    return code.replace("_", " ") if "%(" in label else label


def _effect(repair: Repair) -> list[str]:
    if not repair.possible:
        return []
    changed, deleted = repair.rows - repair.deleted, repair.deleted
    parts = []
    if changed and repair.is_complete:
        parts.append(ngettext("Changes %(count)s row", "Changes %(count)s rows", changed) % _count(changed))
    elif changed:
        text = ngettext("Changes at least %(count)s row", "Changes at least %(count)s rows", changed)
        parts.append(text % _count(changed))
    if not deleted:
        parts.append(_("Deletes nothing"))
    elif repair.is_complete:
        parts.append(ngettext("Deletes %(count)s row", "Deletes %(count)s rows", deleted) % _count(deleted))
    else:
        text = ngettext("Deletes at least %(count)s row", "Deletes at least %(count)s rows", deleted)
        parts.append(text % _count(deleted))
    if repair.operation.risk == Risk.EXTERNAL:
        parts = [_("Acts outside the store")]
    parts.append(_("Can be undone") if repair.operation.undoable else _("Cannot be undone"))
    return parts


def _count(rows: int) -> dict[str, str]:
    return {"count": format_number(rows)}


def _entry(entry: dict[str, Any]) -> str:
    """Return an entry of the timeline as a sentence."""
    words: Any = INCIDENT_LABELS.get(entry["event"]) or verb_label(entry["event"])
    if entry["event"].startswith("incident_"):
        detail = entry["detail"]
        value = detail.get("text") or detail.get("owner") or detail.get("link")
        if "until_grows" in detail:
            value = f"{detail['until_grows']} %"
        if "until" in detail:
            value = format_time(datetime.fromisoformat(detail["until"]))
        words = INCIDENT_LABELS[entry["event"]]
        text = format_html("{} {}", entry["who"], words)
        return labelled(text, value) if value else text
    if "count" in entry:
        words = f"{words} ({format_number(entry['count'])})" if entry["count"] else words
    if entry.get("run"):
        link = format_html(
            '<a class="text-link" href="{}">{}</a>', reverse("run", args=[entry["run"]]), _run_name(entry["run"])
        )
        return format_html("{} · {}{}", words, link, f" · {entry['who']}" if entry.get("who") else "")
    return str(words)


def _run_name(number: int) -> str:
    return _("run %(number)d") % {"number": number}
