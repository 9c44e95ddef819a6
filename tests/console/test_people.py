"""Accounts: logins and lockout. Permissions are tested with the pages."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import RequestFactory
from django.urls import reverse

from opsconsole.console.accounts import OPERATORS, VIEWERS, create_groups
from opsconsole.engine.models import Event

pytestmark = pytest.mark.django_db(transaction=True)


def sign_in(client, name, password):
    return client.post(reverse("admin:login"), {"username": name, "password": password, "next": "/"})


def test_repeated_failures_lock_out(client, alice, bob):
    """After the lockout even the correct password fails, and other accounts can still log in."""
    for _ in range(5):
        answer = sign_in(client, "alice", "wrong")
    assert answer.status_code == 429
    assert "Too many failed logins" in answer.content.decode()
    assert sign_in(client, "alice", "correct horse").status_code == 429
    assert sign_in(client, "bob", "correct horse").status_code == 302


def test_four_failures_do_not_lock_out(client, alice):
    for _ in range(4):
        sign_in(client, "alice", "wrong")
    assert sign_in(client, "alice", "correct horse").status_code == 302


def test_groups_get_the_permissions_of_new_models(alice):
    create_groups()
    rights = {
        name: set(Group.objects.get(name=name).permissions.values_list("codename", flat=True))
        for name in (VIEWERS, OPERATORS)
    }
    assert {"view_run", "view_taskaudit", "view_task"} <= rights[VIEWERS]
    assert not {right for right in rights[VIEWERS] if not right.startswith("view_")}
    assert rights[OPERATORS] > rights[VIEWERS]
    assert {"operate_run", "approve_run"} <= rights[OPERATORS]
    assert not {"view_user", "view_permission", "view_session"} & rights[OPERATORS]


def test_every_page_requires_a_login(client):
    for address in ("/", "/admin/", "/admin/operations/", "/admin/operations/run/", "/admin/audits/taskaudit/"):
        answer = client.get(address, follow=True)
        assert answer.redirect_chain[-1][0].startswith(reverse("admin:login"))


# --- Django's delete is off ---------------------------------------------------------------------------------

REGISTERED = {model._meta.label_lower: (model, found) for model, found in admin.site._registry.items()}


@pytest.mark.parametrize("label", REGISTERED)
def test_no_admin_has_djangos_delete(alice, label):
    """Not even a superuser can delete, not even through the form of another table."""
    _model, model_admin = REGISTERED[label]
    request = RequestFactory().get("/")
    request.user = alice
    assert not model_admin.has_delete_permission(request)
    assert "delete_selected" not in model_admin.get_actions(request)
    for inline in model_admin.get_inline_instances(request):
        assert not inline.has_delete_permission(request)


@pytest.mark.parametrize("model", [User, Group])
def test_accounts_and_groups_stay(client, alice, bob, model):
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    kept = bob if model is User else Group.objects.get(name=OPERATORS)
    name = f"admin:auth_{model._meta.model_name}"
    assert client.post(reverse(f"{name}_delete", args=[kept.pk]), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [kept.pk], "post": "yes"}
    client.post(reverse(f"{name}_changelist"), chosen)
    assert model.objects.filter(pk=kept.pk).exists()


def test_an_account_is_deactivated_and_the_audit_log_says_by_whom(client, alice, bob):
    client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
    fields = {"username": "bob", "first_name": "", "last_name": "", "email": "", "is_staff": "on"}
    page = client.post(reverse("admin:auth_user_change", args=[bob.pk]), fields)
    assert page.status_code == 302, page.content.decode()[-3000:]
    bob.refresh_from_db()
    assert not bob.is_active
    event = Event.objects.get(verb="account_changed")
    assert (event.who, event.detail["account"]) == ("alice", "bob")
    assert "Active" in str(event.detail["message"])
    assert sign_in(client, "bob", "correct horse").status_code == 200
