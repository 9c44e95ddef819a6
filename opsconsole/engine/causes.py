"""The cause of an incident: what its findings have in common, and what repairs it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Cause(NamedTuple):
    """One cause of findings, or of rows that wait for a repair.

    Two checks that declare the same code see the same problem: their findings make one incident.
    """

    code: str
    # A sentence with values from the finding's data. `count` is the figure; `number` chooses the plural form.
    title: Any
    repairs: tuple[str, ...] = ()  # operations, the least destructive first
    per_row: bool = False  # one incident for each row that the findings are about
    priority: str = "planned"  # of an operation's waiting rows; a finding has its own
