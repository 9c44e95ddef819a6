"""Retry of failed rows: only these are processed, and a row can fail again."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from opsconsole.engine import registry
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Status
from opsconsole.engine.operation import Action, Risk
from opsconsole.engine.outcomes import Done, Outcome
from tasks.agentos.models import Task
from tests.audits.test_backfill_decision_fields import NAME, expected
from tests.support.contract import execute_run, forbid, operation_called
from tests.support.plain_client import dump, execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def test_a_row_that_fails_again_can_be_retried_again(make_attached: Any) -> None:
    store = make_attached("sqlite", 150).store
    before = dump(store)
    after = expected({table: {k: dict(r) for k, r in rows.items()} for table, rows in before.items()}, "sqlite")
    first, second = [k for k, row in before["task_audits"].items() if row != after["task_audits"][k]][3:5]
    mend = forbid(store, "task_audits", first)
    execute(
        store,
        f"CREATE TRIGGER forbids_too BEFORE UPDATE ON task_audits WHEN OLD.audit_id = {second} "
        "BEGIN SELECT RAISE(ABORT, 'forbidden'); END",
    )
    run = execute_run(operation_called(NAME, store))
    assert sorted(run.failed_items.values_list("key", flat=True)) == sorted((first, second))
    execute(store, "DROP TRIGGER forbids_too")
    newcomer = {**before["task_audits"][first], "audit_id": 10**9, "decision_id": None}
    execute(
        store,
        f"INSERT INTO task_audits ({', '.join(newcomer)}) VALUES ({', '.join('?' * len(newcomer))})",
        list(newcomer.values()),
    )
    retry = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
    assert (retry.status, retry.total, retry.changed, retry.failed) == (Status.NEEDS_ATTENTION, 2, 1, 1)
    assert [entry.key for entry in retry.failed_items.all()] == [first]
    assert run.failed_items.get(key=second).retried_by == retry
    mend()
    last = execute_run(operation_called("operations.retry_failed_rows", run=retry.pk))
    assert (last.status, last.changed) == (Status.SUCCEEDED, 1)
    found = dump(store)
    assert found["task_audits"].pop(10**9) == newcomer
    assert found["task_audits"] == after["task_audits"]


class NoteRuns(Action):
    """An action that fails at first, and notes the run that it belongs to."""

    title = "Note runs"
    description = "Notes the run."
    store_alias = "agentos"
    model = Task
    risk = Risk.CHANGE
    noted: ClassVar[list[int | None]] = []

    def perform(self, row: Any) -> Outcome:
        self.noted.append(self.run_id)
        if len(self.noted) == 1:
            raise ValueError("not yet")
        return Done()

    def verify(self, after: Any, left: int) -> list[str]:
        return []


def test_an_action_knows_the_run_that_retries_it(make_attached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_attached("sqlite", 5).store
    execute(store, "DELETE FROM tasks WHERE task_id <> (SELECT MIN(task_id) FROM tasks)")
    monkeypatch.setattr(NoteRuns, "name", "tests.note_runs", raising=False)
    monkeypatch.setitem(registry.operations(), "tests.note_runs", NoteRuns)
    run = execute_run(operation_called("tests.note_runs", store))
    retry = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
    assert (retry.status, NoteRuns.noted) == (Status.SUCCEEDED, [run.pk, retry.pk])


def test_a_run_without_failed_rows_is_refused(make_attached: Any) -> None:
    store = make_attached("sqlite", 50).store
    run = execute_run(operation_called(NAME, store))
    with pytest.raises(RunRefused, match=f"Run {run.pk} has no failed rows"):
        operation_called("operations.retry_failed_rows", run=run.pk)
