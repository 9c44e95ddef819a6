"""A decoder of LangGraph's serialized values. It raises for every type that is not in the workflow's state.

LangGraph's own serializer imports and calls what a row names. Its strict mode silently returns payloads instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import ormsgpack
from django.utils.translation import gettext as _

from opsconsole.jsontext import Unreadable

LEVELS = 64  # objects within objects
STANDARD = frozenset(sys.stdlib_module_names)

# Types that LangGraph itself considers safe.
_SAFE: dict[str, tuple[str, ...]] = {
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "uuid": ("UUID",),
    "decimal": ("Decimal",),
    "builtins": ("set", "frozenset"),
    "collections": ("deque",),
    "zoneinfo": ("ZoneInfo",),
    "re": ("compile",),
    "ipaddress": tuple(f"IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Interface", "Network")),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "WindowsPath"),
    **{
        f"langchain_core.messages.{module}": (f"{name}Message", f"{name}MessageChunk")
        for module, name in (
            ("base", "Base"),
            ("human", "Human"),
            ("ai", "AI"),
            ("system", "System"),
            ("chat", "Chat"),
            ("tool", "Tool"),
            ("function", "Function"),
        )
    },
    "langchain_core.messages.modifier": ("RemoveMessage",),
    "langchain_core.documents.base": ("Document",),
    "langgraph.types": (
        "Send",
        "TimeoutPolicy",
        "Interrupt",
        "Command",
        "StateSnapshot",
        "PregelTask",
        "Overwrite",
    ),
    "langgraph.store.base": ("Item", "GetOp"),
}
SAFE = frozenset((module, name) for module, names in _SAFE.items() for name in names)
MESSAGES = frozenset(name for module, name in SAFE if module.startswith("langchain_core."))
OBJECT_CODES = {0: "one", 1: "list", 2: "dict", 3: "method", 4: "dict", 5: "dict"}  # the form of each payload
ARRAY, SNAPSHOT = 6, 7


class Inert(NamedTuple):
    """A serialized object that was not built: its type by name, and its payload."""

    module: str
    name: str
    payload: Any


def permitted(module: str, name: str, types: frozenset[tuple[str, str]] | None) -> bool:
    """Return whether a row may name this type. `types` are those of the graph's state, None without a graph.

    Without a graph, no object is ever built, so names outside the standard library are harmless.
    """
    if (module, name) in SAFE:
        return True
    if types is not None:
        return (module, name) in types
    return bool(module) and module.partition(".")[0] not in STANDARD


class Decoder:
    """A decoder that returns objects as Inert, or as what `build` returns for them. It raises Unreadable."""

    def __init__(
        self, types: frozenset[tuple[str, str]] | None, build: Callable[[int, Inert], Any] = lambda code, inert: inert
    ) -> None:
        self.types = types
        self.build = build
        self._reason = ""
        self._level = 0

    def load(self, type_: Any, data: Any) -> Any:
        self._reason, self._level = "", 0
        try:
            return self._load(type_, b"" if data is None else bytes(data) if not isinstance(data, str) else data)
        except Unreadable:
            raise
        except RecursionError:
            raise Unreadable(_("a value is nested too deeply")) from None
        except Exception as error:  # noqa: BLE001  # broken bytes raise any error in the parser
            raise Unreadable(self._reason or str(error) or type(error).__name__) from None

    def _load(self, type_: Any, data: bytes | str) -> Any:
        if type_ in {"null", "empty"}:
            return None
        if type_ in {"bytes", "bytearray"}:
            return data if type_ == "bytes" else bytearray(data)  # type: ignore[arg-type]
        if type_ == "json":
            return json.loads(data, object_hook=self._json)
        if type_ == "msgpack":
            return self._msgpack(data)  # type: ignore[arg-type]
        raise Unreadable(_("values of type %(kind)s are not supported") % {"kind": repr(type_)})

    def _msgpack(self, data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=self._extension, option=ormsgpack.OPT_NON_STR_KEYS)

    def _extension(self, code: int, data: bytes) -> Any:
        """Decode an extension. The parser replaces errors that are raised here, so the reason is kept in `_reason`."""
        try:
            self._level += 1
            if self._level > LEVELS:
                raise Unreadable(_("a value is nested too deeply"))
            found = self._object(code, data)
            self._level -= 1
            return found
        except Exception as error:
            self._reason = self._reason or str(error) or type(error).__name__
            raise

    def _object(self, code: int, data: bytes) -> Any:
        inner = self._msgpack(data)
        if code == SNAPSHOT:
            return self.build(code, Inert("", "", inner))
        if code == ARRAY:
            if not (isinstance(inner, list) and len(inner) == 4 and isinstance(inner[0], str)) or "O" in inner[0]:
                raise Unreadable(_("an array is malformed"))
            return self.build(code, Inert("numpy", "ndarray", inner))
        kind = OBJECT_CODES.get(code)
        if kind is None:
            raise Unreadable(_("the extension %(code)d is unknown") % {"code": code})
        if not (isinstance(inner, list) and len(inner) >= 3 and all(isinstance(one, str) for one in inner[:2])):
            raise Unreadable(_("an object is malformed"))
        module, name, payload = inner[:3]
        if kind == "method" and (module, name, inner[3:4]) != ("datetime", "datetime", ["fromisoformat"]):
            raise _forbidden(module, name)
        if not permitted(module, name, self.types):
            raise _forbidden(module, name)
        if (kind == "list" and not isinstance(payload, list)) or (kind == "dict" and not isinstance(payload, dict)):
            raise Unreadable(_("an object is malformed"))
        return self.build(code, Inert(module, name, payload))

    def _json(self, value: dict[str, Any]) -> Any:
        """Decode an object of LangChain's JSON. With `lc` 2 it names any type, with `lc` 1 one of LangChain's."""
        kind, version = value.get("type"), value.get("lc")
        if version not in {1, 2} or kind is None:
            return value
        names = value.get("id")
        if kind != "constructor" or not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise Unreadable(_("an object is malformed"))
        module, name = ".".join(names[:-1]), (names or [""])[-1]
        if version == 1 and (not module.startswith("langchain") or name not in MESSAGES):
            raise _forbidden(module, name)
        if version == 2 and not permitted(module, name, self.types):
            raise _forbidden(module, name)
        return self.build(-version, Inert(module, name, value))


def _forbidden(module: str, name: str) -> Unreadable:
    return Unreadable(
        _("it names %(type)s, which is not a type of the workflow's state") % {"type": f"{module}.{name}"[:200]}
    )


def plain(value: Any) -> Any:
    """Return the value of one of LangGraph's own channels, with sets of names as sets."""
    if isinstance(value, Inert) and (value.module, value.name) in {("builtins", "set"), ("builtins", "frozenset")}:
        return {plain(one) for one in value.payload}
    return [plain(one) for one in value] if isinstance(value, list) else value
