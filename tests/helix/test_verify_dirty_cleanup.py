"""The check after a clean, with its two queries."""

from __future__ import annotations

import pytest

from opsconsole.engine.models import Status
from tasks.helix.operations.verify_dirty_cleanup import VerifyDirtyCleanup
from tests.conftest import HELIX_ENGINES
from tests.support import helix
from tests.support.contract import execute_run
from tests.support.plain_client import dump, schema
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_both_queries(make_helix, engine):
    store = make_helix(engine, helix.one_of_each(), orphans=[(901, 77)])
    before, shape = dump(store), schema(store)
    verify = VerifyDirtyCleanup(store)
    found = [one for question in verify.rules for one in verify.run_rule(question)]
    assert [(one.code, one.subject, verify.target(one)) for one in found] == [
        ("orphaned_artifact", "901", ("artifacts", "901")),
        ("completed_without_artifact", "2", ("jobs", 1)),
    ]
    assert verify.sentence(found[0]) == "artifact 901 (creative_brief) refers to task 77, which does not exist"
    run = execute_run(verify)
    assert (run.status, run.after["new"]) == (Status.SUCCEEDED, 2)
    assert (dump(store), schema(store)) == (before, shape)


def test_the_command(make_helix, tmp_path, empty_console):
    shell = Shell(tmp_path / "console", empty_console)
    dirty = make_helix("sqlite", helix.one_of_each())
    answer = shell.json("cleanup_dirty_data", "verify", "--exit-code", "--db-path", dirty.path, code=3)
    assert answer["counts"] == {"orphaned_artifact": 0, "completed_without_artifact": 1}
    clean = make_helix("sqlite", [helix.Job("PENDING")])
    assert shell.json("cleanup_dirty_data", "verify", "--exit-code", "--db-path", clean.path)["findings"] == []
