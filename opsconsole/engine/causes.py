"""The cause of an incident, which its findings have in common, with the operations that repair it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Cause(NamedTuple):
    """A cause of findings, or of rows that wait for a repair.

    If two checks declare the same code, their findings form one incident.
    """

    code: str
    # A sentence with values from the finding's data. `count` is the figure; `number` chooses the plural form.
    title: Any
    repairs: tuple[str, ...] = ()  # operations, the least destructive first
    per_row: bool = False  # one incident for each row that the findings are about
    priority: str = "planned"  # of an operation's waiting rows; a finding has its own
    advice: Any = ""  # what a person can do where no repair is possible
