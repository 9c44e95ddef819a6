"""Tests of prune_logins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessLog
from django.utils import timezone

from opsconsole.accounts.models import Session, Token
from opsconsole.engine.models import Status
from tests.support.contract import execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])


def test_expired_entries_are_deleted(alice: Any) -> None:
    now = timezone.now()
    for days in (-1, 1, 40):
        at = now - timedelta(days=days)
        Session.objects.create(session_key=f"k{days}", session_data="", expire_date=at, user=alice)
        AccessAttempt.objects.create(username=f"u{days}", ip_address="::1", failures_since_start=1)
        AccessLog.objects.create(username=f"u{days}", ip_address="::1")
        Token.issue(alice, f"t{days}", expires_at=at)
        for model in (AccessAttempt, AccessLog):
            model.objects.filter(username=f"u{days}").update(attempt_time=at)
    Token.issue(alice, "never", expires_at=None)
    run = execute_run(operation_called("accounts.prune_logins"))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 4)
    assert list(Session.objects.values_list("session_key", flat=True)) == ["k-1"]
    assert set(Token.objects.values_list("name", flat=True)) == {"t-1", "t1", "never"}
    for model in (AccessAttempt, AccessLog):
        assert set(model.objects.values_list("username", flat=True)) == {"u-1", "u1"}
    run = execute_run(operation_called("accounts.prune_logins"))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 0)
