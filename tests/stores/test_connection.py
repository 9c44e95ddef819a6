"""All connections have the same settings, regardless of the server, and a pooler keeps none of them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, transaction

from opsconsole.engine.models import Status
from opsconsole.stores.config import FIXED, settings_of, startup_options
from opsconsole.stores.connection import connect, connect_async
from opsconsole.stores.store import Store, StoreUnavailable
from tests.conftest import attach_url
from tests.support.contract import execute_run, operation_called, undo
from tests.support.plain_client import dump
from tests.support.pooler import Pooler

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

# The settings of the database. No connection may use them.
OTHER = {
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "TimeZone": "'America/New_York'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-3",
    "lc_monetary": "'C.UTF-8'",
    "xmloption": "'document'",
    "array_nulls": "off",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "default_transaction_isolation": "'serializable'",
    "row_security": "on",
}


@pytest.fixture
def odd(postgres: Any) -> Iterator[str]:
    """Return the URL of a database with different settings."""
    url = postgres.create_database("odd_settings")
    name = url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(url, autocommit=True) as owner:
        for setting, value in OTHER.items():
            owner.execute(f'ALTER DATABASE "{name}" SET {setting} TO {value}')
        owner.execute(f'ALTER DATABASE "{name}" SET search_path TO elsewhere')
        owner.execute(f'ALTER DATABASE "{name}" SET lock_timeout TO 0')
    yield url
    postgres.drop_database("odd_settings")


@pytest.fixture(scope="module")
def pooler(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    folder = tmp_path_factory.mktemp("connection")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o711)  # PgBouncer runs as another user
    pooler = Pooler(folder, psycopg.conninfo.conninfo_to_dict(postgres.dsn)["port"])
    yield pooler
    pooler.close()


def through(pooler: Pooler, url: str) -> str:
    return f"postgresql://postgres@127.0.0.1:{pooler.port}/{url.rpartition('/')[2]}"


def in_force(execute: Any, names: Any) -> dict[str, str]:
    return {name: execute(f"SELECT current_setting('{name}')") for name in names}


def by_django(store: Store) -> Any:
    return lambda sql: store.query(sql)[0][0]


def by_driver(connection: psycopg.Connection[Any]) -> Any:
    return lambda sql: connection.execute(sql).fetchone()[0]  # type: ignore[index]


def test_other_settings_are_named_for_each_fixed_one() -> None:
    assert OTHER.keys() == FIXED.keys()


@pytest.mark.parametrize("way", ["direct", "pooler"])
def test_settings_hold_on_every_way_in(odd: str, way: str, pooler: Pooler) -> None:
    url = odd if way == "direct" else f"{through(pooler, odd)}?pooler=transaction"
    store = attach_url("agentos", url)
    wanted = {**FIXED, "search_path": "public, pg_temp", "lock_timeout": "5s", "statement_timeout": "1h"}
    assert in_force(by_django(store), wanted) == wanted
    with transaction.atomic(using="agentos"):
        assert in_force(by_django(store), wanted) == wanted
    with connect(store) as connection:
        assert in_force(by_driver(connection), wanted) == wanted
        with connection.transaction():
            assert in_force(by_driver(connection), wanted) == wanted

    async def ask() -> dict[str, str]:
        async with await connect_async(store) as connection:
            found = {}
            for name in wanted:
                cursor = await connection.execute(f"SELECT current_setting('{name}')")
                found[name] = (await cursor.fetchone())[0]  # type: ignore[index]
            async with connection.transaction():
                cursor = await connection.execute("SELECT current_setting('DateStyle')")
                assert await cursor.fetchone() == (FIXED["DateStyle"],)
            return found

    assert asyncio.run(ask()) == wanted


def test_a_poolers_connection_keeps_nothing(odd: str, pooler: Pooler) -> None:
    store = attach_url("agentos", f"{through(pooler, odd)}?pooler=transaction")
    with psycopg.connect(through(pooler, odd), autocommit=True) as other:
        before = in_force(by_driver(other), OTHER)
        for _ in range(4):  # on any server connection
            store.query("SELECT 1")
            store.execute_many("SELECT %s", [[1], [2]])
            with transaction.atomic(using="agentos"):
                store.query("SELECT 1")
            with connect(store) as connection:
                connection.execute("SELECT 1")
            assert in_force(by_driver(other), OTHER) == before
            assert by_driver(other)("SELECT COUNT(*) FROM pg_prepared_statements") == 0


def test_a_refused_start_up_option_is_reported_with_the_advice(odd: str, pooler: Pooler) -> None:
    store = attach_url("agentos", through(pooler, odd))
    with pytest.raises(OperationalError) as refused:
        store.query("SELECT 1")
    assert "Add pooler=transaction to its URL." in str(store.unusable(refused.value))


def test_a_run_and_its_undo_through_a_pooler(make_attached: Any, pooler: Pooler) -> None:
    attached = make_attached("postgresql-jsonb", 300)
    before = dump(attached.store)
    store = attach_url("agentos", f"{through(pooler, attached.url)}?pooler=transaction")
    run = execute_run(operation_called("audits.backfill_decision_fields", store))
    assert (run.status, run.failed) == (Status.SUCCEEDED, 0)
    assert run.changed > 0
    assert undo(run).status == Status.SUCCEEDED
    store = attach_url("agentos", attached.url)
    assert dump(store) == before


@pytest.mark.parametrize("way", ["direct", "pooler"])
@pytest.mark.parametrize("owner", ["DATABASE {name}", "ROLE postgres IN DATABASE {name}"])
def test_triggers_find_their_tables_as_the_platforms_do(
    make_attached: Any, pooler: Pooler, way: str, owner: str
) -> None:
    """Triggers use the search_path of the database or role. The console's statements use the configured schema."""
    attached = make_attached("postgresql-text", 60)
    name = attached.url.rpartition("/")[2].partition("?")[0]
    before = dump(attached.store)
    with psycopg.connect(attached.url, autocommit=True) as platform:
        platform.execute(
            "CREATE SCHEMA app; CREATE TABLE app.log (id INTEGER); CREATE TABLE public.log (id INTEGER);"
            "CREATE TABLE app.task_audits (LIKE public.task_audits);"
            "CREATE FUNCTION app.note(id INTEGER) RETURNS void LANGUAGE sql AS 'INSERT INTO app.log VALUES (id)';"
            "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO log VALUES (1); PERFORM note(2); RETURN NEW; END $$;"
            "CREATE TRIGGER noted BEFORE UPDATE ON public.task_audits FOR EACH ROW EXECUTE FUNCTION noted();"
            f"ALTER {owner.format(name=name)} SET search_path TO app, public"
        )
        url = attached.url if way == "direct" else f"{through(pooler, attached.url)}?pooler=transaction"
        attached.store.close()
        run = execute_run(operation_called("audits.backfill_decision_fields", attach_url("agentos", url)))
        assert (run.status, run.failed) == (Status.SUCCEEDED, 0)
        found = platform.execute("SELECT id, COUNT(*) FROM app.log GROUP BY id ORDER BY id").fetchall()
        assert found == [(1, run.changed), (2, run.changed)]
        assert platform.execute("SELECT COUNT(*) FROM public.log").fetchone() == (0,)
        assert undo(run).status == Status.SUCCEEDED
        platform.execute(f"ALTER {owner.format(name=name)} RESET search_path")
        assert dump(attach_url("agentos", attached.url))["task_audits"] == before["task_audits"]


def test_a_search_path_in_the_url_holds_for_triggers_too(make_attached: Any) -> None:
    attached = make_attached("postgresql-text", 20)
    with psycopg.connect(attached.url, autocommit=True) as platform:
        platform.execute(
            "CREATE SCHEMA app; CREATE TABLE app.log (id INTEGER);"
            "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN INSERT INTO log VALUES (1); RETURN NEW; END $$;"
            "CREATE TRIGGER noted BEFORE UPDATE ON task_audits FOR EACH ROW EXECUTE FUNCTION noted()"
        )
        store = attach_url("agentos", f"{attached.url}?options=-csearch_path%3Dpublic,app")
        run = execute_run(operation_called("audits.backfill_decision_fields", store))
        assert run.status == Status.SUCCEEDED
        assert platform.execute("SELECT COUNT(*) FROM app.log").fetchone() == (run.changed,)
        store.close()


def test_an_undo_restores_the_date_whatever_the_database_writes(postgres: Any, agentos_template: str) -> None:
    """With DateStyle `SQL, DMY`, 1 February is still 1 February after a clean, a reset and an undo."""
    url = postgres.create_database("dates", like=agentos_template)
    name = url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO memory_items (id, scope, type, content, expires_at)"
            " VALUES ('m', 'task', 'decision', '{}', '2020-02-01 10:00:00')"
        )
        owner.execute(f"ALTER DATABASE \"{name}\" SET datestyle TO 'SQL, DMY'")
    store = attach_url("agentos", url)
    run = execute_run(operation_called("agentos.clean_memory_items", store))
    assert run.changed == 1
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f'ALTER DATABASE "{name}" RESET datestyle')
    store = attach_url("agentos", url)
    assert undo(run).changed == 1
    assert dump(store)["memory_items"]["m"]["expires_at"] == "2020-02-01 10:00:00"
    postgres.drop_database("dates")


def test_options_of_a_url_are_kept_unless_they_are_fixed() -> None:
    given = r"-c statement_timeout=5min -csearch_path=App\ One,public --DateStyle=German"
    settings = settings_of(given, web=True, lock_seconds=1)
    assert settings["statement_timeout"] == "5min"
    assert settings["lock_timeout"] == "1000ms"
    assert settings["search_path"] == "App One,public, pg_temp"
    assert settings["DateStyle"] == FIXED["DateStyle"]
    assert r"-c search_path=App\ One,public,\ pg_temp" in startup_options(settings)
    with pytest.raises(ImproperlyConfigured, match=r"Write it as -c name=value"):
        settings_of("-B 5", web=False)


def test_another_value_of_pooler_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"pooler is transaction"):
        attach_url("agentos", "postgresql://nobody@127.0.0.1/none?pooler=session")


def test_a_missing_server_is_reported_as_unreachable() -> None:
    store = attach_url("agentos", "postgresql://nobody@127.0.0.1:9/none")
    with pytest.raises(OperationalError) as refused:
        store.query("SELECT 1")
    assert "cannot be reached" in str(store.unusable(refused.value))


def test_a_missing_password_names_its_variable() -> None:
    def ask_for_a_password() -> None:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
            client.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=ask_for_a_password, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        store = attach_url("agentos", f"postgresql://nobody@{address}/none?sslmode=disable&gssencmode=disable")
        with pytest.raises(OperationalError) as refused:
            store.query("SELECT 1")
    assert "AGENTOS_DATABASE_PASSWORD" in str(store.unusable(refused.value))


def test_a_refused_statement_is_not_an_unreachable_server(postgres: Any) -> None:
    store = attach_url("agentos", postgres.create_database("refusing"))
    for sql in ("SELECT max(gen_random_uuid())", "SELECT nonsense", "SELECT 1/0"):
        with pytest.raises(Exception) as refused:  # noqa: PT011
            store.query(sql)
        sentence = store.unusable(refused.value)
        assert isinstance(sentence, StoreUnavailable)
        assert "refused a statement" in str(sentence)
    store.close()
    postgres.drop_database("refusing")
