"""The process's environment: a value that can't be read is refused by its name, never guessed."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import environ
from django.core.exceptions import ImproperlyConfigured


class Environment(environ.Env):  # type: ignore[misc]  # it has no types
    """As django-environ's, which takes a mistyped `treu` for false."""

    FALSE = ("", "0", "false", "off", "no", "n")

    def parse_value(self, value: Any, cast: Any) -> Any:
        if cast is bool and value.lower().strip() not in (*self.BOOLEAN_TRUE_STRINGS, *self.FALSE):
            raise ValueError(f"{value!r} is neither true nor false")
        return super().parse_value(value, cast)

    def get_value(self, var: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().get_value(var, *args, **kwargs)
        except ValueError as error:
            raise ImproperlyConfigured(f"{var} can't be read: {error}.") from error

    def db_url(self, var: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The password is not shown, so neither is the part that can't be read."""
        try:
            found: dict[str, Any] = super().db_url(var, *args, **kwargs)
        except ValueError:
            raise ImproperlyConfigured(
                f"{var} is no database URL: its port is no number, or / ? # @ in its password is not written as %XX."
            ) from None
        return found

    def zone(self, var: str, default: str) -> ZoneInfo:
        """A time zone by its name."""
        name = self.str(var, default=default)
        try:
            return ZoneInfo(name)
        except (ValueError, OSError, KeyError):
            raise ImproperlyConfigured(f"{var} names no time zone: {name!r}.") from None
