"""What LangGraph's serializer wrote, as data. Raises for whatever names a type that the workflow's state does not have.

The library's own would import and call what a row names, and its strict mode hands out payloads without a word.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import ormsgpack
from django.utils.translation import gettext as _

from opsconsole.jsontext import Unreadable

LEVELS = 64  # objects within objects that are still decoded
STANDARD = frozenset(sys.stdlib_module_names)  # nothing that a platform keeps in its state


# What LangGraph itself takes for safe, beside the types of a graph's state.
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
OBJECT_CODES = {0: "one", 1: "list", 2: "dict", 3: "method", 4: "dict", 5: "dict"}  # what each kind is made from
ARRAY, SNAPSHOT = 6, 7


class Inert(NamedTuple):
    """What a row says of an object: its type by name, and what it would be made from. It is not made."""

    module: str
    name: str
    payload: Any


def permitted(module: str, name: str, types: frozenset[tuple[str, str]] | None) -> bool:
    """Whether a row may name this type. `types`: those of the graph's state, None where no graph is known.

    Then nothing is ever made here, and names of the platform's own modules are only passed over.
    """
    if (module, name) in SAFE:
        return True
    if types is not None:
        return (module, name) in types
    return bool(module) and module.partition(".")[0] not in STANDARD


class Decoder:
    """LangGraph's serialized values as data; `build` makes of an Inert what stands in its place. Raises Unreadable."""

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
        except Exception as error:  # noqa: BLE001  # whatever bytes do to a parser
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
        raise Unreadable(_("values of the kind %(kind)s are not read") % {"kind": repr(type_)})

    def _msgpack(self, data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=self._extension, option=ormsgpack.OPT_NON_STR_KEYS)

    def _extension(self, code: int, data: bytes) -> Any:
        """The parser replaces what is raised here, so the reason is kept aside."""
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
                raise Unreadable(_("an array is not what it should be"))
            return self.build(code, Inert("numpy", "ndarray", inner))
        kind = OBJECT_CODES.get(code)
        if kind is None:
            raise Unreadable(_("the extension %(code)d is unknown") % {"code": code})
        if not (isinstance(inner, list) and len(inner) >= 3 and all(isinstance(one, str) for one in inner[:2])):
            raise Unreadable(_("an object is not what it should be"))
        module, name, payload = inner[:3]
        if kind == "method" and (module, name, inner[3:4]) != ("datetime", "datetime", ["fromisoformat"]):
            raise _forbidden(module, name)
        if not permitted(module, name, self.types):
            raise _forbidden(module, name)
        if (kind == "list" and not isinstance(payload, list)) or (kind == "dict" and not isinstance(payload, dict)):
            raise Unreadable(_("an object is not what it should be"))
        return self.build(code, Inert(module, name, payload))

    def _json(self, value: dict[str, Any]) -> Any:
        """Objects of LangChain's JSON: `lc` 2 names any type, `lc` 1 one of LangChain's."""
        kind, version = value.get("type"), value.get("lc")
        if version not in {1, 2} or kind is None:
            return value
        names = value.get("id")
        if kind != "constructor" or not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise Unreadable(_("an object is not what it should be"))
        module, name = ".".join(names[:-1]), (names or [""])[-1]
        if version == 1 and (not module.startswith("langchain") or name not in MESSAGES):
            raise _forbidden(module, name)
        if version == 2 and not permitted(module, name, self.types):
            raise _forbidden(module, name)
        return self.build(-version, Inert(module, name, value))


def _forbidden(module: str, name: str) -> Unreadable:
    return Unreadable(
        _("it names %(type)s, which is no type of the workflow's state") % {"type": f"{module}.{name}"[:200]}
    )


def plain(value: Any) -> Any:
    """The values of LangGraph's own channels, which are names and sets of names."""
    if isinstance(value, Inert) and (value.module, value.name) in {("builtins", "set"), ("builtins", "frozenset")}:
        return {plain(one) for one in value.payload}
    return [plain(one) for one in value] if isinstance(value, list) else value
