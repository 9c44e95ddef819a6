"""The functions that a statement may call: they give the same result in all of it, and they change nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opsconsole.stores.catalog import NAME, unquoted
from opsconsole.stores.store import Store

# Functions of SQLite without randomness, state or effect. `now` is the same in all calls of one statement.
SQLITE_FUNCTIONS = frozenset(
    """
    abs char coalesce concat concat_ws format glob hex ifnull iif if instr length like likelihood likely lower ltrim max
    min nullif octet_length printf quote replace round rtrim sign soundex substr substring trim typeof unhex unicode
    unistr unistr_quote unlikely upper zeroblob regexp match
    current_date current_time current_timestamp date datetime julianday strftime time timediff unixepoch
    acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power
    radians sin sinh sqrt tan tanh trunc
    avg count group_concat median percentile percentile_cont percentile_disc string_agg sum total
    cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
    json json_array json_array_length json_error_position json_extract json_insert json_object json_patch json_pretty
    json_quote json_remove json_replace json_set json_type json_valid json_group_array json_group_object -> ->>
    json_array_insert jsonb jsonb_array jsonb_array_insert jsonb_extract jsonb_insert jsonb_object jsonb_patch
    jsonb_remove jsonb_replace jsonb_set jsonb_group_array jsonb_group_object
    """.split()  # noqa: SIM905  # readable
)

_LITERAL = re.compile(r"'(?:[^']|'')*'")
_CALL = re.compile(rf"(?:{NAME}\.)?{NAME}\(")
_VOLATILE = """
    SELECT DISTINCT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    JOIN unnest(%s::text[], %s::text[]) AS w(schema, name) ON w.name = p.proname
    WHERE p.provolatile = 'v' AND (n.nspname = w.schema OR (w.schema = '' AND pg_function_is_visible(p.oid)))
    ORDER BY 1
"""


def volatile_functions(store: Store, plans: Iterable[Any]) -> list[str]:
    """Return the volatile functions that plans of PostgreSQL (EXPLAIN VERBOSE, as JSON) call.

    A function of which one variant is volatile counts as volatile. Of a function in SQL that the server inlines, the
    body counts. Words such as COALESCE are no functions.
    """
    calls = {
        (unquoted(schema), unquoted(name))
        for plan in plans
        for text in _texts(plan)
        for schema, name in _CALL.findall(_LITERAL.sub("''", text))
    }
    schemas, names = [schema for schema, _name in calls], [name for _schema, name in calls]
    return [name for (name,) in store.query(_VOLATILE, [schemas, names])]


def _texts(plan: Any) -> Iterator[str]:
    if isinstance(plan, str):
        yield plan
    elif isinstance(plan, Mapping):
        for value in plan.values():
            yield from _texts(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from _texts(value)
