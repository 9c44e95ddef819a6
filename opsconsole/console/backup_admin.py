"""The admin of backups."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from opsconsole.console.base_admin import ConsoleModelAdmin, ViewOnlyMixin
from opsconsole.console.page_parts import with_code
from opsconsole.formatting import copy_button, format_time
from opsconsole.stores.models import Backup
from opsconsole.stores.platforms import store_title


@admin.register(Backup)
class BackupAdmin(ViewOnlyMixin, ConsoleModelAdmin):
    list_display = ("file", "in_store", "state_of", "bytes", "verified", "encrypted", "made_by", "restore")
    list_display_links = None
    fields = list_display
    list_filter = ("encrypted",)
    search_fields = ("=path", "=store")
    search_help_text = _("Searches the exact name of a store or the exact path.")
    ordering = ("-at", "-pk")
    sortable_by = ()

    @admin.display(description=_("file"))
    def file(self, backup: Backup) -> str:
        return copy_button(backup.path) if backup.is_there else _("%(path)s (missing)") % {"path": backup.path}

    @admin.display(description=_("store"))
    def in_store(self, backup: Backup) -> str:
        return with_code(backup.store, store_title(backup.store))

    @admin.display(description=_("run"))
    def made_by(self, backup: Backup) -> str:
        if backup.run_id is None:
            return "–"
        return format_html('<a class="row-link" href="{}">{}</a>', reverse("run", args=[backup.run_id]), backup.run_id)

    @admin.display(description=_("backed up at"))
    def state_of(self, backup: Backup) -> str:
        return format_time(backup.at)

    @admin.display(description=_("size"))
    def bytes(self, backup: Backup) -> str:
        return filesizeformat(backup.size)

    @admin.display(description=_("verified at"))
    def verified(self, backup: Backup) -> str:
        return format_time(backup.verified_at)

    @admin.display(description=_("restore"))
    def restore(self, backup: Backup) -> str:
        if not backup.is_there:
            return "–"
        return format_html(
            '<a class="row-link" href="{}">{}</a>', reverse("backup-restore", args=[backup.pk]), _("Restore…")
        )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(self.has_view_permission(request))
