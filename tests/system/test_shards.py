"""A run on four clusters, as on four hosts, that are killed at random."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from opsconsole.engine.models import ENDED
from tests.audits.test_backfill_decision_fields import expected
from tests.conftest import attach_url, forget_attached
from tests.support import agentos
from tests.support.plain_client import Tables, dump
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

BACKFILL = "backfill_audit_decision_fields"
AUDITS, ROWS, SHARDS, CLUSTERS, KILLS = 3_000, 1_200, 5, 4, 6  # ROWS: of the audits, in scope
BUSY = """
SELECT id, generation, (worker->>'pid')::int FROM operations_shard WHERE status = 'running' AND worker::text <> '{}'
"""
KEYS = """
from opsconsole.engine.models import Run
import json
keys = [key for one in Run.objects.get(pk={run}).batches.all() for write in one.writes for key, _, _ in write.rows]
print(json.dumps([len(keys), len(set(keys))]))
"""


class Hosts:
    """Clusters in separate process groups that share a console database and a store on PostgreSQL."""

    def __init__(self, shell: Shell, console_url: str) -> None:
        self.shell, self.console_url = shell, console_url
        self.clusters: list[subprocess.Popen[str]] = [self.cluster() for _ in range(CLUSTERS)]

    def cluster(self) -> subprocess.Popen[str]:
        return self.shell.start("qcluster", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_one(self, rng: random.Random) -> list[tuple[int, int]]:
        """Kill a random cluster that executes a shard, and start another. Return the shard and its generation."""
        places = {cluster.pid: place for place, cluster in enumerate(self.clusters)}
        busy = self.ask(BUSY)
        rng.shuffle(busy)
        for shard, generation, worker in busy:
            with suppress(ProcessLookupError, KeyError):  # it was killed before, and nobody has taken over yet
                place = places[os.getpgid(worker)]
                self.kill(self.clusters[place])
                self.clusters[place] = self.cluster()
                return [(shard, generation)]
        return []

    def kill(self, cluster: subprocess.Popen[str]) -> None:
        os.killpg(cluster.pid, signal.SIGKILL)
        cluster.wait()

    def close(self) -> None:
        for cluster in self.clusters:
            self.kill(cluster)

    def ask(self, sql: str) -> list[Any]:
        with psycopg.connect(self.console_url, autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    def take_over(self) -> None:
        """Do at once what the heartbeat does every minute."""
        self.shell.run("shell", "-v", "0", "-c", "from opsconsole.engine import queue; queue.requeue_stale_runs()")


@pytest.fixture
def urls(postgres: Any) -> Iterator[tuple[str, str]]:
    yield postgres.create_database("shards_console"), postgres.create_database("shards_store")
    for name in ("shards_console", "shards_store"):
        postgres.drop_database(name)


def rows_of(url: str) -> Tables:
    try:
        return dump(attach_url("agentos", url))
    finally:
        forget_attached()


def test_four_clusters_that_are_killed_at_random(tmp_path: Path, urls: tuple[str, str]) -> None:
    """Every row is exact, none is written twice, and the undo is exact."""
    console_url, store_url = urls
    agentos.create_postgres(store_url, AUDITS, seed=3)
    before = rows_of(store_url)
    variables = {"DATABASE_URL": console_url, "AGENTOS_DATABASE_URL": store_url, "AGENTOS_ATTACHED": "true"}
    shell = Shell(tmp_path / "console", variables=variables | {"OPSCONSOLE_WORKERS": "1"})
    assert shell.run("setup").returncode == 0
    started = shell.json(BACKFILL, "--background", "--shards", SHARDS, "--batch-size", "1")
    rng = random.Random()
    seed = rng.randrange(10**6)
    rng.seed(seed)
    hosts = Hosts(shell, console_url)
    killed: list[tuple[int, int]] = []
    deadline = time.monotonic() + 300
    try:
        for turn in count():
            assert time.monotonic() < deadline, f"seed {seed}: {hosts.ask('SELECT status, error FROM operations_run')}"
            time.sleep(0.1 + rng.random() / 5)
            ((status,),) = hosts.ask("SELECT status FROM operations_run")
            if status in ENDED:
                break
            ((seen,),) = hosts.ask("SELECT SUM(changed + invalid) FROM operations_shard")
            # The kills are spread over the rows, because machines differ in speed.
            if len(killed) < KILLS and (seen or 0) > (len(killed) + rng.random()) * ROWS / (KILLS + 1):
                killed += hosts.kill_one(rng)
            if not turn % 10:
                hosts.take_over()
        generations = dict(hosts.ask("SELECT id, generation FROM operations_shard"))
    finally:
        hosts.close()
    assert status == "succeeded", f"seed {seed}: {hosts.ask('SELECT error FROM operations_run')}"
    assert len(killed) == KILLS, f"seed {seed}: {len(killed)} clusters were killed"
    taken_over = sum(generations[shard] > generation for shard, generation in killed)
    assert taken_over >= KILLS // 2, f"seed {seed}: {killed} {generations}"  # a shard may end before its worker dies
    after = expected(deepcopy(before), "postgresql")
    assert rows_of(store_url) == after, f"seed {seed}"
    changed = sum(before["task_audits"][key] != after["task_audits"][key] for key in before["task_audits"])
    assert hosts.ask("SELECT changed, changed + invalid, total FROM operations_run") == [(changed, ROWS, ROWS)]
    assert hosts.ask("SELECT COUNT(*) FROM operations_batch WHERE NOT committed") == [(0,)]
    assert hosts.ask("SELECT COUNT(*) FROM operations_lock") == [(0,)]
    counted = shell.run("shell", "-v", "0", "-c", KEYS.format(run=started["run"]))
    assert json.loads(counted.stdout) == [changed, changed], f"seed {seed}"
    undone = shell.json("run", "operations.undo_run", "--run", started["run"], "--execute", "--yes")
    assert (undone["changed"], undone["invalid"]) == (changed, 0)
    assert rows_of(store_url) == before
