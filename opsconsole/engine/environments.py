"""The environment that `setup` records. A process with a lower environment may not write."""

from __future__ import annotations

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _

from opsconsole.engine.models import Installation

RANKS = ("development", "staging", "production")


def recorded() -> str:
    """Return the recorded environment. It is empty before `setup` and while the database is unavailable."""
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
    """Record the environment of this process."""
    Installation.objects.update_or_create(pk=1, defaults={"environment": settings.ENVIRONMENT})
