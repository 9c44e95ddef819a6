"""The `setup` command: creates or updates the console's databases. Safe to repeat."""

from __future__ import annotations

import importlib
import socket
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import call_command
from django.core.management.base import CommandParser
from django.db import DatabaseError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.accounts import system_user, system_user_at_host
from opsconsole.cli.command import ConsoleCommand, Refused, require_environment
from opsconsole.console.accounts import create_groups, create_superuser, link
from opsconsole.engine import environments
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import SystemUser, Trigger
from opsconsole.env import make_data_folder
from opsconsole.stores import schema
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import all_stores


class Command(ConsoleCommand):
    help = gettext_noop("Create or update the console's database and every managed store, and sync the schedules.")
    examples = ("setup", "setup --demo --superuser admin")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--demo", action="store_true", help=_("Load sample data with incidents."))
        parser.add_argument("--superuser", metavar="NAME", help=_("Create this account with a new password."))

    def handle(self, *args: Any, **options: Any) -> None:
        require_environment()
        if options["superuser"] is not None:
            _require_account_name(options["superuser"])
        try:
            make_data_folder(settings.DATA_DIR)
        except ImproperlyConfigured as error:
            raise Refused(error) from None
        for store in all_stores():
            if not store.managed:
                self.stdout.write(_("%(store)s: attached, unchanged") % {"store": store.alias})
                continue
            try:
                if store.alias == DEFAULT:
                    call_command("migrate", interactive=False, verbosity=0)
                else:
                    schema.make_tables(store)
            except DatabaseError as error:
                raise Refused(store.unusable(error)) from error
            self.stdout.write(_("%(store)s: ready at %(at)s") % {"store": store.alias, "at": store.location})
        environments.record()
        create_groups()
        if options["demo"]:
            self._load_demo()
        if options["superuser"] is not None:
            self._create_superuser(options["superuser"])

    def _load_demo(self) -> None:
        """Load the sample data of every app whose tables are empty."""
        for app in apps.get_app_configs():
            if find_spec(f"{app.name}.demo") is not None:
                for line in importlib.import_module(f"{app.name}.demo").load():
                    self.stdout.write(line)

    def _create_superuser(self, name: str) -> None:
        password = create_superuser(name)
        if password is None:
            self.stdout.write(_("The account %(name)s exists. Its password is unchanged.") % {"name": name})
        else:
            self.stdout.write(_("Account %(name)s, password %(password)s") % {"name": name, "password": password})
            self._link_the_first(name)

    def _link_the_first(self, name: str) -> None:
        """Link the system user to the first account of a new console."""
        users: Any = get_user_model()
        if users.objects.count() > 1 or SystemUser.objects.exists():
            return
        account = users.objects.get(**{users.USERNAME_FIELD: name})
        link(account, system_user(), Actor(system_user_at_host(), socket.gethostname(), Trigger.SHELL))
        values = {"system_user": system_user(), "name": name}
        self.stdout.write(_("The system user %(system_user)s is linked to this account.") % values)


def _require_account_name(name: str) -> None:
    """Refuse a name that no account can have."""
    users: Any = get_user_model()
    try:
        users._meta.get_field(users.USERNAME_FIELD).clean(name, None)
    except ValidationError as error:
        raise Refused(
            _("%(name)s is not a valid account name. %(reason)s")
            % {"name": repr(name), "reason": " ".join(error.messages)}
        ) from None
