"""The lists and pages of the source systems' tables, one module per store."""

from __future__ import annotations

from tasks.admin import agentos, helix, records

__all__ = ["agentos", "helix", "records"]
