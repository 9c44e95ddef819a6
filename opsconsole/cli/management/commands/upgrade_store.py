from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import Refused
from opsconsole.cli.running import OperationCommand
from opsconsole.stores.identify import platform_of_file


class Command(OperationCommand):
    operation = "backups.upgrade_store"
    positional = ("store",)
    optional = ("store",)  # the tables of a file identify its platform
    help = gettext_noop(
        "Add the documented columns and indexes that are missing in a store. Dry run without --execute."
    )
    examples = ("upgrade_store agentos", "upgrade_store --db-path /path/to/store.db --execute")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["store"]:
            if options["db_path"] is None:
                raise Refused(_("The store is missing. Name a store, or a file with --db-path."))
            options["store"] = platform_of_file(options["db_path"])
            if options["store"] is None:
                raise Refused(
                    _("%(path)s contains no tables of a known platform. Name the store as well.")
                    % {"path": options["db_path"]}
                )
        super().handle(*args, **options)
