"""Which account a command acts for: that of a token, of a password, or of the system user. Never a name alone."""

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
    """The command names an account that it can't prove. The message says what to do."""


def system_user() -> str:
    """Return the name of the process's user as the system has it: LOGNAME and USER can be set to any name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def system_user_at_host() -> str:
    return f"{system_user()}@{socket.gethostname()}"


def authenticated(name: str | None) -> User | None:
    """Return the account that this command acts for; None where neither token, name nor link says one.

    `name`: what was typed after --user. Raises NotAuthenticated.
    """
    if secret := os.environ.get(TOKEN_VARIABLE, ""):
        account: User | None = account_of(secret)
        if account is None:
            raise NotAuthenticated(
                _(
                    "%(variable)s is not known, was revoked, has expired, or has not all rights of its account. "
                    "Make a new token in the console."
                )
                % {"variable": TOKEN_VARIABLE}
            )
        if name is not None and account.get_username() != name:
            raise NotAuthenticated(
                _("%(variable)s belongs to %(account)s, not to %(name)s. Give one of them.")
                % {"variable": TOKEN_VARIABLE, "account": account.get_username(), "name": name}
            )
        return account
    linked = linked_account()
    if name is None or (linked is not None and linked.get_username() == name):
        return linked
    return _by_password(name)


def linked_account() -> User | None:
    """Return the active account that the system user is."""
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
