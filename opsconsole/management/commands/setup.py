"""Make or renew the console's databases. Safe to repeat."""

from __future__ import annotations

import importlib
import secrets
from importlib.util import find_spec
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandParser
from django.db import DatabaseError
from django.utils.translation import gettext as _

from opsconsole.operations.management.base import ConsoleCommand, Refused
from opsconsole.people import make_groups
from opsconsole.stores.store import all_stores


class Command(ConsoleCommand):
    help = "Migrate the console's own database and every managed store, and sync the schedules."
    examples = ("setup", "setup --demo --superuser admin")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--demo", action="store_true", help=_("load sample data with its incidents"))
        parser.add_argument("--superuser", metavar="NAME", help=_("make this account, with a new password"))

    def handle(self, *args: Any, **options: Any) -> None:
        settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        for store in all_stores():
            if not store.managed:
                self.stdout.write(_("%(store)s: attached, left as it is") % {"store": store.alias})
                continue
            try:
                call_command("migrate", database=store.alias, interactive=False, verbosity=0)
            except DatabaseError as error:
                raise Refused(store.unusable(error)) from error
            self.stdout.write(_("%(store)s: ready at %(at)s") % {"store": store.alias, "at": store.location})
        make_groups()
        if options["demo"]:
            self._load_demo()
        if options["superuser"]:
            self._make_superuser(options["superuser"])

    def _load_demo(self) -> None:
        """Each app brings its own incident; one that has rows already is left alone."""
        for app in apps.get_app_configs():
            if find_spec(f"{app.name}.demo") is not None:
                for line in importlib.import_module(f"{app.name}.demo").load():
                    self.stdout.write(line)

    def _make_superuser(self, name: str) -> None:
        users = get_user_model()
        if users.objects.filter(**{users.USERNAME_FIELD: name}).exists():
            self.stdout.write(_("The account %(name)s exists: its password stays.") % {"name": name})
            return
        password = secrets.token_urlsafe(12)
        users.objects.create_superuser(name, password=password)
        self.stdout.write(
            _("Account %(name)s, password %(password)s") % {"name": name, "password": password}
        )
