from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.backups.salvage import rebuild
from opsconsole.cli.command import EXIT_ATTENTION, ConsoleCommand
from opsconsole.cli.flags import add_json_flag
from opsconsole.cli.output import Output
from opsconsole.formatting import format_number


class Command(ConsoleCommand):
    help = gettext_noop(
        "Copy the readable rows of a damaged SQLite file into a new file, and list what could not be read."
    )
    examples = (
        "rebuild_store --db-path store.db --to rebuilt.db",
        "rebuild_store --db-path store.db --to rebuilt.db --json",
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--db-path", metavar="FILE", required=True, help=_("The damaged file. It is not changed."))
        parser.add_argument("--to", metavar="FILE", required=True, help=_("The new file."))
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        output = Output.of(options)
        saved = rebuild(Path(options["db_path"]), Path(options["to"]))
        if options["json"]:
            output.json({"file": str(Path(options["to"]).absolute()), "rows": saved.rows, "lost": saved.lost})
        else:
            rows = [(table, format_number(count)) for table, count in sorted(saved.rows.items())]
            output.table([(_("table"), _("rows")), *rows], right=(1,), heading=True)
            for sentence in saved.lost:
                output.line(sentence)
        if saved.lost:
            sys.exit(EXIT_ATTENTION)
