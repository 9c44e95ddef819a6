"""Django's `migrate`, held back from attached stores: it would make its own table and ours there."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.utils.translation import gettext as _


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        alias = options["database"]
        if alias in settings.ATTACHED_STORES:
            raise CommandError(
                _("%(store)s is attached: nothing is ever created in it. See `upgrade_store`.") % {"store": alias},
                returncode=2,
            )
        super().handle(*args, **options)
