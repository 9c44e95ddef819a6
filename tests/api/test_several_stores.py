"""The API asks every store of a platform, or the one that `?store=` names."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from opsconsole.accounts.models import Token
from tests.conftest import attach_url
from tests.support import records, roadmaps
from tests.support.roadmaps import INCIDENT_ROADMAP, Maker
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *settings.STORES])
DOWN = "postgresql://u@127.0.0.1:1/x"
EXECUTION = "/api/v1/executions/{}/status"
CN = "records_cn"


@pytest.fixture
def get(viewer: User) -> Any:
    secret = Token.issue(viewer, "a client")
    return lambda path, **params: Client().get(path, params, headers={"Authorization": f"Bearer {secret}"})


@pytest.fixture(params=("sqlite", "postgresql"))
def clients(make_records: records.Maker, request: pytest.FixtureRequest) -> list[records.Client]:
    """Return the clients of two stores. Each has an execution of its own, and both have the execution `both`."""
    found = []
    for alias in ("records", CN):
        _store, client = make_records(request.param, by_url=True, alias=alias)
        for one, progress in (("both", 10), (f"of-{alias}", 20)):
            client.execute(
                "INSERT INTO task_statuses (task_id, progress, stage) VALUES (?, ?, 'init')", [one, progress]
            )
        found.append(client)
    return found


def test_an_execution_is_found_in_every_store(clients: Any, get: Any) -> None:
    for alias in ("records", CN):
        found = get(EXECUTION.format(f"of-{alias}")).json()
        assert (found["store"], found["progress"]) == (alias, 20)
        assert get(EXECUTION.format("both"), store=alias).json()["store"] == alias
    several = get(EXECUTION.format("both"))
    assert several.status_code == 409
    assert several.json()["error"]["stores"] == ["records", CN]
    assert get(EXECUTION.format("of-records"), store=CN).status_code == 404
    unknown = get(EXECUTION.format("both"), store="helix")
    assert unknown.status_code == 422
    assert f"records, {CN}" in unknown.json()["error"]["message"]


def test_each_store_is_asked_twice_for_any_number_of_executions(clients: Any, get: Any) -> None:
    def ask(count: int) -> tuple[Any, list[int]]:
        ids = ["both", "of-records", f"of-{CN}", *(f"x{place}" for place in range(count))]
        get("/api/v1/executions/status", ids=ids)  # reads the catalogs
        captures = [CaptureQueriesContext(connections[alias]) for alias in ("records", CN)]
        with captures[0], captures[1]:
            answer = get("/api/v1/executions/status", ids=ids).json()
        return answer, [len(one) for one in captures]

    answer, few = ask(3)
    assert [(one["task_id"], one["store"]) for one in answer["executions"]] == [
        ("of-records", "records"),
        (f"of-{CN}", CN),
    ]
    assert answer["ambiguous"] == {"both": ["records", CN]}
    assert (len(answer["unknown"]), answer["unavailable"], answer["not_asked"]) == (3, [], [])
    assert ask(90)[1] == few


def test_an_unreachable_store_is_not_a_missing_execution(clients: Any, get: Any) -> None:
    attach_url("records_down", DOWN, platform="records")
    assert get(EXECUTION.format("of-records")).json()["store"] == "records"
    missing = get(EXECUTION.format("other"))
    assert (missing.status_code, missing.json()["error"]["not_asked"]) == (503, ["records_down"])
    assert "records_down" in missing.json()["error"]["message"]
    assert get(EXECUTION.format("other"), store=CN).status_code == 404
    several = get("/api/v1/executions/status", ids=["of-records", "other"]).json()
    assert (several["unknown"], several["unavailable"], several["not_asked"]) == ([], ["other"], ["records_down"])
    document = get("/api/v1/executions/other/results")
    assert (document.status_code, document.json()["error"]["not_asked"]) == (503, ["records_down"])


def test_a_long_document_is_linked_in_its_store(clients: Any, get: Any) -> None:
    clients[1].execute(records.INSERT, [1, b'{"results": ["' + b"x" * 2_000_000 + b'"]}', 0, "long"])
    url = get(EXECUTION.format("long")).json()["results"]["url"]
    assert url.endswith(f"?store={CN}")
    assert len(get(url).json()[0]) == 2_000_000


def test_the_command_asks_every_store(tmp_path: Any) -> None:
    (tmp_path / "opsconsole.toml").write_text(
        f'[stores.records]\n[stores.{CN}]\nplatform = "records"\nurl = "{DOWN}"\n'
    )
    shell = Shell(tmp_path)
    assert shell.run("setup").returncode == 0
    assert CN in shell.refused("execution_status", "other")
    assert "does not exist" in shell.refused("execution_status", "other", "--database", "records")
    assert CN in shell.refused("execution_status", "other", "--database", "helix")


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"])
def test_roadmaps_of_every_store(make_roadmaps: Any, engine: str, get: Any) -> None:
    both, single = Maker(), Maker()
    roadmaps.incident(both)
    roadmaps.incident(single)
    make_roadmaps(engine, both.rows, alias="roadmaps_eu")
    path, concept = f"/api/v1/roadmaps/{INCIDENT_ROADMAP}", "concepts/c01/quiz"
    found = get(f"{path}/{concept}").json()
    make_roadmaps(engine, single.rows, alias="roadmaps_cn")
    for address in (path, f"{path}/{concept}"):
        several = get(address)
        assert several.status_code == 409
        assert several.json()["error"]["stores"] == ["roadmaps_eu", "roadmaps_cn"]
        assert get(address, store="roadmaps_cn").status_code == 200
        assert get(address, store="roadmaps").status_code == 404
    assert get(f"{path}/{concept}", store="roadmaps_cn").json() == found
    assert get("/api/v1/health").json()["stores"] == dict.fromkeys(
        ["roadmaps", "roadmaps_eu", "roadmaps_cn"], "reachable"
    )
    attach_url("roadmaps_down", DOWN, platform="roadmaps")
    assert get("/api/v1/roadmaps/other").json()["error"]["not_asked"] == ["roadmaps_down"]
    health = get("/api/v1/health")
    assert (health.status_code, health.json()["error"]["stores"]["roadmaps_down"]) == (503, "unreachable")
    assert get("/api/v1/health", store="roadmaps_cn").status_code == 200


def test_the_document_declares_the_parameter(get: Any) -> None:
    paths = get("/api/v1/openapi.json").json()["paths"]
    about = [path for path in paths if "/executions/" in path or "/roadmaps/" in path or path.endswith("/health")]
    assert len(about) > 5
    for path in about:
        for method, operation in paths[path].items():
            names = {one["name"] for one in operation.get("parameters", ())}
            assert ("store" in names) == (method != "put"), path  # a report goes to the live layer
