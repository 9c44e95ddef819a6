"""The executor reads the next batch while a thread writes this one."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Batch, Status
from tests.support.contract import operation_called, start, undo
from tests.support.plain_client import dump

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_a_run_that_fails_while_a_batch_is_written_counts_this_batch(
    make_attached: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_attached(kind, 300, seed=5).store
    before = dump(store)
    run = start(operation_called(BACKFILL, store), batch_size=50)
    cls = type(operation_called(BACKFILL, store))
    real = cls.fetch

    def fail_after_the_first_batch(operation: Any, rows: Any, **options: Any) -> list[Any]:
        if options["after"] is not None and Batch.objects.exists():
            raise RuntimeError("no such luck")
        return real(operation, rows, **options)

    monkeypatch.setattr(cls, "fetch", fail_after_the_first_batch)
    with pytest.raises(RuntimeError):
        Executor(run).work()
    monkeypatch.undo()
    run.refresh_from_db()
    assert (run.status, run.error) == (Status.FAILED, "no such luck")
    written = sum(old != new for key, old in before["task_audits"].items() for new in [dump(store)["task_audits"][key]])
    assert run.changed == written > 0
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before
