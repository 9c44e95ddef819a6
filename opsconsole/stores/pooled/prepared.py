"""Statements that PostgreSQL is asked with every poll: their plan, and psycopg's cursor, cost more than the answer.

`psycopg.pq.PGconn` sends them, `psycopg.adapt.Transformer` reads the values: the parts that a cursor is made of.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus

_PLAN = (b"0A000", b"26000")  # it would give other types; there is none of this name
_prepared: WeakKeyDictionary[psycopg.Connection[Any], set[bytes]] = WeakKeyDictionary()


def rows(connection: psycopg.Connection[Any], sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What a cursor answers, by a statement that is prepared once per connection. Raises what a cursor raises.

    It waits once. A cursor lets other threads in at each of its steps, and has to wait for them as often. Where it is
    the plan that will not do, a cursor answers: a column got another type, or a PgBouncer changed the connection. It
    also says what became of a connection that was lost.
    """
    name, numbered = _statement(sql)
    known = _prepared.setdefault(connection, set())
    transformer = Transformer(connection)
    parameters = transformer.dump_sequence(values, [PyFormat.TEXT] * len(values))
    if name not in known:
        connection.pgconn.prepare(name, numbered, transformer.types)
        known.add(name)
    result = connection.pgconn.exec_prepared(name, parameters)  # type: ignore[arg-type]  # None is NULL
    if result.status == ExecStatus.TUPLES_OK:
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, tuple)
    state = result.error_field(DiagnosticField.SQLSTATE)
    if state and state not in _PLAN:
        raise error_from_result(result)
    known.discard(name)
    connection.pgconn.exec_(b"DEALLOCATE " + name)
    with psycopg.Cursor(connection) as cursor:
        return cursor.execute(sql, values).fetchall()


@functools.lru_cache
def _statement(sql: str) -> tuple[bytes, bytes]:
    """Its name, which no other statement has, whoever prepared it, and its text with numbered parameters."""
    first, *others = sql.split("%s")
    numbered = first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))
    return b"opsconsole_" + hashlib.blake2b(sql.encode(), digest_size=8).hexdigest().encode(), numbered.encode()
