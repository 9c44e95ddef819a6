"""The console with two more addresses that answer a constant: what any answer of that size costs at least."""

from __future__ import annotations

import os

import django
from django.core.handlers.wsgi import WSGIHandler

SIZE = 2_000
BODY = b'{"constant": "' + b"x" * (SIZE - 16) + b'"}'


def _application() -> WSGIHandler:
    os.environ["DJANGO_SETTINGS_MODULE"] = "opsconsole.settings"
    os.environ["OPSCONSOLE_POOL"] = "true"
    django.setup()

    from django.contrib.auth.decorators import login_not_required
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    from opsconsole.api import endpoints
    from opsconsole.api.auth import access

    @endpoints.api.get("/constant", auth=access("records.view_taskstatus"), include_in_schema=False)
    def constant_behind_the_token(request: HttpRequest) -> HttpResponse:
        return HttpResponse(BODY, content_type="application/json")

    @login_not_required
    def process(request: HttpRequest) -> HttpResponse:
        """Which of the server's processes answers."""
        return HttpResponse(str(os.getpid()))

    @login_not_required
    def constant(request: HttpRequest) -> HttpResponse:
        return HttpResponse(BODY, content_type="application/json")

    from opsconsole import urls

    urls.urlpatterns[:0] = [path("constant", constant), path("process", process)]
    return WSGIHandler()


application = _application()
