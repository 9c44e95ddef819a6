"""The environment that `setup` recorded. A process that claims a lower one is refused."""

from __future__ import annotations

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _

from opsconsole.engine.models import Installation

RANKS = ("development", "staging", "production")


def recorded() -> str:
    """Return the recorded environment, empty if the console is not set up or unavailable."""
    try:
        return Installation.objects.values_list("environment", flat=True).first() or ""
    except (DatabaseError, InterfaceError):
        return ""


def refusal() -> str:
    """Return why this process may not write, or an empty string."""
    environment = recorded()
    if not environment or RANKS.index(settings.ENVIRONMENT) >= RANKS.index(environment):
        return ""
    values = {"recorded": environment, "claimed": settings.ENVIRONMENT}
    return (
        _(
            "This console is set up as %(recorded)s, but this process runs as %(claimed)s. "
            "Set OPSCONSOLE_ENVIRONMENT=%(recorded)s."
        )
        % values
    )


def record() -> None:
    """Record this process's environment, which is not lower than the one that is recorded."""
    Installation.objects.update_or_create(pk=1, defaults={"environment": settings.ENVIRONMENT})
