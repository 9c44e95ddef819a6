"""Imports that register the admin classes of the console's own tables."""

from __future__ import annotations

from opsconsole.console import (
    alert_admin,
    backup_admin,
    base_admin,
    incident_admin,
    queue_admin,
    run_admin,
    token_admin,
)

__all__ = ["alert_admin", "backup_admin", "base_admin", "incident_admin", "queue_admin", "run_admin", "token_admin"]
