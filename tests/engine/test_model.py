"""The reference model of the backfill, and its stores, match the documents of the platform."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from tests.support import agentos
from tests.support.payloads import KINDS
from tests.support.reference_backfill import (
    BROKEN,
    NO_CREATED_AT,
    NOT_AN_OBJECT,
    NOT_STORABLE,
    TOO_DEEP,
    Invalid,
    expected,
    expected_rows,
    in_scope,
)

CREATED = "2026-01-20 09:59:58"


def filled(payload, created_at=CREATED, source=None, processed=None, engine="sqlite"):
    return expected(payload, created_at, source, processed, engine)


@pytest.mark.parametrize(
    ("document", "source", "processed"),
    [
        (
            {"source_event_ts": "a", "source_ts": "b", "supervisor_processed_at": "c", "timestamp": "d"},
            "a",
            "c",
        ),
        ({"source_ts": "a", "event_timestamp": "b", "processed_at": "c", "timestamp": "d"}, "a", "c"),
        ({"event_timestamp": "a", "task_created_at": "b", "timestamp": "c"}, "a", "c"),
        ({"task_created_at": "a"}, "a", CREATED),
        ({"timestamp": "a"}, CREATED, "a"),
        ({"Source_Event_Ts": "a", "created_at": "b"}, CREATED, CREATED),
        ({"event": {"source_ts": "a", "timestamp": "b"}}, CREATED, CREATED),
        ({"source_event_ts": {"source_ts": "a"}, "timestamp": ["b"]}, CREATED, CREATED),
        (
            {"source_event_ts": " \t", "source_ts": "", "event_timestamp": None, "task_created_at": "a"},
            "a",
            CREATED,
        ),
        ({"source_event_ts": True, "source_ts": False, "processed_at": [], "timestamp": "a"}, CREATED, "a"),
        ({"source_ts": " 2026-01-20T10:00:00.000000 "}, " 2026-01-20T10:00:00.000000 ", CREATED),
        ({"source_ts": "🚦", "timestamp": "二月"}, "🚦", "二月"),
        ({}, CREATED, CREATED),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_first_key_with_a_usable_value_counts(document, source, processed, ascii_only):
    assert filled(json.dumps(document, ensure_ascii=ascii_only)) == (source, processed)


@pytest.mark.parametrize(
    "digits", ["0", "-0", "1.50", "1e3", "1E+2", "12345678901234567890", "1e400", "9" * 5000, "1.0e-0400"]
)
def test_numbers_keep_their_digits(digits):
    assert filled(f'{{"source_ts":{digits}, "timestamp": {digits}}}') == (digits, digits)


@pytest.mark.parametrize("payload", [None, "", " ", "\t\r\n", b"", b"{}"])
def test_a_payload_without_usable_keys_falls_back(payload):
    assert filled(payload) == (CREATED, CREATED)


def test_of_duplicate_keys_the_last_counts():
    assert filled('{"source_ts": "a", "source_ts": "b"}') == ("b", CREATED)
    assert filled('{"source_ts": "a", "source_ts": null}') == (CREATED, CREATED)
    assert filled(r'{"source_ts": "a", "source\u005fts": "b"}') == ("b", CREATED)


def test_escapes_are_read():
    assert filled(r'{"\u0073ource_ts": "a\u005fb\/\n\ud83d\udea6"}') == ("a_b/\n🚦", CREATED)


def test_only_null_columns_are_filled():
    payload = '{"source_ts": "a", "timestamp": "b"}'
    assert filled(payload, source="kept") == ("kept", "b")
    assert filled(payload, processed="kept") == ("a", "kept")
    assert filled(payload, source="") == ("", "b")


@pytest.mark.parametrize(
    "payload",
    [
        *("{", "}", "{'a': 1}", '{"a": 1,}', '{"a": NaN}', '{"a": Infinity}', '{"a": 01}', '{"a": 1.}'),
        *('{"a": .5}', '{"a": +1}', '{"a": 1e}', "{a: 1}", '{"a" 1}', '{"a": 1} {}', '{"a": 1}}', '{"a":}'),
        *('{"a": "\n"}', r'{"a": "\x41"}', r'{"a": "\u12"}', '{"a": "b}', '{"a": True}', '{"a": nul}'),
        *('{"a": 1}\xa0', '\ufeff{"a": 1}', "{1: 2}", '{"a": 1 2}', "{]", "[}", '{"a"}', "nothing", "{,}"),
        *(b"\xff", '{"a": \u0661}', '{"a": 0x1F}', '{"b": [1, {"c": }]}', ":", ",", '"a" "b"', "[1, ]"),
        *('{"a": 1 // b\n}', '{"a": 1 /* b */}', '{"a": 1 # b\n}', '{"a": 1;}', '{"a": "\x00"}', "[" * 900),
    ],
)  # fmt: skip
def test_broken_json_is_invalid(payload):
    assert filled(payload) == Invalid(BROKEN)
    assert filled(payload, source="kept") == Invalid(BROKEN)


@pytest.mark.parametrize("payload", ["[]", '[{"source_ts": "a"}]', '"a"', '""', "1.50", "null", " true\n", "[1, [2]]"])
def test_a_payload_that_is_not_an_object_is_invalid(payload):
    assert filled(payload) == Invalid(NOT_AN_OBJECT)


def test_a_payload_that_is_too_deep_is_invalid():
    assert filled('{"source_ts": "a", "x": ' + "[" * 20_000 + "]" * 20_000 + "}") == Invalid(TOO_DEEP)
    assert filled('{"source_ts": "a", "x": ' + "[" * 500 + "]" * 500 + "}") == ("a", CREATED)


def test_an_unstorable_value_is_invalid_only_if_it_is_needed():
    half, nul = r'{"source_ts": "a\ud800"}', r'{"source_ts": "a\u0000"}'
    for engine in ("sqlite", "postgresql"):
        assert filled(half, engine=engine) == Invalid(NOT_STORABLE)
        assert filled(half, source="kept", engine=engine) == ("kept", CREATED)
        assert filled(r'{"x": "\ud800\u0000"}', engine=engine) == (CREATED, CREATED)
    assert filled(nul, engine="postgresql") == Invalid(NOT_STORABLE)
    assert filled(nul, engine="sqlite") == ("a\0", CREATED)


def test_a_missing_created_at_is_invalid_only_if_it_is_needed():
    assert filled('{"source_ts": "a"}', created_at=None) == Invalid(NO_CREATED_AT)
    assert filled('{"source_ts": "a"}', created_at=None, processed="kept") == ("a", "kept")
    assert filled('{"source_ts": "a", "timestamp": "b"}', created_at=None) == ("a", "b")
    assert filled(None, created_at=None) == Invalid(NO_CREATED_AT)


@pytest.mark.parametrize(
    ("stored", "sqlite", "postgresql"),
    [
        ("2026-01-20 10:00:00", "2026-01-20 10:00:00", "2026-01-20 10:00:00"),
        ("2026-01-20 10:00:00.1", "2026-01-20 10:00:00.1", "2026-01-20 10:00:00.100000"),
        ("2026-02-30T25:00:00Z", "2026-02-30T25:00:00Z", None),
        ("1769000000", "1769000000", None),
    ],
)
def test_created_at_is_the_stored_text(stored, sqlite, postgresql):
    assert filled(None, stored) == (sqlite, sqlite)
    if postgresql:
        assert filled(None, stored, engine="postgresql") == (postgresql, postgresql)


def test_scope():
    assert in_scope("SUPERVISOR_ALLOWED", None, None)
    assert in_scope("pre-superVisor-check", "a", None)
    assert in_scope("SUPERVISOR_ALLOWED", None, "")
    assert not in_scope("SUPERVISOR_ALLOWED", "", "a")
    assert not in_scope("super_visor", None, None)
    assert not in_scope("ſUPERVISOR", None, None)


# --- the generated stores hold what the documents say is out there -----------------------------------


def test_every_kind_is_generated_with_its_documented_outcome():
    outcomes: dict[str, Counter[str]] = {}
    for shape in agentos.shapes(20_000):
        if shape.in_scope:
            created_at = CREATED if shape.created_at else None
            outcome = expected(shape.payload, created_at, shape.source, shape.processed, "postgresql")
            outcomes.setdefault(shape.kind, Counter())[outcome.reason if isinstance(outcome, Invalid) else "fit"] += 1
    assert outcomes.keys() == KINDS.keys()
    invalid = {kind: max(reasons, key=reasons.__getitem__) for kind, reasons in outcomes.items()}
    broken = "truncated single_quotes nan trailing_comma comment bad_literal bad_number bad_string bad_key"
    assert {kind for kind, reason in invalid.items() if reason == BROKEN} == {
        *broken.split(), "two_documents", "bad_space", "garbage",
    }  # fmt: skip
    assert {kind for kind, reason in invalid.items() if reason == NOT_AN_OBJECT} == {
        "list", "string", "number", "literal",
    }  # fmt: skip
    assert {kind for kind, reason in invalid.items() if reason == NOT_STORABLE} == {
        "nul_value",
        "surrogate_value",
    }
    assert {kind for kind, reason in invalid.items() if reason == TOO_DEEP} == {"deep_20000"}
    assert {kind for kind, reason in invalid.items() if reason == NO_CREATED_AT} == {
        "no_created_at_no_keys", "no_created_at_null", "no_created_at_one_key",
    }  # fmt: skip


def test_a_generated_file_has_the_requested_rows(tmp_path):
    made = agentos.create_sqlite(tmp_path / "a.db", 3_000, seed=7)
    again = agentos.create_sqlite(tmp_path / "b.db", 3_000, seed=7)
    audits = list(agentos.read_sqlite(tmp_path / "a.db"))
    assert audits == list(agentos.read_sqlite(tmp_path / "b.db"))
    assert made == again
    assert made.kinds.keys() == KINDS.keys()
    assert len(list(expected_rows(audits, "sqlite"))) == made.in_scope == 1_200


@pytest.mark.parametrize("payload_type", ["text", "json", "jsonb"])
def test_a_generated_database_has_the_requested_rows(postgres, payload_type):
    url = postgres.create_database(f"model_{payload_type}")
    made = agentos.create_postgres(url, 3_000, payload_type=payload_type, schema="agentos")
    audits = list(agentos.read_postgres(url, schema="agentos"))
    outcomes = dict(expected_rows(audits, "postgresql"))
    assert len(audits) == made.rows == 3_000
    assert len(outcomes) == made.in_scope == 1_200
    reasons = {outcome.reason for outcome in outcomes.values() if isinstance(outcome, Invalid)}
    held = {"jsonb": {NOT_AN_OBJECT, NO_CREATED_AT}, "json": {NOT_AN_OBJECT, NO_CREATED_AT, NOT_STORABLE}}
    assert reasons == held.get(payload_type, {*held["json"], BROKEN, TOO_DEEP})


def test_an_old_store_does_not_have_later_columns(tmp_path):
    agentos.create_sqlite(tmp_path / "old.db", 10, version="0.20.0")
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(task_audits)")}
        versions = {row[0] for row in connection.execute("SELECT version FROM schema_version")}
    assert {"source_event_ts", "supervisor_processed_at", "verdict_id"}.isdisjoint(columns)
    assert {"0.9.0", "0.20.0"} <= versions
    assert "0.21.0" not in versions
