from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import Refused, require_setup
from opsconsole.cli.flags import chosen_store, parameters_of
from opsconsole.cli.output import Output
from opsconsole.cli.running import OperationCommand
from opsconsole.engine import registry
from opsconsole.formatting import duration
from opsconsole.stores.backups import listed
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, StoreUnavailable, all_stores


class Command(OperationCommand):
    operation = "backups.backup_store"
    executes_by_default = True
    positional = ("store",)
    optional = ("store",)  # --list without it lists all stores
    help = gettext_noop("Write a verified backup of a store.")
    examples = ("backup_store agentos --to /mnt/backups", "backup_store agentos --list")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--list", action="store_true", help=_("List the backups of the store, or of all stores."))

    def handle(self, *args: Any, **options: Any) -> None:
        if options["list"]:
            self._list(options)
        elif not options["store"]:
            raise Refused(_("The store is missing. Name a store, or pass --list."))
        else:
            super().handle(*args, **options)

    def _list(self, options: dict[str, Any]) -> None:
        require_setup()
        output = Output.of(options)
        now = timezone.now()
        found: list[tuple[Store, Backup]] = []
        for store in self._stores(options):
            try:
                found += [(store, backup) for backup in listed(store)]
            except StoreUnavailable as error:
                if options["store"]:
                    raise
                output.error(f"{store.alias}: {error}")
        if options["json"]:
            entries = [
                {
                    "store": store.name,
                    "location": store.location,
                    "file": backup.path,
                    "size_bytes": backup.size,
                    "at": backup.at.isoformat(),
                    "age_seconds": round((now - backup.at).total_seconds()),
                    "verified_at": backup.verified_at.isoformat() if backup.verified_at else None,
                    "format": backup.format,
                    "encrypted": backup.encrypted,
                }
                for store, backup in found
            ]
            output.json({"backups": entries})
            return
        rows = [
            (
                store.alias,
                backup.path,
                filesizeformat(backup.size),
                duration((now - backup.at).total_seconds()),
                _("yes") if backup.verified_at else _("no"),
                _("yes") if backup.encrypted else _("no"),
            )
            for store, backup in found
        ]
        heading = (_("store"), _("file"), _("size"), _("age"), _("verified"), _("encrypted"))
        output.table([heading, *rows] if rows else [], right=(2, 3), heading=True)
        if not rows:
            output.line(_("There are no backups."))

    def _stores(self, options: dict[str, Any]) -> list[Store]:
        if not options["store"]:
            return list(all_stores())
        cls = registry.operation(self.operation)
        return [chosen_store(cls, registry.clean(cls, parameters_of(cls, options)), options, read_only=True)]
