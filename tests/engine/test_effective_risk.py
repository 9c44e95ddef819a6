"""The risk of an operation follows its writes: an undo or a retry that deletes is a delete."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from opsconsole.engine import checklist, lifecycle, planner
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Risk
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from tests.engine.test_checklist import ALL, environment, make_backup
from tests.support import helix
from tests.support.contract import TESTER, execute_run, forbid, operation_called, plan_whole, undo, work
from tests.support.plain_client import dump

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix"])
CLEAN = "helix.clean_dirty_jobs"


@pytest.fixture
def store(make_helix: Any) -> Store:
    found: Store = make_helix("sqlite", helix.one_of_each())
    return found


def cleaned(store: Store, *keys: int) -> Run:
    planned = planner.plan(operation_called(CLEAN, store), Selection(list(keys)))
    run = lifecycle.create_run(planner.count_outcomes(planned), TESTER)
    return work(lifecycle.confirm(run, TESTER, background=False))


def risk_of(name: str, run: Run) -> Risk:
    return operation_called(name, run=run.pk).effective_risk()


def test_an_undo_of_an_undo_of_a_delete_is_a_delete(store: Store) -> None:
    run = cleaned(store, 3)
    back = undo(run)
    again = undo(back)
    assert 3 not in dump(store)["jobs"]
    assert risk_of("operations.undo_run", run) == Risk.CHANGE
    assert risk_of("operations.undo_run", back) == Risk.DELETE
    assert risk_of("operations.undo_run", again) == Risk.CHANGE
    kinds = {target.kind for target in operation_called("operations.undo_run", run=back.pk).targets()}
    assert kinds == {"delete"}


def test_a_retry_of_a_delete_is_a_delete(store: Store) -> None:
    mend = forbid(store, "jobs", 3)
    run = cleaned(store, 3)
    assert run.failed == 1
    mend()
    assert risk_of("operations.retry_failed_rows", run) == Risk.DELETE


def test_a_delete_by_any_name_needs_checklist_backup_and_approval(
    store: Store, settings: Any, tmp_path: Any, client: Any, bob: Any
) -> None:
    back = undo(cleaned(store, 3))
    environment(settings, "production")
    operation = operation_called("operations.undo_run", run=back.pk)
    assert checklist.is_asked(operation)
    assert lifecycle.needs_typing(operation)
    assert lifecycle.needs_approval(operation)
    run = lifecycle.create_run(plan_whole(operation), TESTER)
    with pytest.raises(RunRefused, match="no verified backup"):
        lifecycle.confirm(run, TESTER, background=True, checked=ALL)
    make_backup(store, tmp_path)
    with pytest.raises(RunRefused, match="checklist"):
        lifecycle.confirm(run, TESTER, background=True)
    client.force_login(bob)
    page = client.get(reverse("run", args=[run.pk])).content.decode()
    assert page.count('name="checked"') == len(ALL)
    assert "Type operations.undo_run to confirm" in page
    assert "a second approver must approve the run" in page
    assert lifecycle.confirm(run, TESTER, background=True, checked=ALL).status == Status.AWAITING_APPROVAL
    assert 3 in dump(store)["jobs"]


def test_an_undo_of_a_backfill_is_not_a_delete(make_attached: Any) -> None:
    run = execute_run(operation_called("audits.backfill_decision_fields", make_attached("sqlite", 20).store))
    assert risk_of("operations.undo_run", run) == Risk.CHANGE
