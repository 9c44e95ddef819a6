"""Document 000 against `tests.model`, row for row, on every engine; and the contract of every operation."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.operations.models import Status
from opsconsole.stores.store import Store
from tests import model
from tests.conftest import ENGINES, Attached
from tests.contract import Contract, execute_run, left_by, operation_called, plan_whole, undo
from tests.driver import POINTS
from tests.outside import Tables, dump, execute

NAME = "audits.backfill_decision_fields"
#: The model's words for what the operation calls by a code.
REASONS = {
    "broken_json": model.BROKEN,
    "not_an_object": model.NOT_AN_OBJECT,
    "too_deep": model.TOO_DEEP,
    "cannot_be_stored": model.NOT_STORABLE,
    "no_created_at": model.NO_CREATED_AT,
}
FIELDS = ("event_type", "payload", "created_at", "source_event_ts", "supervisor_processed_at")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def outcomes(tables: Tables, vendor: Any) -> dict[int, tuple[str | None, str | None] | model.Unfit]:
    """audit_id → what the model says becomes of it, for the audits in scope."""
    audits = sorted(tables["task_audits"].items())
    return dict(
        model.expected_rows(
            [(key, *(None if row[name] is None else _text(row[name]) for name in FIELDS)) for key, row in audits],
            vendor,
        )
    )


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else str(value)


def expected(tables: Tables, vendor: Any) -> Tables:
    for key, outcome in outcomes(tables, vendor).items():
        if not isinstance(outcome, model.Unfit):
            tables["task_audits"][key] |= dict(zip(model.KEYS, outcome, strict=True))
    return tables


class TestContract(Contract):
    points = tuple(POINTS)
    operation = NAME
    unique = ("decision_id",)

    def rows(self, make_attached: Any, engine: str) -> Store:
        store: Store = make_attached(engine, 150).store
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        return expected(tables, vendor)


@pytest.mark.parametrize("engine", ENGINES)
def test_row_for_row(make_attached: Any, engine: str) -> None:
    """3,000 audits with every kind of payload: values, counts and reasons are the model's, undone too."""
    attached: Attached = make_attached(engine, 3_000, seed=7)
    store, before = attached.store, dump(attached.store)
    wanted = outcomes(before, attached.vendor)
    assert len(wanted) == attached.made.in_scope == 1_200
    run = execute_run(operation_called(NAME, store), batch_size=100)
    assert dump(store) == expected(dump_again(before), attached.vendor)
    unfit = {key: outcome.reason for key, outcome in wanted.items() if isinstance(outcome, model.Unfit)}
    assert unfit
    assert (run.status, run.total) == (Status.SUCCEEDED, 1_200)
    assert (run.changed, run.unfit, run.skipped) == (1_200 - len(unfit), len(unfit), 0)
    listed = {int(label): REASONS[reason] for reason, labels in left_by(run)["unfit"].items() for label in labels}
    assert listed == unfit
    assert run.after["in_scope"] == len(unfit)
    assert run.after["supervisor_audits"] == run.before["supervisor_audits"]
    assert plan_whole(operation_called(NAME, store)).counts()["unfit"] == len(unfit)
    undone = undo(run)
    assert dump(store) == before
    assert (undone.status, undone.changed, undone.unfit) == (Status.SUCCEEDED, run.changed, 0)


def dump_again(tables: Tables) -> Tables:
    return {table: {key: dict(row) for key, row in rows.items()} for table, rows in tables.items()}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_a_check_of_the_platform_that_fails_sets_one_row_aside(make_attached: Any, engine: str) -> None:
    """A constraint that one value breaks, among 150 rows in one batch."""
    store: Store = make_attached(engine, 300).store
    before = dump(store)
    filled = expected(dump_again(before), store.vendor)
    bad = next(
        key
        for key, row in filled["task_audits"].items()
        if row["source_event_ts"] != before["task_audits"][key]["source_event_ts"]
    )
    value = filled["task_audits"][bad]["source_event_ts"]
    # A unique index over the written column: the value stands already, in an audit out of scope.
    other = next(key for key, row in before["task_audits"].items() if row["event_type"] == "TASK_CREATED")
    execute(store, "UPDATE task_audits SET source_event_ts = ? WHERE audit_id = ?", [value, other])
    execute(store, f"CREATE UNIQUE INDEX one ON task_audits (source_event_ts) WHERE source_event_ts = '{value}'")
    run = execute_run(operation_called(NAME, store))
    assert [entry.key for entry in run.units_set_aside.all()] == [bad]
    assert run.batches_done < 20, "the one among 120 is found by halving, and the others go on in large batches"
    filled["task_audits"][bad] = before["task_audits"][bad]
    filled["task_audits"][other]["source_event_ts"] = value
    assert dump(store) == filled
    assert run.status == Status.NEEDS_ATTENTION
