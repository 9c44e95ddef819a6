from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.utils.translation import gettext_lazy as _


class StoresConfig(AppConfig):
    name = "opsconsole.stores"
    label = "stores"
    verbose_name = _("Stores")

    def ready(self) -> None:
        from opsconsole.stores.sqlite import prepare_connection

        connection_created.connect(prepare_connection, dispatch_uid="opsconsole.stores.sqlite")
