"""The disabled `export` of django-import-export. It does not escape spreadsheet formulas."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.cli.held_back import HeldBack


class Command(HeldBack):
    sentence = _("This command does not export every value exactly. Use Export on the list page of the table.")
