"""Only findings that were resolved long ago are pruned."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from opsconsole.engine.models import Finding, Run, Status
from tests.support.contract import execute_run, operation_called

NAME = "operations.prune_findings"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def test_old_resolved_findings_are_deleted_and_open_ones_are_kept() -> None:
    scan = execute_run(operation_called("audits.check_references"))
    now = timezone.now()
    for subject, days in (("open", None), ("fresh", 10), ("old", 181), ("older", 400)):
        Finding.objects.create(
            operation=scan.operation,
            store="agentos",
            identity=scan.identity,
            question="x",
            code="x",
            subject=subject,
            priority="planned",
            found_at=now - timedelta(days=900),
            seen_at=now,
            first_run=scan,
            last_run=scan,
            resolved_at=None if days is None else now - timedelta(days=days),
        )
    run = execute_run(operation_called(NAME))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 2)
    assert set(Finding.objects.values_list("subject", flat=True)) == {"open", "fresh"}
    assert execute_run(operation_called(NAME, days=5)).changed == 1
    assert Run.objects.filter(pk=scan.pk).exists()
