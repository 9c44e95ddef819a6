from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import require_setup
from opsconsole.cli.flags import chosen_store
from opsconsole.cli.output import Output
from opsconsole.cli.running import OperationCommand
from opsconsole.engine import registry
from opsconsole.formatting import duration
from opsconsole.stores.backups import listed


class Command(OperationCommand):
    operation = "backups.backup_store"
    executes_by_default = True
    positional = ("store",)
    help = gettext_noop("Write a checked backup of a store.")
    examples = ("backup_store agentos --to /mnt/backups", "backup_store agentos --list")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--list", action="store_true", help=_("list the backups of the store instead"))

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["list"]:
            super().handle(*args, **options)
            return
        require_setup()
        cls = registry.operation(self.operation)
        store = chosen_store(cls, registry.clean(cls, registry.values_of(cls, options)), options, read_only=True)
        output = Output(as_json=options["json"], no_color=options["no_color"])
        now = timezone.now()
        backups = list(listed(store))
        if options["json"]:
            found = [
                {
                    "file": backup.path,
                    "size_bytes": backup.size,
                    "at": backup.at.isoformat(),
                    "age_seconds": round((now - backup.at).total_seconds()),
                    "verified_at": backup.verified_at.isoformat() if backup.verified_at else None,
                    "format": backup.format,
                    "encrypted": backup.encrypted,
                }
                for backup in backups
            ]
            output.json({"store": store.name, "location": store.location, "backups": found})
            return
        rows = [
            (
                backup.path,
                filesizeformat(backup.size),
                duration((now - backup.at).total_seconds()),
                _("yes") if backup.verified_at else _("no"),
                _("yes") if backup.encrypted else _("no"),
            )
            for backup in backups
        ]
        heading = (_("file"), _("size"), _("age"), _("verified"), _("encrypted"))
        output.table([heading, *rows] if rows else [], right=(1, 2), heading=True)
        if not rows:
            output.line(_("There is no backup of %(store)s.") % {"store": store.alias})
