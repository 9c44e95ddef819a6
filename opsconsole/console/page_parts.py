"""Parts that the pages of plans and runs share: tables, buttons, links, values before and after."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from opsconsole.engine import findings, lifecycle, queue, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.labels import STATUS_VARIANTS, operation_title, outcome_label, reason_label
from opsconsole.engine.models import Finding, Run
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import OUTCOMES, PlanRefused
from opsconsole.engine.registry import InvalidParameters, UnknownOperation
from opsconsole.engine.selection import Selection
from opsconsole.formatting import (
    copy_button,
    difference,
    duration,
    format_number,
)
from opsconsole.stores.router import store_of as store_of_model
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store, StoreUnavailable

REFUSALS = (RunRefused, PlanRefused, UnknownOperation, InvalidParameters, StoreUnavailable)
SHOWN_ROWS = 100


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


class Page:
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
        """The list that shows the rows, narrowed as the selection was."""
        table = next(iter(self.run.writes), "")
        model = admin_models().get((self.run.store, table))
        if model is None or self.run.attached_path:
            return ""
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        return f"{url}?{self.run.selection['query']}" if self.run.selection.get("query") else url

    @property
    def parameters(self) -> list[tuple[str, Any]]:
        """Label and value of each parameter."""
        form_fields = self.operation.Params.base_fields if self.operation is not None else {}
        return [
            (str(form_fields[name].label or name) if name in form_fields else name, plain_value(value))
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
                            share(count, whole),
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


def outcome_bar(counts: dict[str, int], whole: int) -> list[dict[str, str]]:
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


def share(part: int, whole: int) -> str:
    if 0 < part < whole / 1000:
        return _("below 0.1 %")
    return _("%(percent)s %%") % {"percent": format_number(100 * part / whole, 1)} if whole else "–"


def admin_models() -> dict[tuple[str, str], Any]:
    return {(store_of_model(model), model._meta.db_table): model for model in admin.site._registry}


def row_link(run: Run, table: str, key: Key, text: str) -> SafeString | str:
    """A row's name, linked to its page where it has one. A file outside the console has none."""
    model = None if run.attached_path else admin_models().get((run.store, table))
    if model is None:
        return copy_button(text)
    try:
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[quote(key)])
    except NoReverseMatch:
        return copy_button(text)
    return format_html('<a href="{}" class="row-link">{}</a>', url, text)


def value_changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> SafeString:
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


def row_changes(row: dict[str, Any], *, named: bool) -> SafeString:
    """One of the rows of a row; `named` where it has several."""
    changes = value_changes(row["before"], row["after"])
    return format_html("<strong>{} {}</strong> {}", row["table"], row["key"], changes) if named else changes


def _clip(value: Any) -> Any:
    return f"{value[:500]}…" if isinstance(value, str) and len(value) > 500 else value


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


def detail_words(detail: dict[str, Any]) -> SafeString | str:
    """An event's detail in one line, without what is empty."""
    parts = [
        (name.replace("_", " "), plain_value(value))
        for name, value in detail.items()
        if value not in ("", None, {}, [])
    ]
    return format_html('<span class="detail">{}</span>', format_html_join(" · ", "{}: {}", parts)) if parts else ""


def plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(plain_value(item)) for item in value)
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, str) and len(value) == 64 and value.isalnum():
        return value[:12]
    return str(value) if isinstance(value, Promise) else value
