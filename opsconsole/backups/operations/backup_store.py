"""Document 001: a backup of a whole store, consistent while others write, checked after writing."""

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
        "Writes the whole store into one file, consistent while others write: SQLite by its online backup, "
        "PostgreSQL by pg_dump. The file is read back and checked before it is listed."
    )
    model = Backup
    risk = Risk.REPRODUCE
    action_label = _("Back up %(store)s")
    writes_store = False
    cluster = LONG_CLUSTER
    schedule = Schedule("0 2 * * *", each_store)

    class Params(forms.Form):
        store = StoreField()
        to = forms.CharField(
            required=False,
            label=_("folder"),
            help_text=_("the folder to write to, below BACKUP_FOLDERS; the first of these if empty"),
            widget=forms.Select,
        )
        plain = forms.BooleanField(
            required=False, label=_("as SQL text"), help_text=_("gzipped SQL text, for those who move elsewhere")
        )

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            choose_from(self.fields["to"], listed_folders)

    def check_prerequisites(self) -> None:
        """Refuses before anything is written: a store that is not there, a missing folder, key or program."""
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
            return [gettext("The database has %(size)s; the file is compressed.") % {"size": size}]
        return [
            gettext("The store has %(size)s: as much room is needed beside the file while it is made.") % {"size": size}
        ]
