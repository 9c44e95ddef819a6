"""Accounts and groups: viewers, operators, platforms that report status, and links to system users."""

from __future__ import annotations

import secrets

from django.contrib import admin
from django.contrib.auth import get_permission_codename, get_user_model
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from opsconsole.console.editing import EditableStoreAdmin
from opsconsole.engine.audit_log import Actor, record
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import SystemUser

MAX_SYSTEM_USER = 150
VIEWERS, OPERATORS, PLATFORMS = "Viewers", "Operators", "Platforms"


def create_groups() -> None:
    """Create the groups and update their permissions."""
    views = Permission.objects.filter(codename__startswith="view_").exclude(
        content_type__app_label__in=("auth", "sessions", "axes", "contenttypes", "admin", "accounts", "django_q")
    )
    operates = Permission.objects.filter(
        content_type__app_label="operations",
        codename__in=("operate_run", "approve_run", "handle_incident", "change_schedulesetting"),
    )
    edits = Permission.objects.filter(_by_hand())
    Group.objects.get_or_create(name=VIEWERS)[0].permissions.set(views)
    Group.objects.get_or_create(name=OPERATORS)[0].permissions.set(views | operates | edits)
    reports = Permission.objects.filter(codename__in=("report_taskstatus", "view_taskstatus"))
    Group.objects.get_or_create(name=PLATFORMS)[0].permissions.set(reports)


def _by_hand() -> Q:
    """Select the permissions of the tables that can be edited by hand."""
    rights = Q(pk__in=())
    admin.autodiscover()
    for model, model_admin in admin.site._registry.items():
        if isinstance(model_admin, EditableStoreAdmin):
            names = [get_permission_codename(verb, model._meta) for verb in ("add", "change", "delete")]
            rights |= Q(content_type__app_label=model._meta.app_label, codename__in=names)
    return rights


def create_superuser(name: str) -> str | None:
    """Create a superuser and return the password, or None if the account exists."""
    users = get_user_model()
    if users.objects.filter(**{users.USERNAME_FIELD: name}).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.objects.create_superuser(name, password=password)
    return password


def link(account: User, system_user: str, actor: Actor) -> None:
    """Link a system user to an account. Raise RunRefused if it is linked to another one."""
    if not (system_user.strip() and system_user.isprintable() and len(system_user) <= MAX_SYSTEM_USER):
        text = _("%(name)s is not a valid name of a system user. Enter another one.")
        raise RunRefused(text % {"name": repr(system_user[:MAX_SYSTEM_USER])})
    with transaction.atomic():
        found, new = SystemUser.objects.get_or_create(name=system_user, defaults={"account": account})
        if not new and found.account_id != account.pk:
            raise RunRefused(
                _("The system user %(name)s is linked to %(account)s. Remove that link with `accounts unlink` first.")
                % {"name": system_user, "account": found.account.get_username()}
            )
        if new:
            record(None, "account_linked", actor, account=account.get_username(), system_user=system_user)


def unlink(system_user: str, actor: Actor) -> None:
    """Remove the link of a system user. Raise RunRefused if it does not exist."""
    with transaction.atomic():
        if not SystemUser.objects.filter(name=system_user).delete()[0]:
            text = _("The system user %(name)s is not linked to an account. Check the name.")
            raise RunRefused(text % {"name": system_user})
        record(None, "account_unlinked", actor, system_user=system_user)
