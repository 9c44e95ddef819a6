"""Parts that the pages of plans and runs share: tables, buttons, links, and values before and after a change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import orjson
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.store_urls import urlconf
from opsconsole.engine import checklist, findings, notifications, registry, stored_plans, wording
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.labels import (
    DETAIL_LABELS,
    STATUS_VARIANTS,
    finding_label,
    only_deletes,
    operation_title,
    outcome_label,
)
from opsconsole.engine.models import Event, Finding, Run
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.planner import OUTCOMES, PlanRefused
from opsconsole.engine.registry import InvalidParameters, UnknownOperation
from opsconsole.engine.selection import Selection
from opsconsole.formatting import copy_button, difference, format_number, format_time, labelled, listed, value_text
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import store_of as store_of_model
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store, StoreUnavailable

REFUSALS = (RunRefused, PlanRefused, UnknownOperation, InvalidParameters, StoreUnavailable)
SHOWN_ROWS = 100
SHOWN_LINES = 200  # of a parameter
SHOWN_CHARACTERS = 500
DIGEST_CHARACTERS, SHOWN_DIGEST = 64, 12


class Table(NamedTuple):
    """The form that the theme's table component requires."""

    headers: list[Any]
    rows: list[list[Any]]


class Button(NamedTuple):
    """A button that posts the verb `name`."""

    name: str
    label: str
    variant: str = "default"


class Described(NamedTuple):
    """The properties of an operation that templates need. A template would call the operation's class."""

    name: str
    title: str
    description: str
    risk: str
    targets_run: bool
    is_check: bool
    variant: str  # of the button that plans it, empty for the usual one


def described(cls: type[Operation]) -> Described:
    risk = str(getattr(getattr(cls, "risk", None), "label", ""))
    is_check = issubclass(cls, Check)
    variant = "danger" if getattr(cls, "risk", None) == Risk.DELETE else ""
    return Described(cls.name, str(cls.title), str(cls.description), risk, registry.targets_run(cls), is_check, variant)


class Page:
    """The page of a plan or a run."""

    asks_server = True  # for the identity of its database

    def __init__(self, run: Run) -> None:
        self.run = run
        self.error: Exception | None = None  # why `operation` is None: its code or its store is missing
        self.cls = registry.operations().get(run.operation)
        self.operation: Any = self.cls
        try:
            self.operation = stored_plans.operation_of(run, ask_server=self.asks_server)
        except REFUSALS as error:
            self.error = error

    @property
    def problem(self) -> str:
        return "" if self.error is None else str(self.error)

    @property
    def title(self) -> str:
        return operation_title(self.run.operation)

    @property
    def is_check(self) -> bool:
        return self.cls is not None and issubclass(self.cls, Check)

    @cached_property
    def is_in_series(self) -> bool:
        return self.run.follows_id is not None or self.run.followers.exists()

    @property
    def status(self) -> str:
        return self.run.get_status_display()

    @property
    def variant(self) -> str:
        return STATUS_VARIANTS[self.run.status]

    @property
    def database(self) -> str:
        return _("%(store)s, %(location)s") % {"store": store_title(self.run.store), "location": self.run.location}

    @property
    def selection(self) -> str:
        return Selection(**self.run.selection).words()

    @cached_property
    def rows_url(self) -> str:
        """The list of the rows, filtered as the selection was."""
        table = next(iter(self.run.writes), "")
        model = model_of(self.run.store, table)
        if model is None or self.run.attached_path:
            return ""
        url = list_url(model, self.run.store)
        return f"{url}?{self.run.selection['query']}" if self.run.selection.get("query") else url

    @property
    def parameters(self) -> list[tuple[str, Any]]:
        """Label and value of each parameter that has a value and a visible field."""
        fields = self.operation.Params.base_fields if self.operation is not None else {}
        return [
            (
                with_code(name, (fields[name].label if name in fields else None) or name),
                self._parameter_value(name, value),
            )
            for name, value in self.run.params.items()
            if value is not None and value != "" and not (name in fields and fields[name].widget.is_hidden)
        ]

    def _parameter_value(self, name: str, value: Any) -> Any:
        if name == "store" and isinstance(value, str):
            return with_code(value, store_title(value))
        if isinstance(value, str) and len(lines := value.splitlines()) > SHOWN_LINES:
            more = len(lines) - SHOWN_LINES
            words = ngettext("… and %(count)s more line", "… and %(count)s more lines", more)
            value = "\n".join([*lines[:SHOWN_LINES], words % {"count": format_number(more)}])
        return plain_value(value)

    def statistic_label(self, name: str) -> str:
        return wording.statistic_label(self.operation, name)

    def _outcome_table(self, reasons: Mapping[str, Mapping[str, int]], total: int) -> Table:
        rows = [
            [swatch(one.outcome, self.operation), one.words or "–", self._figure(one), share(one.count, total)]
            for one in wording.reason_counts(self.operation, reasons)
        ]
        return Table([_("Outcome"), _("Why"), _("Rows"), _("Share")], rows)

    def _figure(self, one: wording.ReasonCount) -> SafeString | str:
        return figure(self.outcome_url(one.outcome, one.reason, one.count), one.count)

    def outcome_url(self, outcome: str, reason: str, count: int) -> str:
        """Return the address of the list of exactly these rows; empty if there is none."""
        return ""

    @property
    def worker_missing(self) -> str:
        return wording.worker_missing(self.cls.cluster if self.cls is not None else "")


def alert_channels() -> str:
    """Return how alerts are sent, or that none are."""
    names = listed(target or channel.label for channel, target in notifications.channels())
    if not names:
        return _("No alerts will be sent: ALERT_EMAILS, ALERT_CHANNELS and ALERT_WEBHOOK_URL are not set.")
    return _("Alerts are sent by %(channels)s.") % {"channels": names}


def figure(url: str, count: int) -> SafeString | str:
    """Return a count, linked to the list of the counted rows if there is one."""
    text = format_number(count)
    return format_html('<a class="figure text-link" href="{}">{}</a>', url, text) if url and count else text


def list_url(model: Any, alias: str = "", /, **query: Any) -> str:
    """Return the address of the list of a model in this store, else in the store of the page, with these filters."""
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
    return reverse(name, urlconf(alias) if alias else None, query=query or None)


def swatch(outcome: str, operation: Any = None) -> SafeString:
    """Return the label of an outcome with its colour in the bar."""
    name = _outcome_class(outcome, operation)
    return format_html(
        '<span class="swatch {}" aria-hidden="true"></span><span class="text-{}">{}</span>',
        name,
        name,
        outcome_label(outcome, operation),
    )


def _outcome_class(outcome: str, operation: Any) -> str:
    return "outcome-deleted" if outcome == "changed" and only_deletes(operation) else f"outcome-{outcome}"


def outcome_bar(counts: Mapping[str, int], total: int, operation: Any = None) -> list[dict[str, str]]:
    """Return the parts of a stacked bar, in per cent as CSS writes them."""
    return [
        {
            "value": f"{100 * counts[outcome] / total:.3f}",
            "title": f"{outcome_label(outcome, operation)}: {format_number(counts[outcome])}",
            "progress_class": _outcome_class(outcome, operation),
        }
        for outcome in OUTCOMES
        if total and counts[outcome]
    ]


def share(part: int, whole: int) -> str:
    if 0 < part < whole / 1000:
        return _("below 0.1 %")
    return _("%(percent)s %%") % {"percent": format_number(100 * part / whole, 1)} if whole else "–"


def model_of(alias: str, table: str) -> Any:
    """Return the model of a table of this store, None if the table has no page."""
    models = {(store_of_model(model), model._meta.db_table): model for model in admin.site._registry}
    return models.get((Store.called(alias).platform, table))


def row_link(run: Run, table: str, key: Key, text: str) -> SafeString | str:
    """Return the name of a row, linked to its page. Rows of a file outside the console have no page."""
    model = None if run.attached_path else model_of(run.store, table)
    if model is None:
        return copy_button(text)
    try:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        url = reverse(name, urlconf(run.store), args=[quote(key)])
    except NoReverseMatch:
        return copy_button(text)
    return format_html('<a href="{}" class="row-link">{}</a>', url, text)


def rows_link(cls: type[Operation], alias: str) -> str:
    """Return the address of the list of exactly the rows in scope of an operation; empty if it has no list."""
    model = model_of(alias, cls.model._meta.db_table)
    return "" if model is None else list_url(model, alias, due=cls.name)


def value_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> SafeString:
    """Return the changes of one row, with the differences marked. A new or deleted row has one value per column."""
    if before is None or after is None:
        tag, note = (SafeString("ins"), _("new row")) if before is None else (SafeString("del"), _("row deleted"))
        values = (after if before is None else before) or {}
        cells = [(name, format_html("<{0}>{1}</{0}>", tag, value_text(_clip(value)))) for name, value in values.items()]
        return format_html('<em>{}</em> <dl class="changes whole-row">{}</dl>', note, _changes(cells))
    cells = [(name, difference(_clip(value), _clip(after.get(name)))) for name, value in before.items()]
    return format_html('<dl class="changes">{}</dl>', _changes(cells))


def _changes(cells: Iterable[tuple[str, SafeString]]) -> SafeString:
    return format_html_join("", "<div><dt>{}</dt><dd>{}</dd></div>", cells)


def row_changes(rows: Sequence[Mapping[str, Any]]) -> SafeString:
    """Return the changes of the rows that belong together, with table and key if there are several."""
    parts = (
        format_html("<strong>{} {}</strong> {}", row["table"], row["key"], value_changes(row["before"], row["after"]))
        if len(rows) > 1
        else value_changes(row["before"], row["after"])
        for row in rows
    )
    return format_html_join("", "{}", ((part,) for part in parts))


def _clip(value: Any) -> Any:
    too_long = isinstance(value, str) and len(value) > SHOWN_CHARACTERS
    return f"{value[:SHOWN_CHARACTERS]}…" if too_long else value


def _check_of(finding: Finding) -> Check | None:
    """Return the check that reported a finding, or None if its code is gone. It only formats, so any store will do."""
    cls = registry.operations().get(finding.operation)
    return cls(Store.called(finding.store)) if cls is not None and issubclass(cls, Check) else None


def finding_target(finding: Finding) -> tuple[str, Key] | None:
    """Return table and key of the row of a finding, or None if the check's code is gone."""
    check = _check_of(finding)
    return None if check is None else check.target(findings.found_of(finding))


def finding_link(finding: Finding) -> SafeString | str:
    """Return the subject of a finding, linked to the page of its row."""
    target = finding_target(finding)
    return copy_button(finding.subject) if target is None else row_link(finding.last_run, *target, finding.subject)


def finding_words(finding: Finding) -> str:
    """Return the sentence of a finding in the reader's language."""
    check = _check_of(finding)
    try:
        return finding.code if check is None else check.sentence(findings.found_of(finding))
    except (KeyError, TypeError, ValueError):  # saved by a version with other codes or data
        return finding.code


def with_code(code: str, words: Any) -> SafeString:
    """Return words for people, with the code of programs as their title."""
    return format_html('<span title="{}">{}</span>', code, words)


def finding_title(check: Any, code: str) -> SafeString | str:
    """Return the title of a kind of finding, or its code if the check's code is gone."""
    return code if check is None else with_code(code, capfirst(finding_label(check, code)))


def detail_words(event: Event) -> SafeString | str:
    """Return the details of an event that are not empty, in one line."""
    operation = registry.operations().get(event.run.operation) if event.run is not None else None
    parts = [
        (labelled(with_code(name, DETAIL_LABELS.get(name, name)), _detail_value(name, value, operation)),)
        for name, value in event.detail.items()
        if value not in ("", None, {}, [])
    ]
    return format_html('<span class="detail">{}</span>', format_html_join(" · ", "{}", parts)) if parts else ""


def _detail_value(name: str, value: Any, operation: type[Operation] | None) -> Any:
    if isinstance(value, Mapping) and operation is not None and issubclass(operation, Check):
        return wording.scan_changes(value) if value.keys() >= set(findings.MOVES) else ""
    if isinstance(value, Mapping):  # figures before and after a run
        figures = (
            (wording.statistic_label(operation, key), wording.figure_text(operation, item))
            for key, item in value.items()
        )
        return listed(f"{label} {figure}" for label, figure in figures)
    if name == "checklist":
        return listed(checklist.ITEMS[code].title if code in checklist.ITEMS else code for code in value)
    if name == "operation":
        return operation_title(value)
    if name == "store":
        return store_title(value)
    if name == "list":
        return _list_title(value)
    if name == "until":
        return format_time(value)
    if name == "message":
        return LogEntry(change_message=orjson.dumps(value).decode()).get_change_message()
    return plain_value(value)


def _list_title(table: str) -> str:
    try:
        return str(apps.get_model(table)._meta.verbose_name_plural)
    except LookupError:  # its app was removed
        return table


def plain_value(value: Any) -> Any:
    """Return a JSON value as text; a digest is shortened."""
    if isinstance(value, Mapping):
        return listed(f"{name} {plain_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return listed(plain_value(item) for item in value)
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, str) and len(value) == DIGEST_CHARACTERS and value.isalnum():
        return value[:SHOWN_DIGEST]
    return str(value) if isinstance(value, Promise) else value
