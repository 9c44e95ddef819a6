from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class OperationsConfig(AppConfig):
    name = "opsconsole.engine"
    label = "operations"
    verbose_name = _("Operations")

    def ready(self) -> None:
        from opsconsole.engine import queue_checks  # noqa: F401

        post_migrate.connect(sync_schedules, sender=self, dispatch_uid="opsconsole.engine")


def sync_schedules(using: str, **kwargs: Any) -> None:
    """After the console's own tables are there: the queue's schedules follow what is declared."""
    from opsconsole.engine import queue

    if using == "default":
        queue.sync_schedules()
