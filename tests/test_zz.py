from __future__ import annotations
import pytest
from audits.models import TaskAudit
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

def test_a(attached, bob, alice, charlie, viewer):
    assert TaskAudit.objects.using(attached.store.alias).count() == 300
    assert bob.has_perm("operations.operate_run") and not charlie.has_perm("operations.operate_run")
    assert viewer.has_perm("audits.view_taskaudit")
def test_b(attached):
    from django.contrib.auth.models import User, Group
    assert not User.objects.exists()
    assert TaskAudit.objects.count() == 0
