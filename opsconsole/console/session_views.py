"""The page of sessions: superusers see all sessions, other users their own."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from opsconsole.accounts.models import Session
from opsconsole.console.actors import actor_of
from opsconsole.engine.audit_log import record


@require_http_methods(["GET", "HEAD", "POST"])
def sessions(request: HttpRequest) -> HttpResponse:
    """List sessions. A POST revokes one session."""
    found = _visible(request)
    if request.method == "POST":
        chosen = next((one for one in found if one.handle == request.POST.get("session")), None)
        if chosen is None:
            messages.error(request, _("This session has already ended."))
        else:
            with transaction.atomic():
                chosen.delete()
                account, address = str(chosen.user), chosen.address
                record(None, "session_revoked", actor_of(request), account=account, address=address)
            messages.success(request, _("The session is revoked."))
        return redirect("sessions")
    context = {
        **admin.site.each_context(request),
        "title": _("Sessions"),
        "sessions": found,
        "current": request.session.session_key,
    }
    return render(request, "console/sessions.html", context)


def _visible(request: HttpRequest) -> QuerySet[Session]:
    found = Session.objects.filter(user__isnull=False, expire_date__gt=timezone.now()).select_related("user")
    if not request.user.is_superuser:
        found = found.filter(user=request.user.pk)
    return found.order_by("-used_at")
