"""The command `execution_status`: print the answer of the status endpoint."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand, Refused
from opsconsole.cli.flags import add_json_flag, add_store_flags, store_to_read
from opsconsole.cli.output import Output
from opsconsole.stores.router import aliases_of
from opsconsole.stores.store import Store
from tasks.records import status


class Command(ConsoleCommand):
    help = gettext_noop("Show the status of an execution from the live layer, else from the platform's tables.")
    examples = ("execution_status 7f3c2a1e-51d2-4b8e-9d0a-2f6f1c9f0a11", "execution_status ID --json")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("execution_id", metavar="ID", help=_("the execution's id, also called task_id"))
        add_store_flags(parser)
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        execution_id = options["execution_id"]
        if options["database"] is None and options["db_path"] is None:
            stores = [Store(alias, status.PLATFORM) for alias in aliases_of(status.PLATFORM)]
        else:
            stores = [store_to_read(status.PLATFORM, options)]
        asked = status.get_statuses([execution_id], stores)
        answer = asked.answers.get(execution_id)
        if answer is None:
            raise Refused(status.why_unknown(execution_id, asked.ambiguous.get(execution_id, []), asked.not_asked))
        output = Output.of(options)
        if options["json"]:
            output.json(answer)
        else:
            output.table([(f"{name}:", _shown(value)) for name, value in answer.items()])


def _shown(value: Any) -> str:
    """Format a value in one line. Show only the length of results."""
    if isinstance(value, list | dict) and "url" not in value:
        return _("%(count)d entries") % {"count": len(value)}
    return str(value)
