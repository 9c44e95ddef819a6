"""`manage.py` with a fault: `python -m tests.support.fault_injection '{"at": "after the image", …}' COMMAND …`.

Keys: `at` is one of `POINTS`, `call` the number of the call, and `signal` the signal that the process gets there.
`patience` is the number of seconds that the executor waits for a lost store. `pages` limits the console's database.
"""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
from typing import Any

# The points within a batch at which a worker can die: (owner, function, before or after it).
POINTS = {
    "before the image": ("opsconsole.engine.executor:Executor", "_prepare", "before"),
    "within the image's commit": ("opsconsole.engine.models:FailedItem.objects", "bulk_create", "after"),
    "after the image": ("opsconsole.engine.executor:Executor", "_prepare", "after"),
    "while writing": ("opsconsole.stores.rows", "write", "after"),
    "after the store's commit": ("opsconsole.engine.executor:Executor", "_count", "before"),
    "while recovering": ("opsconsole.engine.recovery", "is_committed", "after"),
}


def interposed(point: str, call: int, accident: Any) -> tuple[Any, str, Any]:
    """Return owner, name and function for monkeypatch: the `call`-th call at `point` also calls `accident()`."""
    where, name, moment = POINTS[point]
    owner = pkgutil.resolve_name(where)
    real = getattr(owner, name)
    calls = 0

    def function(*args: Any, **options: Any) -> Any:
        nonlocal calls
        if moment == "after":  # the run repeats a call that raised an error
            result = real(*args, **options)
        calls += 1
        if calls == call:
            accident()
        return result if moment == "after" else real(*args, **options)

    return owner, name, function


def main(accident: dict[str, Any], command: list[str]) -> None:
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "opsconsole.settings"
    django.setup()
    from django.core.management import execute_from_command_line
    from django.db.backends.signals import connection_created

    from opsconsole.engine.executor import Executor

    if "at" in accident:
        number = getattr(signal, accident["signal"])
        setattr(*interposed(accident["at"], accident["call"], lambda: os.kill(os.getpid(), number)))
    if "patience" in accident:
        Executor.work.__kwdefaults__["patience"] = accident["patience"]  # type: ignore[index]
    if "pages" in accident:

        def limit(connection: Any, **rest: Any) -> None:
            if connection.alias == "default":
                connection.cursor().execute(f"PRAGMA max_page_count={accident['pages']}")

        connection_created.connect(limit, weak=False)
    execute_from_command_line(["manage.py", *command])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
