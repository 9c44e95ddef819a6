"""Times and numbers of commands."""

from __future__ import annotations

import argparse
from datetime import datetime

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _


def format_local(at: datetime) -> str:
    """Return a time in the configured zone, to the second."""
    return date_format(timezone.localtime(at), "Y-m-d H:i:s")


def positive(text: str) -> int:
    """Read a whole number above 0, for argparse."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 63):
        raise argparse.ArgumentTypeError(_("must be a whole number above 0, not %s") % repr(text))
    return int(text)
