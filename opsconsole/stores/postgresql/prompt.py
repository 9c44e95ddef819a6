"""Statements that PostgreSQL is asked with every poll: psycopg's cursor costs more than the answer, and has no limit.

`psycopg.pq.PGconn` sends them, `psycopg.adapt.Transformer` reads the values: the parts that a cursor is made of.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import psycopg
from psycopg import generators, waiting
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import DuplicatePreparedStatement, QueryCanceled, error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

CANCEL_SECONDS = 1.0
LOOK_SECONDS = 0.1  # so often whoever waits looks around, as in psycopg's own waits
_PLAN = ("0A000", "26000")  # it would give other types; there is none of this name
_prepared: WeakKeyDictionary[psycopg.Connection[Any], set[bytes]] = WeakKeyDictionary()


def rows(
    connection: psycopg.Connection[Any], sql: str, values: Sequence[Any], *, seconds: float, prepare: bool
) -> list[tuple[Any, ...]]:
    """What a binary cursor answers, in `seconds` or not at all. Raises what a cursor raises.

    In text, bytes would be twice as long. But a type that psycopg doesn't know, an enum, has to be cast.

    `prepare` plans it once per connection. Where that plan will not do, it is given up: a column got another type, or a
    PgBouncer changed the connection. A statement that takes too long is cancelled, so that it waits for no lock with
    nobody to hear it: `QueryCanceled`, or another `OperationalError` where the server doesn't answer to that either.
    Its connection is closed.
    """
    name, numbered = _statement(sql)
    transformer = Transformer(connection)
    parameters: Any = transformer.dump_sequence(values, [PyFormat.TEXT] * len(values))  # None is NULL
    known = _prepared.setdefault(connection, set())
    pgconn = connection.pgconn
    deadline = time.monotonic() + seconds
    try:
        if prepare and name not in known:
            pgconn.send_prepare(name, numbered, transformer.types)
            with suppress(DuplicatePreparedStatement):  # behind a PgBouncer somebody else did
                _result(pgconn, deadline)
            known.add(name)
        if prepare:
            pgconn.send_query_prepared(name, parameters, result_format=Format.BINARY)
        else:
            pgconn.send_query_params(numbered, parameters, transformer.types, result_format=Format.BINARY)
        result = _result(pgconn, deadline)
    except TimeoutError:
        _give_up(connection, seconds)
    except psycopg.Error as error:
        if not prepare or error.sqlstate not in _PLAN:
            raise
        known.discard(name)
        pgconn.exec_(b"DEALLOCATE " + name)
        return rows(connection, sql, values, seconds=seconds, prepare=False)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


def _result(pgconn: Any, deadline: float) -> PGresult:
    """Of the one statement that was sent."""
    seconds = max(deadline - time.monotonic(), 0)
    try:
        results: list[PGresult] = waiting.wait(
            generators.execute(pgconn), pgconn.socket, interval=LOOK_SECONDS, timeout=seconds
        )
    except psycopg.OperationalError:
        if time.monotonic() < deadline:
            raise  # the connection was lost
        raise TimeoutError from None
    if results[0].status == ExecStatus.FATAL_ERROR:
        raise error_from_result(results[0])
    return results[0]


def _give_up(connection: psycopg.Connection[Any], seconds: float) -> NoReturn:
    with closing(connection):
        try:
            connection.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            raise psycopg.OperationalError(f"no answer in {seconds:g} s, nor to its cancellation") from None
        raise QueryCanceled(f"no answer in {seconds:g} s") from None


@functools.lru_cache
def _statement(sql: str) -> tuple[bytes, bytes]:
    """Its name, which no other statement has, whoever prepared it, and its text with numbered parameters."""
    first, *others = sql.split("%s")
    numbered = first + "".join(f"${number}{part}" for number, part in enumerate(others, 1))
    return b"opsconsole_" + hashlib.blake2b(sql.encode(), digest_size=8).hexdigest().encode(), numbered.encode()
