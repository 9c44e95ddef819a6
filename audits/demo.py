"""Sample data of AgentOS: tasks and audits, most of them older than the columns that the backfill fills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from audits.extraction import KEYS
from audits.models import GuardianVerdict, InboxEntry, TaskAudit
from opsconsole.formatting import format_number
from opsconsole.stores.store import Store
from tasks.agentos.demo import BEGIN, load_task_rows
from tasks.agentos.models import Task

TASKS = 60
AUDITS = 5_000
BROKEN = 14
SINCE_V21 = 190  # supervisor audits with both columns
OLDER = 2_014  # supervisor audits without them, including the broken ones
APART = timedelta(minutes=7, seconds=13)

GOALS = (
    "Migrate the billing export to the new API",
    "Fix the flaky login test",
    "Summarise the weekly incident reports",
    "Raise the coverage of the parser",
    "Write the release notes of 2.4",
    "Find the memory leak in the scheduler",
    "Translate the onboarding mails",
    "Review the pull requests of the SDK",
    "Update the dependencies of the gateway",
    "Draft the plan of the data retention",
)
DECISIONS = {
    "SUPERVISOR_ALLOWED": ("info", "within the risk budget"),
    "SUPERVISOR_DECISION": ("info", "policy evaluated"),
    "SUPERVISOR_DECISION_APPLIED": ("info", "decision applied"),
    "SUPERVISOR_PAUSED": ("warning", "waits for an answer of a person"),
    "SUPERVISOR_RETRY_RECOMMENDED": ("warning", "the tool timed out twice"),
    "SUPERVISOR_BLOCKED": ("error", "writes outside the workspace"),
    "SUPERVISOR_ERROR": ("error", "the policy could not be read"),
}
OTHERS = {
    "TASK_CREATED": "info",
    "TASK_STATE_CHANGED": "info",
    "TOOL_CALLED": "info",
    "MESSAGE_SENT": "info",
    "COMMIT_LINKED": "info",
    "GUARDIAN_VERDICT": "warning",
}
SOURCE_KEYS, PROCESSED_KEYS = KEYS.values()


def load() -> Iterator[str]:
    """Fill the managed AgentOS store if it is empty. Yield what was done. Only times differ between calls."""
    store = Store.current("agentos")
    if not store.managed:
        yield _("%(store)s: attached, no sample data") % {"store": store.alias}
        return
    if Task.objects.exists() or TaskAudit.objects.exists():
        yield _("%(store)s: has rows, no sample data added") % {"store": store.alias}
        return
    rng = Random(21)
    tasks = [_task(number, rng) for number in range(TASKS)]
    audits = _audits(tasks, rng)
    verdicts = [_verdict(audit, rng) for audit in audits if audit.event_type == "GUARDIAN_VERDICT"]
    entries = [_inbox_entry(number, rng.choice(tasks), rng) for number in range(40)]
    with transaction.atomic(using=store.alias):
        Task.objects.bulk_create(tasks)
        TaskAudit.objects.bulk_create(audits)
        GuardianVerdict.objects.bulk_create(verdicts)
        InboxEntry.objects.bulk_create(entries)
        load_task_rows(store, tasks)
    yield _("%(store)s: %(tasks)s tasks, %(audits)s audits, %(waiting)s of them without decision times") % {
        "store": store.alias,
        "tasks": format_number(len(tasks)),
        "audits": format_number(len(audits)),
        "waiting": format_number(OLDER),
    }


def _task(number: int, rng: Random) -> Task:
    at = BEGIN + number * 80 * APART
    status = rng.choices(("completed", "running", "paused", "failed"), (6, 2, 1, 1))[0]
    return Task(
        task_id=_ulid("T", number),
        title=f"{GOALS[number % len(GOALS)]}{f' ({number // len(GOALS) + 1})' if number >= len(GOALS) else ''}",
        status=status,
        session_id=_ulid("S", number // 3),
        created_at=_sql(at),
        updated_at=_sql(at + timedelta(hours=rng.randint(1, 30))),
        created_by=rng.choice(("lead-agent", "console", "schedule")),
        metadata=json.dumps({"priority": rng.choice(("low", "normal", "high")), "budget_usd": rng.randint(1, 40)}),
    )


def _audits(tasks: list[Task], rng: Random) -> list[TaskAudit]:
    """Return the audits by time: supervisor audits without the two columns first, those with both last."""
    older = AUDITS - SINCE_V21 * 3  # the number of audits when version 21 was installed
    supervisor = {*rng.sample(range(older), OLDER), *rng.sample(range(older, AUDITS), SINCE_V21)}
    broken = set(rng.sample(sorted(number for number in supervisor if number < older), BROKEN))
    audits = []
    for number in range(AUDITS):
        at = BEGIN + number * APART
        task = tasks[min(number * TASKS // AUDITS + rng.randint(0, 2), TASKS - 1)]
        if number in supervisor:
            audits.append(_decision(number, task, at, rng, broken=number in broken, filled=number >= older))
        else:
            event_type = rng.choices(tuple(OTHERS), (2, 5, 8, 4, 2, 1))[0]
            audits.append(
                TaskAudit(
                    task_id=task.pk,
                    repo_id=f"repo-{rng.randint(1, 8):02d}",
                    level=OTHERS[event_type],
                    event_type=event_type,
                    payload=json.dumps({"actor": "lead-agent", "step": rng.randint(1, 30)}),
                    created_at=_sql(at),
                )
            )
    return audits


def _decision(number: int, task: Task, at: datetime, rng: Random, *, broken: bool, filled: bool) -> TaskAudit:
    """Return a supervisor audit. Its source event is some seconds old, rarely some hours."""
    event_type = rng.choices(tuple(DECISIONS), (9, 5, 5, 2, 2, 1, 1))[0]
    level, reason = DECISIONS[event_type]
    lag = rng.lognormvariate(0.7, 0.8) if rng.random() > 0.01 else rng.uniform(3_600, 20_000)
    source, processed = (at - timedelta(seconds=lag)).isoformat(), at.isoformat()
    document: dict[str, Any] = {"decision": event_type.removeprefix("SUPERVISOR_").lower(), "reason": reason}
    if filled or rng.random() > 0.06:  # the others have only created_at
        document[SOURCE_KEYS[0] if filled else rng.choice(SOURCE_KEYS)] = source
        document[PROCESSED_KEYS[0] if filled else rng.choice(PROCESSED_KEYS)] = processed
    document["evidence"] = {"confidence": round(rng.uniform(0.5, 1), 2), "findings": rng.randint(0, 5)}
    payload = json.dumps(document)
    return TaskAudit(
        task_id=task.pk,
        repo_id=f"repo-{rng.randint(1, 8):02d}",
        level=level,
        event_type=event_type,
        payload=payload[: len(payload) * 2 // 3] if broken else payload,
        created_at=_sql(at),
        decision_id=_ulid("D", number),
        source_event_ts=source if filled else None,
        supervisor_processed_at=processed if filled else None,
    )


def _verdict(audit: TaskAudit, rng: Random) -> GuardianVerdict:
    decision = rng.choices(("approve", "warn", "reject"), (6, 2, 1))[0]
    verdict = GuardianVerdict(
        id=_ulid("V", int(datetime.fromisoformat(str(audit.created_at)).timestamp())),
        task_id=audit.task_id,
        triggered_by="SUPERVISOR_DECISION",
        policy_json=json.dumps({"policy": "default", "rules": ["no_secrets", "tests_pass"]}),
        decision=decision,
        reasons_json=json.dumps([] if decision == "approve" else ["tests_pass: 2 of 118 failed"]),
        created_at=str(audit.created_at),
    )
    audit.verdict_id = verdict.pk
    return verdict


def _inbox_entry(number: int, task: Task, rng: Random) -> InboxEntry:
    at = BEGIN + (AUDITS - 40 + number) * APART
    status = rng.choices(("processed", "pending", "processing", "failed"), (30, 6, 2, 2))[0]
    done = status in {"processed", "failed"}
    return InboxEntry(
        id=_ulid("I", number),
        task_id=task.pk,
        event_type=rng.choice(("TASK_CREATED", "TASK_STATE_CHANGED", "TOOL_CALLED")),
        event_ts=at.isoformat(),
        payload_json=json.dumps({"step": rng.randint(1, 30)}),
        status=status,
        processed_at=(at + timedelta(seconds=rng.randint(1, 9))).isoformat() if done else None,
        created_at=_sql(at),
    )


def _ulid(kind: str, number: int) -> str:
    """Return an identifier in the platform's format: 26 characters, sortable."""
    return f"01JH{kind}{number:021d}"


def _sql(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")
