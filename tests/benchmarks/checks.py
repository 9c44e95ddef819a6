"""Measure the checks of a store against the same questions as bare SQL: `python -m tests.benchmarks.checks --help`.

Within a round both take turns on the same warm store. The start-up, measured on an empty store, is subtracted from the
seconds of the command. `asked` is the goal of the project: 1.5 times the bare SQL. The checks of dirty data and of
roadmaps are in `dirty_data` and `roadmaps`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.__main__ import Report, _asked, _say
from tests.benchmarks.command import ROOT, Console, RunRefused
from tests.benchmarks.dirty_data import ASKED, connected
from tests.benchmarks.page_rows import FILL, series
from tests.benchmarks.stores import Location, new_databases
from tests.support.postgres import NoServer

SCHEMAS = {"agentos": ("tasks/agentos", "audits"), "records": ("tasks/records",)}
#: Column → the table that it refers to, with its key.
REFERENCES = {
    "task_audits.task_id": "tasks.task_id",
    "task_lineage.task_id": "tasks.task_id",
    "task_repo_scope.task_id": "tasks.task_id",
    "task_dependency.task_id": "tasks.task_id",
    "task_dependency.depends_on_task_id": "tasks.task_id",
    "guardian_verdicts.task_id": "tasks.task_id",
    "supervisor_inbox.task_id": "tasks.task_id",
    "task_artifact_ref.task_id": "tasks.task_id",
    "tasks.session_id": "webui_sessions.session_id",
    "webui_messages.session_id": "webui_sessions.session_id",
    "project_repos.project_id": "projects.id",
    "kb_sources.project_id": "projects.id",
    "memory_items.project_id": "projects.id",
    "kb_chunks.source_id": "kb_sources.source_id",
    "kb_embeddings.chunk_id": "kb_chunks.chunk_id",
}
#: The references that the schema declares.
DECLARED = ("task_audits.task_id", "task_lineage.task_id", "task_dependency.task_id", "webui_messages.session_id")
JSON = (
    "task_audits.payload",
    "tasks.metadata",
    "tasks.route_plan_json",
    "tasks.requirements_json",
    "task_lineage.metadata",
    "task_dependency.metadata",
    "task_artifact_ref.metadata",
    "projects.tags",
    "projects.settings",
    "memory_items.content",
    "memory_items.tags",
    "memory_items.sources",
    "webui_sessions.metadata",
    "webui_messages.metadata",
)
KNOWN_VALUES = {
    "task_audits.level": ("info", "warning", "error"),
    "task_lineage.kind": ("intent", "plan", "execution"),
    "task_dependency.dependency_type": ("blocks", "requires", "suggests"),
    "task_artifact_ref.ref_type": ("commit", "branch", "file"),
    "projects.status": ("active", "archived", "deleted"),
    "memory_items.scope": ("global", "project", "task"),
    "memory_items.type": ("decision", "fact", "preference"),
    "webui_messages.role": ("user", "assistant", "system"),
}


class Peer(NamedTuple):
    """A check: its command, the store that it reads, and the bare SQL of the same questions."""

    words: tuple[str, ...]
    store: str
    bare: Callable[[Any, str], None]


def references(connection: Any, engine: str) -> None:
    for child, parent in REFERENCES.items():
        (table, column), (other, key) = child.split("."), parent.split(".")
        connection.execute(
            f"SELECT c.{column}, COUNT(*) FROM {table} c LEFT JOIN {other} p ON p.{key} = c.{column}"
            f" WHERE c.{column} IS NOT NULL AND p.{key} IS NULL GROUP BY c.{column}"
        ).fetchall()
    graph: dict[str, list[str]] = {}
    for task, other in connection.execute("SELECT task_id, depends_on_task_id FROM task_dependency"):
        graph.setdefault(task, []).append(other)
    TopologicalSorter(graph).prepare()


def store(connection: Any, engine: str) -> None:
    if engine == "sqlite":
        connection.execute("PRAGMA integrity_check").fetchall()
        connection.execute("PRAGMA foreign_key_check").fetchall()
        broken = "NOT json_valid({0})"
    else:
        for child in DECLARED:
            (table, column), (other, key) = child.split("."), REFERENCES[child].split(".")
            connection.execute(
                f"SELECT COUNT(*) FROM {table} c WHERE {column} IS NOT NULL"
                f" AND NOT EXISTS (SELECT 1 FROM {other} p WHERE p.{key} = c.{column})"
            ).fetchall()
        # Before version 16, only a cast tells. It fails at the first invalid value.
        broken = "{0} IS NOT JSON" if connection.info.server_version >= 160_000 else "({0}::json) IS NULL"
    for name in JSON:
        table, column = name.split(".")
        condition = f"{column} IS NOT NULL AND {broken.format(column)}"
        connection.execute(f"SELECT COUNT(*) FROM {table} WHERE {condition}").fetchall()
    for name, values in KNOWN_VALUES.items():
        table, column = name.split(".")
        connection.execute(
            f"SELECT {column}, COUNT(*) FROM {table} WHERE {column} NOT IN {values!r} GROUP BY {column}"
        ).fetchall()


def execution_index(connection: Any, engine: str) -> None:
    connection.execute("SELECT COUNT(*), COUNT(execution_id) FROM test_records").fetchall()


PEERS = {
    "check_references": Peer(("run", "audits.check_references", "--execute"), "agentos", references),
    "check_store": Peer(("check_store", "agentos"), "agentos", store),
    "check_execution_index": Peer(("run", "records.check_execution_index", "--execute"), "records", execution_index),
}


def make(location: Location, store: str, rows: int) -> None:
    """Create the tables of a store, with so many rows in each. One artifact in a thousand has no task."""
    with connected(location) as connection:
        for app in SCHEMAS[store]:
            script = (ROOT / app / "schema" / f"{location.engine}.sql").read_text()
            connection.executescript(script) if location.engine == "sqlite" else connection.execute(script)
        for table, (columns, values) in FILL[store].items() if rows else ():
            numbers = series(location.engine, rows)
            connection.execute(f"{numbers} INSERT INTO {table} ({columns}) SELECT {values} FROM series")
        if store == "agentos":
            connection.execute("UPDATE task_artifact_ref SET task_id = 'gone' WHERE artifact_id % 1000 = 0")
        if location.engine == "sqlite":
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("ANALYZE" if location.engine == "sqlite" else "VACUUM ANALYZE")


def bare(location: Location, peer: Peer) -> float:
    with connected(location) as connection:
        started = time.monotonic()
        peer.bare(connection, location.engine)
        return time.monotonic() - started


def measure(full: dict[str, Location], empty: dict[str, Location], options: argparse.Namespace, report: Report) -> None:
    """Compare every check with its bare SQL."""
    engine = full["agentos"].engine
    _say(f"{engine}: making stores with {options.rows:,} rows in each table")
    for name in SCHEMAS:
        make(full[name], name, options.rows)
        make(empty[name], name, 0)
    seconds: dict[str, list[tuple[float, float, float]]] = {}
    with Console() as console:
        console.set_up()
        for turn in range(options.repeat):
            _say(f"{engine}: round {turn + 1}")
            for name, peer in PEERS.items():
                alone = bare(full[peer.store], peer)
                start_up = console.call(empty[peer.store], peer.store, *peer.words, "--json").seconds
                raw = console.call(full[peer.store], peer.store, *peer.words, "--json").seconds
                seconds.setdefault(name, []).append((alone, raw, max(raw - start_up, 0)))
    rows = []
    for name, turns in seconds.items():
        ratio = [net / alone for alone, _raw, net in turns]
        rows.append(
            {
                "what": name,
                "bare SQL, s": [alone for alone, _raw, _net in turns],
                "raw s": [raw for _alone, raw, _net in turns],
                "net s": [net for _alone, _raw, net in turns],
                "× bare SQL": ratio,
                "asked": _asked(ASKED, ratio, most=True),
            }
        )
    report.table(f"{engine}: checks of {options.rows:,} rows in each table", rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.checks", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each table; 1,000,000")
    parser.add_argument("--engines", default="sqlite,postgresql")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    report = Report(options.json)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opsconsole-bench-")))
        folder.chmod(0o711)
        for engine in options.engines.split(","):
            try:
                address = new_databases(engine, folder, stack)
                places = [
                    {store: Location(engine, address(f"{store}_{kind}")) for store in SCHEMAS}
                    for kind in ("full", "empty")
                ]
                measure(places[0], places[1], options, report)
            except (NoServer, RunRefused) as error:
                _say(f"{engine}: {error}")


if __name__ == "__main__":
    main()
