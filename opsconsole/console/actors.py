"""The account of a request as the actor of the audit log."""

from __future__ import annotations

from django.http import HttpRequest

from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import Trigger


def actor_of(request: HttpRequest) -> Actor:
    """Return the account of a request as an actor."""
    name = request.user.get_username()
    return Actor(name, request.META.get("REMOTE_ADDR", ""), Trigger.ADMIN, request.user)  # type: ignore[arg-type]
