"""Sample data of the stores whose tables this app has: a module each, with a `load()` of its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator


def load() -> Iterator[str]:
    """What was loaded, in lines for the shell. Safe to repeat."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        yield from importlib.import_module(module.name).load()
