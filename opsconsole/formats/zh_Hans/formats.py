"""Figures in Chinese are grouped like everywhere else on these pages; Django's own formats leave them bare."""

from __future__ import annotations

DECIMAL_SEPARATOR = "."
THOUSAND_SEPARATOR = ","
NUMBER_GROUPING = 3
