from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import Refused
from opsconsole.cli.running import OperationCommand
from opsconsole.stores.identify import platform_of
from opsconsole.stores.store import attach_file


class Command(OperationCommand):
    operation = "backups.upgrade_store"
    positional = ("store",)
    help = gettext_noop("Add the documented columns and indexes that a store lacks. Dry run unless --execute.")
    examples = ("upgrade_store agentos", "upgrade_store --db-path /path/to/store.db --execute")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        for action in parser._actions:
            if action.dest == "store":  # a file says itself whose it is
                action.nargs, action.required = argparse.OPTIONAL, False

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["store"]:
            if options["db_path"] is None:
                raise Refused(_("Name a store, or a file with --db-path."))
            file = attach_file("agentos", options["db_path"], read_only=True)
            try:
                options["store"] = platform_of(file.tables)
            finally:
                file.close()
            if options["store"] is None:
                raise Refused(
                    _("%(path)s does not hold the tables of a known platform.") % {"path": options["db_path"]}
                )
        super().handle(*args, **options)
