"""Sample data of the execution records: three hundred, most without an execution id, some of them broken."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from opsconsole.formatting import format_number
from opsconsole.stores.store import Store
from tasks.records.models import Stage, TaskStatus, TestRecord

RECORDS = 300
REPAIRED_SINCE = 260  # later records have their id
BROKEN = 6
COMPRESSED_ABOVE = 10 * 1024  # bytes, as the platform does it
BRANDS = ("Qinglan Tea", "Northwind Bikes", "Marble & Rye", "Lumen Lamps", "Harbour Books", "Kite Coffee")
MODELS = ("deepseek", "qwen", "doubao", "chatgpt", "gemini")
QUESTIONS = (
    "Which brand would you recommend to a beginner?",
    "Who makes the most durable products?",
    "What do people say about the service?",
)
# Executions that have not completed: (stage, progress).
UNDER_WAY = (
    (Stage.INIT, 0),
    (Stage.AI_FETCHING, 25),
    (Stage.AI_FETCHING, 45),
    (Stage.ANALYZING, 80),
    (Stage.FAILED, 30),
)


def load() -> Iterator[str]:
    """Fill the store if it is managed and empty."""
    store = Store.current("records")
    if not store.managed or TestRecord.objects.exists() or TaskStatus.objects.exists():
        return
    rng = Random(2)
    now = datetime.now(UTC).replace(microsecond=0)
    broken = set(rng.sample(range(REPAIRED_SINCE), BROKEN))
    records = [_record(number, now, rng, broken=number in broken) for number in range(RECORDS)]
    ended = [_status(_id(number), Stage.COMPLETED, 100, now, rng) for number in range(RECORDS - 60, RECORDS)]
    going = [
        _status(_id(RECORDS + number), stage, progress, now, rng) for number, (stage, progress) in enumerate(UNDER_WAY)
    ]
    with transaction.atomic(using=store.alias):
        TestRecord.objects.bulk_create(records)
        TaskStatus.objects.bulk_create([*ended, *going])
    yield _("%(store)s: %(records)s test records, %(waiting)s of them without their execution id") % {
        "store": store.alias,
        "records": format_number(RECORDS),
        "waiting": format_number(REPAIRED_SINCE),
    }


def _id(number: int) -> str:
    return str(UUID(int=0x7F3C2A1E_51D2_4B8E_9D0A_000000000000 + number, version=4))


def _record(number: int, now: datetime, rng: Random, *, broken: bool) -> TestRecord:
    brand = rng.choice(BRANDS)
    models = rng.sample(MODELS, rng.randint(2, len(MODELS)))
    # Every seventh summary is long enough to be compressed.
    asked = rng.choice((60, 90)) if number % 7 == 0 else rng.randint(2, 8)
    results = [
        {
            "model": rng.choice(models),
            "question": rng.choice(QUESTIONS),
            "rank": rng.randint(1, 10),
            "answer": _answer(brand, rng),
        }
        for _place in range(asked)
    ]
    summary: Any = json.dumps(
        {"execution_id": _id(number), "brand_name": brand, "overall_score": rng.randint(40, 99), "results": results},
        ensure_ascii=False,
    ).encode()
    details: Any = json.dumps([{"model": model, "score": rng.randint(30, 100)} for model in models]).encode()
    compressed = len(summary) > COMPRESSED_ABOVE
    if compressed:
        summary = gzip.compress(summary, mtime=0)
    if broken:
        summary = summary[: len(summary) * 2 // 3]
    return TestRecord(
        user_id=rng.randint(1, 12),
        brand_name=brand,
        test_date=f"{now - (RECORDS - number) * timedelta(hours=5):%Y-%m-%d %H:%M:%S}",
        ai_models_used=json.dumps(models),
        questions_used=json.dumps(QUESTIONS),
        overall_score=rng.randint(400, 990) / 10,
        total_tests=asked,
        results_summary=summary,
        detailed_results=details,
        is_summary_compressed=int(compressed),
        is_detailed_compressed=0,
        execution_id=_id(number) if number >= REPAIRED_SINCE else None,
    )


def _answer(brand: str, rng: Random) -> str:
    words = ("reliable", "well made", "fairly priced", "hard to find", "popular", "slow to deliver", "friendly")
    return f"{brand} is {', '.join(rng.sample(words, 3))}. " * rng.randint(1, 3)


def _status(execution_id: str, stage: Stage, progress: int, now: datetime, rng: Random) -> TaskStatus:
    at = now - timedelta(minutes=rng.randint(1, 600))
    return TaskStatus(
        task_id=execution_id,
        progress=progress,
        stage=stage.value,
        status_text="the model did not answer" if stage == Stage.FAILED else "",
        is_completed=stage == Stage.COMPLETED,
        created_at=f"{at - timedelta(minutes=4):%Y-%m-%d %H:%M:%S}",
        updated_at=f"{at:%Y-%m-%d %H:%M:%S}",
    )
