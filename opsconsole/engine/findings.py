"""The findings of checks from scan to scan: new, persisting and resolved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db.models import Count, QuerySet
from django.utils import timezone

from opsconsole.engine.checks import FindingData
from opsconsole.engine.models import Finding, Run

PORTION = 1_000  # findings per statement
MOVES = ("new", "persisting", "resolved")  # how findings changed since the previous scan
_RENEWED = (
    "question",
    "priority",
    "data",
    "found_at",
    "seen_at",
    "resolved_at",
    "first_run",
    "last_run",
    "resolved_run",
)


def keep(run: Run, question: str, found: Sequence[FindingData]) -> None:
    """Save a portion of the findings of `run`. A resolved problem that is back counts as new."""
    portion = {(one.code, one.subject): one for one in found}
    known = {
        (finding.code, finding.subject): finding
        for finding in Finding.objects.filter(
            operation=run.operation,
            identity=run.identity,
            code__in={code for code, _subject in portion},
            subject__in={subject for _code, subject in portion},
        ).only("code", "subject", "found_at", "first_run", "resolved_at")
    }
    now = timezone.now()
    rows = []
    for place, one in portion.items():
        before = known.get(place)
        persists = before is not None and before.resolved_at is None
        rows.append(
            Finding(
                operation=run.operation,
                store=run.store,
                identity=run.identity,
                question=question,
                code=one.code,
                subject=one.subject,
                priority=one.priority,
                data=dict(one.data),
                found_at=before.found_at if before and persists else now,
                seen_at=now,
                first_run_id=before.first_run_id if before and persists else run.pk,
                last_run=run,
            )
        )
    Finding.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=("operation", "identity", "code", "subject"),
        update_fields=_RENEWED,
    )


def settle(run: Run, question: str) -> None:
    """Resolve the earlier findings of a rule that it did not find again."""
    open_findings(run.operation, run.identity).filter(question=question).exclude(last_run=run).update(
        resolved_at=timezone.now(), resolved_run=run
    )


def open_findings(operation: str, identity: str) -> QuerySet[Finding]:
    """Return the open findings of one check of one database."""
    return Finding.objects.filter(operation=operation, identity=identity, resolved_at=None)


def figures(run: Run) -> dict[str, int]:
    """Return code → findings of this scan, and their change since the previous scan."""
    seen = Finding.objects.filter(last_run=run, resolved_at=None)
    counts: dict[str, int] = dict(seen.values_list("code").annotate(count=Count("pk")).order_by("code"))
    new = seen.filter(first_run=run).count()
    resolved = Finding.objects.filter(resolved_run=run).count()
    return counts | {"new": new, "persisting": sum(counts.values()) - new, "resolved": resolved}


def news(run: Run) -> dict[tuple[str, str], int]:
    """Return (code, priority) → findings that are new in this scan."""
    new = Finding.objects.filter(last_run=run, first_run=run, resolved_at=None).order_by("priority", "code")
    return {
        (code, priority): count
        for code, priority, count in new.values_list("code", "priority").annotate(count=Count("pk"))
    }


def of_run(run: Run) -> Iterator[FindingData]:
    """Return the findings of a scan as the check reported them."""
    for finding in Finding.objects.filter(last_run=run).order_by("question", "pk").iterator(chunk_size=PORTION):
        yield found_of(finding)


def found_of(finding: Finding) -> FindingData:
    data: dict[str, Any] = finding.data
    return FindingData(finding.code, finding.subject, data, finding.priority)
