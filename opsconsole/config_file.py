"""`opsconsole.toml`: stores and policies. An error is one sentence with the file, the line and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from opsconsole.env import Environment, Parser, Variable, boolean, choice, database_url, text

T = TypeVar("T")
LARGEST = 64 * 1024
ALIAS = re.compile(r"[a-z][a-z0-9_]{0,39}")
POLICIES, STORES = "policies", "stores"


@dataclass(frozen=True)
class StoreEntry:
    """A store as the file and the environment declare it. `platform` is empty for a store that no platform owns."""

    alias: str
    platform: str
    database: dict[str, Any] | None  # the parts of the URL, None for an embedded file
    password: str
    source: str  # of the URL, for errors
    attached: bool = False
    title: str = ""


class ConfigFile:
    """The content of the file. It records the keys that are read, so that it can refuse all others."""

    def __init__(self, path: Path, *, required: bool = True) -> None:
        self.path, self.content = path, ""
        try:
            self.content = path.read_bytes().decode()  # with its line ends
        except (FileNotFoundError, NotADirectoryError):
            if required:
                raise ImproperlyConfigured(
                    f"OPSCONSOLE_CONFIG names {str(path)!r}. This file does not exist."
                ) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ImproperlyConfigured(f"The file {str(path)!r} cannot be read: {reason}. Correct it.") from None
        if len(self.content) > LARGEST:
            raise ImproperlyConfigured(f"The file {str(path)!r} is longer than {LARGEST} characters. Shorten it.")
        try:
            self.values = tomllib.loads(self.content)
        except (ValueError, RecursionError) as error:
            found = re.search(r"\(at line (\d+)", str(error))
            line = int(found[1]) if found else len(self.content.splitlines())
            raise ImproperlyConfigured(
                f"Line {line} of {str(path)!r} is not valid TOML. Write it as key = value, with texts in quotes."
            ) from None
        self.secrets: list[str] = []
        self._read: set[tuple[str, ...]] = {(POLICIES,), (STORES,)}

    def read(self, keys: tuple[str, ...], parse: Parser[T], default: T, *, secret: bool = False) -> T:
        """Return the value of a key, or `default`. Its text form is parsed like a variable of the environment."""
        self._read |= {keys[:length] for length in range(1, len(keys) + 1)}
        value = self._find(keys, self.values)
        if value is None:
            return default
        if not isinstance(value, str | int | float):
            raise ImproperlyConfigured(f"{self.place(keys)} is not a single value. Write it as key = value.")
        given = str(value).lower() if isinstance(value, bool) else str(value)
        if secret:
            self.secrets.append(given)
        found: T = Variable(self.place(keys), parse, secret).read(given)
        return found

    def policy(self, name: str, parse: Parser[T], default: T) -> T:
        """Return a lifetime or a limit: the variable's name in lower case in `[policies]`."""
        return self.read((POLICIES, name.lower()), parse, default)

    def stores(self, platforms: Collection[str], env: Environment) -> dict[str, StoreEntry]:
        """Return alias → store: those that file and variables declare, and an embedded one for each other platform."""
        declared = self.values.get(STORES, {})
        if not isinstance(declared, dict):
            raise ImproperlyConfigured(f"{self.place((STORES,))} is not a table. Write [stores.NAME].")
        found = [self._store(alias, platforms, env) for alias in dict.fromkeys([*platforms, *declared])]
        further = {entry.platform for entry in found if entry.alias != entry.platform}
        found = [entry for entry in found if entry.alias not in further or self._is_declared(entry.alias, env)]
        order = [*platforms, ""]
        return {entry.alias: entry for entry in sorted(found, key=lambda entry: order.index(entry.platform))}

    def _is_declared(self, alias: str, env: Environment) -> bool:
        names = (f"{alias.upper()}_DATABASE_URL", f"{alias.upper()}_ATTACHED")
        return alias in self.values.get(STORES, {}) or any(env(name, text, "") for name in names)

    def _store(self, alias: str, platforms: Collection[str], env: Environment) -> StoreEntry:
        keys, prefix = (STORES, alias), alias.upper()
        if alias == "default" or not ALIAS.fullmatch(alias):
            raise ImproperlyConfigured(
                f"{self.place(keys)} is not the name of a store. Use at most 40 lower-case letters, digits and _, "
                "with a letter first, and not default."
            )
        if not isinstance(self._find(keys, self.values) or {}, dict):
            raise ImproperlyConfigured(f"{self.place(keys)} is not a table. Write [stores.{alias}].")
        own = alias if alias in platforms else ""
        platform = self.read((*keys, "platform"), choice(*([own] if own else platforms)), own)
        database, source = self._database(keys, env)
        if database is None and not own:
            raise ImproperlyConfigured(
                f"{self.place(keys)} has no URL. Add url or url_env, or set {prefix}_DATABASE_URL."
            )
        in_file = self._find(keys, self.values) is not None and database is not None
        attached = env(f"{prefix}_ATTACHED", boolean, self.read((*keys, "attached"), boolean, in_file))
        if not attached and not platform:
            raise ImproperlyConfigured(
                f"{self.place(keys)} has no platform, so the console cannot create its tables. Add platform, or "
                "remove attached."
            )
        password = env(f"{prefix}_DATABASE_PASSWORD", text, "", secret=True)
        title = self.read((*keys, "title"), text, "")
        return StoreEntry(alias, platform, database, password, source, attached, title)

    def _database(self, keys: tuple[str, ...], env: Environment) -> tuple[dict[str, Any] | None, str]:
        """Return the parts of the URL of a store, None if it has none, and the source of the URL."""
        own = f"{keys[-1].upper()}_DATABASE_URL"
        named = self.read((*keys, "url_env"), _variable, "")
        url = self.read((*keys, "url"), database_url, None, secret=True)
        if named and url is not None:
            raise ImproperlyConfigured(f"{self.place((*keys, 'url_env'))} is set next to url. Remove one of them.")
        if (found := env(own, database_url, None, secret=True)) is not None:
            return found, own
        if not named:
            return url, self.place((*keys, "url")) if url is not None else own
        if (found := env(named, database_url, None, secret=True)) is None:
            raise ImproperlyConfigured(
                f"{self.place((*keys, 'url_env'))} names {named}. This variable is not set. Set it to a database URL."
            )
        return found, named

    def refuse_unknown(self) -> None:
        """Raise ImproperlyConfigured for a key that nothing reads."""
        for keys in _paths(self.values, depth=3):
            if keys not in self._read:
                known = sorted(other[-1] for other in self._read if len(other) == len(keys) and other[:-1] == keys[:-1])
                raise ImproperlyConfigured(f"{self.place(keys)} is unknown. Known here: {', '.join(known)}.")

    def place(self, keys: tuple[str, ...]) -> str:
        """Return a key with its line: the first one up to which the file contains the key."""
        lines = self.content.splitlines(keepends=True)
        for number in range(1, len(lines) + 1):
            try:
                start = tomllib.loads("".join(lines[:number]))
            except ValueError:
                continue  # inside of a value of several lines
            if self._find(keys, start) is not None:
                break
        else:
            number = len(lines)
        return f"{_shown(keys)} in line {number} of {str(self.path)!r}"

    @staticmethod
    def _find(keys: tuple[str, ...], values: Any) -> Any:
        for key in keys:
            values = values.get(key) if isinstance(values, dict) else None
        return values


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", value):
        raise ValueError("the name of an environment variable, such as SHOP_DATABASE_URL")
    return value


def _shown(keys: tuple[str, ...]) -> str:
    """Return keys for an error. An address, which may contain a password, is not shown."""

    def shown(key: str) -> str:
        if re.fullmatch(r"[A-Za-z0-9_-]+", key):
            return key
        return "'…'" if "://" in key else repr(key[:80])

    return ".".join(map(shown, keys))


def _paths(values: dict[str, Any], depth: int, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*before, key)
        if isinstance(value, dict) and depth > 1:
            yield from _paths(value, depth - 1, (*before, key))
