"""Tests of the backfill: every row agrees with `tests.support.reference_backfill`, on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from audits.coverage import coverage
from opsconsole.engine.batch_writer import BatchWriter
from opsconsole.engine.models import Status
from opsconsole.stores.store import Store
from tests.conftest import ENGINES, Attached, attach_url, forget_attached
from tests.support import agentos, reference_backfill
from tests.support.contract import EngineContract, execute_run, left_by, operation_called, plan_whole, undo
from tests.support.plain_client import Tables, dump, execute, neighbour

NAME = "audits.backfill_decision_fields"
#: The reference's text for each code of the operation.
REASONS = {
    "broken_json": reference_backfill.BROKEN,
    "not_an_object": reference_backfill.NOT_AN_OBJECT,
    "too_deep": reference_backfill.TOO_DEEP,
    "cannot_be_stored": reference_backfill.NOT_STORABLE,
    "no_created_at": reference_backfill.NO_CREATED_AT,
}
FIELDS = ("event_type", "payload", "created_at", "source_event_ts", "supervisor_processed_at")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def outcomes(tables: Tables, vendor: Any) -> dict[int, tuple[str | None, str | None] | reference_backfill.Invalid]:
    """Return the reference outcome of each audit in scope, by audit_id."""
    audits = sorted(tables["task_audits"].items())
    return dict(
        reference_backfill.expected_rows(
            [(key, *(None if row[name] is None else _text(row[name]) for name in FIELDS)) for key, row in audits],
            vendor,
        )
    )


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else str(value)


def expected(tables: Tables, vendor: Any) -> Tables:
    for key, outcome in outcomes(tables, vendor).items():
        if not isinstance(outcome, reference_backfill.Invalid):
            tables["task_audits"][key] |= dict(zip(reference_backfill.KEYS, outcome, strict=True))
    return tables


class TestContract(EngineContract):
    operation = NAME
    unique = ("decision_id",)

    def rows(self, make_attached: Any, engine: str) -> Store:
        store: Store = make_attached(engine, 150).store
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        return expected(tables, vendor)


@pytest.mark.parametrize("engine", ENGINES)
def test_row_for_row(make_attached: Any, engine: str) -> None:
    """3,000 audits with every kind of payload have the reference's values, counts and reasons, also after undo."""
    attached: Attached = make_attached(engine, 3_000, seed=7)
    store, before = attached.store, dump(attached.store)
    wanted = outcomes(before, attached.vendor)
    assert len(wanted) == attached.made.in_scope == 1_200
    run = execute_run(operation_called(NAME, store), batch_size=100)
    assert dump(store) == expected(dump_again(before), attached.vendor)
    invalid = {
        key: outcome.reason for key, outcome in wanted.items() if isinstance(outcome, reference_backfill.Invalid)
    }
    assert invalid
    assert (run.status, run.total) == (Status.SUCCEEDED, 1_200)
    assert (run.changed, run.invalid, run.skipped) == (1_200 - len(invalid), len(invalid), 0)
    listed = {int(label): REASONS[reason] for reason, labels in left_by(run)["invalid"].items() for label in labels}
    assert listed == invalid
    assert run.after["in_scope"] == len(invalid)
    assert run.after["supervisor_audits"] == run.before["supervisor_audits"]
    assert plan_whole(operation_called(NAME, store)).counts()["invalid"] == len(invalid)
    undone = undo(run)
    assert dump(store) == before
    assert (undone.status, undone.changed, undone.invalid) == (Status.SUCCEEDED, run.changed, 0)


def dump_again(tables: Tables) -> Tables:
    return {table: {key: dict(row) for key, row in rows.items()} for table, rows in tables.items()}


@pytest.mark.parametrize("reread", [False, True])
@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_a_violated_constraint_fails_only_its_row(
    make_attached: Any, engine: str, reread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 150 rows in a batch violates a constraint. `reread`: other clients write all the time."""
    if reread:
        monkeypatch.setattr(BatchWriter, "mark", lambda writer: 0)
    store: Store = make_attached(engine, 300).store
    before = dump(store)
    filled = expected(dump_again(before), store.vendor)
    bad = next(
        key
        for key, row in filled["task_audits"].items()
        if row["source_event_ts"] != before["task_audits"][key]["source_event_ts"]
    )
    value = filled["task_audits"][bad]["source_event_ts"]
    # A unique index on the written column: an audit out of scope already has the value.
    other = next(key for key, row in before["task_audits"].items() if row["event_type"] == "TASK_CREATED")
    execute(store, "UPDATE task_audits SET source_event_ts = ? WHERE audit_id = ?", [value, other])
    execute(store, f"CREATE UNIQUE INDEX one ON task_audits (source_event_ts) WHERE source_event_ts = '{value}'")
    run = execute_run(operation_called(NAME, store))
    assert [entry.key for entry in run.failed_items.all()] == [bad]
    assert run.batches_done < 20, "halving finds the row, and the others continue in large batches"
    filled["task_audits"][bad] = before["task_audits"][bad]
    filled["task_audits"][other]["source_event_ts"] = value
    assert dump(store) == filled
    assert run.status == Status.NEEDS_ATTENTION


# --- other collations and column types ------------------------


@pytest.fixture
def make_postgres(postgres: Any) -> Iterator[Any]:
    """Return a function that creates an attached store with 300 audits.

    Example: `make_postgres("LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'", "ALTER …")`.
    """
    name = f"own_rules{postgres.suffix}"

    def make(database: str, *statements: str) -> Store:
        with psycopg.connect(postgres.dsn, autocommit=True) as client:
            client.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            client.execute(f"CREATE DATABASE {name} TEMPLATE template0 {database}")
        url = postgres.url("own_rules")
        agentos.create_postgres(url, 300)
        with psycopg.connect(url, autocommit=True) as client:
            for statement in statements:
                client.execute(statement)
        return attach_url("agentos", url)

    yield make
    forget_attached()
    postgres.drop_database("own_rules")


@pytest.mark.parametrize(
    ("database", "statements"),
    [
        ("LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'", ()),
        (
            "",
            (
                "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
                "ALTER TABLE task_audits ALTER event_type TYPE text COLLATE caseless",
            ),
        ),
        ("", ("CREATE DOMAIN event AS varchar(60)", "ALTER TABLE task_audits ALTER event_type TYPE event")),
    ],
    ids=["turkish", "not deterministic", "domain"],
)
def test_supervisor_audits_are_found_under_every_collation(
    make_postgres: Any, database: str, statements: tuple[str, ...]
) -> None:
    store = make_postgres(database, *statements)
    before = dump(store)
    wanted = outcomes(before, "postgresql")
    lower = {key for key, row in before["task_audits"].items() if row["event_type"] == "supervisor_decision"}
    assert lower & set(wanted)
    run = execute_run(operation_called(NAME, store))
    assert (run.status, run.total) == (Status.SUCCEEDED, len(wanted))
    assert dump(store) == expected(dump_again(before), "postgresql")
    assert coverage(store)["total"] == run.after["supervisor_audits"]


CREATED = {  # created_at → the fallback for a timestamp in UTC; None: it cannot be expressed
    "2026-01-20 10:00:00": "2026-01-20 10:00:00",
    "2026-01-20 10:00:00.5": "2026-01-20 10:00:00.500000",
    "0999-12-31 23:59:59": "0999-12-31 23:59:59",
    "infinity": None,
    "-infinity": None,
    "0044-03-15 12:00:00 BC": None,
    "12026-01-20 10:00:00": None,
}


@pytest.mark.parametrize(
    "type_",
    [
        "timestamp", "timestamp(0)", "timestamp(3)", "timestamptz", "timestamptz(6)", "timestamptz(1)",
        "moment", "moment_of_moment", "text", "varchar(40)",
    ],
)  # fmt: skip
def test_created_at_of_each_type_in_the_documented_form(make_postgres: Any, type_: str) -> None:
    store = make_postgres(
        "",
        "CREATE DOMAIN moment AS timestamp(3) CHECK (VALUE IS NOT NULL)",
        "CREATE DOMAIN moment_of_moment AS moment",
        "TRUNCATE task_audits",
        "ALTER TABLE task_audits ALTER created_at DROP DEFAULT",
        f"ALTER TABLE task_audits ALTER created_at TYPE {type_} USING created_at::{type_}",
    )
    with neighbour(store) as client:
        for key, created in enumerate(CREATED, 1):
            client.execute(
                "INSERT INTO task_audits (audit_id, task_id, event_type, payload, created_at)"
                f" VALUES (?, (SELECT MIN(task_id) FROM tasks), 'SUPERVISOR_PAUSED', '{{}}', ?::text::{type_})",
                (key, created),
            )
    before = dump(store)
    run = execute_run(operation_called(NAME, store))
    wanted = {key: written for key, written in enumerate(CREATED.values(), 1) if written}
    if type_ in {"text", "varchar(40)"}:
        wanted = dict(enumerate(CREATED, 1))
    elif type_ == "timestamp(0)":  # the database decides how halves are rounded
        wanted[2] = before["task_audits"][2]["created_at"]
    rows = dump(store)["task_audits"]
    assert {key: row["source_event_ts"] for key, row in rows.items() if row["source_event_ts"]} == wanted
    assert {key: row["supervisor_processed_at"] for key, row in rows.items() if row["source_event_ts"]} == wanted
    invalid = len(CREATED) - len(wanted)
    assert run.reasons["invalid"] == ({"no_time": invalid} if invalid else {})
    assert run.status == Status.SUCCEEDED
