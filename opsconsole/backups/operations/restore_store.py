"""The operation that restores a backup into its managed store, or into a new database."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.backups import dump, files, notes, pg_client, restore
from opsconsole.backups.folders import below, folder_of, listed_files
from opsconsole.backups.params import StoreField, choose_from
from opsconsole.engine.operation import LONG_CLUSTER, Action, NamedItem, NamedItemsMixin, Risk
from opsconsole.engine.outcomes import Done, Outcome
from opsconsole.engine.planner import PlanRefused
from opsconsole.stores.models import Backup
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store


class RestoreStore(NamedItemsMixin, Action):
    title = _("Restore a store")
    description = _(
        "Replaces the contents of a store by those of a backup. The current contents are backed up "
        "first. With a name, the backup is restored into a new database instead. The file is read and "
        "verified first."
    )
    model = Backup
    risk = Risk.DELETE
    action_label: Any = _("Restore %(store)s")
    done_label = _("%(store)s restored")
    creates_backup = True
    cluster = LONG_CLUSTER

    class Params(forms.Form):
        store = StoreField()
        file = forms.CharField(
            label=_("file"), help_text=_("The file of the backup, in BACKUP_FOLDERS."), widget=forms.Select
        )
        as_ = forms.CharField(
            required=False,
            label=_("new database"),
            help_text=_("Restore into a new database with this name. The store does not change."),
        )

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            choose_from(self.fields["file"], listed_files)

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        self.new_name: str = self.params.get("as_") or ""
        if self.new_name:
            self.action_label = gettext("Restore as %(name)s") % {"name": self.new_name.replace("%", "%%")}
        # The run locks the whole store. The catalog of a damaged store may be unreadable.
        self.writes = {} if self.new_name else {model._meta.db_table: () for model in store.models()}

    def check_prerequisites(self) -> None:
        """Refuse an attached store and an invalid file before anything is written."""
        if not self.store.managed:
            raise PlanRefused(
                gettext("%(location)s is an attached store. Restore it with the tools of its platform.")
                % {"location": self.store.location}
            )
        if self.new_name:
            restore.new_database(self.store, self.new_name)
        elif self.store.name == DEFAULT:
            raise PlanRefused(
                gettext(
                    "The console's own database cannot be replaced while the console runs. Restore it into a new "
                    "database (--as), stop the console and exchange the two databases."
                )
            )
        files.identity()
        if self.store.path is None:
            for name in ("pg_dump", "pg_restore"):
                pg_client.tool(name, self.store)
        listed = self._listed()
        if listed is None or not listed.is_there:  # the console verified its own backups when it wrote them
            restore.examine(self.store, self._file)

    @property
    def _file(self) -> Path:
        """The path of the file. Raise StoreUnavailable for a file outside the configured directories."""
        return below(str(self.params["file"]))

    def _listed(self) -> Backup | None:
        """Return the record of the file, if the console wrote it for this store."""
        listed = Backup.objects.filter(path=str(self._file), store=self.store.name, engine=self.store.vendor)
        return listed.exclude(format="sql").first()

    def item_names(self) -> list[str]:
        return [self.new_name or self.store.alias]

    def perform(self, row: NamedItem) -> Outcome:
        restore.examine(self.store, self._file)
        listed = self._listed()
        known = {listed.digest if listed is not None else None, notes.noted_digest(self._file)} - {None}
        if known and known != {files.file_digest(self._file)}:
            raise restore.RestoreRefused(
                gettext("The file has changed since the backup was written. Choose another backup.")
            )
        if self.new_name:
            restore.restore_as(self.store, self._file, self.new_name)
            return Done()
        # A second attempt must not replace the backup of the original state.
        if not any(backup.is_there for backup in Backup.objects.filter(run=self.run_id)):
            self._back_up()
        restore.restore(self.store, self._file)
        return Done()

    def _back_up(self) -> None:
        """Back up the current contents. Copy the files of a damaged SQLite store, which cannot be backed up, as is."""
        try:
            dump.write(self.store, folder_of(""), plain=False, at=self.as_of, run_id=self.run_id)
        except (dump.BackupFailed, sqlite3.DatabaseError):
            if self.store.path is None:
                raise
            restore.keep_files(self.store.path, f"{self.store.alias}-{self.as_of:%Y%m%dT%H%M%SZ}-{self.run_id}-damaged")

    @classmethod
    def result_details(cls, run_id: int) -> dict[str, Any]:
        before = Backup.objects.filter(run=run_id).first()
        return {} if before is None else {"state_before": before.path}

    def plan_notes(self, total: int) -> list[str]:
        if self.new_name:
            return []
        return [
            gettext("All changes to %(store)s since the backup will be lost. The current contents are backed up first.")
            % {"store": self.store.alias},
            gettext(
                "If the backup is from an older version, run `python manage.py setup` afterwards to update the tables."
            ),
        ]
