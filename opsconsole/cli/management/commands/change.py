from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand, Refused
from opsconsole.cli.flags import add_common_flags, free_text
from opsconsole.cli.running import run_operation
from opsconsole.engine import registry

OPERATION = "operations.change_rows"


class Command(ConsoleCommand):
    help = gettext_noop("Plan an UPDATE or DELETE statement on a store. Execute the plan with --execute.")
    examples = (
        "change shop \"UPDATE orders SET status = 'failed' WHERE status = 'running' AND started < '2026-11-01'\"",
        'change shop "DELETE FROM events WHERE created < \'2025-01-01\'" --execute --note "older than a year"',
    )

    def add_arguments(self, parser: CommandParser) -> None:
        fields = registry.operation(OPERATION).Params.base_fields
        for name in ("store", "statement"):
            parser.add_argument(name, metavar=name.upper(), type=free_text, help=str(fields[name].help_text))
        parser.add_argument("--keys", metavar="FILE", dest="keys_file", help=str(fields["key_list"].help_text))
        add_common_flags(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        values = {name: options[name] for name in ("store", "statement")}
        if options["keys_file"] is not None:
            values["key_list"] = _text_of(options["keys_file"])
        run_operation(registry.operation(OPERATION), values, options, execute=options["execute"])


def _text_of(path: str) -> str:
    """Return the keys in a file. A file without keys is refused: it would mean all rows."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Refused(_("%(path)s cannot be read: %(reason)s.") % {"path": path, "reason": error.strerror}) from None
    except UnicodeDecodeError:
        raise Refused(_("%(path)s is not UTF-8. Save the keys as UTF-8 text.") % {"path": path}) from None
    if not text.strip():
        raise Refused(_("%(path)s contains no keys.") % {"path": path})
    return text
