"""Tests of the backfill of execution ids from summaries of every form, on both engines."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from opsconsole.engine.models import Status
from opsconsole.stores.store import Store, StoreUnavailable
from tasks.records import query_plan
from tests.records.test_check_execution_index import codes
from tests.support import records
from tests.support.contract import Contract, execute_run, left_by, operation_called, undo
from tests.support.plain_client import Tables, dump, schema

NAME = "records.backfill_execution_ids"
ENGINES = ("sqlite", "postgresql")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "records"])


def outcomes(count: int) -> Iterator[tuple[int, records.Kind]]:
    """Return the kind of each row in scope, by key."""
    for key, kind, stands in records.rows(count):
        if stands is None:
            yield key, kind


class TestContract(Contract):
    operation = NAME
    engines = ENGINES
    count = 90

    @pytest.fixture
    def make_attached(self, make_records: records.Maker) -> Any:
        return make_records

    def rows(self, make_attached: Any, engine: str) -> Store:
        store: Store = make_attached(engine, records.rows(self.count))[0]
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        for key, kind in outcomes(self.count):
            if kind.is_id:
                tables["test_records"][key]["execution_id"] = kind.outcome
        return tables


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_summary(make_records: records.Maker, engine: str) -> None:
    kinds = records.kinds(1)
    store, _client = make_records(engine, ((key, kind, None) for key, kind in enumerate(kinds, 1)))
    before = dump(store)
    run = execute_run(operation_called(NAME, store))
    after = dump(store)["test_records"]
    assert {key: row["execution_id"] for key, row in after.items()} == {
        key: kind.outcome if kind.is_id else None for key, kind in enumerate(kinds, 1)
    }
    reasons = {int(label): reason for reason, labels in left_by(run)["invalid"].items() for label in labels}
    assert reasons == {key: kind.outcome for key, kind in enumerate(kinds, 1) if not kind.is_id}
    assert (run.status, run.failed) == (Status.SUCCEEDED, 0)
    undo(run)
    assert dump(store) == before


def test_values_that_postgresql_cannot_store(make_records: records.Maker) -> None:
    kind = records.Kind('{"execution_id": "a\\u0000b"}', 0, "", True)
    store, _client = make_records("postgresql", [(1, kind, None)])
    run = execute_run(operation_called(NAME, store))
    assert run.reasons["invalid"] == {"cannot_be_stored": 1}


@pytest.mark.parametrize("engine", ENGINES)
def test_figures_contain_the_query_plan_of_the_lookup(make_records: records.Maker, engine: str) -> None:
    store, client = make_records(engine, records.rows(60), index=False)
    run = execute_run(operation_called(NAME, store))
    assert not query_plan.is_by_index(run.before["lookup_plan"])
    assert not query_plan.is_by_index(run.after["lookup_plan"])
    assert run.after["json_scan_ms"] > 0
    client.execute("CREATE INDEX idx_test_records_execution_id ON test_records (execution_id)")
    deadline = time.monotonic() + 10  # PostgreSQL uses the index after older snapshots have ended
    while not query_plan.is_by_index(query_plan.plan_of(store, possible=True)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = execute_run(operation_called(NAME, store))
    if engine == "sqlite":  # PostgreSQL scans so few rows
        assert "idx_test_records_execution_id" in again.after["lookup_plan"]
    assert again.before["filled"] == run.after["filled"] > run.before["filled"]


# --- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gzip_bomb_is_invalid_and_not_unpacked(make_records: records.Maker, engine: str) -> None:
    bomb = records.Kind(records.BOMB, 1, "", False)
    good = records.Kind(records.summary(7), 0, "", True)
    store, _client = make_records(engine, [(1, bomb, None), (2, good, None)])
    run = execute_run(operation_called(NAME, store))
    assert (run.status, run.changed, run.reasons["invalid"]) == (Status.SUCCEEDED, 1, {"too_large": 1})


@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_is_cut_by_bytes(make_records: records.Maker, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_plan, "BATCH_BYTES", 25_000)
    kinds = [records.Kind(records.summary(n, x="y" * size), 0, "", True) for n, size in enumerate((9_000,) * 6)]
    kinds.insert(3, records.Kind(records.summary(99, x="y" * 90_000), 0, "", True))
    store, _client = make_records(engine, ((key, kind, None) for key, kind in enumerate(kinds, 1)))
    operation = operation_called(NAME, store)
    sizes, after = [], None
    while rows := operation.fetch(operation.queryset(), after=after, bound=7, limit=500):
        sizes.append(len(rows))
        after = rows[-1].pk
    assert sizes == [2, 1, 1, 2, 1]
    run = execute_run(operation)
    assert (run.changed, run.batches_done) == (7, 5)


def test_memory_for_fifty_megabytes_is_bounded(make_records: records.Maker, tmp_path: Any) -> None:
    """Four compressed summaries of 50 MB each are read in a separate process whose memory is measured."""
    one = {"model": "m", "answer": "一段很长的回答" * 12, "tags": ["a", "b"], "score": 1.5}
    text = json.dumps({"results": [one] * 160_000, "execution_id": "ID"}, ensure_ascii=False).encode()
    assert len(text) > 50_000_000
    packed = gzip.compress(text, 1)
    kinds = [records.Kind(packed, 1, "", True)] * 4
    store, _client = make_records("sqlite", ((key, kind, None) for key, kind in enumerate(kinds, 1)))
    script = (
        "import os, sys, resource, django; os.environ['DJANGO_SETTINGS_MODULE'] = 'opsconsole.settings';"
        "django.setup();"
        "from opsconsole.stores.store import attach_file;"
        "from tasks.records.operations.backfill_execution_ids import *;"
        "o = BackfillExecutionIds(attach_file('records', sys.argv[1]));"
        "o.store.tables; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "found = [o.process(row) for row in o.fetch(o.queryset(), after=None, bound=99, limit=1000)];"
        "assert len(found) == 4 and all(one.reason == 'from_summary' for one in found);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024  # KiB: four times one document


# --- older stores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_without_the_column(make_records: records.Maker, capsys: Any, flags: tuple[str, ...]) -> None:
    store, _client = make_records("sqlite", (), column=False)
    before = dump(store), schema(store)
    with pytest.raises(CommandError) as refused:
        call_command("backfill_execution_ids", "--db-path", str(store.path), *flags)
    assert refused.value.returncode == 2
    assert str(refused.value).splitlines()[-2:] == [
        "ALTER TABLE test_records ADD COLUMN execution_id TEXT;",
        "CREATE INDEX idx_test_records_execution_id ON test_records (execution_id);",
    ]
    assert (dump(store), schema(store)) == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("whose", ["test_records (lower(brand_name))", "task_statuses (stage)"])
def test_the_statements_of_a_refusal_work(make_records: records.Maker, engine: str, whose: str) -> None:
    """Older stores have an index of the documented name on an expression."""
    store, client = make_records(engine, (), column=False)
    client.execute(f"CREATE INDEX idx_test_records_execution_id ON {whose}")
    (found,) = operation_called("records.check_execution_index", store).run_rule("lookup")  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable) as refused:
        execute_run(operation_called(NAME, store))
    statements = str(refused.value).splitlines()[-2:]
    assert found.data["statements"] == " ".join(statements)
    for statement in statements:
        client.execute(statement.rstrip(";"))
    fresh = Store(store.alias, store.name)
    assert execute_run(operation_called(NAME, fresh)).status == Status.SUCCEEDED
    assert codes(fresh) == {}


def test_the_command_executes_without_a_question(make_records: records.Maker, capsys: Any) -> None:
    store, _client = make_records("sqlite", records.rows(40))
    call_command("backfill_execution_ids", "--db-path", str(store.path), "--dry-run", "--json")
    planned = json.loads(capsys.readouterr().out)
    connections.close_all()
    call_command("backfill_execution_ids", "--db-path", str(store.path), "--json")
    done = json.loads(capsys.readouterr().out)
    counted = ("total", "changed", "skipped", "invalid")
    assert [done[name] for name in counted] == [planned[name] for name in counted]
    assert (done["status"], done["mode"], planned["mode"]) == ("succeeded", "execute", "dry-run")
    assert "USING" in done["after"]["lookup_plan"]
    assert done["after"]["lookup_ms"] < done["after"]["json_scan_ms"]


def test_a_managed_store_has_both(django_db_setup: None) -> None:
    store = Store("records", "records")
    assert store.indexes_on("test_records", ["execution_id"]) == ["idx_test_records_execution_id"]
    assert not store.missing()
