"""Measure `copy_store` against psql's `\\copy` of the same rows into the same tables.

`python -m tests.benchmarks.copying [rows]`; the goal is a third of `\\copy`.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random

from tests.support.postgres import start_server

ROWS = 200_000
PAYLOAD = '{"decision_id": "d", "source_event_ts": "2026-01-20T10:00:00", "reason": "%s"}' % ("y" * 400)


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        server = start_server(folder)
        try:
            os.environ.update(
                DJANGO_SETTINGS_MODULE="opsconsole.settings",
                OPSCONSOLE_ENV_FILE=os.devnull,
                OPSCONSOLE_DATA_DIR=str(folder / "data"),
                BENCH_DATABASE_URL=server.create_database("bench"),
            )
            _measure(rows, folder, [str((server.binaries or Path()) / "psql"), "-q", os.environ["BENCH_DATABASE_URL"]])
        finally:
            server.close()


def _measure(rows: int, folder: Path, psql: list[str]) -> None:
    import django

    django.setup()

    from opsconsole.backups import copying
    from opsconsole.backups.endpoints import endpoint
    from opsconsole.backups.operations.copy_store import target_store
    from opsconsole.stores import schema
    from opsconsole.stores.store import Store

    source = Store("agentos", "agentos")
    schema.make_tables(source)
    random, tasks = Random(1), max(rows // 50, 1)
    with closing(sqlite3.connect(str(source.path))) as client:
        client.executemany("INSERT INTO tasks (task_id, title) VALUES (?, 'x')", [(f"t{n}",) for n in range(tasks)])
        client.executemany(
            "INSERT INTO task_audits (task_id, event_type, payload, created_at)"
            " VALUES (?, 'SUPERVISOR_DECISION', ?, '2026-01-20 10:00:00')",
            ((f"t{random.randrange(tasks)}", PAYLOAD) for _ in range(rows)),
        )
        client.commit()
    target = target_store(source, "bench")
    copying.make_tables(target)
    with endpoint(source) as here, endpoint(Store("bench", "agentos")) as there:
        copying.TableCopyJob(here, there, "tasks").run()
        table = copying.TableCopyJob(here, there, "task_audits")
        copied = _seconds(table.run)
        compared = _seconds(table.matches)
        columns = ", ".join(table.columns)
    file = folder / "rows"
    subprocess.run([*psql, "-c", f"\\copy task_audits ({columns}) TO {file}"], check=True)
    subprocess.run([*psql, "-c", "TRUNCATE task_audits"], check=True)
    by_psql = _seconds(lambda: subprocess.run([*psql, "-c", f"\\copy task_audits ({columns}) FROM {file}"], check=True))
    for what, seconds in (("copy_store", copied), ("compared", compared), ("\\copy", by_psql)):
        print(f"{what:12}{rows / seconds:12,.0f} rows/s")
    print(f"{by_psql / copied:.2f} of \\copy, {by_psql / (copied + compared):.2f} with the comparison; asked 0.33")


def _seconds(what: object) -> float:
    started = time.perf_counter()
    what()  # type: ignore[operator]
    return time.perf_counter() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
