"""What is known of a row of a store: the incidents about it, and every run that wrote it."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from django.utils.safestring import SafeString

from opsconsole.console.incident_page import STATE_VARIANTS
from opsconsole.console.page_parts import value_changes
from opsconsole.engine import history, incidents, registry, written_rows
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Incident, Run
from opsconsole.stores.rows import plain_key
from opsconsole.stores.store import Store

SHOWN_INCIDENTS = 20


class AboutRow(NamedTuple):
    """An incident about the row."""

    incident: Incident
    title: str
    variant: str


class WrittenBy(NamedTuple):
    """A run that wrote the row."""

    run: Run
    title: str
    batch: int
    place: int
    changes: SafeString
    undone_by: Run | None
    can_be_undone: bool


class RowStory:
    """The story of a row, read from the console's own database."""

    def __init__(self, store: Store, table: str, key: Any, user: Any) -> None:
        self.table, self.key = table, plain_key(key)
        self._identity = store.identity()
        self._may_operate = user.has_perm("operations.operate_run")

    @cached_property
    def incidents(self) -> list[AboutRow]:
        found = incidents.incidents_of_row(self._identity, self.table, self.key)[:SHOWN_INCIDENTS]
        return [AboutRow(one, incidents.title_of(one), STATE_VARIANTS[one.state]) for one in found]

    @cached_property
    def _history(self) -> written_rows.History:
        return written_rows.of_row(self._identity, self.table, self.key)

    @property
    def is_complete(self) -> bool:
        return self._history.is_complete

    @property
    def searched_runs(self) -> int:
        return written_rows.SEARCHED_RUNS

    @cached_property
    def runs(self) -> list[WrittenBy]:
        undone = history.undone_by({row.run.pk: row.run for row in self._history.rows}.values())
        return [self._written_by(row, undone.get(row.run.pk)) for row in self._history.rows]

    def _written_by(self, row: written_rows.WrittenRow, undone_by: Run | None) -> WrittenBy:
        cls = registry.operations().get(row.run.operation)
        before = None if row.before is None else dict(zip(row.columns, row.before, strict=True))
        after = None if row.after is None else dict(zip(row.columns, row.after, strict=True))
        undoable = cls is not None and cls.undoable and row.run.ended
        return WrittenBy(
            row.run,
            operation_title(row.run.operation),
            row.batch,
            row.place,
            value_changes(before, after),
            undone_by,
            self._may_operate and undoable and undone_by is None,
        )
