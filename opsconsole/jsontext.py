"""JSON as text."""

from __future__ import annotations

from typing import Any

import orjson


class JSONSerializer:
    """The serializer of the live cache: other programs read and write it.

    A value that is not JSON is returned as its bytes, so that its reader can report it.
    """

    def dumps(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def loads(self, stored: bytes) -> Any:
        try:
            return orjson.loads(stored)
        except ValueError:
            return stored
