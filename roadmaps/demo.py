"""Sample data: twelve roadmaps. The first is stuck, with 27 of its 30 concepts generated."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _

from opsconsole.formatting import format_number
from opsconsole.stores.store import Store
from roadmaps.models import (
    QuizMetadata,
    ResourceRecommendationMetadata,
    RoadmapMetadata,
    RoadmapTask,
    TutorialMetadata,
)

INCIDENT_TASK = "49961d40-0cac-4255-abba-adad0b901056"
INCIDENT_ROADMAP = "agent-performance-tuning-x5y9z2w8"
GENERATED = 27
WORKED, STOPPED = timedelta(minutes=47), timedelta(minutes=52)  # how long the stuck task worked, and ago
TOPICS = (
    "Agent performance tuning",
    "PostgreSQL for application developers",
    "Rust from the ground up",
    "Designing data pipelines",
    "Practical cryptography",
    "Kubernetes operations",
    "Technical writing",
    "Machine learning systems",
    "Accessible front ends",
    "Distributed systems",
    "Observability",
    "Compilers for the curious",
)
STAGES = ("Foundations", "Practice", "Mastery")
MODULES = ("Ideas", "Tools")
CONCEPTS = ("terms", "first steps", "patterns", "pitfalls", "project")

Status = RoadmapTask.Status


def load() -> Iterator[str]:
    """Fill an empty managed store. Yield what was done. Only the times differ from one call to another."""
    store = Store.current("roadmaps")
    if not store.managed:
        yield _("%(store)s is attached, so no sample data was added.") % {"store": store.alias}
        return
    if RoadmapTask.objects.exists() or RoadmapMetadata.objects.exists():
        yield _("%(store)s already has rows, so no sample data was added.") % {"store": store.alias}
        return
    samples = [_Sample(number) for number in range(len(TOPICS))]
    with transaction.atomic(using=store.alias):
        RoadmapMetadata.objects.bulk_create(one.roadmap for one in samples)
        RoadmapTask.objects.bulk_create(one.task for one in samples)
        TutorialMetadata.objects.bulk_create(row for one in samples for row in one.tutorials)
        ResourceRecommendationMetadata.objects.bulk_create(row for one in samples for row in one.resources)
        QuizMetadata.objects.bulk_create(row for one in samples for row in one.quizzes)
    yield _("%(store)s: added %(roadmaps)s roadmaps. One is stuck with %(generated)d of 30 concepts generated.") % {
        "store": store.alias,
        "roadmaps": format_number(len(samples)),
        "generated": GENERATED,
    }


class _Sample:
    """A roadmap with its task and content: 0 is stuck, 1 failed partially, 2 has old keys, 3 was deleted."""

    def __init__(self, number: int) -> None:
        self.rng = Random(number)
        self.number = number
        self.key = INCIDENT_ROADMAP if number == 0 else f"{TOPICS[number].lower().replace(' ', '-')}-{self._short()}"
        now = datetime.now(settings.ROADMAPS_TIME_ZONE).replace(tzinfo=None)  # times of the store have no zone
        self.at = now - STOPPED - WORKED - number * timedelta(hours=31)
        self.tutorials: list[TutorialMetadata] = []
        self.resources: list[ResourceRecommendationMetadata] = []
        self.quizzes: list[QuizMetadata] = []
        self.failed = {0: 3, 1: 2}.get(number, 0)
        concepts = [self._concept(place) for place in range(30)]
        stages = [
            {
                "stage_id": f"stage-{stage + 1}",
                "name": STAGES[stage],
                "description": f"{STAGES[stage]} of {TOPICS[number].lower()}",
                "order": stage + 1,
                "modules": [
                    {
                        "module_id": f"module-{stage + 1}-{module + 1}",
                        "name": MODULES[module],
                        "description": f"{MODULES[module]} and how to use them",
                        "concepts": concepts[stage * 10 + module * 5 :][:5],
                    }
                    for module in range(2)
                ],
            }
            for stage in range(3)
        ]
        hours = sum(concept["estimated_hours"] for concept in concepts)
        head = {
            "roadmap_id": self.key,
            "title": TOPICS[number],
            "total_estimated_hours": hours,
            "recommended_completion_weeks": 8,
        }
        self.roadmap = RoadmapMetadata(
            **head,
            user_id="demo-user",
            framework_data=json.dumps({**head, "stages": stages}),
            created_at=_text(self.at),
            deleted_at=_text(self.at + timedelta(days=3)) if number == 3 else None,
            deleted_by="demo-user" if number == 3 else None,
        )
        self.task = self._task([concept["concept_id"] for concept in concepts])

    def _task(self, concepts: list[str]) -> RoadmapTask:
        finished = self.at + WORKED
        failed = concepts[len(concepts) - self.failed :]
        over = self.number != 0
        return RoadmapTask(
            task_id=INCIDENT_TASK if self.number == 0 else self._uuid("task"),
            user_id="demo-user",
            status=Status.PROCESSING if not over else Status.PARTIAL_FAILURE if failed else Status.COMPLETED,
            current_step="content_generation" if failed else "completed",
            user_request=json.dumps({"goal": TOPICS[self.number], "level": "intermediate"}),
            roadmap_id=self.key,
            task_type=RoadmapTask.Type.CREATION,
            created_at=_text(self.at),
            updated_at=_text(finished),
            completed_at=_text(finished) if over else None,
            failed_concepts=json.dumps({"count": len(failed), "concept_ids": failed}) if over and failed else None,
            execution_summary=json.dumps(
                {
                    "tutorial_count": 30 - self.failed,
                    "resource_count": 30 - self.failed,
                    "quiz_count": 30 - self.failed,
                    "failed_count": self.failed,
                }
            )
            if over
            else None,
        )

    def _concept(self, place: int) -> dict[str, Any]:
        key = f"{self.key}-c{place + 1:02d}"
        name = f"{MODULES[place // 5 % 2]}: {CONCEPTS[place % 5]}"
        concept: dict[str, Any] = {
            "concept_id": key,
            "title" if self.number == 2 else "name": name,  # in older documents
            "description": f"{name} of {TOPICS[self.number].lower()}",
            "estimated_hours": self.rng.choice((0.5, 1.0, 1.5, 2.0)),
            "prerequisites": [f"{self.key}-c{place:02d}"] if place % 5 else [],
            "difficulty": ("easy", "medium", "hard")[place // 10],
            "keywords": [CONCEPTS[place % 5], TOPICS[self.number].split()[0].lower()],
            "content_status": "pending",
            "tutorial_id": None,
            "content_ref": None,
            "content_version": "v1",
            "content_summary": None,
            "resources_status": "pending",
            "resources_id": None,
            "resources_count": 0,
            "quiz_status": "pending",
            "quiz_id": None,
            "quiz_questions_count": 0,
        }
        generated = place < 30 - self.failed
        if generated:
            self._generate(concept, name)
        elif self.number:
            concept |= dict.fromkeys(("content_status", "resources_status", "quiz_status"), "failed")
        return concept

    def _generate(self, concept: dict[str, Any], name: str) -> None:
        """Add rows of content, and their references to the framework unless the roadmap is stuck."""
        key, at = concept["concept_id"], _text(self.at + timedelta(minutes=self.rng.randint(5, 40)))
        versions = 2 if self.number == 2 and self.rng.random() < 0.2 else 1
        for version in range(1, versions + 1):
            tutorial = self._uuid(f"{key} tutorial {version}")
            self.tutorials.append(
                TutorialMetadata(
                    tutorial_id=tutorial,
                    concept_id=key,
                    roadmap_id=self.key,
                    title=name,
                    summary=f"An introduction to {name.lower()}.",
                    content_url=f"https://content.example/{self.key}/{key}/v{version}.md",
                    content_status="completed",
                    content_version=version,
                    is_latest=version == versions,
                    estimated_completion_time=self.rng.choice((15, 30, 45)),
                    generated_at=at,
                )
            )
        resources = [
            {"title": f"{name}, part {part}", "url": f"https://learn.example/{key}/{part}", "type": "article"}
            for part in range(1, self.rng.randint(3, 6))
        ]
        questions = [
            {
                "question_id": f"q{part}",
                "question": f"Which of these belongs to {name.lower()}?",
                "options": ["the first", "the second", "neither"],
                "correct_answer": [self.rng.randint(0, 2)],
                "difficulty": ("easy", "medium", "hard")[part % 3],
            }
            for part in range(5)
        ]
        self.resources.append(
            ResourceRecommendationMetadata(
                id=self._uuid(f"{key} resources"),
                concept_id=key,
                roadmap_id=self.key,
                resources=json.dumps(resources),
                resources_count=len(resources),
                search_queries_used=json.dumps([name]),
                generated_at=at,
            )
        )
        self.quizzes.append(
            QuizMetadata(
                quiz_id=self._uuid(f"{key} quiz"),
                concept_id=key,
                roadmap_id=self.key,
                questions=json.dumps(questions),
                total_questions=5,
                easy_count=2,
                medium_count=2,
                hard_count=1,
                generated_at=at,
            )
        )
        if self.number:
            concept |= {
                "content_status": "completed",
                "tutorial_id": tutorial,
                "content_ref": self.tutorials[-1].content_url,
                "content_version": f"v{versions}",
                "content_summary": self.tutorials[-1].summary,
                "resources_status": "completed",
                "resources_id": self.resources[-1].pk,
                "resources_count": len(resources),
                "quiz_status": "completed",
                "quiz_id": self.quizzes[-1].pk,
                "quiz_questions_count": 5,
            }

    def _uuid(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://demo.example/{self.key}/{name}"))

    def _short(self) -> str:
        return "".join(self.rng.choices("abcdefghjkmnpqrstuvwxyz23456789", k=8))


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")
