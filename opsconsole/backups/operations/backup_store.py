"""The operation that backs up a whole store and verifies the file."""

from __future__ import annotations

from typing import Any

from django import forms
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.backups import dump, files, pg_client
from opsconsole.backups.folders import folder_of, listed_folders
from opsconsole.backups.params import StoreField, choose_from, each_store
from opsconsole.engine.operation import LONG_CLUSTER, Action, NamedItem, NamedItemsMixin, Risk, Schedule
from opsconsole.engine.outcomes import Done, Outcome
from opsconsole.stores.models import Backup


class BackupStore(NamedItemsMixin, Action):
    title = _("Back up a store")
    description = _(
        "Writes a consistent backup of the whole store into one file while the store stays in use: "
        "SQLite by its online backup, PostgreSQL by pg_dump. The file is read back and verified before "
        "it is listed."
    )
    model = Backup
    risk = Risk.REPRODUCE
    action_label = _("Back up %(store)s")
    done_label = _("%(store)s backed up")
    writes_store = False
    cluster = LONG_CLUSTER
    schedule = Schedule("0 2 * * *", each_store)

    class Params(forms.Form):
        store = StoreField()
        to = forms.CharField(
            required=False,
            label=_("directory"),
            help_text=_("The directory for the backup, in BACKUP_FOLDERS. The default is the first of them."),
            widget=forms.Select,
        )
        plain = forms.BooleanField(
            required=False,
            label=_("as SQL text"),
            help_text=_("Write SQL text, compressed with gzip, to import it into another server."),
        )

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            choose_from(self.fields["to"], listed_folders)

    def check_prerequisites(self) -> None:
        """Refuse a missing store, directory, key or program before anything is written."""
        self.store.require_file()
        self.store.connection.ensure_connection()
        folder_of(self.params.get("to") or "")
        files.identity()
        if self.store.path is None:
            for name in ("pg_dump", "pg_restore"):
                pg_client.tool(name, self.store)

    def item_names(self) -> list[str]:
        return [self.store.alias]

    def perform(self, row: NamedItem) -> Outcome:
        folder = folder_of(self.params.get("to") or "")
        plain = bool(self.params.get("plain"))
        dump.write(self.store, folder, plain=plain, at=self.as_of, run_id=self.run_id)
        return Done()

    @classmethod
    def result_details(cls, run_id: int) -> dict[str, Any]:
        backup = Backup.objects.filter(run=run_id).first()
        return {} if backup is None else {"file": backup.path, "size_bytes": backup.size}

    def plan_notes(self, total: int) -> list[str]:
        size = filesizeformat(self.store.size())
        if self.store.path is None:
            return [
                gettext("The database has %(size)s. The backup will be smaller, because it is compressed.")
                % {"size": size}
            ]
        return [
            gettext("The store has %(size)s. The backup temporarily needs as much free space, in addition to the file.")
            % {"size": size}
        ]
