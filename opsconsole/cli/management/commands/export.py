"""django-import-export's `export`, held back: it would not escape what a spreadsheet calculates."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.cli.held_back import HeldBack


class Command(HeldBack):
    sentence = _("This export would not give back every value exactly. Use Export on the page of the table's list.")
