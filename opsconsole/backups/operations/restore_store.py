"""Document 001: a backup is put back into its managed store, or beside it. The state before is backed up first."""

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
        "Puts a backup back: the whole store becomes what the file holds, after a backup of its state before; "
        "or, with a name, the file becomes a new database beside it. The file is read and checked first."
    )
    model = Backup
    risk = Risk.DELETE
    action_label: Any = _("Restore %(store)s")
    creates_backup = True
    cluster = LONG_CLUSTER

    class Params(forms.Form):
        store = StoreField()
        file = forms.CharField(
            label=_("file"), help_text=_("the backup's file, below BACKUP_FOLDERS"), widget=forms.Select
        )
        as_ = forms.CharField(
            required=False, label=_("beside, as"), help_text=_("the name of a new database beside the store")
        )

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            choose_from(self.fields["file"], listed_files)

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        super().__init__(store, params)
        self.beside: str = self.params.get("as_") or ""
        if self.beside:
            self.action_label = gettext("Restore as %(name)s") % {"name": self.beside.replace("%", "%%")}
        # All of the store is held while it is replaced. It may be too damaged to be asked for its tables.
        self.writes = {} if self.beside else {model._meta.db_table: () for model in store.models()}

    def check_prerequisites(self) -> None:
        """Refuses before anything is written."""
        if not self.store.managed:
            raise PlanRefused(
                gettext("%(location)s is attached, somebody else's: restore it by its own means.")
                % {"location": self.store.location}
            )
        if self.beside:
            restore.new_database(self.store, self.beside)
        elif self.store.name == DEFAULT:
            raise PlanRefused(
                gettext(
                    "The console can't be restored while it runs: restore it beside (--as), stop it, exchange the two."
                )
            )
        files.identity()
        if self.store.path is None:
            for name in ("pg_dump", "pg_restore"):
                pg_client.tool(name, self.store)
        listed = self._listed()
        if listed is None or not listed.is_there:  # else it is read when it is restored: that may take long
            restore.examine(self.store, self._file)

    @property
    def _file(self) -> Path:
        """Where the file is. Raises StoreUnavailable for one outside the configured folders."""
        return below(str(self.params["file"]))

    def _listed(self) -> Backup | None:
        """The file as one of the console's own for this store."""
        listed = Backup.objects.filter(path=str(self._file), store=self.store.name, engine=self.store.vendor)
        return listed.exclude(format="sql").first()

    def item_names(self) -> list[str]:
        return [self.beside or self.store.alias]

    def perform(self, row: NamedItem) -> Outcome:
        restore.examine(self.store, self._file)
        listed = self._listed()
        known = {listed.digest if listed is not None else None, notes.digest_beside(self._file)} - {None}
        if known and known != {files.file_digest(self._file)}:
            raise restore.RestoreRefused(gettext("The file is no longer as it was written: take another backup."))
        if self.beside:
            restore.restore_as(self.store, self._file, self.beside)
            return Done()
        # A second attempt must not put the restored state in the place of the state before.
        if not any(backup.is_there for backup in Backup.objects.filter(run=self.run_id)):
            self._back_up()
        restore.restore(self.store, self._file)
        return Done()

    def _back_up(self) -> None:
        """The state before. Of a damaged SQLite store, whose backup would stand no check, its files as they are."""
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
        if self.beside:
            return []
        return [
            gettext("Everything written to %(store)s since that backup goes; its state now is backed up first.")
            % {"store": self.store.alias},
            gettext("After an older backup run `python manage.py setup`: it brings the tables up to date."),
        ]
