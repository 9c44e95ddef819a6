"""The functions that a statement may call: they give the same result in all of it, and they change nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opsconsole.stores.catalog import unquoted
from opsconsole.stores.statement import POSTGRESQL_QUOTED
from opsconsole.stores.store import Store

# Functions of SQLite without randomness, state or effect. `now` is the same in all calls of one statement.
# `regexp` is a function of this process, which no time limit can interrupt.
SQLITE_FUNCTIONS = frozenset(
    """
    abs char coalesce concat concat_ws format glob hex ifnull iif if instr length like likelihood likely lower ltrim max
    min nullif octet_length printf quote replace round rtrim sign soundex substr substring trim typeof unhex unicode
    unistr unistr_quote unlikely upper zeroblob match
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

_LEXEME = re.compile(
    rf"""(?P<quoted>{POSTGRESQL_QUOTED}) | (?P<word>[^\W0-9][\w$]*) | (?P<operator>[-+*/<>=~!@#%^&|`?]+)
    | (?P<symbol>\S)""",
    re.VERBOSE | re.DOTALL,
)
_VOLATILE = """
    SELECT DISTINCT p.proname FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    JOIN unnest(%s::text[], %s::text[]) AS w(schema, name) ON w.name = p.proname
    WHERE p.provolatile = 'v' AND (n.nspname = w.schema OR (w.schema = '' AND pg_function_is_visible(p.oid)))
    ORDER BY 1
"""
# What the named views, domains, casts, aggregates and operators of the store call. Those of PostgreSQL are safe.
_DEFINITIONS = """
    WITH w AS (SELECT %s::text[] AS names), called AS (
        SELECT c.castfunc AS oid FROM pg_cast AS c JOIN pg_type AS t ON t.oid = c.casttarget, w
        WHERE t.typname = ANY (w.names) AND t.typnamespace <> 'pg_catalog'::regnamespace
        UNION ALL
        SELECT unnest(ARRAY[a.aggtransfn, a.aggfinalfn]::oid[])
        FROM pg_aggregate AS a JOIN pg_proc AS f ON f.oid = a.aggfnoid, w
        WHERE f.proname = ANY (w.names) AND f.pronamespace <> 'pg_catalog'::regnamespace
        UNION ALL
        SELECT o.oprcode FROM pg_operator AS o, w
        WHERE o.oprname = ANY (w.names) AND o.oprnamespace <> 'pg_catalog'::regnamespace AND ('operator' = ANY (w.names)
            OR o.oprname NOT IN (SELECT b.oprname FROM pg_operator AS b
                                 WHERE b.oprnamespace = 'pg_catalog'::regnamespace))
    )
    SELECT format('%%I.%%I()', n.nspname, p.proname) FROM called JOIN pg_proc AS p ON p.oid = called.oid
    JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE p.provolatile = 'v'
    UNION
    SELECT pg_get_viewdef(v.oid) FROM pg_class AS v JOIN pg_namespace AS n ON n.oid = v.relnamespace, w
    WHERE v.relkind = 'v' AND v.relname = ANY (w.names) AND (pg_table_is_visible(v.oid) OR n.nspname = ANY (w.names))
        AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    UNION
    SELECT pg_get_constraintdef(k.oid) FROM pg_constraint AS k JOIN pg_type AS t ON t.oid = k.contypid, w
    WHERE t.typname = ANY (w.names) AND t.typnamespace <> 'pg_catalog'::regnamespace
        AND t.typnamespace <> 'information_schema'::regnamespace
"""


def volatile_functions(store: Store, statement: str, plans: Iterable[Any]) -> list[str]:
    """Return the volatile functions that a statement without comments calls.

    `plans` are its plans by PostgreSQL (EXPLAIN VERBOSE, as JSON). They contain the bodies of inlined functions, but
    not every expression: LIMIT, VALUES and the bounds of a window are missing. Therefore the text of the statement and
    the definitions of what it names count too. A function of which one variant is volatile counts as volatile.
    """
    calls: set[tuple[str, str]] = set()
    known: set[str] = set()
    texts = [statement, *(text for plan in plans for text in _texts(plan))]
    while texts:
        names: set[str] = set()
        for text in texts:
            _add(text, names, calls)
        new, known = names - known, known | names
        texts = [text for (text,) in store.query(_DEFINITIONS, [sorted(known)])] if new else []
    schemas, functions = [schema for schema, _name in calls], [name for _schema, name in calls]
    return [name for (name,) in store.query(_VOLATILE, [schemas, functions])]


def _add(text: str, names: set[str], calls: set[tuple[str, str]]) -> None:
    """Add the names and operators of a text in SQL, and its calls as schema and name."""
    before = ["", ""]  # a schema and its dot
    name = None
    for lexeme in _LEXEME.finditer(text):
        kind, found = lexeme.lastgroup, lexeme[0]
        if name is not None and found == "(":
            calls.add((before[0] if before[1] == "." else "", name))
        if name is not None:
            before = [name, found] if found == "." else ["", ""]
        elif found != ".":
            before = ["", ""]
        name = None
        if kind == "word" or found.startswith('"'):
            name = unquoted(found) if found.startswith('"') else found.lower()
            names.add(name)
        elif kind == "operator":
            names |= {found, found.rstrip("+-")}


def _texts(plan: Any) -> Iterator[str]:
    if isinstance(plan, str):
        yield plan
    elif isinstance(plan, Mapping):
        for value in plan.values():
            yield from _texts(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from _texts(value)
