"""django-import-export's `import`, held back: it would write without a run."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.cli.held_back import HeldBack


class Command(HeldBack):
    sentence = _("Rows are imported by a run that can be undone. Use Import on the page of the table's list.")
