"""Django's `migrate`, limited to the console's own database."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.utils.translation import gettext as _

from opsconsole.stores.router import DEFAULT


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        if options["database"] != DEFAULT:
            raise CommandError(
                _("%(store)s is a store and has no migrations. Run `setup` or `upgrade_store %(store)s`.")
                % {"store": options["database"]},
                returncode=2,
            )
        super().handle(*args, **options)
