"""Pages of the roadmaps store: the tree of a framework, tasks with their operations, dirty stores."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from opsconsole.engine.models import Run
from tests.conftest import attach_url
from tests.support import roadmaps
from tests.support.roadmaps import INCIDENT, INCIDENT_ROADMAP, Maker, concept

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])
TASKS, ROADMAPS = "/admin/roadmaps/roadmaptask/", "/admin/roadmaps/roadmapmetadata/"


@pytest.fixture(params=["sqlite", "postgresql-jsonb"])
def client(make_roadmaps: Any, request: pytest.FixtureRequest, bob: Any) -> Client:
    maker = Maker()
    roadmaps.incident(maker)
    quiz = '[{"question": "Why <b>?", "options": ["one", 2]}, 7]'
    maker.quiz(INCIDENT_ROADMAP, "c00", 2, questions=quiz)
    maker.roadmap("odd/one", [concept("a", name=None, content_status=7), {"concept_id": None}])
    maker.task("broken", "nowhere", status="completed", failed_concepts="7")
    maker.rows["roadmap_metadata"].append({"roadmap_id": "text", "framework_data": '"text"'})
    made = make_roadmaps(request.param, maker.rows, lacks=roadmaps.WITHOUT_DELETED)
    if made.path:
        attach_url("roadmaps", f"sqlite:///{made.path}")
    client = Client()
    client.force_login(bob)
    return client


def page(client: Client, address: str, status: int = 200) -> str:
    answer = client.get(address)
    assert answer.status_code == status
    return str(answer.content.decode())


def test_a_roadmap_as_a_tree(client: Client) -> None:
    shown = page(client, f"{ROADMAPS}{INCIDENT_ROADMAP}/change/")
    assert "30 concepts. 0 of the 27 concepts with all content have complete references." in shown
    assert "<del>pending</del>" in shown
    assert "90 differences" in shown
    assert "Version 1, completed" in shown
    assert "Why &lt;b&gt;?" in shown
    assert INCIDENT in shown
    assert "The framework cannot be read." in page(client, f"{ROADMAPS}text/change/")
    assert "<code>a</code>" in page(client, f"{ROADMAPS}odd_2Fone/change/")


def test_a_task_with_its_problems_and_operations(client: Client) -> None:
    shown = page(client, f"{TASKS}{INCIDENT}/change/")
    assert "framework_behind_content" in shown
    assert 'value="roadmaps.sync_results"' in shown
    answer = client.post(TASKS, {"action": "roadmaps.sync_results", "_selected_action": INCIDENT})
    run = Run.objects.get()
    assert (answer.status_code, run.selection, run.total) == (302, {"keys": [INCIDENT]}, 1)
    assert "roadmap_missing" in page(client, f"{TASKS}broken/change/")


def test_lists(client: Client) -> None:
    assert INCIDENT in page(client, f"{TASKS}?status__exact=processing")
    assert INCIDENT in page(client, f"{TASKS}?roadmap_id={INCIDENT_ROADMAP}")
    assert INCIDENT_ROADMAP in page(client, f"{ROADMAPS}?q={INCIDENT_ROADMAP}")
    for name in ("tutorialmetadata", "resourcerecommendationmetadata", "quizmetadata"):
        address = f"/admin/roadmaps/{name}/"
        assert "c05" in page(client, f"{address}?concept_id=c05")
        key = {"t": "t", "r": "r", "q": "q"}[name[0]]
        assert INCIDENT_ROADMAP in page(client, f"{address}{key}-{INCIDENT_ROADMAP}-c05-1/change/")


def test_a_viewer_sees_no_operations(client: Client, viewer: Any) -> None:
    client.force_login(viewer)
    shown = page(client, f"{TASKS}{INCIDENT}/change/")
    assert "framework_behind_content" in shown
    assert "roadmaps.sync_results" not in shown


@pytest.mark.parametrize("url", ["nonsense", "postgresql://127.0.0.1:1/x", "sqlite:////nowhere/x.db"])
def test_an_invalid_checkpoint_url_is_shown_on_the_page(client: Client, settings: Any, url: str) -> None:
    settings.ROADMAPS_CHECKPOINT_URL, settings.ROADMAPS_RESUME_URL = url, "http://127.0.0.1:9/"
    shown = page(client, f"{TASKS}{INCIDENT}/change/")
    assert "nowhere" in url or "ROADMAPS_CHECKPOINT_URL" in shown
    answer = client.post(TASKS, {"action": "roadmaps.recover_tasks", "_selected_action": INCIDENT}, follow=True)
    assert "ROADMAPS_CHECKPOINT_URL" in answer.content.decode()
    assert not Run.objects.exists()
