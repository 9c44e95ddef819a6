"""Classify database errors by SQLSTATE and by SQLite's error code, never by their text."""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

from django.db import DataError, IntegrityError, InterfaceError, OperationalError

from opsconsole.redaction import redact


class ErrorKind(Enum):
    """The meaning of an error for a run."""

    TRANSIENT = auto()  # a lock, a lost connection, a timeout: a retry may succeed
    ROW = auto()  # an error of a single row: its change cannot be written, or its values cannot be read
    RESOURCE = auto()  # a problem of the machine, such as a full disk: the run can be resumed afterwards
    PERMANENT = auto()  # any other error: it affects the whole run


# Classes of SQLSTATE. Single states that differ from their class are in `_STATES`.
_CLASSES = {
    "08": ErrorKind.TRANSIENT,  # connection exception
    "21": ErrorKind.ROW,  # cardinality violation, of a statement of a trigger
    "22": ErrorKind.ROW,  # data exception
    "23": ErrorKind.ROW,  # constraint violation
    "27": ErrorKind.ROW,  # a trigger changed the row that the statement writes
    "38": ErrorKind.ROW,  # an external routine failed
    "39": ErrorKind.ROW,
    "40": ErrorKind.TRANSIENT,  # deadlock, serialization failure
    "44": ErrorKind.ROW,  # WITH CHECK OPTION
    "53": ErrorKind.TRANSIENT,  # insufficient resources
    "54": ErrorKind.ROW,  # a limit of the program, such as the size of an index entry
    "58": ErrorKind.RESOURCE,  # system error, such as I/O
    "57": ErrorKind.TRANSIENT,  # shutdown, cancelled statement
    "P0": ErrorKind.ROW,  # RAISE of a trigger
}
_STATES = {
    "26000": ErrorKind.TRANSIENT,  # a prepared statement is missing: the pooler changed the connection
    "42P05": ErrorKind.TRANSIENT,  # another client of the pooler has prepared a statement of this name
    "25006": ErrorKind.RESOURCE,  # read-only
    "53100": ErrorKind.RESOURCE,  # disk full
    "55P03": ErrorKind.TRANSIENT,  # lock not available
    "57P04": ErrorKind.PERMANENT,  # the database was dropped
}
_SQLITE = {
    sqlite3.SQLITE_BUSY: ErrorKind.TRANSIENT,
    sqlite3.SQLITE_LOCKED: ErrorKind.TRANSIENT,
    sqlite3.SQLITE_PROTOCOL: ErrorKind.TRANSIENT,
    sqlite3.SQLITE_SCHEMA: ErrorKind.TRANSIENT,
    sqlite3.SQLITE_INTERRUPT: ErrorKind.TRANSIENT,
    sqlite3.SQLITE_CONSTRAINT: ErrorKind.ROW,
    sqlite3.SQLITE_MISMATCH: ErrorKind.ROW,
    sqlite3.SQLITE_TOOBIG: ErrorKind.ROW,
    sqlite3.SQLITE_RANGE: ErrorKind.ROW,
    sqlite3.SQLITE_FULL: ErrorKind.RESOURCE,
    sqlite3.SQLITE_READONLY: ErrorKind.RESOURCE,
    sqlite3.SQLITE_IOERR: ErrorKind.RESOURCE,
    sqlite3.SQLITE_CANTOPEN: ErrorKind.RESOURCE,
    sqlite3.SQLITE_NOMEM: ErrorKind.RESOURCE,
}
# The classes that PostgreSQL raises. A trigger may RAISE a state of any other class.
_STANDARD = (
    "00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D 3F "
    "40 42 44 53 54 55 57 58 72 F0 HV P0 XX"
)
_STANDARD_CLASSES = frozenset(_STANDARD.split(" "))


def classify(error: BaseException) -> ErrorKind:
    """Return the kind of an error. An unknown error is permanent."""
    state = sqlstate(error)
    if state is not None:
        if _is_raised(error):
            return ErrorKind.ROW
        if state in _STATES:
            return _STATES[state]
        if state[:2] not in _STANDARD_CLASSES:
            return ErrorKind.ROW
        return _CLASSES.get(state[:2], ErrorKind.PERMANENT)
    code = sqlite_code(error)
    if code is not None:
        return _SQLITE.get(code & 0xFF, ErrorKind.PERMANENT)
    if is_undecodable(error):
        return ErrorKind.ROW
    if isinstance(error, OperationalError | InterfaceError) or _is_connection_error(error):
        return ErrorKind.TRANSIENT  # the connection failed or was lost
    if isinstance(error, (DataError, IntegrityError, ValueError, OverflowError, TypeError)):
        return ErrorKind.ROW  # a value that the driver cannot send
    return ErrorKind.PERMANENT


def sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's code of an error, None if it has none."""
    return getattr(_driver_error(error), "sqlstate", None)


def sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's extended code of an error, None if it has none. `code & 0xFF` is the primary code."""
    return getattr(_driver_error(error), "sqlite_errorcode", None)


def is_undecodable(error: BaseException) -> bool:
    """Return whether the driver of SQLite could not decode a text. Only this error of the driver has no code."""
    return isinstance(_driver_error(error), sqlite3.OperationalError) and sqlite_code(error) is None


def is_unreachable(error: BaseException) -> bool:
    """Return whether the server or file could not be reached. A refused statement is another error."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(("08", "57P", "28", "3D")) or state == "53300"
    code = sqlite_code(error)
    if code is not None:
        return code & 0xFF == sqlite3.SQLITE_CANTOPEN
    return isinstance(error, OperationalError | InterfaceError) or _is_connection_error(error)


def needs_password(error: BaseException) -> bool:
    """Return whether the server asked for a password and the connection had none."""
    connection = getattr(error.__cause__ or error, "pgconn", None)
    return bool(connection is not None and connection.needs_password)


def is_lock(error: BaseException) -> bool:
    """Return whether a lock was not available in time."""
    code = sqlite_code(error)
    if code is not None:
        return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    return sqlstate(error) == "55P03"


def trouble_code(error: BaseException) -> str:
    """Return the code of an error for programs: lock, timeout, connection, resource or database."""
    if is_lock(error):
        return "lock"
    if sqlstate(error) == "57014" or sqlite_code(error) == sqlite3.SQLITE_INTERRUPT:
        return "timeout"
    if is_unreachable(error):
        return "connection"
    return "resource" if classify(error) == ErrorKind.RESOURCE else "database"


def first_line(error: BaseException) -> str:
    """Return the first line of an error without secrets. Later lines may contain values of rows."""
    return redact((str(error).strip().splitlines() or [type(error).__name__])[0])


def _is_raised(error: BaseException) -> bool:
    """Return whether a trigger raised the error. Its RAISE may carry any state, and its own statements may fail.

    The context of an error names the functions that were running, in the language of the server. The statements of
    foreign keys are there too. Only these contain ONLY.
    """
    found = _driver_error(error)
    diagnostics = getattr(found, "diag", None)
    if diagnostics is None:
        return False
    lines = (diagnostics.context or "").splitlines() if str(sqlstate(error)).startswith("42") else []
    return any(" ONLY " not in line for line in lines) or diagnostics.source_function == "exec_stmt_raise"


def _is_connection_error(error: BaseException) -> bool:
    """Return whether psycopg raised the error itself, without a code of the server."""
    return hasattr(error, "sqlstate") and type(error).__name__ in {"OperationalError", "InterfaceError"}


def _driver_error(error: BaseException) -> BaseException:
    """Return the error of the driver, which is the cause of Django's error. psycopg is not imported here."""
    for found in (error, error.__cause__):
        if isinstance(found, sqlite3.Error) or hasattr(found, "sqlstate"):
            return found  # type: ignore[return-value]  # an error has these
    return error
