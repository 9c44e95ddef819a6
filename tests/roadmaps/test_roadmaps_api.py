"""The read endpoints of roadmaps: permissions, content, and polls without changes."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from opsconsole.accounts.models import Token
from tests.conftest import attach_url
from tests.support import roadmaps
from tests.support.plain_client import execute
from tests.support.roadmaps import INCIDENT_ROADMAP, Maker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])
ROADMAP = f"/api/v1/roadmaps/{INCIDENT_ROADMAP}"


@pytest.fixture(params=["sqlite", "postgresql-jsonb"])
def store(make_roadmaps: Any, request: pytest.FixtureRequest) -> Any:
    maker = Maker()
    roadmaps.incident(maker)
    maker.tutorial(INCIDENT_ROADMAP, "c00", 2)
    maker.tutorial(INCIDENT_ROADMAP, "c00", 3, content_status="failed", is_latest=True)
    made = make_roadmaps(request.param, maker.rows)
    return attach_url("roadmaps", f"sqlite:///{made.path}") if made.path else made


@pytest.fixture
def bearer(viewer: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {Token.issue(viewer, 'a front end')}"}


def test_framework_and_content(client: Client, store: Any, bearer: dict[str, str]) -> None:
    assert client.get(ROADMAP).status_code == 401
    found = client.get(ROADMAP, headers=bearer)
    assert len(roadmaps.concepts_of(found.json())) == 30
    latest = client.get(f"{ROADMAP}/concepts/c00/tutorials/latest", headers=bearer).json()
    assert (latest["content_version"], latest["content_url"]) == (2, "https://content/c00/2")
    assert client.get(f"{ROADMAP}/concepts/c01/resources", headers=bearer).json()["resources"] == []
    assert client.get(f"{ROADMAP}/concepts/c01/quiz", headers=bearer).json()["total_questions"] == 5
    missing = client.get(f"{ROADMAP}/concepts/c29/quiz", headers=bearer)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert client.post(ROADMAP, headers=bearer).status_code == 405
    assert client.get("/api/v1/health", headers=bearer).json()["status"] == "healthy"


def test_a_poll_without_changes(client: Client, store: Any, bearer: dict[str, str]) -> None:
    for address in (ROADMAP, f"{ROADMAP}/concepts/c01/quiz"):
        tag = client.get(address, headers=bearer)["ETag"]
        again = client.get(address, headers={**bearer, "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(address, headers={**bearer, "If-None-Match": '"other"'}).status_code == 200
    execute(store, "UPDATE quiz_metadata SET total_questions = 9")
    assert client.get(address, headers={**bearer, "If-None-Match": tag}).status_code == 200


def test_deleted_roadmaps_and_permissions(client: Client, store: Any, bearer: dict[str, str], charlie: Any) -> None:
    execute(store, "UPDATE roadmap_metadata SET deleted_at = '2026-03-01 10:00:00'")
    assert client.get(ROADMAP, headers=bearer).status_code == 404
    client.force_login(charlie)
    assert client.get(ROADMAP).status_code == 403


def test_an_unavailable_store(client: Client, bearer: dict[str, str], tmp_path: Any) -> None:
    attach_url("roadmaps", f"sqlite:///{tmp_path}/gone.db")
    for address in (ROADMAP, "/api/v1/health"):
        answer = client.get(address, headers=bearer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


def test_documented(client: Client, bearer: dict[str, str]) -> None:
    paths = client.get("/api/v1/openapi.json", headers=bearer).json()["paths"]
    assert "/api/v1/roadmaps/{roadmap_id}/concepts/{concept_id}/tutorials/latest" in paths


def test_a_roadmap_without_a_framework(client: Client, store: Any, bearer: dict[str, str]) -> None:
    execute(store, "UPDATE roadmap_metadata SET framework_data = NULL")
    assert client.get(ROADMAP, headers=bearer).status_code == 404
