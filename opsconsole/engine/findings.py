"""The findings of checks from scan to scan: new, persisting and resolved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from django.db.models import Count, QuerySet
from django.utils import timezone

from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.models import Finding, Run
from opsconsole.stores.rows import Key

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
    "table",
    "key",
    "cause",
    "cause_subject",
)


def keep(run: Run, check: Check, rule: str, found: Sequence[FindingData]) -> None:
    """Save a portion of the findings of `check`, seen by its own run or at the end of a run that wrote rows.

    A resolved problem that is back counts as new, unless the run undoes the one that resolved it.
    """
    portion = {(one.code, one.subject): one for one in found}
    known = {
        (finding.code, finding.subject): finding
        for finding in Finding.objects.filter(
            operation=check.name,
            identity=run.identity,
            code__in={code for code, _subject in portion},
            subject__in={subject for _code, subject in portion},
        ).only("code", "subject", "found_at", "first_run", "last_run", "resolved_at", "resolved_run")
    }
    is_scan = run.operation == check.name
    now = timezone.now()
    rows = []
    for place, one in portion.items():
        before = known.get(place)
        undone = before is not None and run.parent_id is not None and before.resolved_run_id == run.parent_id
        persists = before is not None and (before.resolved_at is None or undone)
        table, key = check.target(one)
        cause = check.cause_for(one)
        rows.append(
            Finding(
                operation=check.name,
                store=run.store,
                identity=run.identity,
                question=rule,
                code=one.code,
                subject=one.subject,
                table=table,
                key=str(key),
                cause=cause.code,
                cause_subject=str(key) if cause.per_row else "",
                priority=one.priority,
                data=dict(one.data),
                found_at=before.found_at if before and persists else now,
                seen_at=now,
                first_run_id=before.first_run_id if before and persists else run.pk,
                last_run_id=before.last_run_id if before and persists and not is_scan else run.pk,
            )
        )
    Finding.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=("operation", "identity", "code", "subject"),
        update_fields=_RENEWED,
    )


def scan(run: Run, check: Check, rule: str, subjects: Sequence[Key] | None = None) -> None:
    """Run one rule and save what it finds as it arrives. `subjects`: the only ones that the rule was run for."""
    answer = iter(check.run_rule(rule))
    while portion := list(islice(answer, PORTION)):
        keep(run, check, rule, portion)
    settle(run, check, rule, subjects)


def settle(run: Run, check: Check, rule: str, subjects: Sequence[Key] | None = None) -> None:
    """Resolve the earlier findings of a rule that it did not find again, among `subjects` if they are given."""
    rest = open_findings(check.name, run.identity).filter(question=rule)
    # A scan has marked what it saw by its number, another run by the time.
    rest = rest.exclude(last_run=run) if run.operation == check.name else rest.filter(seen_at__lt=check.as_of)
    if subjects is not None:
        rest = rest.filter(subject__in=[str(key) for key in subjects])
    rest.update(resolved_at=timezone.now(), resolved_run=run)


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


def of_run(run: Run) -> Iterator[FindingData]:
    """Return the findings of a scan as the check reported them."""
    for finding in Finding.objects.filter(last_run=run).order_by("question", "pk").iterator(chunk_size=PORTION):
        yield found_of(finding)


def found_of(finding: Finding) -> FindingData:
    data: dict[str, Any] = finding.data
    return FindingData(finding.code, finding.subject, data, finding.priority)
