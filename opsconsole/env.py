"""Strict parsers of environment variables and `.env` files. An error is one sentence with the variable's name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import validate_email

T = TypeVar("T")
# A parser returns the value of a text, or raises ValueError with a noun phrase: "Set it to …".
Parser = Callable[[str], T]

DEFAULT_URL = "http://localhost:8000"  # of the console
LONGEST = 4096
SHOWN = 80
SQLITE = "django.db.backends.sqlite3"
POSTGRESQL = "django.db.backends.postgresql"
DATABASE_URL = (
    "sqlite:////folder/file.db or postgresql://user@host/name, with / ? # @ % in a password written as %XX, "
    "and with parameters that exist"
)
_LINE = re.compile(r"(?:export )?([A-Za-z_][A-Za-z_0-9]*)=(.*)")
_HOST = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
_IPV6 = r"\[[0-9A-Fa-f:.]+\]"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Variable:
    """A variable that the settings read. An error message does not show the value of a secret or an address."""

    name: str
    parse: Parser[Any]
    secret: bool

    def read(self, text: str) -> Any:
        """Return the value of `text`. Raise ImproperlyConfigured with the name of the variable."""
        try:
            if text != text.strip() or not text.isprintable() or len(text) > LONGEST:
                raise ValueError(f"at most {LONGEST} visible characters, without spaces at the ends")
            return self.parse(text)
        except ValueError as error:
            is_hidden = self.secret or "://" in text  # an address may contain a password
            shown = "cannot be read" if is_hidden else f"is {text[:SHOWN]!r}"
            raise ImproperlyConfigured(f"{self.name} {shown}. Set it to {error}.") from None


class Environment:
    """The variables of a process. It records the ones that are read. An empty one is not set."""

    def __init__(self, values: Mapping[str, str] = os.environ) -> None:
        self.values = values
        self.variables: dict[str, Variable] = {}

    def __call__(self, name: str, parse: Parser[T], default: T, *, secret: bool = False) -> T:
        """Return the value of a variable, or `default`. Raise ImproperlyConfigured."""
        variable = self.variables[name] = Variable(name, parse, secret)
        text = self.values.get(name, "")
        found: T = variable.read(text) if text else default
        return found


def read_file(path: Path, values: MutableMapping[str, str], *, required: bool) -> None:
    """Add the variables of a `.env` file that are not set yet. Raise ImproperlyConfigured."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        if required:
            raise ImproperlyConfigured(f"OPSCONSOLE_ENV_FILE names {str(path)!r}. This file does not exist.") from None
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ImproperlyConfigured(f"The file {str(path)!r} cannot be read: {reason}. Correct it.") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ImproperlyConfigured(f"Line {number} of {str(path)!r} cannot be read. Write it as NAME=value.")
        found[match[1]] = _unquoted(match[2])
    for name, value in found.items():
        values.setdefault(name, value)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1]
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


# --- text and numbers -----------------------------------------------------------------------------


def text(value: str) -> str:
    """Return any text."""
    return value


def choice(*allowed: str) -> Parser[str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return value

    return parse


def boolean(value: str) -> bool:
    if value.lower() in {"1", "true", "on", "yes", "y", "ok"}:
        return True
    if value.lower() in {"0", "false", "off", "no", "n"}:
        return False
    raise ValueError("true or false")


def whole_number(least: int, most: int) -> Parser[int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not least <= int(value) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    return parse


def number(least: float, most: float) -> Parser[float]:
    """Return a parser of decimal numbers. It refuses exponents and words such as nan."""

    def parse(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", value) or not least <= float(value) <= most:
            raise ValueError(f"a number from {least:g} to {most:.10g}, such as {least + 0.5:g}")
        return float(value)

    return parse


def listed(parse: Parser[T]) -> Parser[list[T]]:
    """Return a parser of values that are separated by commas."""

    def parse_all(value: str) -> list[T]:
        try:
            return [parse(item.strip()) for item in value.split(",")]
        except ValueError as error:
            raise ValueError(f"a comma-separated list; each item is {error}") from None

    return parse_all


def zone(value: str) -> ZoneInfo:
    try:
        return ZoneInfo(value)
    except (ValueError, OSError, KeyError):
        raise ValueError("a time zone such as UTC or Asia/Shanghai") from None


def path(value: str) -> Path:
    """Return an absolute path. A relative one would depend on the working directory of the process."""
    if not value.startswith("/"):
        raise ValueError("an absolute path")
    return Path(os.path.normpath(value))


def folder(value: str) -> Path:
    found = path(value)
    if found.exists() and not found.is_dir():
        raise ValueError("the absolute path of a directory")
    return found


def package(value: str) -> str:
    if not all(part.isascii() and part.isidentifier() for part in value.split(".")):
        raise ValueError("a Python package such as shop or tasks.agentos")
    return value


def dotted_path(value: str) -> str:
    parts = value.split(".")
    if len(parts) < 2 or not all(part.isascii() and part.isidentifier() for part in parts):
        raise ValueError("a dotted path such as package.module.name")
    return value


def age_identity(value: str) -> str:
    import pyrage

    try:
        pyrage.x25519.Identity.from_str(value)
    except pyrage.IdentityError:
        raise ValueError("an age identity from `age-keygen`, which begins with AGE-SECRET-KEY-1") from None
    return value


def key(value: str) -> str:
    """Return a key that is long enough not to be guessed."""
    if not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]{32,}", value):
        raise ValueError("at least 32 ASCII characters without spaces and commas")
    return value


def former_key(value: str) -> str:
    """Return a key of any length that was in use."""
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("ASCII characters without spaces")
    return value


def bearer_token(value: str) -> str:
    """Return a token that fits into a header."""
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("ASCII characters without spaces")
    return value


# --- apps and directories ---------------------------------------------------------------------------


def store_of_app(package: str) -> str:
    """Return the alias of the store that an app of OPSCONSOLE_APPS declares. Raise ImproperlyConfigured."""
    try:
        store = getattr(AppConfig.create(package), "store", None)
    except Exception as error:  # noqa: BLE001  # the import of an app may raise any error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImproperlyConfigured(
            f"OPSCONSOLE_APPS contains {package!r}. This app cannot be loaded ({reason}). Correct the name or the app."
        ) from None
    if not isinstance(store, str):
        raise ImproperlyConfigured(
            f"OPSCONSOLE_APPS contains {package!r}. This app declares no store. Add a StoreAppConfig to its apps.py."
        )
    return store


def make_data_folder(folder: Path) -> None:
    """Create the directory of OPSCONSOLE_DATA_DIR. Raise ImproperlyConfigured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"OPSCONSOLE_DATA_DIR is {str(folder)!r}. This directory cannot be created ({error.strerror}). "
            "Set it to a directory that this user can write to."
        ) from None


# --- hosts, addresses, URLs ------------------------------------------------------------------------


def allowed_host(value: str) -> str:
    if not re.fullmatch(rf"\*|\.?{_HOST}|{_IPV6}", value):
        raise ValueError("a host name without scheme and port, such as console.example.org")
    return value


def origin(value: str) -> str:
    if not re.fullmatch(rf"https?://(\*\.)?({_HOST}|{_IPV6})(:[0-9]{{1,5}})?", value):
        raise ValueError("a scheme and a host, such as https://console.example.org")
    return value


def proxy(value: str) -> Any:
    """Return an IP network, or `unix` for the peers of a Unix socket, which have no address."""
    try:
        return value if value == "unix" else ip_network(value)
    except ValueError:
        raise ValueError("an IP address, a network such as 10.0.0.0/8, or unix") from None


def email(value: str) -> str:
    try:
        validate_email(value)
    except ValidationError:
        raise ValueError("an e-mail address such as ops@example.org") from None
    return value


def sender(value: str) -> str:
    """Return an e-mail address with or without a name: `Console <ops@example.org>`."""
    match = re.fullmatch(r"[^<>@,;]+ <([^<>]+)>", value)
    email(match[1] if match else value)
    return value


class BadPort(ValueError):
    """A URL whose port does not exist. Only the port is reported, not the whole URL."""


def _split(value: str, *schemes: str) -> SplitResult:
    """Return the parts of a URL without spaces and with one of these schemes. Raise BadPort for a wrong port."""
    parts = urlsplit(value)
    if parts.scheme not in schemes or re.search(r"%(?![0-9A-Fa-f]{2})|[ #]", value):
        raise ValueError(value)
    if re.fullmatch(rf"(.*@)?({_HOST}|{_IPV6}):.+", parts.netloc):
        _require_port(parts.netloc.rpartition(":")[2])
    return parts


def _require_port(port: str) -> None:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise BadPort("a URL whose port is a whole number from 1 to 65535")


def _has_host(parts: SplitResult) -> bool:
    return bool(re.fullmatch(rf"{_HOST}|[0-9A-Fa-f:.]+", parts.hostname or "")) and "@" not in (parts.password or "")


def http_url(value: str) -> str:
    try:
        if not _has_host(_split(value, "http", "https")):
            raise ValueError(value)
    except BadPort:
        raise
    except ValueError:
        raise ValueError("an http or https URL") from None
    return value


def base_url(value: str) -> str:
    """Return the address that paths are appended to, without a slash at its end."""
    parts = urlsplit(http_url(value))
    if parts.username or parts.query or "?" in value:
        raise ValueError("an http or https URL without account and query, such as https://console.example.org")
    return value.rstrip("/")


# Services whose address is fixed, by their schemes in apprise.
CHAT_SCHEMES = frozenset(
    {
        *("slack", "workflow", "workflows", "discord", "pagerduty", "opsgenie", "tgram"),
        *("feishu", "lark", "dingtalk", "wecombot", "schan", "pushplus"),
    }
)
# Services on a host of one's own.
CHAT_SCHEMES_WITH_HOST = frozenset(
    {"mmost", "mmosts", "rocket", "rockets", "gotify", "gotifys", "ntfy", "ntfys", "bark", "barks", "matrix", "matrixs"}
)


def chat_urls(value: str) -> list[str]:
    """Return the apprise URLs of chat channels, which are separated by spaces."""
    urls = value.split()
    known = CHAT_SCHEMES | CHAT_SCHEMES_WITH_HOST
    for url in urls:
        scheme, separator, rest = url.partition("://")
        if scheme not in known or not separator or not rest.strip("/") or "://" in rest:
            raise ValueError(
                f"a space-separated list of apprise URLs with one of these schemes: {', '.join(sorted(known))}"
            )
    return urls


_TLS: dict[str, Parser[Any]] = {
    "ssl_ca_certs": path,
    "ssl_certfile": path,
    "ssl_keyfile": path,
    "ssl_cert_reqs": choice("none", "optional", "required"),
}


def cache_url(value: str) -> dict[str, Any]:
    """Return Django's settings of the live cache. Platforms share it, so keys are plain and values are JSON."""

    def plain_key(key: str, prefix: str, version: int) -> str:
        return f"{prefix}{key}"

    try:
        parts = _split(value, "locmemcache", "redis", "rediss")
        if value == "locmemcache://":
            memory = "django.core.cache.backends.locmem.LocMemCache"
            return {"BACKEND": memory, "KEY_FUNCTION": plain_key, "OPTIONS": {"MAX_ENTRIES": 10_000}}
        for name, given in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
            if parts.scheme != "rediss" or name not in _TLS:
                raise ValueError(value)
            _TLS[name](given)
        if parts.scheme == "locmemcache":
            raise ValueError(value)
        location = value
        if not parts.netloc and parts.scheme == "redis" and parts.path.strip("/"):
            location = f"unix://{parts.path}"
        elif not _has_host(parts) or not re.fullmatch(r"(/[0-9]{0,3})?", parts.path):
            raise ValueError(value)
        options = {
            "serializer": "opsconsole.jsontext.JSONSerializer",
            "socket_timeout": 0.5,
            "socket_connect_timeout": 0.5,
            "retry_on_error": [],
        }
        redis = "django.core.cache.backends.redis.RedisCache"
        return {"BACKEND": redis, "LOCATION": location, "KEY_FUNCTION": plain_key, "OPTIONS": options}
    except BadPort:
        raise
    except ValueError:
        raise ValueError(
            "locmemcache://, redis://host:6379/0, rediss://host:6379/0 or redis:///path/to/socket"
        ) from None


def email_url(value: str) -> dict[str, Any]:
    """Return Django's settings of a mail server."""
    schemes = {"smtp": "", "smtps": "TLS", "smtp+tls": "TLS", "smtp+ssl": "SSL"}
    try:
        if value == "consolemail://":
            return {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}
        parts = _split(value, *schemes)
        if not _has_host(parts) or parts.path.strip("/") or parts.query:
            raise ValueError(value)
        encryption = schemes[parts.scheme]
        return {
            "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "EMAIL_HOST": parts.hostname,
            "EMAIL_PORT": parts.port or {"": 25, "TLS": 587, "SSL": 465}[encryption],
            "EMAIL_HOST_USER": unquote(parts.username or ""),
            "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
            **({f"EMAIL_USE_{encryption}": True} if encryption else {}),
        }
    except BadPort:
        raise
    except ValueError:
        raise ValueError("smtp://user:password@host:587, smtp+tls://…, smtp+ssl://… or consolemail://") from None


# Parameters of the pool. All others belong to libpq.
_POOL: dict[str, Parser[Any]] = {
    "pool_min": whole_number(0, 1000),
    "pool_max": whole_number(1, 1000),
    "pool_timeout": number(0, 3600),
    "pool_lifetime": number(1, 7 * 86400),
}
_PARAMETERS: dict[str, Parser[Any]] = {
    **_POOL,
    "pooler": choice("transaction"),
    "sslmode": choice(*_SSL_MODES),
    "connect_timeout": whole_number(1, 3600),
}


def database_url(value: str) -> dict[str, Any]:
    """Return Django's names for the parts of a database URL. `OPTIONS` holds the parameters."""
    try:
        if value.startswith("sqlite:"):
            return _sqlite_url(value)
        return _postgresql_url(value)
    except ValueError as error:
        raise ValueError(DATABASE_URL if not error.args or error.args[0] == value else error) from None


def checked_database_url(value: str) -> str:
    """Return a valid database URL unchanged."""
    database_url(value)
    return value


def _sqlite_url(value: str) -> dict[str, Any]:
    match = re.fullmatch(r"sqlite:///(/[^?#]*[^?#/])", value)
    if match is None:
        raise ValueError(value)
    return {"ENGINE": SQLITE, "NAME": unquote(match[1])}


def _libpq_parameters(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a URL from libpq, which checks them, and reads several hosts and Unix sockets."""
    import psycopg  # a fifth of the start-up time, and not needed for SQLite
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        return conninfo_to_dict(make_conninfo(url, **options))
    except psycopg.Error:
        raise ValueError(DATABASE_URL) from None


def _postgresql_url(value: str) -> dict[str, Any]:
    url, _mark, query = value.partition("?")
    if re.search(r"%(?![0-9A-Fa-f]{2})|[ #]", value) or not re.match("postgres(ql)?://", url):
        raise ValueError(value)
    options: dict[str, Any] = {}
    for name, given in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        try:
            options[name] = _PARAMETERS.get(name, text)(given)
        except ValueError as error:
            raise ValueError(f"a URL whose {name} is {error}") from None
    if options.get("pool_min", 0) > options.get("pool_max", 30):
        raise ValueError("a URL whose pool_min is not above its pool_max")
    own = {name: given for name, given in options.items() if name not in _POOL and name != "pooler"}
    found = _libpq_parameters(url, own)
    hosts, ports = str(found.pop("host", "") or ""), str(found.pop("port", "") or "")
    if not all(re.fullmatch(rf"{_HOST}|[0-9A-Fa-f:.]+|/.+|", host) for host in hosts.split(",")):
        raise ValueError(value)
    for port in filter(None, ports.split(",")):
        _require_port(port)
    name = str(found.pop("dbname", "") or "")
    if not name or name.startswith("/"):
        raise ValueError(value)
    user, password = str(found.pop("user", "") or ""), str(found.pop("password", "") or "")
    kept = {parameter: given for parameter, given in options.items() if parameter in found or parameter not in own}
    return {
        "ENGINE": POSTGRESQL,
        "NAME": name,
        "USER": user,
        "PASSWORD": password,
        "HOST": hosts,
        "PORT": ports,
        **({"OPTIONS": kept} if kept else {}),
    }
