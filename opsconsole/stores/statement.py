"""An UPDATE or DELETE statement, taken apart. `statement_parser` makes it, which loads the parser of SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MAX_CHARACTERS = 100_000
# Regular expression of the texts and quoted names of PostgreSQL. The settings of every connection fix
# standard_conforming_strings.
POSTGRESQL_QUOTED = r"""
    [eE]'(?:[^'\\]|\\.|'')*' | (?:[uU]&|[bBxXnN])?'(?:[^']|'')*' | (?:[uU]&)?"(?:[^"]|"")*"
    | \$(?P<tag>(?:[^\W0-9]\w*)?)\$.*?\$(?P=tag)\$
"""


class StatementRefused(Exception):
    """The statement cannot be planned exactly. The message gives the reason and the remedy."""


class Assignment(NamedTuple):
    """A column that an UPDATE sets, and the expression of its new value."""

    column: str
    expression: str


@dataclass(frozen=True)
class Statement:
    """One UPDATE or DELETE of one table. `where` and the expressions are the user's text without comments."""

    text: str
    kind: str  # update or delete
    schema: str
    table: str
    alias: str  # by which its expressions may name the table
    assignments: tuple[Assignment, ...]
    where: str
    names: frozenset[str]  # of columns that WHERE and the new values may read, in lower case
    reads_whole_row: bool
    has_subselect: bool
