"""The operation that deletes old backups and keeps the newest ones of each store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from django import forms
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from opsconsole.backups import notes
from opsconsole.backups.files import PARTIAL
from opsconsole.backups.folders import folders
from opsconsole.backups.restore import RESTORING
from opsconsole.engine.operation import Action, Schedule
from opsconsole.engine.outcomes import Done, Outcome
from opsconsole.engine.retention import Retention, days_field
from opsconsole.stores.models import Backup

KEEP_NEWEST = 7
LEFT_BEHIND = timedelta(days=2)


class PruneBackups(Retention, Action):
    title = _("Prune backups")
    description = _(
        "Deletes backups older than the given number of days. The newest backups of each database are "
        "kept. A backup whose file no longer exists is removed from the list."
    )
    model = Backup
    reads = ("path",)
    writes = {"stores_backup": ()}
    action_label = ngettext_lazy("Delete %(count)s backup", "Delete %(count)s backups", "number")
    done_label = ngettext_lazy("%(count)s backup deleted", "%(count)s backups deleted", "number")
    schedule = Schedule("30 5 * * *")

    class Params(forms.Form):
        days = days_field(30)
        newest = forms.IntegerField(
            min_value=1,
            initial=KEEP_NEWEST,
            required=False,
            label=_("newest"),
            help_text=_("Always keep this number of the newest backups of each database."),
        )

    def queryset(self) -> QuerySet[Backup]:
        newer = (
            Backup.objects.filter(Q(at__gt=OuterRef("at")) | Q(at=OuterRef("at"), pk__gt=OuterRef("pk")))
            .filter(identity=OuterRef("identity"), verified_at__isnull=False)
            .order_by()
            .values("identity")
            .annotate(count=Count("pk"))
            .values("count")
        )
        counted = self.population().filter(at__lt=self._kept_since).alias(newer=Subquery(newer))
        kept: QuerySet[Backup] = counted.filter(newer__gte=self.params.get("newest") or KEEP_NEWEST)
        return kept

    def perform(self, row: Any) -> Outcome:
        for file in (Path(row.path), notes.note_of(Path(row.path))):
            file.unlink(missing_ok=True)
        Backup.objects.filter(pk=row.pk).delete()
        return Done()

    def on_finish(self) -> None:
        """Delete the incomplete files of processes that were killed."""
        limit = (self.as_of - LEFT_BEHIND).timestamp()
        for file in (file for folder in filter(Path.is_dir, folders()) for file in folder.iterdir()):
            if (PARTIAL in file.name or file.suffix == RESTORING) and file.stat().st_mtime < limit:
                file.unlink(missing_ok=True)

    def label(self, row: Any) -> str:
        return Path(row.path).name
