"""The rows that `lists` fills the stores and the console with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

AT = "2026-01-20 10:00:00"
PAYLOAD = '{"decision_id": "d", "source_event_ts": "2026-01-20T10:00:00", "reason": "' + "y" * 400 + '"}'
SUMMARY = '{"execution_id": "E", "summary": "' + "z" * 400 + '"}'
#: Store → table → its columns and, for the row n, their values in SQL that both engines know.
FILL: dict[str, dict[str, tuple[str, str]]] = {
    "agentos": {
        "tasks": ("task_id, title, status, session_id", "'T' || n, 'task ' || n, 'running', 'S' || (n % 1000)"),
        "task_audits": (
            "task_id, event_type, payload, created_at, source_event_ts, supervisor_processed_at",
            f"'T' || n, CASE WHEN n % 5 = 0 THEN 'OTHER' ELSE 'SUPERVISOR_DECISION' END, '{PAYLOAD}', '{AT}',"
            " CASE WHEN n % 2 = 0 THEN 'filled' END, CASE WHEN n % 2 = 0 THEN 'filled' END",
        ),
        "task_lineage": ("task_id, kind, ref_id", "'T' || n, 'intent', 'ref ' || n"),
        "task_dependency": ("task_id, depends_on_task_id", "'T' || n, 'T' || (n / 2)"),
        "task_artifact_ref": ("task_id, repo_id, ref_type, ref_value", "'T' || n, 'r', 'commit', 'c' || n"),
        "projects": ("id, path, name, tags", "'P' || n, '/srv/' || n, 'project ' || n, '[]'"),
        "memory_items": (
            "id, scope, type, content, auto_cleanup, expires_at",
            "'Y' || n, 'global', 'decision', '{\"summary\": \"word' || (n % 5000) || ' and some more\"}', 1,"
            " '2099-01-01 00:00:00'",
        ),
        "webui_sessions": (
            "session_id, user_id, created_at, updated_at",
            f"'S' || n, 'u' || (n % 100), '{AT}', '{AT}'",
        ),
        "webui_messages": (
            "message_id, session_id, role, content, created_at",
            f"'M' || n, 'S' || (n / 100 + 1), 'user', 'words ' || n, '{AT}'",
        ),
    },
    "helix": {
        "jobs": ("id, initial_request, session_id", "n, '{}', 'S' || n"),
        "tasks": ("id, job_id, agent_id, input_data", "n, n, 'agent', '{}'"),
        "artifacts": ("id, task_id, name, schema_id, payload", "n, n, 'a', 's', '{}'"),
    },
    "records": {
        "test_records": (
            "id, user_id, brand_name, results_summary, execution_id",
            f"n, n, 'brand', '{SUMMARY}', CASE WHEN n % 100000 = 7 THEN NULL ELSE 'E' || n END",
        ),
        "task_statuses": ("id, task_id, stage", "n, 'T' || n, 'init'"),
    },
    "roadmaps": {
        "roadmap_metadata": ("roadmap_id, title", "'R' || n, 'roadmap ' || n"),
        "roadmap_tasks": ("task_id, status, roadmap_id", "'T' || n, 'processing', 'R' || n"),
        "tutorial_metadata": ("tutorial_id, concept_id, roadmap_id", "'T' || n, 'c', 'R' || n"),
        "quiz_metadata": ("quiz_id, concept_id, roadmap_id", "'Q' || n, 'c', 'R' || n"),
    },
}
#: Kinds of findings: the code, its share of all findings, and the sentence's values.
CODES = {"dangling_task": 6, "dangling_session": 3, "dangling_project": 1}
BATCHES, BATCH_ROWS, SHARDS, RUNS = 400, 1_000, 8, 2_000


def series(vendor: str, rows: int) -> str:
    """Return the beginning of a statement with the numbers from 1 to `rows`."""
    if vendor == "sqlite":
        return f"WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {rows})"
    return f"WITH series AS (SELECT generate_series(1, {rows}) AS n)"


def fill(connection: Any, rows: int, tables: dict[str, tuple[str, str]]) -> None:
    with connection.cursor() as cursor:
        for table in reversed(tables):
            cursor.execute(f"DELETE FROM {table}")
        for table, (columns, values) in tables.items():
            cursor.execute(
                f"{series(connection.vendor, rows)} INSERT INTO {table} ({columns}) SELECT {values} FROM series"
            )
        cursor.execute("ANALYZE" if connection.vendor == "sqlite" else "VACUUM ANALYZE")


def fill_console(findings: int, events: int) -> dict[str, str]:
    """Fill the console's own tables. Return page → address of runs, a plan and an incident."""
    from django.db import connections
    from django.utils import timezone

    from audits.models import TaskAudit
    from opsconsole.engine import incidents, lifecycle, planner, registry, stored_plans
    from opsconsole.engine.audit_log import Actor
    from opsconsole.engine.before_images import encode_before_image
    from opsconsole.engine.findings import MOVES
    from opsconsole.engine.models import (
        Batch,
        Event,
        Finding,
        Heartbeat,
        Incident,
        Run,
        Shard,
        Status,
        Trigger,
    )
    from opsconsole.engine.models.runs import MAX_BATCHES
    from opsconsole.stores.rows import Write

    own = connections["default"]
    with own.cursor() as cursor:
        for model in (Finding, Batch, Shard, Event, Run, Incident):
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
    actor = Actor("bench", "here", Trigger.SHELL)
    cls = registry.operation("audits.backfill_decision_fields")
    now = timezone.now()
    Heartbeat.objects.update_or_create(host="@here", defaults={"at": now})
    plan = lifecycle.create_run(planner.plan(planner.operation_on(cls, stored_plans.store_for(cls, {}), {})), actor)

    def copy(status: str, **values: Any) -> Run:
        run: Run = Run.objects.get(pk=plan.pk)
        run.pk = None
        run._state.adding = True
        run.status, run.started_at, run.in_background = status, now - timedelta(minutes=5), True
        for name, value in {"batches_done": BATCHES, "elapsed_seconds": 280.0, **values}.items():
            setattr(run, name, value)
        run.save()
        return run

    changed = BATCHES * BATCH_ROWS
    reasons = {"changed": {"from_payload": changed}, "skipped": {}, "invalid": {"broken_json": 400}, "failed": {}}
    figures: dict[str, Any] = {
        "total": changed + 400,
        "changed": changed,
        "invalid": 400,
        "reasons": reasons,
        "after": plan.before,
    }
    finished = copy(Status.SUCCEEDED, **figures, finished_at=now)
    working: dict[str, Any] = {
        "status": Status.RUNNING,
        "lease_until": now + timedelta(days=1),
        "worker": {"host": "h", "pid": 1},
    }
    running = copy(**working, **{**figures, "total": 2 * changed})
    sharded = copy(**working, **{**figures, "total": 2 * changed}, shard_count=SHARDS)
    Shard.objects.bulk_create(
        Shard(run=sharded, number=number, bound=number * 1000, **working, changed=changed // SHARDS, reasons=reasons)
        for number in range(1, SHARDS + 1)
    )
    columns = ("source_event_ts", "supervisor_processed_at")
    written: list[Any] = [
        (key, (None, None), ("2026-01-20T10:00:00", "2026-01-20T10:00:00")) for key in range(BATCH_ROWS)
    ]
    unchanged = {"invalid": {"broken_json": ["7"]}}
    image = encode_before_image([Write("task_audits", columns, written)], unchanged, reasons)
    for run in (finished, running, sharded):
        Batch.objects.bulk_create(
            Batch(
                run=run,
                number=number if run is not sharded else number % SHARDS * MAX_BATCHES + MAX_BATCHES + number,
                committed=True,
                cursor=number * BATCH_ROWS,
                changed=BATCH_ROWS,
                invalid=1,
                rows=BATCH_ROWS,
                seconds=0.5,
                prepared_at=now - timedelta(seconds=(BATCHES - number) * 0.7),
                before_image=image,
            )
            for number in range(1, BATCHES + 1)
        )
    check = registry.operation("audits.check_references")
    scan = lifecycle.create_run(planner.plan(planner.operation_on(check, stored_plans.store_for(check, {}), {})), actor)
    shares = [code for code, share in CODES.items() for _turn in range(share)]
    code = (
        "CASE " + " ".join(f"WHEN n %% {len(shares)} = {at} THEN '{name}'" for at, name in enumerate(shares)) + " END"
    )
    data = """'{"table": "task_audits", "column": "task_id", "rows": 1, "missing": "T' || n || '", "first": "7"}'"""
    is_postgresql = own.vendor == "postgresql"
    json_type = "::jsonb" if is_postgresql else ""
    at = f"'{AT}'::timestamptz" if is_postgresql else f"'{AT}'"
    later = f"{at} + make_interval(secs => n)" if is_postgresql else f"datetime({at}, n || ' seconds')"
    with own.cursor() as cursor:
        cursor.execute(
            f"{series(own.vendor, findings)} INSERT INTO {Finding._meta.db_table} (operation, store, identity,"
            ' question, code, subject, "table", "key", cause, cause_subject, priority, data, found_at, seen_at,'
            f" first_run_id, last_run_id) SELECT %s, %s, %s, 'task_audits.task_id', {code},"
            f" 'task_audits.task_id T' || n, 'task_audits', CAST(n AS TEXT), {code}, '', 'periodic',"
            f" ({data}){json_type}, {at}, {at}, %s, %s"
            " FROM series",
            [check.name, scan.store, scan.identity, scan.pk, scan.pk],
        )
        cursor.execute(
            f"{series(own.vendor, RUNS)} INSERT INTO {Run._meta.db_table}"
            f" ({', '.join(own.ops.quote_name(f.column) for f in _copied(Run))})"
            f" SELECT {', '.join(own.ops.quote_name(f.column) for f in _copied(Run))} FROM {Run._meta.db_table}, series"
            " WHERE id = %s",
            [finished.pk],
        )
        cursor.execute(
            f"{series(own.vendor, events)} INSERT INTO {Event._meta.db_table} (run_id, at, verb, who, origin, detail,"
            f" seal) SELECT %s, {later}, 'confirmed', 'somebody', 'here', '{{}}', '' FROM series",
            [scan.pk],
        )
    incidents.refresh(scan)
    incidents.save_count(plan.store, plan.identity, cls, plan.total)
    scan.status, scan.started_at, scan.finished_at = Status.SUCCEEDED, now, now
    scan.after = {name: findings * share // 10 for name, share in CODES.items()} | dict.fromkeys(MOVES, findings)
    scan.save()
    with own.cursor() as cursor:
        cursor.execute("ANALYZE" if own.vendor == "sqlite" else "VACUUM ANALYZE")
    page = "/admin/operations/run/{}/change/".format
    of_findings = Incident.objects.get(cause="dangling_task")
    return {
        "an audit's page": f"/admin/audits/taskaudit/{TaskAudit.objects.using('agentos').latest('pk').pk}/change/",
        "plan page": page(plan.pk),
        "finished run": page(finished.pk),
        "finished run, batches": page(finished.pk) + "?tab=batches",
        "finished run, changes": page(finished.pk) + "?tab=changes",
        "finished run, unchanged": page(finished.pk) + "?tab=unchanged",
        "running run": page(running.pk),
        "running run, live part": f"/admin/operations/run/{running.pk}/live/",
        "sharded run": page(sharded.pk),
        "scan": page(scan.pk),
        "incident of findings": f"/admin/operations/incident/{of_findings.pk}/change/",
        "incident of rows": f"/admin/operations/incident/{Incident.objects.get(is_count=True).pk}/change/",
        "findings of an incident": f"/admin/operations/finding/?state=open&incident__id__exact={of_findings.pk}",
    }


def _copied(model: Any) -> list[Any]:
    """Return the columns that may have the same value in several rows."""
    return [field for field in model._meta.concrete_fields if not field.primary_key and not field.unique]
