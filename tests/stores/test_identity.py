"""The identity of a store is the same under every address, and differs for a replaced database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import Client

from opsconsole.engine import lifecycle, planner, stored_plans
from opsconsole.engine.errors import RunRefused
from tests.backups.test_backup_store import back_up
from tests.conftest import attach_url, forget_attached
from tests.support.contract import TESTER, after_batches, operation_called, start, work
from tests.support.pooler import Pooler

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
BACKFILL = "audits.backfill_decision_fields"


@pytest.fixture
def database(postgres: Any, agentos_template: str) -> Iterator[str]:
    yield postgres.create_database("identity", like=agentos_template)
    forget_attached()
    postgres.drop_database("identity")


def identity(url: str) -> str:
    return attach_url("agentos", url).identity()


def test_a_database_is_one_store_under_all_its_names(database: str, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("pooler")
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o711)  # PgBouncer runs as another user
    port = psycopg.conninfo.conninfo_to_dict(database)["port"]
    pooler = Pooler(folder, port)
    try:
        pooled = f"postgresql://postgres@127.0.0.1:{pooler.port}/{database.rpartition('/')[2]}?pooler=transaction"
        names = {database, database.replace("127.0.0.1", "localhost"), f"{database}?application_name=other", pooled}
        assert len({identity(name) for name in names}) == 1
    finally:
        forget_attached()
        pooler.close()


def test_other_databases_and_schemas_are_other_stores(postgres: Any, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA app")
    other = postgres.create_database("identity_other")
    assert len({identity(database), identity(f"{database}?options=-c%20search_path%3Dapp"), identity(other)}) == 3
    postgres.drop_database("identity_other")


def test_every_role_can_read_the_identity_of_the_database(postgres: Any, database: str) -> None:
    role = postgres.create_role("identity_reader", "LOGIN")
    url = database.replace("postgres@", f"{role}@")
    assert identity(url) == identity(database)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    without = identity(url)
    assert without == identity(url.replace("127.0.0.1", "localhost")) != identity(database)
    forget_attached()
    postgres.drop_database("identity")
    postgres.drop_role("identity_reader")


def test_two_runs_on_one_database_are_refused_under_any_name(database: str) -> None:
    store = attach_url("agentos", database)
    first = start(operation_called(BACKFILL, store))
    again = attach_url("agentos", database.replace("127.0.0.1", "localhost"))
    run = lifecycle.create_run(planner.plan(operation_called(BACKFILL, again)), TESTER)
    with pytest.raises(RunRefused, match=rf"is locked by run {first.pk}"):
        lifecycle.confirm(run, TESTER, background=False)


def test_another_database_at_the_same_address_is_not_resumed(
    postgres: Any, database: str, agentos_template: str
) -> None:
    until, on_progress = after_batches(1)
    run = work(start(operation_called(BACKFILL, attach_url("agentos", database))), until=until, on_progress=on_progress)
    forget_attached()
    store = attach_url("agentos", postgres.create_database("identity", like=agentos_template))
    assert store.location == run.location
    with pytest.raises(RunRefused, match="is not the database of run"):
        stored_plans.operation_of(run)


def test_pages_list_backups_without_connecting_to_the_server(
    database: str, bob: Any, client: Client, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")
    store = attach_url("agentos", database)
    back_up(store)
    attach_url("agentos", database)  # as in a new process
    cache.clear()
    client.force_login(bob)
    assert b'opsconsole_backup_age_seconds{store="agentos"}' in client.get("/metrics").content
    cards = {card.store.alias: card.reasons for card in client.get("/admin/").context["dashboard"].cards}
    assert "no verified backup" not in cards["agentos"]
    assert "no verified backup" in cards["helix"]
