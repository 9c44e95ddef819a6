"""Models made from the catalog read every table exactly, whatever its names, keys and types."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.apps import apps

from opsconsole.stores import rows as stored_rows
from opsconsole.stores.rows import RowsChanged, Write
from opsconsole.stores.store import Store, StoreUnavailable, attach_file
from opsconsole.stores.table_models import key_of, pk_of, table_model
from tests.conftest import attach_url, forget_attached

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

UUIDS = [str(uuid.UUID(int=number)) for number in (3, 1, 2)]
HOSTILE = 'a"; DROP TABLE x; -- 100% %s'
COMMON = (
    "CREATE TABLE notes (id TEXT PRIMARY KEY, n INTEGER, price NUMERIC(9,2))",
    "INSERT INTO notes VALUES ('10', 7, 1.50), ('9', NULL, NULL), ('é', -1, 0)",
    "CREATE TABLE parts (region TEXT, n BIGINT, save TEXT, PRIMARY KEY (region, n))",
    "INSERT INTO parts VALUES ('eu', 2, 'x'), ('eu', 10, 'y'), ('cn', 1, NULL), ('[\"', 3, 'z')",
    'CREATE TABLE "Mixed Case" ("Id" INTEGER PRIMARY KEY, "pk" TEXT, "objects" TEXT, "a__b" TEXT)',
    "INSERT INTO \"Mixed Case\" VALUES (1, 'a', 'b', 'c')",
    'CREATE TABLE "a""; DROP TABLE x; -- 100% %s" ("a""; DROP TABLE x; -- 100% %s" INTEGER PRIMARY KEY, v TEXT)',
    'INSERT INTO "a""; DROP TABLE x; -- 100% %s" VALUES (5, \'v\')',
    "CREATE TABLE codes (code TEXT NOT NULL UNIQUE, v TEXT)",
    "INSERT INTO codes VALUES ('b', '1'), ('a', '2')",
    "CREATE TABLE heap (v TEXT)",
    "INSERT INTO heap VALUES ('one'), ('two'), ('three')",
)
SQLITE = (
    "CREATE TABLE ids (id uuid PRIMARY KEY, at TIMESTAMP, raw BLOB, odd INTEGER)",
    *(f"INSERT INTO ids VALUES ('{one}', 'never', X'FF00', 'text')" for one in UUIDS),
)
POSTGRESQL = (
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "CREATE TABLE ids (id uuid PRIMARY KEY, at timestamptz, raw bytea, odd mood, tags text[], ok boolean, r int4range)",
    *(f"INSERT INTO ids VALUES ('{one}', 'infinity', '\\xff00', 'sad', '{{a,NULL}}', true, '[1,5)')" for one in UUIDS),
    'CREATE SCHEMA "Other"',
    'CREATE TABLE "Other".orders ("Id" BIGINT PRIMARY KEY, v TEXT)',
    "INSERT INTO \"Other\".orders VALUES (1, 'elsewhere')",
)


@pytest.fixture(params=("sqlite", "postgresql"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        path = tmp_path / "any.db"
        with closing(sqlite3.connect(path)) as client, client:
            for statement in (*COMMON, *SQLITE):
                client.execute(statement)
        yield attach_file("agentos", path)
        forget_attached()
        return
    server = request.getfixturevalue("postgres")
    url = server.create_database("any_tables")
    with psycopg.connect(url, autocommit=True) as pg:
        for statement in (*COMMON, *POSTGRESQL):
            pg.execute(statement)
    separator = "&" if "?" in url else "?"
    yield attach_url("agentos", f"{url}{separator}options=-c%20search_path=public,%22Other%22")
    forget_attached()
    server.drop_database("any_tables")


def values(store: Store, table: str, *columns: str) -> list[Any]:
    model = table_model(store, table)
    rows = model._default_manager.using(store.alias).order_by("pk")
    return list(rows.values_list(*(model.columns[name] for name in columns)))


def paged(store: Store, table: str) -> list[Any]:
    """Return all keys, read one by one behind the key before."""
    model = table_model(store, table)
    found: list[Any] = []
    while True:
        rows = model._default_manager.using(store.alias).order_by("pk")
        if found:
            rows = rows.filter(pk__gt=pk_of(model, found[-1]))
        row = rows.first()
        if row is None:
            return found
        found.append(key_of(row))
        assert model._default_manager.using(store.alias).get(pk=pk_of(model, found[-1])) == row


def test_values_of_known_and_unknown_types(store: Store) -> None:
    price = "1.50" if store.vendor == "postgresql" else "1.5"
    assert values(store, "notes", "id", "n", "price")[0] == ("10", 7, price)
    if store.vendor == "postgresql":
        found = values(store, "ids", "id", "at", "raw", "odd", "tags", "ok", "r")[0]
        assert found == (UUIDS[1], "infinity", "\\xff00", "sad", "{a,NULL}", "true", "[1,5)")
    else:
        assert values(store, "ids", "id", "at", "odd")[0] == (UUIDS[1], "never", "text")


def test_every_kind_of_key_pages_through_all_rows(store: Store) -> None:
    assert paged(store, "notes") == ["10", "9", "é"]
    assert paged(store, "ids") == sorted(UUIDS)
    assert paged(store, "codes") == ["a", "b"]
    assert paged(store, "parts") == ['["[\\"",3]', '["cn",1]', '["eu",2]', '["eu",10]']
    assert len(paged(store, "heap")) == 3
    assert not table_model(store, "heap").has_key
    assert table_model(store, "codes").has_key


def test_names_are_quoted(store: Store) -> None:
    assert values(store, "Mixed Case", "Id", "pk", "objects", "a__b") == [(1, "a", "b", "c")]
    assert values(store, HOSTILE, HOSTILE, "v") == [(5, "v")]
    model = table_model(store, HOSTILE)
    found = model._default_manager.using(store.alias).filter(**{model.columns["v"]: "v"})
    assert found.count() == 1


def test_a_table_of_another_schema_of_the_search_path(store: Store) -> None:
    if store.vendor == "postgresql":
        assert values(store, "orders", "Id", "v") == [(1, "elsewhere")]


def test_filters_use_the_index_of_the_key(store: Store) -> None:
    model = table_model(store, "parts")
    rows = model._default_manager.using(store.alias).filter(pk__gt=pk_of(model, '["cn",1]')).order_by("pk")
    if store.vendor == "sqlite":
        assert "USING INDEX" in rows.explain()
        assert "TEMP B-TREE" not in rows.explain()


def test_models_leave_no_trace(store: Store) -> None:
    before = set(apps.get_models()), set(store.models())
    model = table_model(store, "parts")
    assert model is table_model(Store(store.alias, store.name), "parts")
    assert (set(apps.get_models()), set(store.models())) == before


def test_an_unknown_table_is_refused(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="nothing"):
        table_model(store, "nothing")


def test_rows_are_written_by_keys_of_several_columns(store: Store) -> None:
    keys = paged(store, "parts")
    found = stored_rows.read(store, "parts", ["save"], [*keys, '["eu",3]'])
    assert found == dict(zip(keys, [("z",), (None,), ("x",), ("y",)], strict=True))
    change = Write("parts", ("save",), [(key, found[key], (f"new {place}",)) for place, key in enumerate(keys)])
    stored_rows.lock(store, change)
    assert stored_rows.write(store, change) == 4
    with pytest.raises(RowsChanged):
        stored_rows.write(
            store, Write("parts", ("save",), [(keys[0], found[keys[0]], ("other",))])
        )  # not the old value
    whole = stored_rows.read(store, "parts", store.tables["parts"].stored, keys[1:])
    doomed = Write("parts", store.tables["parts"].stored, [(key, old, None) for key, old in whole.items()])
    assert stored_rows.write(store, doomed) == 3
    assert paged(store, "parts") == keys[:1]
    assert stored_rows.write(store, doomed.reversed()) == 3
    assert stored_rows.read(store, "parts", store.tables["parts"].stored, keys[1:]) == whole
