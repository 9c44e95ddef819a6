from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class CliConfig(AppConfig):
    name = "opsconsole.cli"
    label = "cli"
    verbose_name = _("Commands")
