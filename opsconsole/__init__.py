"""OpsConsole: the admin back office for AI-agent platforms."""

from __future__ import annotations

__version__ = "0.1.0"
