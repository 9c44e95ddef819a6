"""Tests of the status of an execution: every layer alone, failures, long results, connections and the shell."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from redis.exceptions import RedisError

from opsconsole.accounts.models import Token
from opsconsole.console.accounts import PLATFORMS, create_groups
from opsconsole.env import cache_url
from opsconsole.stores.config import database
from opsconsole.stores.store import Store
from tasks.records import status as executions
from tasks.records.status import cache
from tests.support import records
from tests.support.redis import NoRedis, RedisServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "records"])

ENGINES = ("sqlite", "postgresql")
ID = records.execution(1)
KEYS = [
    *("task_id", "progress", "stage", "status", "is_completed", "created_at", "results", "detailed_results"),
    "source",
]
UNREACHABLE = "redis://127.0.0.1:1/0"


def address(execution_id: str = ID) -> str:
    return f"/api/v1/executions/{execution_id}/status"


@pytest.fixture
def poll(viewer: User) -> Callable[..., Any]:
    """Return a function that sends GET with a viewer's token: `poll("/api/v1/…", headers={…})`."""
    secret = Token.issue(viewer, "a poller")

    def get(path: str = address(), headers: Any = (), **params: Any) -> Any:
        return Client().get(path, params, headers={"Authorization": f"Bearer {secret}", **dict(headers)})

    return get


@pytest.fixture
def platform() -> Callable[..., Any]:
    """Return a function that sends PUT with a platform's token."""
    create_groups()
    user = User.objects.create_user("platform")
    user.groups.set(Group.objects.filter(name=PLATFORMS))
    secret = Token.issue(user, "the platform")

    def put(values: Any, path: str = address(), **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {secret}"}
        body = values if isinstance(values, str) else json.dumps(values)
        return Client().put(path, body, content_type="application/json", headers=headers, **more)

    return put


def use_cache(settings: Any, url: str) -> None:
    settings.CACHES = {**settings.CACHES, "live": cache_url(url)}


@pytest.fixture(autouse=True)
def _nothing_is_remembered(settings: Any) -> Iterator[None]:
    use_cache(settings, "locmemcache://")
    cache.clear()
    yield
    use_cache(settings, "locmemcache://")
    cache.clear()


@pytest.fixture
def make_records(make_records: records.Maker) -> Iterator[records.Maker]:
    """Return a function that creates records. PostgreSQL uses a pool and prepared statements, as in production."""
    pooled = False

    def make(engine: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal pooled
        made = make_records(engine, *args, **kwargs)
        if engine == "postgresql":
            use_pool(made[1].connection.info)
            pooled = True
        return made

    yield make
    if pooled:
        close_pool()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except NoRedis as error:
        pytest.skip(f"Redis: {error}")
    yield server
    server.stop()


@pytest.fixture(params=["url", "socket_url"])
def redis_url(redis_server: RedisServer, request: pytest.FixtureRequest) -> str:
    return str(getattr(redis_server, request.param))


def live(**values: Any) -> dict[str, Any]:
    return {
        "task_id": ID,
        "progress": 40,
        "stage": "ai_fetching",
        "status": "processing",
        "is_completed": False,
        "created_at": "2026-02-23T16:00:00",
        "results": [],
        "detailed_results": [],
        **values,
    }


def add_status(client: records.Client, progress: int | None = 55, stage: str = "analyzing", done: bool = False) -> None:
    sql = "INSERT INTO task_statuses (task_id, progress, stage, is_completed, created_at) VALUES (?, ?, ?, ?, ?)"
    client.execute(sql, [ID, progress, stage, done, "2026-02-23 16:00:00"])


def add_record(client: records.Client, summary: Any = None, details: Any = None, **values: Any) -> None:
    found = {
        "user_id": 1,
        "brand_name": "b",
        "execution_id": ID,
        "test_date": "2026-02-23 17:00:00",
        "results_summary": _stored(client, records.summary(1, results=[{"rank": 1}]) if summary is None else summary),
        "detailed_results": _stored(client, details),
        **values,
    }
    names, marks = ", ".join(found), ", ".join("?" * len(found))
    client.execute(f"INSERT INTO test_records ({names}) VALUES ({marks})", list(found.values()))


def _stored(client: records.Client, document: Any) -> Any:
    if document is not None and not isinstance(document, str | bytes):
        document = json.dumps(document)
    return document.encode() if isinstance(document, str) and not client.sqlite else document


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- which layer answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_every_layer_and_every_failure(make_records: records.Maker, engine: str, poll: Any, settings: Any) -> None:
    """In 27 cases, each layer knows the execution, does not know it, or is unavailable."""
    _store, client = make_records(engine, by_url=True)
    for states in itertools.product(("knows", "knows not", "broken"), repeat=3):
        use_cache(settings, "locmemcache://")
        cache.clear()
        for table in ("task_statuses", "test_records"):
            client.execute(f"DELETE FROM {table}")
        state = dict(zip((executions.LIVE, executions.STATUSES, executions.RECORDS), states, strict=True))
        if state["live"] == "knows":
            cache.set(f"execution:{ID}", live())
        elif state["live"] == "broken":
            use_cache(settings, UNREACHABLE)
        if state["task_statuses"] == "knows":
            add_status(client)
        if state["test_records"] == "knows":
            add_record(client)
        away = [table for table in ("task_statuses", "test_records") if state[table] == "broken"]
        for table in away:
            client.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
        answer = poll()
        for table in away:
            client.execute(f"ALTER TABLE {table}_away RENAME TO {table}")
        if "knows" in states:
            said = answer.json()
            assert (answer.status_code, list(said)) == (200, KEYS), state
            # If a record exists, the execution has ended.
            ended = state["test_records"] == "knows"
            assert said["source"] == ("test_records" if ended else list(state)[states.index("knows")]), state
            known = {"live": 40, "task_statuses": 55, "test_records": 100}
            assert said["progress"] == max(known[layer] for layer in state if state[layer] == "knows"), state
            assert said["is_completed"] is ended
            assert ("Retry-After" in answer) is not ended
        else:
            wanted = (503, "unavailable") if "broken" in states else (404, "not_found")
            assert code(answer) == wanted, state
            assert ("Retry-After" in answer) == ("broken" in states)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_store(make_records: records.Maker, engine: str, poll: Any, caplog: Any) -> None:
    store, _client = make_records(engine, by_url=True)
    cache.set(f"execution:{ID}", live())
    store.close()
    if engine == "sqlite":
        connections.settings["records"] = database(
            {"ENGINE": "django.db.backends.sqlite3", "NAME": "/nowhere/x.db"}, password="", attached=True, pool=False
        )
    else:
        connections.settings["records"]["PORT"] = 1
    connections.configure_settings(connections.settings)
    del connections["records"]
    assert poll().json()["source"] == "live"
    assert code(poll(address("other"))) == (503, "unavailable")
    said = [one.getMessage() for one in caplog.records if one.name == "opsconsole.executions"]
    assert {one.partition(" failed:")[0] for one in said} == {
        "Querying task_statuses of records",
        "Querying test_records of records",
    }
    assert all(("Connection refused" in one) == (engine == "postgresql") for one in said)  # even if no time has passed
    assert not os.path.exists("/nowhere/x.db")


def test_without_the_column_the_records_cannot_be_asked(make_records: records.Maker, poll: Any, caplog: Any) -> None:
    """A request never scans all summaries. The check and the backfill print what to do."""
    _store, client = make_records("sqlite", column=False, by_url=True)
    add_status(client)
    assert poll().json()["source"] == "task_statuses"
    assert code(poll(address("other"))) == (503, "unavailable")
    assert "execution_id" in caplog.text


# --- answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_record_alone_answers(make_records: records.Maker, engine: str, poll: Any) -> None:
    _store, client = make_records(engine, by_url=True)
    details = gzip.compress(json.dumps([{"question": "为什么", "answer": "…"}]).encode())
    add_record(client, [{"old": True}])
    add_record(client, details=details, is_detailed_compressed=1)
    assert poll().json() == {
        "task_id": ID,
        "progress": 100,
        "stage": "completed",
        "status": "completed",
        "is_completed": True,
        "created_at": "2026-02-23 17:00:00",
        "results": [{"rank": 1}],
        "detailed_results": [{"question": "为什么", "answer": "…"}],
        "source": "test_records",
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_a_status_brings_the_records_results(make_records: records.Maker, engine: str, poll: Any) -> None:
    _store, client = make_records(engine, by_url=True)
    add_status(client, 100, "completed", done=True)
    add_record(client)
    said = poll().json()
    assert (said["source"], said["status"], said["created_at"]) == ("task_statuses", "completed", "2026-02-23 16:00:00")
    assert said["results"] == [{"rank": 1}]


STAGES = (
    (55, "analyzing", False, (55, "analyzing", "processing", False)),
    (100, "completed", True, (100, "completed", "completed", True)),
    (30, "failed", False, (30, "failed", "failed", False)),
    (None, "init", False, (0, "init", "processing", False)),
    (250, "never heard of", False, (100, "never heard of", "processing", False)),
)


@pytest.mark.parametrize("engine", ENGINES)
def test_stages_are_the_clients_strings(make_records: records.Maker, engine: str, poll: Any) -> None:
    _store, client = make_records(engine, by_url=True)
    for progress, stage, done, wanted in STAGES:
        client.execute("DELETE FROM task_statuses")
        add_status(client, progress, stage, done)
        answer = poll()
        said = answer.json()
        assert tuple(said[key] for key in ("progress", "stage", "status", "is_completed")) == wanted
        assert (said["results"], said["detailed_results"]) == ([], [])
        assert ("Retry-After" in answer) == (wanted[2] == "processing")


def test_columns_of_other_types_than_text(make_records: records.Maker, poll: Any) -> None:
    """Columns of the types enum, UUID and smallint are read for one execution and for a batch."""
    _store, client = make_records("postgresql")
    client.execute("CREATE TYPE stage AS ENUM ('init', 'ai_fetching', 'analyzing', 'completed', 'failed')")
    client.execute("ALTER TABLE task_statuses ALTER COLUMN stage TYPE stage USING stage::stage")
    client.execute("ALTER TABLE task_statuses ALTER COLUMN task_id TYPE uuid USING task_id::uuid")
    client.execute("ALTER TABLE task_statuses ALTER COLUMN progress TYPE smallint")
    add_status(client, 60, "analyzing")
    said = [poll().json(), poll("/api/v1/executions/status", ids=[ID, records.execution(2)]).json()["executions"][0]]
    client.execute("DROP TABLE test_records")
    said.append(poll().json())
    for one in said:
        assert (one["task_id"], one["progress"], one["stage"]) == (ID, 60, "analyzing")


def test_progress_is_the_highest_known(make_records: records.Maker, poll: Any) -> None:
    _store, client = make_records("sqlite", by_url=True)
    add_status(client, progress=80)
    cache.set(f"execution:{ID}", live(progress=40))
    said = poll().json()
    assert (said["progress"], said["stage"], said["source"]) == (80, "ai_fetching", "live")
    cache.set(f"execution:{ID}", live(progress=90))
    assert poll().json()["progress"] == 90


def test_an_ended_execution_stays_ended(make_records: records.Maker, poll: Any) -> None:
    """A live entry that a crash left does not keep clients waiting."""
    _store, client = make_records("sqlite", by_url=True)
    cache.set(f"execution:{ID}", live(progress=40))
    add_status(client, 45, "failed")
    said = poll().json()
    assert (said["status"], said["stage"], said["progress"], said["source"]) == (
        "failed",
        "failed",
        45,
        "task_statuses",
    )


@pytest.mark.parametrize("entry", [b"{broken", "[1]", "3", b"\xff"])
def test_a_live_entry_that_cannot_be_read(
    make_records: records.Maker,
    poll: Any,
    redis_server: RedisServer,
    settings: Any,
    entry: Any,
) -> None:
    _store, client = make_records("sqlite", by_url=True)
    use_cache(settings, redis_server.url)
    redis_server.client.set(f"execution:{ID}", entry)
    assert code(poll()) == (503, "unavailable")
    add_status(client)
    assert poll().json()["source"] == "task_statuses"
    redis_server.client.flushall()


@pytest.mark.parametrize("engine", ENGINES)
def test_broken_summaries_do_not_break_answers(make_records: records.Maker, engine: str, poll: Any) -> None:
    _store, client = make_records(engine, by_url=True)
    for kind in records.kinds(1):
        add_record(client, kind.summary if kind.summary is not None else b"", is_summary_compressed=kind.flag)
        answer = poll()
        assert (answer.status_code, answer.json()["is_completed"]) == (200, True)


# --- long results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("packed", [False, True])
def test_long_results_by_a_link(make_records: records.Maker, engine: str, poll: Any, packed: bool) -> None:
    _store, client = make_records(engine, by_url=True)
    results = [{"text": "长" * 1000, "n": n} for n in range(600)]
    summary: Any = json.dumps({"execution_id": ID, "results": results}).encode()
    details: Any = json.dumps({"long": "x" * 2_000_000}).encode()
    if packed:
        summary, details = gzip.compress(summary), gzip.compress(details)
    add_record(client, summary, details)
    answer = poll()
    assert len(answer.content) < 1000
    said = answer.json()
    assert said["results"] == {"url": f"/api/v1/executions/{ID}/results"}
    assert poll(said["results"]["url"]).json() == results
    assert poll(said["detailed_results"]["url"]).json() == {"long": "x" * 2_000_000}


def test_long_results_of_the_live_layer(poll: Any) -> None:
    results = ["x" * 1000] * 1100
    cache.set(f"execution:{ID}", live(is_completed=True, results=results))
    said = poll().json()
    assert poll(said["results"]["url"]).json() == results


def test_chinese_results_count_as_the_bytes_that_are_sent(poll: Any) -> None:
    results = ["长" * 200_000]
    cache.set(f"execution:{ID}", live(is_completed=True, results=results))
    assert poll().json()["results"] == results


def test_links_without_a_target(poll: Any, settings: Any) -> None:
    path = f"/api/v1/executions/{ID}/results"
    assert code(poll(path)) == (404, "not_found")
    use_cache(settings, UNREACHABLE)
    assert code(poll(path)) == (503, "unavailable")


# --- HTTP ---------------------------------------------------------------------------------------------------


def test_etag(poll: Any) -> None:
    cache.set(f"execution:{ID}", live())
    first = poll()
    tag = first["ETag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = poll(headers={"If-None-Match": known})
        assert (again.status_code, again.content, again["ETag"]) == (304, b"", tag)
        assert again["Retry-After"] == first["Retry-After"]
    cache.set(f"execution:{ID}", live(progress=41))
    assert poll(headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("bad", ["x" * 201, "a%00b", "a%0Ab"])
def test_an_unknown_execution(poll: Any, bad: str) -> None:
    assert code(poll(address(bad))) == (422, "invalid")


def test_permissions(client: Client, viewer: User, charlie: User, poll: Any) -> None:
    cache.set(f"execution:{ID}", live())
    assert code(client.get(address())) == (401, "not_authenticated")
    assert poll().status_code == 200
    secret = Token.issue(charlie, "nosy")
    assert code(client.get(address(), headers={"Authorization": f"Bearer {secret}"})) == (403, "forbidden")
    client.force_login(charlie)
    assert code(client.get(address())) == (403, "forbidden")
    client.force_login(viewer)
    assert client.get(address()).status_code == 200


def test_permissions_are_checked_for_each_url_and_revoked_at_once(viewer: User, poll: Any) -> None:
    """Permissions are checked for each URL, and a revoked permission takes effect at once."""
    cache.set(f"execution:{ID}", live())
    token = Token.objects.get()
    headers = {"Authorization": f"Bearer {Token.issue(viewer, 'reader and writer')}"}
    assert poll().status_code == 200
    assert Client().get(address(), headers=headers).status_code == 200
    refused = Client().put(address(), json.dumps(live()), content_type="application/json", headers=headers)
    assert code(refused) == (403, "forbidden")
    token.user.groups.clear()
    assert code(poll()) == (403, "forbidden")


# --- several executions -------------------------------------------------------------------------------------


def _statements(call: Callable[[], Any], *aliases: str) -> tuple[Any, int]:
    """Return the result of `call` and its number of statements."""
    counted = [0]

    def count(execute: Any, *args: Any, **kwargs: Any) -> Any:
        counted[0] += 1
        return execute(*args, **kwargs)

    with ExitStack() as stack:
        for alias in aliases:
            stack.enter_context(connections[alias].execute_wrapper(count))
        return call(), counted[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hundred_ids_in_one_request(make_records: records.Maker, engine: str, poll: Any, viewer: User) -> None:
    _store, client = make_records(engine, by_url=True)
    ids = [records.execution(number) for number in range(100)]
    for number, one in enumerate(ids[:90]):
        if number % 3 == 0:
            cache.set(f"execution:{one}", live(progress=number))
        elif number % 3 == 1:
            client.execute("INSERT INTO task_statuses (task_id, progress, stage) VALUES (?, ?, 'init')", [one, number])
        else:
            add_record(client, execution_id=one)
    poll()  # opens the connections
    answer, many = _statements(lambda: poll("/api/v1/executions/status", ids=ids), "default", "records")
    said = answer.json()
    assert [one["task_id"] for one in said["executions"]] == ids[:90]
    assert {one["source"] for one in said["executions"]} == {"live", "task_statuses", "test_records"}
    assert (said["unknown"], said["unavailable"]) == (ids[90:], [])
    _answer, few = _statements(lambda: poll("/api/v1/executions/status", ids=ids[:3]), "default", "records")
    assert few == many <= 6
    http = Client()
    secret = Token.issue(viewer, "another")
    posted = http.post(
        "/api/v1/executions/status",
        json.dumps({"ids": ids}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert posted.json() == said


def test_more_than_a_hundred_ids_are_refused(poll: Any) -> None:
    assert code(poll("/api/v1/executions/status", ids=[str(n) for n in range(101)])) == (422, "invalid")
    assert code(poll("/api/v1/executions/status")) == (422, "invalid")


def test_many_long_results(make_records: records.Maker, poll: Any) -> None:
    """The answer for many executions is not larger than the limit for one."""
    _store, client = make_records("sqlite", by_url=True)
    ids = [records.execution(number) for number in range(100)]
    for one in ids:
        add_record(client, {"results": ["x" * 20_000]}, execution_id=one)
    answer = poll("/api/v1/executions/status", ids=ids)
    assert len(answer.content) < executions.INLINE_BYTES
    assert answer.json()["executions"][0]["results"] == {"url": f"/api/v1/executions/{ids[0]}/results"}


def test_several_executions_without_one_layer(poll: Any, settings: Any) -> None:
    use_cache(settings, UNREACHABLE)
    said = poll("/api/v1/executions/status", ids=["a", "b", "a"]).json()
    assert (said["executions"], said["unknown"], said["unavailable"]) == ([], [], ["a", "b"])
    assert said["not_asked"] == ["live"]


# --- reports of platforms -----------------------------------------------------------------------------------


def test_put_and_get(platform: Any, poll: Any) -> None:
    put = platform({"progress": 30, "stage": "ai_fetching", "created_at": "2026-02-23T16:00:00"})
    got = poll()
    assert (put.status_code, put.json()) == (200, got.json())
    assert got.json() == live(progress=30) | {"source": "live"}
    platform({"stage": "completed", "progress": 100, "is_completed": True, "results": [1]})
    assert (poll().json()["status"], poll().json()["results"]) == ("completed", [1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"progress": 101, "stage": "init"},
        {"progress": "much", "stage": "init"},
        {"progress": 1, "stage": "TaskStage.INIT"},
        {"progress": 1, "stage": "init", "status": "unheard"},
        {"progress": 1, "stage": "init", "task_id": "another"},
        {"progress": 1},
        [],
    ],
)
def test_put_with_an_invalid_status(platform: Any, poll: Any, wrong: Any) -> None:
    assert code(platform(wrong)) == (422, "invalid")
    assert code(poll()) == (404, "not_found")


def test_put_with_invalid_json(platform: Any) -> None:
    assert code(platform("{")) == (400, "bad_request")
    assert code(platform(json.dumps({"stage": "init", "results": "x" * 3_000_000}))) == (413, "too_large")


def test_put_requires_the_permission_and_csrf(client: Client, viewer: User, alice: User, poll: Any) -> None:
    body = json.dumps({"stage": "init"})
    for http, headers, wanted in (
        (client, {}, (401, "not_authenticated")),
        (client, {"Authorization": f"Bearer {Token.issue(viewer, 'x')}"}, (403, "forbidden")),
    ):
        assert code(http.put(address(), body, content_type="application/json", headers=headers)) == wanted
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert code(strict.put(address(), body, content_type="application/json")) == (403, "forbidden")
    strict.get("/admin/")
    token = strict.cookies["csrftoken"].value if "csrftoken" in strict.cookies else "x" * 32
    strict.cookies["csrftoken"] = token
    answer = strict.put(address(), body, content_type="application/json", headers={"X-CSRFToken": token})
    assert answer.status_code == 200


def test_put_without_a_cache(platform: Any, settings: Any) -> None:
    use_cache(settings, UNREACHABLE)
    assert code(platform({"stage": "init"})) == (503, "unavailable")


# --- restarts -----------------------------------------------------------------------------------------------


def test_polling_survives_a_restart_of_redis(
    make_records: records.Maker,
    poll: Any,
    platform: Any,
    redis_server: RedisServer,
    redis_url: str,
    settings: Any,
) -> None:
    _store, client = make_records("sqlite", by_url=True)
    use_cache(settings, redis_url)
    redis_server.client.set(f"execution:{ID}", json.dumps(live(progress=60)))  # in the platform's format
    add_status(client, progress=50)
    before = poll().json()
    assert (before["source"], before["progress"]) == ("live", 60)
    redis_server.stop()
    during = poll()
    assert (during.status_code, during.json()["source"], during.json()["progress"]) == (200, "task_statuses", 50)
    redis_server.start()
    after = poll().json()
    assert (after["source"], after["progress"]) == ("task_statuses", 50)
    platform({"stage": "analyzing", "progress": 70})
    assert json.loads(redis_server.client.get(f"execution:{ID}"))["progress"] == 70  # type: ignore[arg-type]
    assert poll().json()["source"] == "live"
    redis_server.client.flushall()


def test_a_hanging_redis_does_not_delay_requests(
    make_records: records.Maker, poll: Any, redis_server: RedisServer, redis_url: str, settings: Any
) -> None:
    _store, client = make_records("sqlite", by_url=True)
    use_cache(settings, redis_url)
    redis_server.client.set(f"execution:{ID}", json.dumps(live(progress=60)))
    add_status(client, progress=50)
    assert poll().json()["source"] == "live"
    with redis_server.hanging():
        started = time.monotonic()
        assert poll().json()["source"] == "task_statuses"
        assert time.monotonic() - started < 5  # two queries; without a timeout they would never return
    assert poll().json()["progress"] == 60
    redis_server.client.flushall()


def test_rediss_uses_tls_only(settings: Any) -> None:
    """The first bytes that Redis receives are a TLS handshake, not the password."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            connection, _address = server.accept()
            with connection:
                heard.append(connection.recv(1))

        listener = threading.Thread(target=listen)
        listener.start()
        use_cache(settings, f"rediss://:secret@127.0.0.1:{server.getsockname()[1]}/0")
        with pytest.raises(RedisError):
            cache.get(f"execution:{ID}")
        listener.join(10)
    assert heard == [b"\x16"]


def test_polling_survives_a_restart_of_the_console(make_records: records.Maker, poll: Any, platform: Any) -> None:
    """Entries in memory are lost, but the platform's tables still answer."""
    _store, client = make_records("sqlite", by_url=True)
    platform({"stage": "analyzing", "progress": 70})
    add_status(client, progress=65)
    assert poll().json()["source"] == "live"
    cache.clear()
    assert (poll().json()["source"], poll().json()["progress"]) == ("task_statuses", 65)


# --- connections --------------------------------------------------------------------------------------------


def _call(application: Any, path: str, secret: str) -> int:
    """Send a request with Django's signals, which close connections at its end."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "HTTP_AUTHORIZATION": f"Bearer {secret}",
    }
    status: list[str] = []
    response = application(environ, lambda line, headers: status.append(line))
    b"".join(response)
    response.close()
    return int(status[0][:3])


@pytest.mark.parametrize("requests", [int(os.environ.get("OPSCONSOLE_LEAK_REQUESTS", "2000"))])
def test_no_connection_is_left_over(make_records: records.Maker, viewer: User, settings: Any, requests: int) -> None:
    """Eight threads poll while each layer fails in turn. No connection to PostgreSQL remains."""
    secret = Token.issue(viewer, "a poller")
    _store, client = make_records("postgresql")
    add_status(client)
    url = client.connection.info
    use_cache(settings, UNREACHABLE)
    application = WSGIHandler()
    answers: dict[int, int] = {}
    lock = threading.Lock()

    def work(count: int) -> None:
        for number in range(count):
            code = _call(application, address(ID if number % 2 else "nobody"), secret)
            with lock:
                answers[code] = answers.get(code, 0) + 1
        connections.close_all()

    def trouble(over: threading.Event) -> None:
        with psycopg.connect(url.dsn, autocommit=True, host=url.host, user=url.user) as admin:
            for turn in itertools.count():
                if over.wait(0.1):
                    return
                if turn % 20 == 19:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND application_name = 'opsconsole'"
                    )
                if turn % 2 == 0:
                    admin.execute("ALTER TABLE test_records RENAME TO gone")
                else:
                    admin.execute("ALTER TABLE gone RENAME TO test_records")

    over = threading.Event()
    worker_threads = [threading.Thread(target=work, args=(requests // 8,)) for _ in range(8)]
    troubler = threading.Thread(target=trouble, args=(over,))
    for thread in (*worker_threads, troubler):
        thread.start()
    for thread in worker_threads:
        thread.join()
    over.set()
    troubler.join()
    assert sum(answers.values()) == requests
    assert set(answers) <= {200, 404, 503}
    assert answers[200] > requests / 4
    count = (
        "SELECT COUNT(*), COUNT(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'opsconsole'"
    )
    connected, busy = client.execute(count)[0]
    assert connected <= 8  # returned to the pool
    assert busy == 0
    close_pool()
    deadline = time.monotonic() + 10  # a server process takes a moment to end
    while client.execute(count)[0][0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.execute(count)[0][0] == 0


def test_a_connection_that_the_server_closed_is_replaced(make_records: records.Maker, viewer: User) -> None:
    secret = Token.issue(viewer, "a poller")
    application = WSGIHandler()
    _store, client = make_records("postgresql")
    add_status(client)
    asked = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'opsconsole'"
    assert _call(application, address(), secret) == 200
    assert connections["records"].connection is None  # it is in the pool
    client.execute(asked.replace("SELECT query", "SELECT pg_terminate_backend(pid)"))
    time.sleep(0.2)
    assert _call(application, address(), secret) == 200


def test_a_locked_table_does_not_affect_the_other(make_records: records.Maker, poll: Any) -> None:
    _store, client = make_records("postgresql")
    add_record(client)
    add_status(client)
    client.execute(f"ALTER DATABASE {client.connection.info.dbname} SET statement_timeout = '200ms'")
    with psycopg.connect(client.connection.info.dsn, host=client.connection.info.host) as other:
        other.execute("LOCK TABLE task_statuses")
        assert poll().json()["source"] == "test_records"


def test_a_request_waits_for_a_connection_of_an_exhausted_pool(
    make_records: records.Maker, viewer: User, caplog: Any
) -> None:
    secret = Token.issue(viewer, "a poller")
    application = WSGIHandler()
    _store, client = make_records("postgresql")
    add_status(client)
    use_pool(client.connection.info, pool_max=1, pool_timeout=0.5)
    assert _call(application, address(), secret) == 200
    pool: Any = connections["records"].pool  # type: ignore[attr-defined]
    taken = pool.getconn()
    assert _call(application, address(), secret) == 503
    assert "no connection became free in 0.5 s" in caplog.text
    giver = threading.Timer(0.3, pool.putconn, [taken])
    giver.start()
    assert _call(application, address(), secret) == 200
    giver.join()


def use_pool(info: Any, port: int = 0, **options: float) -> None:
    """Use a connection pool for the records store, as a web process does."""
    connections["records"].close()
    del connections["records"]
    config = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": info.dbname,
        "HOST": info.host,
        "PORT": port or info.port,
        "USER": info.user,
    }
    connections.settings["records"] = database(
        {**config, "OPTIONS": {"pool_max": 8, **options}}, password="", attached=True, pool=True
    )
    connections.configure_settings(connections.settings)


def close_pool() -> None:
    connection: Any = connections["records"]
    connection.close()
    connection.close_pool()


# --- the shell ----------------------------------------------------------------------------------------------


def test_the_command_prints_what_the_endpoint_returns(make_records: records.Maker, poll: Any, capsys: Any) -> None:
    _store, client = make_records("sqlite", by_url=True)
    add_status(client)
    call_command("execution_status", ID, "--json")
    assert json.loads(capsys.readouterr().out) == poll().json()
    call_command("execution_status", ID)
    said = capsys.readouterr().out
    assert "analyzing" in said
    assert "task_statuses" in said
    with pytest.raises(CommandError) as refused:
        call_command("execution_status", "nobody")
    assert refused.value.returncode == 2
    assert "nobody" in str(refused.value)


def test_the_command_on_a_file(make_records: records.Maker, capsys: Any) -> None:
    store, client = make_records("sqlite")
    add_record(client)
    call_command("execution_status", ID, "--db-path", str(store.path), "--json")
    assert json.loads(capsys.readouterr().out)["source"] == "test_records"
    assert Store("records", "records").alias == "records"
    assert caches["live"] is not None
