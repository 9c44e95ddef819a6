"""Tests of `audit_coverage`: its figures equal an independent count, on every engine."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest
from django.core.management import CommandError, call_command

from audits.coverage import Histogram, coverage, lag
from opsconsole.stores.store import StoreUnavailable
from opsconsole.timestamps import parse_timestamp
from tests.support import agentos, reference_backfill

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

# --- one time ----------------------------------------------------------------------------------------

MOMENT = datetime(2026, 1, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-20T10:00:00", MOMENT),
        ("2026-01-20 10:00:00.000000", MOMENT),
        ("2026-01-20T10:00:00Z", MOMENT),
        ("2026-01-20T18:00:00+08:00", MOMENT),
        (" 2026-01-20T10:00:00 \n", MOMENT),
        ("20260120T100000Z", MOMENT),
        ("2026-01-20T10:00:00.250", MOMENT + timedelta(seconds=0.25)),
        ("1768903200", MOMENT),
        ("1768903200.25", MOMENT + timedelta(seconds=0.25)),
        ("1.7689032e9", MOMENT),
        ("1768903200250", MOMENT + timedelta(seconds=0.25)),
        ("-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_time_in_each_of_its_forms(text, expected):
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "yesterday", "2026-02-30T10:00:00", "2026-01-20T25:00:00", "2026-01-20T10:00:00+99:00"),
        *("nan", "inf", "1e99", "9" * 20, "9" * 400, "1_000", "0x10", "٢٠٢٦", "\x00", "\ud800", "真"),
    ],
)
def test_text_that_is_not_a_time_has_no_time(text):
    assert parse_timestamp(text) is None


def test_the_zone_of_naive_times_is_configurable():
    assert parse_timestamp("2026-01-20T18:00:00", timezone(timedelta(hours=8))) == MOMENT


# --- the lag -----------------------------------------------------------------------------------------


def test_every_pair_is_counted_once():
    figures = lag(
        [
            ("2026-01-20T10:00:00", "2026-01-20T10:00:02"),
            ("2026-01-20T10:00:00Z", "1768903204"),
            ("2026-01-20T10:00:06", "2026-01-20T10:00:05"),
            ("2026-01-20T10:00:00", "soon"),
            ("", "2026-01-20T10:00:00"),
            (None, "2026-01-20T10:00:00"),
            (None, None),
        ]
    )
    assert figures == {
        "looked_at": 7,
        "count": 3,
        "negative": 1,
        "unreadable": 2,
        "without_both": 2,
        "min": -1.0,
        "p50": 2.0,
        "p90": 4.0,
        "p99": 4.0,
        "max": 4.0,
        "mean": 1.666667,
    }


def test_an_empty_store_has_no_lag():
    figures = lag([])
    assert figures["looked_at"] == figures["count"] == 0
    assert figures["min"] is figures["p50"] is figures["mean"] is None


def test_percentiles_are_exact_while_there_is_room():
    values = [Random(1).randint(-5_000, 10_000_000) for _ in range(3_001)]
    spread = Histogram()
    for value in values:
        spread.add(value)
    ordered = sorted(values)
    assert spread.figures()["p50"] == ordered[1_500] / 1e6
    assert spread.figures()["p90"] == ordered[2_700] / 1e6
    assert spread.figures()["p99"] == ordered[2_970] / 1e6


def test_many_different_lags_are_rounded_to_four_digits(monkeypatch):
    monkeypatch.setattr(Histogram, "EXACT", 100)
    rng = Random(2)
    values = [rng.choice((-1, 1)) * int(10 ** rng.uniform(0, 13)) for _ in range(50_000)]
    spread = Histogram()
    for value in values:
        spread.add(value)
    ordered, figures = sorted(values), spread.figures()
    assert not spread.exact
    assert len(spread.values) < 40_000
    assert (figures["min"], figures["max"]) == (ordered[0] / 1e6, ordered[-1] / 1e6)
    assert figures["p90"] == pytest.approx(ordered[44_999] / 1e6, rel=0.001)


# --- a store -----------------------------------------------------------------------------------------


def rows_of(attached):
    read = agentos.read_sqlite if attached.vendor == "sqlite" else agentos.read_postgres
    return [row for row in read(attached.url) if "SUPERVISOR" in row.event_type.upper()]


def test_it_counts_the_rows_of_the_store(attached):
    rows = rows_of(attached)
    figures = coverage(attached.store)
    assert figures["total"] == len(rows) > 0
    for column in ("source_event_ts", "supervisor_processed_at"):
        filled = sum(getattr(row, column) is not None for row in rows)
        assert figures["columns"][column] == {
            "filled": filled,
            "total": len(rows),
            "percent": round(100 * filled / len(rows), 2),
        }
    assert {row["event_type"]: row["total"] for row in figures["event_types"]} == Counter(
        row.event_type for row in rows
    )
    both = sum(None not in (row.source_event_ts, row.supervisor_processed_at) for row in rows)
    assert figures["missing"] == figures["lag"]["without_both"] == len(rows) - both
    assert figures["lag"]["count"] + figures["lag"]["unreadable"] == both
    assert figures["lag"]["looked_at"] == len(rows)
    assert figures["newest"] is None


def test_it_compares_with_the_payload(attached):
    counts = dict.fromkeys(("equal", "differing", "silent", "unreadable"), 0)
    filled = [row for row in rows_of(attached) if row.source_event_ts is not None]
    for row in filled:
        outcome = reference_backfill.expected(row.payload, "silent", None, "stands", "sqlite")
        if isinstance(outcome, reference_backfill.Invalid):
            counts["differing" if outcome.reason == reference_backfill.NOT_STORABLE else "unreadable"] += 1
        elif outcome[0] == "silent":
            counts["silent"] += 1
        else:
            counts["equal" if outcome[0] == row.source_event_ts else "differing"] += 1
    figures = coverage(attached.store)["consistency"]
    assert figures["columns"]["source_event_ts"] == counts
    assert figures["looked_at"] >= len(filled)


def test_a_bounded_sample_of_payloads_is_read(make_attached):
    store = make_attached("sqlite", 3_000).store
    figures = coverage(store, sample=40)["consistency"]
    assert figures["looked_at"] == figures["sample"] == 40


def test_after_the_backfill_only_invalid_audits_have_no_time(make_attached, capsys):
    attached = make_attached("sqlite", 2_000)
    call_command("backfill_audit_decision_fields", db_path=attached.url, fast=True, json=True)
    run = json.loads(capsys.readouterr().out)
    figures = coverage(attached.store)
    assert figures["missing"] == run["invalid"] > 0
    assert figures["total"] - figures["lag"]["without_both"] == figures["total"] - run["invalid"]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-json"])
def test_coverage_of_the_newest_audits(make_attached, engine):
    store = make_attached(engine, 3_000).store
    everything, newest = coverage(store), coverage(store, newest=500)
    assert newest["newest"] == 500
    assert 0 < newest["lag"]["looked_at"] < 500
    for name in ("total", "missing", "both"):
        assert newest[name] == everything[name]
    assert newest["columns"] == {"source_event_ts": everything["columns"]["source_event_ts"]}
    assert [(row["event_type"], row["total"], row["columns"]["source_event_ts"]) for row in newest["event_types"]] == [
        (row["event_type"], row["total"], row["columns"]["source_event_ts"]) for row in everything["event_types"]
    ]
    assert coverage(store, newest=3_000)["newest"] is None


def test_only_supervisor_audits_are_counted(make_attached):
    attached = make_attached("sqlite", 3_000)
    with closing(sqlite3.connect(attached.url)) as connection:
        connection.execute("UPDATE task_audits SET source_event_ts = 'x' WHERE event_type = 'COMMIT_LINKED'")
        connection.execute("UPDATE task_audits SET supervisor_processed_at = 'x' WHERE event_type LIKE '%LINK%'")
        connection.commit()
    everything, newest = coverage(attached.store), coverage(attached.store, newest=500)
    assert [newest[name] for name in ("total", "missing")] == [everything[name] for name in ("total", "missing")]


def test_garbage_is_counted(make_attached):
    attached = make_attached("sqlite", 0)
    with closing(sqlite3.connect(attached.url)) as connection:
        connection.executemany(
            "INSERT INTO task_audits (task_id, event_type, payload, source_event_ts, supervisor_processed_at) "
            "VALUES (?, ?, ?, ?, ?)",
            [
                ("gone", "SUPERVISOR_ERROR", b"\xff\xfe", b"\xff", "2026-01-20"),
                ("gone", "supervisor", "[" * 20_000, 1_768_903_200, 1_768_903_201.5),
                ("gone", "x-Supervisor", "{", "", "tomorrow"),
                (b"\xff", "SUPERVISOR", '{"source_ts": "\\ud800"}', "a\x00b", None),
            ],
        )
        connection.execute(
            "INSERT INTO task_audits (task_id, event_type) VALUES ('gone', CAST(X'53555045525649534F52FF' AS TEXT))"
        )
        connection.commit()
    figures = coverage(attached.store)
    assert figures["total"] == 5
    assert figures["lag"]["unreadable"] == 2
    assert (figures["lag"]["count"], figures["lag"]["p50"]) == (1, 1.5)
    assert figures["consistency"]["looked_at"] == 4
    json.dumps(figures).encode()


def test_an_empty_store_has_no_percentage(make_attached):
    figures = coverage(make_attached("sqlite", 0).store)
    assert figures["total"] == figures["missing"] == 0
    assert figures["event_types"] == []
    assert figures["columns"]["source_event_ts"] == {"filled": 0, "total": 0, "percent": None}


def test_a_store_without_the_columns_is_refused(make_attached):
    store = make_attached("sqlite", 10, version="0.20.0").store
    with pytest.raises(StoreUnavailable, match=r"ALTER TABLE task_audits ADD COLUMN source_event_ts TEXT;"):
        coverage(store)


# --- the command -------------------------------------------------------------------------------------


def test_the_command_prints_one_object(make_attached, capsys):
    attached = make_attached("sqlite", 300)
    call_command("audit_coverage", db_path=attached.url, json=True)
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures["total"] == len(rows_of(attached))
    assert {"columns", "event_types", "lag", "consistency"} <= set(figures)
    assert printed.err == ""


def test_the_command_prints_tables(make_attached, capsys):
    call_command("audit_coverage", db_path=make_attached("sqlite", 2_000).url)
    printed = capsys.readouterr().out
    assert "SUPERVISOR_RETRY_RECOMMENDED" in printed
    assert "without both times" in printed


def test_the_command_reads_the_managed_store(capsys):
    call_command("audit_coverage", json=True)
    assert json.loads(capsys.readouterr().out)["total"] == 0


def refused(**options):
    with pytest.raises(CommandError) as caught:
        call_command("audit_coverage", **options)
    assert caught.value.returncode == 2
    return str(caught.value)


def test_unreadable_files_are_refused(make_attached, tmp_path):
    old = make_attached("sqlite", 10, version="0.20.0").url
    assert "is missing task_audits.source_event_ts" in refused(db_path=old)
    assert "does not exist" in refused(db_path=str(tmp_path / "none.db"))
    assert not (tmp_path / "none.db").exists()
    assert "is a directory" in refused(db_path=str(tmp_path))
    assert "helix" in refused(database="helix")
    assert "No store is called" in refused(database="nowhere")


def test_help_ends_with_two_examples(capsys):
    with pytest.raises(SystemExit):
        call_command("audit_coverage", "--help")
    assert capsys.readouterr().out.rstrip().count("python manage.py audit_coverage") == 2
