"""The account of a command: from a token, a password or the system user, never from a name alone."""

from __future__ import annotations

import getpass
import os
import pwd
import socket
import sys
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from opsconsole.accounts.tokens import account_of
from opsconsole.engine.models import SystemUser

TOKEN_VARIABLE = "OPSCONSOLE_TOKEN"  # noqa: S105  # its name


class NotAuthenticated(Exception):
    """An account that cannot be authenticated. The message states the remedy."""


def system_user() -> str:
    """Return the name of the process's user from the system. LOGNAME and USER can be set to any name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def system_user_at_host() -> str:
    return f"{system_user()}@{socket.gethostname()}"


def authenticated(name: str | None) -> User | None:
    """Return the account of this command, None without a token, a name or a link. Raise NotAuthenticated.

    `name` is the value of --user.
    """
    if secret := os.environ.get(TOKEN_VARIABLE, ""):
        account: User | None = account_of(secret)
        if account is None:
            raise NotAuthenticated(
                _(
                    "%(variable)s is unknown, revoked, expired, or limited to some rights of its account. "
                    "Create a new token in the console."
                )
                % {"variable": TOKEN_VARIABLE}
            )
        if name is not None and account.get_username() != name:
            raise NotAuthenticated(
                _("%(variable)s belongs to %(account)s, not to %(name)s. Omit --user, or use a token of %(name)s.")
                % {"variable": TOKEN_VARIABLE, "account": account.get_username(), "name": name}
            )
        return account
    linked = linked_account()
    if name is None or (linked is not None and linked.get_username() == name):
        return linked
    return _by_password(name)


def linked_account() -> User | None:
    """Return the active account that is linked to the system user."""
    link = SystemUser.objects.filter(name=system_user(), account__is_active=True).select_related("account").first()
    return None if link is None else link.account


def _by_password(name: str) -> User:
    users: Any = get_user_model()
    account: User | None = users.objects.filter(**{users.USERNAME_FIELD: name}, is_active=True).first()
    if account is None:
        raise NotAuthenticated(_("No active account is called %(name)s.") % {"name": name})
    if not sys.stdin.isatty():
        raise NotAuthenticated(
            _("--user %(name)s is not authenticated. Set %(variable)s, or type the password on a terminal.")
            % {"name": name, "variable": TOKEN_VARIABLE}
        )
    if not account.check_password(getpass.getpass(_("Password of %(name)s: ") % {"name": name})):
        raise NotAuthenticated(_("The password of %(name)s is wrong. Try again.") % {"name": name})
    return account
