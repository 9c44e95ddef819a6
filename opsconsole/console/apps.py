from __future__ import annotations

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "opsconsole.console"
    label = "console"
    verbose_name = "OpsConsole"

    def ready(self) -> None:
        # After the admin has found the queue's own classes, which these replace.
        from opsconsole.console import queue_admin  # noqa: F401
