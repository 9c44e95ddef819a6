"""The page that restores a backup: nobody types a path or an internal name."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from opsconsole.console.operation_views import needs, render_page
from opsconsole.stores.models import Backup
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import DEFAULT

RESTORE = "backups.restore_store"


@require_safe
@needs("operate_run")
def restore_backup(request: HttpRequest, pk: int) -> HttpResponse:
    """Offer the restore into the store, and next to it. Both lead to a plan."""
    backup = get_object_or_404(Backup, pk=pk)
    return render_page(
        request,
        "console/restore.html",
        _("Restore a backup"),
        backup=backup,
        operation=RESTORE,
        store_title=store_title(backup.store),
        can_replace=backup.store != DEFAULT,
        new_name=f"{backup.store}_restored_{backup.at:%Y%m%d}",
    )
