"""Forms that are sent twice, by a double click or a reload: the second time does nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.accounts.models import SentForm

KEPT = timedelta(hours=1)
UNANSWERED = timedelta(minutes=5)  # after that, the process that answered the form has ended
WAIT_SECONDS, POLL_SECONDS = 5.0, 0.1  # for the first answer
TOKEN = "csrfmiddlewaretoken"  # noqa: S105  # the name of a field


class SentFormMiddleware:
    """Middleware that answers a repeated form with the redirect of its first answer.

    Every page that is rendered has another CSRF token. The same token with the same values is therefore the same form,
    sent twice. A form that was refused, or that was answered with a page, may be sent again.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        form: SentForm | None = getattr(request, "sent_form", None)
        if form is not None:
            if "Location" in response:
                SentForm.objects.filter(pk=form.pk).update(location=response["Location"])
            else:
                form.delete()
        return response

    def process_view(self, request: HttpRequest, *args: Any) -> HttpResponse | None:
        """Claim the form, or return the answer to its first sending."""
        is_form = request.method == "POST" and request.path.startswith(reverse("admin:index"))
        if not (is_form and request.user.is_authenticated and TOKEN in request.POST):
            return None
        now = timezone.now()
        SentForm.objects.filter(Q(at__lt=now - KEPT) | Q(location="", at__lt=now - UNANSWERED)).delete()
        form, new = SentForm.objects.get_or_create(key=_key_of(request))
        if new:
            request.sent_form = form  # type: ignore[attr-defined]
            return None
        location = _first_answer(form)
        if not location:
            return render(request, "409.html", status=409)
        messages.info(request, _("This form was already sent. It was not processed again."))
        return HttpResponseRedirect(location)


def _key_of(request: HttpRequest) -> str:
    """Return a digest of the account, the address and the values of a form."""
    values = [request.user.pk, request.get_full_path(), sorted(request.POST.lists())]
    found = hashlib.sha256(orjson.dumps(values))
    for name in sorted(request.FILES):
        for file in request.FILES.getlist(name):
            found.update(file.read())
            file.seek(0)
    return found.hexdigest()


def _first_answer(form: SentForm) -> str:
    """Return the address to which the first sending was redirected. Empty if it is not answered in time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not form.location and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        found = SentForm.objects.filter(pk=form.pk).first()
        if found is None:  # refused
            return ""
        form = found
    return form.location
