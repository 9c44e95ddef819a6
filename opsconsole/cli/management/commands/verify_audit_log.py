"""The `verify_audit_log` command: names the first entry that was changed, removed or inserted."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.backups.notes import AlteredNote, audit_notes
from opsconsole.cli.command import EXIT_FAILED, ConsoleCommand, require_setup
from opsconsole.cli.flags import add_json_flag
from opsconsole.cli.output import Output
from opsconsole.engine import audit_log
from opsconsole.engine.audit_log import Note
from opsconsole.formatting import format_number
from opsconsole.stores.models import Backup


class Command(ConsoleCommand):
    help = gettext_noop("Verify the hash chain of the audit log; exit 1 with the first broken entry.")
    examples = ("verify_audit_log", "verify_audit_log --json")

    def add_arguments(self, parser: CommandParser) -> None:
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        require_setup()
        output = Output.of(options)
        broken = _first_broken()
        entries, head = audit_log.head()
        if options["json"]:
            output.json({"entries": entries, "head": head, "broken": broken or None})
        elif not broken:
            output.line(_("The audit log is intact. Entries: %(count)s.") % {"count": format_number(entries)})
        if broken:
            raise CommandError(broken, returncode=EXIT_FAILED)


def _first_broken() -> str:
    listed = Backup.objects.filter(audit_entries__gt=0)
    noted = [Note(backup.audit_entries or 0, backup.audit_head, backup.path) for backup in listed]
    try:
        noted += audit_notes()
    except AlteredNote as altered:
        return audit_log.first_broken(noted) or str(altered)
    return audit_log.first_broken(noted)
