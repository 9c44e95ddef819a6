"""`stores add`: the read-only test of a database, and its entry in `opsconsole.toml`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections
from django.utils.translation import gettext as _

from opsconsole.cli.command import Refused
from opsconsole.config_file import ALIAS, ConfigFile
from opsconsole.env import Environment, Variable, database_url
from opsconsole.stores.catalog import other_relations
from opsconsole.stores.config import database
from opsconsole.stores.identify import fitting_platform
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnavailable, all_stores

PROBED = "probed"  # alias of the tested database in this process
_TRIGGERS = {
    "sqlite": "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger' ORDER BY tbl_name, name",
    "postgresql": """
        SELECT c.relname, t.tgname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND pg_table_is_visible(c.oid) ORDER BY c.relname, t.tgname""",
}


class Added(NamedTuple):
    """The entry of a new store, and what its database contains."""

    alias: str
    report: dict[str, Any]
    entry: str
    password_variable: str  # empty if the URL has no password
    replaced: str  # the embedded store of the platform that the entry replaces, or empty


def add(url: str, *, alias: str, platform: str) -> Added:
    """Test the database read-only, and append its entry to the file. Raise Refused."""
    try:
        parsed = Variable(_("The URL"), database_url, secret=True).read(url)
    except ImproperlyConfigured as error:
        raise Refused(error) from None
    shown, has_password = _without_password(url)
    alias = alias or _alias_of(parsed)
    _require_free(alias)
    if platform and platform not in settings.PLATFORMS:
        raise Refused(
            _("No platform is called %(name)s. The platforms are: %(names)s.")
            % {"name": platform, "names": ", ".join(settings.PLATFORMS)}
        )
    if alias in settings.PLATFORMS and platform not in {"", alias}:
        raise Refused(_("%(alias)s is the name of a platform. Choose another name with --alias.") % {"alias": alias})
    report = _probe(parsed, alias, platform or (alias if alias in settings.PLATFORMS else ""))
    lines = [f"[stores.{alias}]", f"url = {json.dumps(shown, ensure_ascii=False)}"]
    if report["platform"] and report["platform"] != alias:
        lines.append(f'platform = "{report["platform"]}"')
    entry = "\n".join(lines) + "\n"
    kept = _append(entry)
    replaced = report["platform"] if report["platform"] in settings.STORES.keys() - kept else ""
    return Added(alias, report, entry, f"{alias.upper()}_DATABASE_PASSWORD" if has_password else "", replaced)


def _alias_of(parsed: dict[str, Any]) -> str:
    """Return a name made of the name of the database or the file."""
    name = re.sub(r"[^a-z0-9]+", "_", Path(parsed["NAME"]).stem.lower()).strip("_")
    if not ALIAS.fullmatch(name):
        raise Refused(_("The name of the database cannot be the name of a store. Choose one with --alias."))
    return name


def _require_free(alias: str) -> None:
    """Refuse a name that the file or the environment declares already."""
    if not ALIAS.fullmatch(alias) or alias in {DEFAULT, PROBED}:
        raise Refused(
            _(
                "%(alias)s cannot be the name of a store. Use at most 40 lower-case letters, digits and _, with a "
                "letter first."
            )
            % {"alias": alias}
        )
    declared = ConfigFile(settings.CONFIG_PATH, required=False).values.get("stores", {})
    if alias in declared or f"{alias.upper()}_DATABASE_URL" in os.environ:
        raise Refused(_("%(alias)s is already a store. Choose another name with --alias.") % {"alias": alias})


def _probe(parsed: dict[str, Any], alias: str, platform: str) -> dict[str, Any]:
    """Return what the database contains. Nothing is written. Raise Refused, StoreUnavailable."""
    password = os.environ.get(f"{alias.upper()}_DATABASE_PASSWORD", "")
    try:
        config = database(parsed, password=password, attached=True, pool=False)
    except ImproperlyConfigured as error:
        raise Refused(_("The URL cannot be used. %(reason)s") % {"reason": error}) from None
    if "settings" in config["OPTIONS"]:
        config["OPTIONS"]["settings"]["default_transaction_read_only"] = "on"
    else:
        config["OPTIONS"]["init_command"] = "PRAGMA query_only=ON"
    connections.settings[PROBED] = config
    connections.configure_settings(connections.settings)
    store = Store(PROBED, "")
    try:
        store.require_file()
        identity = store.identity()
        for other in all_stores():
            if other.known_identity() == identity or other.location == store.location:
                raise Refused(
                    _("%(location)s is already the store %(alias)s.")
                    % {"location": store.location, "alias": other.alias}
                )
        return _report(store, alias, platform)
    except (DatabaseError, InterfaceError) as error:
        raise store.unusable(error) from error
    except OSError as error:
        raise StoreUnavailable(str(error)) from error
    finally:
        store.close()
        del connections.settings[PROBED]
        del connections[PROBED]


def _report(store: Store, alias: str, platform: str) -> dict[str, Any]:
    fitting = fitting_platform(store.tables)
    if fitting == DEFAULT:
        raise Refused(_("%(location)s is the database of a console.") % {"location": store.location})
    platform = platform or fitting or ""
    version = "SELECT sqlite_version()" if store.vendor == "sqlite" else "SHOW server_version"
    triggers: dict[str, list[str]] = {}
    for table, name in store.query(_TRIGGERS[store.vendor]):
        triggers.setdefault(table, []).append(name)
    return {
        "alias": alias,
        "platform": platform or None,
        "engine": store.vendor,
        "version": str(store.query(version)[0][0]),
        "location": store.location,
        "size_bytes": store.size(),
        "tables": len(store.tables),
        "missing": Store(PROBED, platform).missing() if platform else [],
        "without_key": [name for name, table in store.tables.items() if not table.identity],
        "triggers": triggers,
        "row_security": [name for name, table in store.tables.items() if table.row_security],
        "other_relations": other_relations(store),
    }


def _without_password(url: str) -> tuple[str, bool]:
    """Return a URL without its password, and whether it had one."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return url, False
    given = parse_qsl(parts.query, keep_blank_values=True)
    if any(name == "sslpassword" for name, _value in given):
        raise Refused(_("The URL contains sslpassword. Declare the store with url_env instead."))
    user, _at, host = parts.netloc.rpartition("@")
    name, colon, _password = user.partition(":")
    kept = [(key, value) for key, value in given if key != "password"]
    has_password = bool(colon) or len(kept) < len(given)
    query = parts.query if len(kept) == len(given) else urlencode(kept, quote_via=quote)
    return (
        f"{parts.scheme}://{f'{name}@' if name else ''}{host}{parts.path}{f'?{query}' if query else ''}",
        has_password,
    )


def _append(entry: str) -> set[str]:
    """Append the entry to the file, and keep the rest of it. Return the stores that are declared now.

    Nothing changes if the result could not be read.
    """
    path = Path(os.path.realpath(settings.CONFIG_PATH))
    before = ConfigFile(path, required=False).content
    end = "\r\n" if "\r\n" in before else "\n"
    added = entry.replace("\n", end)
    after = f"{before.rstrip()}{end}{end}{added}" if before.strip() else added
    new = path.with_name(f".{path.name}.new")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(after.encode())
        declared = ConfigFile(new).stores(settings.PLATFORMS, Environment())
        if path.exists():
            os.chmod(new, path.stat().st_mode & 0o777)
        new.replace(path)
        return set(declared)
    except ImproperlyConfigured as error:
        raise Refused(
            _("%(path)s cannot be extended: %(reason)s Add these lines yourself:\n%(entry)s")
            % {"path": path, "reason": str(error).replace(str(new), str(path)), "entry": entry}
        ) from None
    except OSError as error:
        raise Refused(
            _("%(path)s cannot be written: %(reason)s. Add these lines yourself:\n%(entry)s")
            % {"path": path, "reason": error.strerror, "entry": entry}
        ) from None
    finally:
        new.unlink(missing_ok=True)
