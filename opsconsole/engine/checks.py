"""Checks: operations that read a store and report findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from django.utils.text import format_lazy

from opsconsole.engine.causes import Cause
from opsconsole.engine.operation import NamedItem, NamedItemsMixin, Priority, Risk
from opsconsole.engine.outcomes import Outcome, Skip
from opsconsole.stores.rows import Key


class FindingData(NamedTuple):
    """A problem of one row or object. Its code and subject identify it from scan to scan.

    `data` holds the values of its sentence and of reports, as JSON.
    """

    code: str
    subject: str
    data: Mapping[str, Any] = {}
    priority: str = Priority.PLANNED.value


class Check(NamedItemsMixin):
    """An operation that evaluates its rules on a store, one after another, and saves the findings. It only reads.

    A run is one scan. A finding of an earlier scan that this scan does not repeat is resolved.
    """

    risk = Risk.READ
    undoable = False
    rules: ClassVar[tuple[str, ...]]
    titles: ClassVar[Mapping[str, Any]] = {}  # code → title of this kind of finding; default: `reasons`
    messages: ClassVar[Mapping[str, Any]] = {}  # code → a sentence with %(name)s from `data`; default: `reasons`
    causes: ClassVar[Mapping[str, Cause]] = {}  # code → its cause; by default a code is a cause
    chosen: Sequence[Key] | None = None  # subjects that a user or a recheck named; the rest of the store is not scanned

    def item_names(self) -> Sequence[str]:
        return self.rules

    def process(self, row: NamedItem) -> Outcome:
        return Skip("evaluated")

    def run_rule(self, rule: str) -> Iterable[FindingData]:
        """Yield the findings of a rule, from set-based SQL."""
        raise NotImplementedError

    def sentence(self, found: FindingData) -> str:
        """Return the sentence of a finding: the message of its code with the values of its `data`."""
        text = str(self.messages.get(found.code) or self.reasons.get(found.code, found.code))
        return text % found.data if "%(" in text else text

    def target(self, found: FindingData) -> tuple[str, Key]:
        """Return the table and key of the row that a finding is about."""
        return self.model._meta.db_table, found.subject

    def subjects_of(self, rows: Mapping[str, Sequence[Key]]) -> Sequence[Key] | None:
        """Return the subjects that these rows (table → keys) may affect; None if only a full scan can tell."""
        return None

    def cause_for(self, found: FindingData) -> Cause:
        """Return the cause of a finding."""
        return self.cause_of_code(found.code)

    @classmethod
    def cause_of_code(cls, code: str) -> Cause:
        """Return the cause of the findings with this code."""
        return cls.causes.get(code) or cls.cause_called(code)

    @classmethod
    def cause_called(cls, code: str) -> Cause:
        """Return the cause with this code. The code of a finding without a declared cause is its cause."""
        declared = (cause for cause in cls.causes.values() if cause.code == code)
        return next(declared, None) or Cause(code, format_lazy("{}: %(count)s", cls.reasons.get(code, code)))

    def notes(self) -> list[str]:
        """Return sentences about the store, which are shown below the findings."""
        return []

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        """Return the findings and their counts as a JSON object."""
        counts = dict.fromkeys(self.reasons, 0)
        for one in found:
            counts[one.code] = counts.get(one.code, 0) + 1
        return {"findings": [self.as_json(one) for one in found], "counts": counts}

    def as_json(self, found: FindingData) -> dict[str, Any]:
        """Return a finding for the report."""
        return {
            "code": found.code,
            "subject": found.subject,
            "priority": found.priority,
            "detail": self.sentence(found),
            **found.data,
        }
