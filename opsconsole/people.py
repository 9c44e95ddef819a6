"""The three kinds of people: superuser, operator (may plan and run), viewer (may look); and platforms that report."""

from __future__ import annotations

import secrets

from django.contrib import admin
from django.contrib.auth import get_permission_codename, get_user_model
from django.contrib.auth.models import Group, Permission
from django.db.models import Q

from opsconsole.stores.editing import EditableStoreAdmin

VIEWERS, OPERATORS, PLATFORMS = "Viewers", "Operators", "Platforms"


def make_groups() -> None:
    """Make the groups, or give them the rights that new models have brought."""
    views = Permission.objects.filter(codename__startswith="view_").exclude(
        content_type__app_label__in=("auth", "sessions", "axes", "contenttypes", "admin", "api")
    )
    operates = Permission.objects.filter(
        content_type__app_label="operations", codename__in=("operate_run", "approve_run", "change_switch")
    )
    edits = Permission.objects.filter(_by_hand())
    Group.objects.get_or_create(name=VIEWERS)[0].permissions.set(views)
    Group.objects.get_or_create(name=OPERATORS)[0].permissions.set(views | operates | edits)
    reports = Permission.objects.filter(codename__in=("report_taskstatus", "view_taskstatus"))
    Group.objects.get_or_create(name=PLATFORMS)[0].permissions.set(reports)


def _by_hand() -> Q:
    """The rights to what the admin lets people edit; in an attached store they are of no use."""
    rights = Q(pk__in=())
    for model, model_admin in admin.site._registry.items():
        if isinstance(model_admin, EditableStoreAdmin):
            names = [get_permission_codename(verb, model._meta) for verb in ("add", "change", "delete")]
            rights |= Q(content_type__app_label=model._meta.app_label, codename__in=names)
    return rights


def make_superuser(name: str) -> str | None:
    """A new superuser's password, told once and kept nowhere; None when the account exists already."""
    users = get_user_model()
    if users.objects.filter(**{users.USERNAME_FIELD: name}).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.objects.create_superuser(name, password=password)
    return password
