"""Sample data: forty jobs of an agency, with one job of each type of dirty data."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from opsconsole.stores.store import Store
from tasks.helix.dirty_data import QUERIES
from tasks.helix.models import AgentPrompt, HelixArtifact, HelixJob, HelixTask, SystemLog

JOBS = 40
ARTIFACTS = {
    "AGENT_1": "creative_brief",
    "AGENT_2": "visual_explorations",
    "AGENT_3": "presentation_blueprint",
    "AGENT_4": "audit_report",
    "AGENT_5": "evolution_proposal",
}
TOPICS = ("a tea house", "a bicycle workshop", "a museum of maps", "an orchard", "a ferry line", "a night train")
# Type -> status of the job, and per task (one per agent) its status, its retries and whether it has an artifact.
DIRTY: dict[str, tuple[str, list[tuple[str, int, bool]]]] = {
    "A": ("IN_PROGRESS", [("COMPLETED", 0, True), ("COMPLETED", 1, False), ("PENDING", 0, False)]),
    "B": ("FAILED", [("COMPLETED", 0, True), ("FAILED", 2, True)]),
    "C": ("IN_PROGRESS", [("FAILED", 1, False), ("FAILED", 2, False)]),
    "D": ("IN_PROGRESS", [("COMPLETED", 0, True), ("FAILED", 3, False), ("PENDING", 0, False)]),
    "E": ("IN_PROGRESS", [("COMPLETED", 0, True), ("FAILED", 1, False), ("PENDING", 0, False)]),
    "F": ("IN_PROGRESS", [("COMPLETED", 0, True), ("RETRYING", 1, True)]),
}
STALLED = (DIRTY["D"], DIRTY["E"])
HEALTHY: list[tuple[str, list[tuple[str, int, bool]]]] = [
    ("COMPLETED", [("COMPLETED", 0, True)] * 5),
    ("COMPLETED", [("COMPLETED", 0, True)] * 3),
    ("IN_PROGRESS", [("COMPLETED", 0, True), ("IN_PROGRESS", 0, False), ("PENDING", 0, False)]),
    ("CANCELLED", [("COMPLETED", 0, True), ("FAILED", 3, False)]),
    ("PENDING", [("PENDING", 0, False)]),
]


def load() -> Iterator[str]:
    """Fill an empty managed store. Yield what was done."""
    store = Store.current("helix")
    if not store.managed or HelixJob.objects.exists():
        return
    with transaction.atomic(using=store.alias):
        jobs = _load()
    yield _("helix: added %(jobs)d jobs of agents, with one job of each of the %(types)d types of dirty data.") % {
        "jobs": jobs,
        "types": len(QUERIES),
    }


def _load() -> int:
    chance = random.Random(3)
    now = datetime.now(UTC).replace(microsecond=0)
    kinds = [*DIRTY.values(), *(HEALTHY[number % len(HEALTHY)] for number in range(JOBS - len(DIRTY)))]
    chance.shuffle(kinds)
    kinds.sort(key=lambda kind: kind in STALLED)  # the newest job has had no activity for 9 hours
    tasks: list[tuple[HelixTask, bool]] = []
    for number, (status, parts) in enumerate(kinds):
        at = now - timedelta(hours=9 * (JOBS - number), minutes=50)
        topic = chance.choice(TOPICS)
        job = HelixJob.objects.create(
            status=status,
            initial_request=json.dumps({"chat_input": f"A campaign for {topic}", "session": number // 3}),
            session_id=f"session-{number // 3:03}",
            created_at=_text(at),
            updated_at=_text(at + timedelta(minutes=40)),
            completed_at=_text(at + timedelta(minutes=40)) if status == "COMPLETED" else None,
            error_message="An agent failed." if status == "FAILED" else None,
        )
        for agent, (task_status, retries, has_artifact) in zip(ARTIFACTS, parts, strict=False):
            task = _task(job, agent, task_status, retries, at, topic)
            tasks.append((task, has_artifact))
    for task, has_artifact in tasks:
        if has_artifact:
            HelixArtifact.objects.create(
                task=task,
                name=ARTIFACTS[task.agent_id],
                schema_id=f"{ARTIFACTS[task.agent_id]}_v1",
                payload=json.dumps({"title": ARTIFACTS[task.agent_id].replace("_", " "), "by": task.agent_id}),
                created_at=task.updated_at,
            )
    _load_prompts_and_log(now)
    return len(kinds)


def _task(job: HelixJob, agent: str, status: str, retries: int, at: datetime, topic: str) -> HelixTask:
    begun = at + timedelta(minutes=5 * int(agent[-1]))
    started = None if status == "PENDING" else _text(begun)
    return HelixTask.objects.create(
        job=job,
        agent_id=agent,
        status=status,
        input_data=json.dumps({"topic": topic}),
        output_data=json.dumps({"words": 420}) if status == "COMPLETED" else None,
        error_log="TimeoutError: the model did not answer" if status == "FAILED" else None,
        retry_count=retries,
        assigned_at=started,
        started_at=started,
        completed_at=_text(begun + timedelta(minutes=4)) if status == "COMPLETED" else None,
        created_at=_text(at),
        updated_at=_text(begun + timedelta(minutes=4)),
    )


def _load_prompts_and_log(now: datetime) -> None:
    for agent, artifact in ARTIFACTS.items():
        AgentPrompt.objects.create(
            agent_id=agent,
            version="1.0",
            prompt_text=f"You make the {artifact.replace('_', ' ')} of a campaign.",
            is_active=True,
            created_at=_text(now - timedelta(days=60)),
            created_by="studio",
        )
    entries: list[tuple[str, str, dict[str, Any]]] = [
        ("INFO", "orchestrator started", {"workers": 4}),
        ("ERROR", 'duplicate key value violates unique constraint "artifacts_task_id_name_key"', {"agent": "AGENT_2"}),
        ("WARNING", "a task was retried", {"retry_count": 1}),
    ]
    for number, (level, message, metadata) in enumerate(entries):
        SystemLog.objects.create(
            level=level,
            component="orchestrator",
            message=message,
            metadata=json.dumps(metadata),
            created_at=_text(now - timedelta(hours=number)),
        )


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}+00"
