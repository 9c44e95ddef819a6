from __future__ import annotations

from typing import Any

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "opsconsole.console"
    label = "console"
    verbose_name = "OpsConsole"

    def ready(self) -> None:
        from opsconsole.engine import selection

        selection.rows_of_list = changelist_queryset


def changelist_queryset(model: type[Any], query: str) -> Any:
    """Return the rows that a changelist shows for a query string."""
    from django.contrib import admin  # the apps are not ready when this module is imported
    from django.contrib.auth.models import AnonymousUser
    from django.test import RequestFactory  # imports the whole test client

    admin.autodiscover()
    model_admin = admin.site.get_model_admin(model)
    request = RequestFactory().get("/", query_params=None, QUERY_STRING=query)
    request.user = AnonymousUser()
    return model_admin.get_changelist_instance(request).get_queryset(request)
