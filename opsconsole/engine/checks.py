"""Checks, and the findings that they report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from opsconsole.engine.operation import NamedItem, NamedItemsMixin, Priority, Risk
from opsconsole.engine.outcomes import Outcome, Skip
from opsconsole.stores.rows import Key


class FindingData(NamedTuple):
    """One problem of one subject, as a check finds it. Code and subject tell it apart from scan to scan.

    `data` is what its sentence and reports are made of, as JSON holds it.
    """

    code: str
    subject: str
    data: Mapping[str, Any] = {}
    priority: str = Priority.PLANNED.value


class Check(NamedItemsMixin):
    """Reads only: asks a store its questions, one after another, and keeps what it finds.

    A run of it is one scan. What an earlier scan found and this one does not is resolved.
    """

    risk = Risk.READ
    undoable = False
    rules: ClassVar[tuple[str, ...]]
    messages: ClassVar[Mapping[str, Any]] = {}  # code → a sentence with %(name)s out of `data`; else `reasons`
    repairs: ClassVar[Mapping[str, str]] = {}  # code → the operation whose plan repairs it
    # code → the code of the same problem in another check of the store: the dashboard shows such a problem once
    same_problems: ClassVar[Mapping[str, str]] = {}
    chosen: Sequence[Key] | None = None  # subjects that somebody names; such an answer is no scan and is not kept

    def item_names(self) -> Sequence[str]:
        return self.rules

    def process(self, row: NamedItem) -> Outcome:
        return Skip("asked")

    def run_rule(self, question: str) -> Iterable[FindingData]:
        """Everything wrong that this question finds, in set-based SQL, as it comes."""
        raise NotImplementedError

    @classmethod
    def problem_code(cls, code: str) -> str:
        """Return the code under which the dashboard counts a finding."""
        return cls.same_problems.get(code, code)

    def sentence(self, found: FindingData) -> str:
        """What is wrong, in words: the code's, with its `data` put in."""
        words = str(self.messages.get(found.code) or self.reasons.get(found.code, found.code))
        return words % found.data if "%(" in words else words

    def target(self, found: FindingData) -> tuple[str, Key]:
        """Table and key of the row that it is about."""
        return self.model._meta.db_table, found.subject

    def notes(self) -> list[str]:
        """What else one should know of the store, in sentences below the findings."""
        return []

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        """The JSON object of the answer."""
        counts = dict.fromkeys(self.reasons, 0)
        for one in found:
            counts[one.code] = counts.get(one.code, 0) + 1
        return {"findings": [self.as_json(one) for one in found], "counts": counts}

    def as_json(self, found: FindingData) -> dict[str, Any]:
        """One finding in the report."""
        return {
            "code": found.code,
            "subject": found.subject,
            "priority": found.priority,
            "detail": self.sentence(found),
            **found.data,
        }
