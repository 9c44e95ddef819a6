"""Sample data of AgentOS: projects, sessions, knowledge, memory, and the rows that belong to tasks.

`audits.demo` creates the tasks and their audits, and calls `load_task_rows` for them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from django.db import models, transaction
from django.utils.translation import gettext as _

from opsconsole.formatting import format_number
from opsconsole.stores.store import Store
from tasks.agentos.models import (
    KbChunk,
    KbEmbedding,
    KbSource,
    MemoryItem,
    Project,
    ProjectRepo,
    Task,
    TaskArtifactRef,
    TaskDependency,
    TaskLineage,
    TaskRepoScope,
    WebuiMessage,
    WebuiSession,
)

# The store's times are UTC without a zone. The newest audit of `audits.demo` is about an hour old.
BEGIN = datetime.now(UTC).replace(tzinfo=None, minute=0, second=0, microsecond=0) - timedelta(days=25, hours=2)
SESSIONS = 20
DIMENSIONS = 64
EXPIRED = 12  # memory items

PROJECTS = (
    ("billing", "Billing", "active", ["payments", "python"], "Exports, invoices and the nightly reconciliation."),
    ("gateway", "Gateway", "active", ["edge", "go"], "The public API and its rate limits."),
    ("onboarding", "Onboarding", "active", ["mail", "i18n"], "新用户的欢迎邮件与引导流程。"),
    ("scheduler", "Scheduler", "active", ["core"], "Plans and retries the agents' work."),
    ("sdk", "SDK", "archived", ["clients"], "Client libraries up to 1.9."),
    ("retention", "Data retention", "active", ["policy", "数据"], "数据保留策略：哪些数据保存多久，由谁删除。"),
)
# Role and text of each message.
CONVERSATIONS = (
    (
        ("user", "Please migrate the billing export to the new API. Keep the column order, finance relies on it."),
        (
            "assistant",
            "I found 14 call sites. Three of them read the amount as a float; shall I make those decimals too?",
        ),
        ("user", "Yes, and add a test for 0.1 + 0.2."),
        (
            "assistant",
            "Done:\n\n- 14 call sites moved\n- amounts are decimals\n- 6 new tests, all green",
        ),
    ),
    (
        ("user", "登录测试偶尔会失败，帮我看一下原因。"),
        ("assistant", "测试依赖系统时钟：令牌在整点前一秒签发时会立即过期。建议在测试里固定时间。"),
        ("user", "好的，请修改并连续运行一百次。"),
        ("assistant", "已固定时间并运行 100 次，全部通过。\n改动只涉及 tests/test_login.py。"),
    ),
    (
        ("system", "The workspace is read-only until the review is done."),
        ("user", "Summarise this week's incidents for the report."),
        (
            "assistant",
            "Two: the gateway lost its cache for 11 minutes on Tuesday; a migration held a lock for 40 s.",
        ),
        ("user", "Which of them had customers in it?"),
        ("assistant", "The first: 312 requests were answered with 503 between 09:14 and 09:25 UTC."),
    ),
    (
        ("user", "数据保留策略的草案写好了吗？"),
        ("assistant", "草案已完成：审计日志保留两年，会话保留九十天，向量随来源一起删除。"),
        ("user", "Please translate the summary for the board."),
        (
            "assistant",
            "Audit trails are kept for two years, conversations for ninety days, and embeddings go with their source.",
        ),
    ),
)
DOCUMENTS = (
    ("billing", "file", "docs/export.md", (
        "The export writes one line for each invoice. The order of its columns is part of the contract with finance.",
        "Amounts are decimals with two digits. A float never leaves the parser.",
        "When the export fails it is retried after 5, 25 and 125 minutes, then an operator is notified.",
    )),
    ("gateway", "directory", "docs/limits/", (
        "Each key may send 600 requests a minute. The bucket is kept in the cache and survives a restart.",
        "A client over its limit is answered with 429 and the seconds to wait.",
        "During a deployment the limits of both versions are added up, so that no client is refused twice.",
    )),
    ("onboarding", "file", "docs/邮件.md", (
        "欢迎邮件在注册后五分钟内发送，语言取自浏览器设置。",
        "如果用户三天内没有登录，系统会再发送一封提醒邮件，之后不再打扰。",
    )),
    ("scheduler", "url", "https://wiki.example.com/scheduler/retries", (
        "A task that its worker lost is given to another one after its lease has lapsed.",
        "Retries wait twice as long each time, at most an hour; the fifth failure is final.",
    )),
    ("retention", "file", "docs/数据保留.md", (
        "审计日志保留两年，之后归档到对象存储。",
        "向量与其来源一起删除；删除来源时，分块和向量随之级联删除。",
        "个人数据的删除请求必须在三十天内完成。",
    )),
)  # fmt: skip
MEMORIES = (
    ("decision", "Amounts are decimals, never floats.", "billing"),
    ("convention", "Branches are named area/topic.", None),
    ("constraint", "Nothing is deployed between Friday noon and Monday.", None),
    ("known_issue", "The login test depends on the clock near a full hour.", "gateway"),
    ("decision", "审计日志保留两年，会话保留九十天。", "retention"),
    ("convention", "提交说明用英文，讨论可以用中文。", None),
    ("constraint", "客户数据不得写入日志。", "retention"),
    ("known_issue", "数据库迁移期间网关的缓存会失效。", "gateway"),
    ("decision", "Retries stop after the fifth failure.", "scheduler"),
    ("known_issue", "The export is slow on the first day of a month.", "billing"),
)
ARTIFACTS = (
    ("commit", "Moves the export to the new API"),
    ("branch", "Work in progress"),
    ("pr", "Waits for a review"),
    ("patch", "To be applied by hand"),
    ("file", "The report of the week"),
    ("tag", "Released"),
)


def load() -> Iterator[str]:
    """Fill the empty tables of the managed AgentOS store. Yield what was done. Only times differ between calls."""
    store = Store.current("agentos")
    if not store.managed:
        return
    rng = Random(25)
    projects, repos = _projects()
    sessions, messages = _conversations(rng)
    sources, chunks, embeddings = _knowledge(rng)
    if any(model.objects.exists() for model in (Project, WebuiSession, KbSource, MemoryItem)):
        return
    memories = _memory(rng)
    _fill_empty(store, projects, repos, sessions, messages, sources, chunks, embeddings, memories)
    yield _("%(store)s: %(projects)s projects, %(messages)s messages, %(chunks)s chunks, %(memories)s memory items") % {
        "store": store.alias,
        "projects": format_number(len(projects)),
        "messages": format_number(len(messages)),
        "chunks": format_number(len(chunks)),
        "memories": format_number(len(memories)),
    }


def load_task_rows(store: Store, tasks: Sequence[Task]) -> None:
    """Add lineage, scopes, dependencies and artifacts of the tasks, with one cycle and one missing task."""
    rng = Random(26)
    lineage, scopes, artifacts = [], [], []
    for number, task in enumerate(tasks):
        at = _later(BEGIN, hours=9 * number)
        kinds = list(TaskLineage.Kind)[: rng.randint(2, 4)]
        lineage += [
            TaskLineage(task_id=task.pk, kind=kind, ref_id=_ulid("R", number * 10 + place), phase=phase, created_at=at)
            for place, (kind, phase) in enumerate(
                zip(kinds, ("intake", "planning", "execution", "delivery"), strict=False)
            )
        ]
        repo = f"repo-{rng.randint(1, 8):02d}"
        scope = rng.choice(list(TaskRepoScope.Scope))
        paths = json.dumps(["src/**", "docs/*.md"]) if scope == TaskRepoScope.Scope.PATHS else None
        scopes.append(TaskRepoScope(task_id=task.pk, repo_id=repo, scope=scope, path_filters=paths, created_at=at))
        if task.status == "completed":
            kind, summary = rng.choice(ARTIFACTS)
            artifacts.append(_artifact(task.pk, repo, kind, summary, number, at))
    artifacts.append(_artifact(_ulid("T", 999), "repo-03", "commit", "Its task is gone", 999, _later(BEGIN)))
    _fill_empty(store, lineage, scopes, _dependencies(tasks, rng), artifacts)


def _artifact(task: str, repo: str, kind: str, summary: str, number: int, at: str) -> TaskArtifactRef:
    value = {"commit": f"{Random(number).getrandbits(160):040x}", "pr": f"pull/{number + 100}", "tag": f"v2.{number}"}
    ref = value.get(kind, f"{kind}/{number:03d}")
    return TaskArtifactRef(task_id=task, repo_id=repo, ref_type=kind, ref_value=ref, summary=summary, created_at=at)


def _dependencies(tasks: Sequence[Task], rng: Random) -> list[TaskDependency]:
    pairs = {(number, rng.randint(max(number - 6, 0), number - 1)) for number in range(1, len(tasks)) for _ in range(2)}
    # The only cycle is 3, 5 and 7.
    pairs = {pair for pair in pairs if not all(3 <= task <= 7 for task in pair)} | {(3, 5), (5, 7), (7, 3)}
    reasons = ("needs its export", "touches the same files", "以它的结果为前提", None)
    return [
        TaskDependency(
            task_id=tasks[task].pk,
            depends_on_task_id=tasks[other].pk,
            dependency_type=rng.choice(list(TaskDependency.Type)),
            reason=rng.choice(reasons),
            created_at=_later(BEGIN, hours=9 * task),
            created_by="lead-agent",
        )
        for task, other in sorted(pairs)
        if task < len(tasks) and other < len(tasks)
    ]


def _projects() -> tuple[list[Project], list[ProjectRepo]]:
    projects, repos = [], []
    for number, (key, name, status, tags, description) in enumerate(PROJECTS):
        at = _later(BEGIN, hours=-9_000 + 100 * number)
        projects.append(
            Project(
                id=key,
                path=f"/srv/projects/{key}",
                name=name,
                description=description,
                status=status,
                tags=json.dumps(tags, ensure_ascii=False),
                default_repo_id=f"{key}-main",
                settings=json.dumps({"review": {"required": True, "reviewers": 1 + number % 2}, "language": "en"}),
                added_at=at,
                created_at=at,
                updated_at=_later(BEGIN, hours=-1_000 * number),
                created_by="console",
            )
        )
        for place in range(1 + number % 3):
            repo = f"{key}-{('main', 'docs', 'infra')[place]}"
            repos.append(ProjectRepo(project_id=key, repo_id=repo, repo_path=f"git/{repo}", added_at=at))
    return projects, repos


def _conversations(rng: Random) -> tuple[list[WebuiSession], list[WebuiMessage]]:
    sessions, messages = [], []
    for number in range(SESSIONS):
        key, at = _ulid("S", number), BEGIN + timedelta(hours=29 * number)
        said = CONVERSATIONS[number % len(CONVERSATIONS)]
        for place, (role, content) in enumerate(said):
            at += timedelta(seconds=rng.randint(4, 180))
            messages.append(
                WebuiMessage(
                    message_id=_ulid("M", number * 100 + place),
                    session_id=key,
                    role=role,
                    content=content,
                    created_at=at.isoformat(),
                    metadata=json.dumps({"model": "agent-large", "tokens": rng.randint(40, 900)})
                    if role == "assistant"
                    else None,
                )
            )
        sessions.append(
            WebuiSession(
                session_id=key,
                user_id=rng.choice(("ann", "li.wei", "tom")),
                created_at=_later(BEGIN, hours=29 * number),
                updated_at=at.isoformat(),
                metadata=json.dumps({"client": "web", "locale": "zh-CN" if number % 2 else "en"}),
            )
        )
    return sessions, messages


def _knowledge(rng: Random) -> tuple[list[KbSource], list[KbChunk], list[KbEmbedding]]:
    sources, chunks, embeddings = [], [], []
    for number, (project, kind, path, texts) in enumerate(DOCUMENTS):
        key = _ulid("K", number)
        at = _later(BEGIN, hours=number)
        sources.append(KbSource(source_id=key, project_id=project, source_type=kind, source_path=path, indexed_at=at))
        for place, text in enumerate(texts):
            chunk = _ulid("C", number * 100 + place)
            chunks.append(KbChunk(chunk_id=chunk, source_id=key, content=text, chunk_index=place, created_at=at))
            numbers = [rng.gauss(0, 1) for _ in range(DIMENSIONS)]
            norm = math.hypot(*numbers)
            vector = struct.pack(f"<{DIMENSIONS}f", *(part / norm for part in numbers))
            embeddings.append(KbEmbedding(chunk_id=chunk, embedding=vector, model_name="demo-64", created_at=at))
    return sources, chunks, embeddings


def _memory(rng: Random) -> list[MemoryItem]:
    items = []
    for number in range(len(MEMORIES) * 6):
        kind, text, project = MEMORIES[number % len(MEMORIES)]
        expired = number < EXPIRED
        used = rng.randint(0, 30)
        at = _later(BEGIN, hours=5 * number)
        items.append(
            MemoryItem(
                id=_ulid("Y", number),
                scope="project" if project else "global",
                type=kind,
                content=json.dumps({"summary": text, "source": f"session {number % SESSIONS}"}, ensure_ascii=False),
                tags=json.dumps([kind, "demo"]),
                sources=json.dumps([_ulid("S", number % SESSIONS)]),
                created_at=at,
                updated_at=at,
                confidence=round(rng.uniform(0.4, 1), 2),
                project_id=project,
                last_used_at=_later(BEGIN, hours=5 * number + 12) if used else None,
                use_count=used,
                retention_type="temporary" if expired else "project",
                expires_at=_later(BEGIN, hours=24 * (number + 1)) if expired else None,
            )
        )
    return items


def _fill_empty(store: Store, *tables: Sequence[models.Model]) -> None:
    """Add rows to each empty table. Referenced tables come first."""
    with transaction.atomic(using=store.alias):
        for rows in tables:
            manager: Any = type(rows[0])._default_manager.using(store.alias)
            if not manager.exists():
                manager.bulk_create(rows)


def _ulid(kind: str, number: int) -> str:
    """Return an identifier in the format of `audits.demo`, so that related rows have the same keys."""
    return f"01JH{kind}{number:021d}"


def _later(at: datetime, hours: int = 0) -> str:
    return f"{at + timedelta(hours=hours):%Y-%m-%d %H:%M:%S}"
