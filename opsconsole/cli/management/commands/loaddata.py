"""The disabled `loaddata` of Django. It writes without a run."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.cli.held_back import HeldBack


class Command(HeldBack):
    sentence = _(
        "This command imports without a run, so it cannot be undone. Use Import on the list page of the table."
    )
