"""Codes in words: outcomes and reasons, for pages and for the shell."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

OUTCOME_LABELS = {
    "changed": _("Changed"),
    "skipped": _("Skipped"),
    "unfit": _("Unfit"),
    "set_aside": _("Set aside"),
}
# The engine's own reasons; an operation's stand in its `reasons`.
REASON_LABELS = {
    "gone": _("no longer in scope when its turn came"),
    "moved": _("changed by others while it was being written"),
}


def outcome_label(outcome: str) -> str:
    return str(OUTCOME_LABELS[outcome])


def reason_label(operation: Any, reason: str) -> str:
    """`operation`: instance or class, or None when its code is gone."""
    own = operation.reasons if operation is not None else {}
    return str(own.get(reason) or REASON_LABELS.get(reason) or reason)
