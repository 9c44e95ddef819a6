"""Accounts: who may see what is tested with the pages; here, who gets in at all."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group
from django.urls import reverse

from opsconsole.people import OPERATORS, VIEWERS, make_groups

pytestmark = pytest.mark.django_db(transaction=True)


def sign_in(client, name, password):
    return client.post(reverse("admin:login"), {"username": name, "password": password, "next": "/"})


def test_repeated_failures_lock_out(client, alice, bob):
    """The right password does not help any more; somebody else still gets in."""
    for _ in range(5):
        answer = sign_in(client, "alice", "wrong")
    assert answer.status_code == 429
    assert "Too many failed logins" in answer.content.decode()
    assert sign_in(client, "alice", "correct horse").status_code == 429
    assert sign_in(client, "bob", "correct horse").status_code == 302


def test_four_failures_do_not(client, alice):
    for _ in range(4):
        sign_in(client, "alice", "wrong")
    assert sign_in(client, "alice", "correct horse").status_code == 302


def test_groups_get_what_new_models_bring(alice):
    make_groups()
    rights = {
        name: set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))
        for name in (VIEWERS, OPERATORS)
    }
    assert {"view_run", "view_taskaudit", "view_task"} <= rights[VIEWERS]
    assert not {right for right in rights[VIEWERS] if not right.startswith("view_")}
    assert rights[OPERATORS] > rights[VIEWERS]
    assert {"operate_run", "approve_run"} <= rights[OPERATORS]
    assert not {"view_user", "view_permission", "view_session"} & rights[OPERATORS]


def test_nobody_gets_in_without_a_login(client):
    for address in ("/", "/admin/", "/admin/operations/", "/admin/operations/run/", "/admin/audits/taskaudit/"):
        answer = client.get(address, follow=True)
        assert answer.redirect_chain[-1][0].startswith(reverse("admin:login"))
