"""Tests of the check of execution_id: the column, its index, the query plan and the filled share."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command

from opsconsole.engine.models import Finding
from tests.support import records
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import dump, schema

NAME = "records.check_execution_index"
ENGINES = ("sqlite", "postgresql")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "records"])


def codes(store: Any) -> dict[str, dict[str, Any]]:
    check: Any = operation_called(NAME, store)
    return {found.code: dict(found.data) for item in check.item_names() for found in check.run_rule(item)}


@pytest.mark.parametrize("engine", ENGINES)
def test_everything_is_healthy(make_records: records.Maker, engine: str) -> None:
    store, _client = make_records(engine, [(1, records.kinds(1)[0], "there")])
    assert codes(store) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_store_is_healthy(make_records: records.Maker, engine: str) -> None:
    assert codes(make_records(engine)[0]) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_filled_share_is_reported(make_records: records.Maker, engine: str) -> None:
    kind = records.kinds(1)[0]
    store, _client = make_records(engine, [(1, kind, "there"), (2, kind, None), (3, kind, None), (4, kind, "too")])
    assert codes(store) == {"not_filled": {"waiting": 2, "records": 4, "filled": 2, "percent": 50.0}}
    execute_run(operation_called("records.backfill_execution_ids", store))
    assert codes(store) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_no_column(make_records: records.Maker, engine: str) -> None:
    store, _client = make_records(engine, (), column=False)
    found = codes(store)
    assert set(found) == {"no_column"}
    assert "ADD COLUMN execution_id TEXT; CREATE INDEX" in found["no_column"]["statements"]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_index(make_records: records.Maker, engine: str) -> None:
    store, client = make_records(engine, [(1, records.kinds(1)[0], "there")], index=False)
    assert set(codes(store)) == {"no_index"}
    client.execute("CREATE INDEX by_another_name ON test_records (execution_id)")
    assert codes(store) == {}


def test_an_older_index_of_the_same_name(make_records: records.Maker) -> None:
    """An index of the same name on a JSON expression must be dropped before CREATE INDEX."""
    store, client = make_records("sqlite", [(1, records.kinds(1)[0], "there")], index=False)
    client.execute(
        "CREATE INDEX idx_test_records_execution_id ON test_records (json_extract(results_summary, '$.execution_id'))"
    )
    found = codes(store)
    assert set(found) == {"other_index"}
    for statement in found["other_index"]["statements"].split("; "):
        client.execute(statement.rstrip(";"))
    assert codes(store) == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_that_does_not_help(make_records: records.Maker, engine: str) -> None:
    store, client = make_records(engine, [(1, records.kinds(1)[0], "there")], index=False)
    client.execute("CREATE INDEX second ON test_records (brand_name, execution_id)")
    assert set(codes(store)) == {"no_index"}
    client.execute("DROP INDEX second")
    client.execute("CREATE INDEX of_some ON test_records (execution_id) WHERE user_id = 99")
    found = codes(store)
    assert set(found) == {"index_not_used"}
    assert found["index_not_used"]["indexes"] == "of_some"


def test_it_only_reads_and_its_json_has_the_figures(make_records: records.Maker, capsys: Any) -> None:
    store, _client = make_records("sqlite", [(1, records.kinds(1)[0], None), (2, records.kinds(1)[0], "x")])
    before = dump(store), schema(store)
    call_command("run", NAME, "--db-path", str(store.path), "--json", "--execute")
    said = json.loads(capsys.readouterr().out)
    assert (said["column"], said["index"], said["records"], said["filled"]) == (True, True, 2, 1)
    assert "execution_id=?" in said["plan"]
    assert said["counts"]["not_filled"] == 1
    assert (dump(store), schema(store)) == before
    finding = Finding.objects.get()
    assert finding.code == "not_filled"
