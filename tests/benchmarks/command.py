"""The measured command, `manage.py backfill_audit_decision_fields`, in a new process with a separate data directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks.stores import Location

ROOT = Path(__file__).resolve().parents[2]
NAME = "backfill_audit_decision_fields"


class RunRefused(Exception):
    """The command ended with an error, which is the message."""


@dataclass(frozen=True)
class Ran:
    """One run of the command: `monotonic` times, processor seconds, peak memory in bytes, its JSON."""

    started: float
    ended: float
    cpu: float
    peak: int
    peak_private: int
    said: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Return the wall time, including the start-up."""
        return self.ended - self.started


class _Memory(threading.Thread):
    """A thread that measures the resident memory of a process and its children, with and without mapped files."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.peak_private = pid, 0, 0
        self._over = threading.Event()

    def run(self) -> None:
        """Sample 20 times per second. The kernel records peaks between two samples."""
        while not self._over.wait(0.05):
            total = private = 0
            for pid in self._family(self.pid):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                sizes = {
                    line.split(":")[0]: line.split()[1]
                    for line in status.splitlines()
                    if line.startswith(("Vm", "Rss"))
                }
                rss = "VmHWM" if pid == self.pid else "VmRSS"
                total += int(sizes.get(rss, 0)) * 1024
                private += int(sizes.get("RssAnon", 0)) * 1024
            self.peak, self.peak_private = max(self.peak, total), max(self.peak_private, private)

    def stop(self) -> None:
        """End the sampling."""
        self._over.set()
        self.join()

    def _family(self, pid: int) -> list[int]:
        try:
            lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:
            return [pid]
        return [pid, *(member for child in " ".join(lists).split() for member in self._family(int(child)))]


def environment_of(data: Path) -> dict[str, str]:
    """Return the environment of a console with this data directory, without the stores and throttles of the caller."""
    foreign = re.compile(r"RUN_HOLD_.*|.*_(URL|PASSWORD|ATTACHED)|DJANGO_SETTINGS_MODULE")
    kept = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    return kept | {
        "OPSCONSOLE_ENV_FILE": os.devnull,
        "OPSCONSOLE_ENVIRONMENT": "development",
        "OPSCONSOLE_DATA_DIR": str(data),
    }


class Console:
    """A set-up console, copied for each run: `with Console() as console: console.run(location)`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="opsconsole-bench-"))
        self._data = self._folder / "ready"

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)

    def set_up(self) -> None:
        """Create the data directory that every run starts with."""
        self._data.mkdir()
        self._call(environment_of(self._data), "setup")

    def run(self, location: Location, *flags: str, fresh: bool = True) -> Ran:
        """Run the command on a store, with a fresh data directory or that of the last run."""
        folder = self._folder / "run"
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._data, folder)
            os.sync()
        return self._on(location, "agentos", folder, NAME, "--json", *flags)

    def call(self, location: Location, store: str, *arguments: str) -> Ran:
        """Run any command on a store of the platform `store`, in the new console."""
        return self._on(location, store, self._data, *arguments)

    def _on(self, location: Location, store: str, data: Path, *arguments: str) -> Ran:
        environment = environment_of(data)
        if location.engine == "sqlite":
            return self._call(environment, *arguments, "--db-path", location.address)
        variables = {f"{store.upper()}_DATABASE_URL": location.address, f"{store.upper()}_ATTACHED": "true"}
        return self._call(environment | variables, *arguments)

    def _call(self, environment: dict[str, str], *arguments: str) -> Ran:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            started = time.monotonic()
            child = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
            )
            memory = _Memory(child.pid)
            memory.start()
            try:
                _pid, status, used = os.wait4(child.pid, 0)
                child.returncode = code = os.waitstatus_to_exitcode(status)
            finally:
                child.kill()
            ended = time.monotonic()
            memory.stop()
            out.seek(0)
            err.seek(0)
            said, complaints = out.read(), err.read().strip()
        if code:
            raise RunRefused(f"exit code {code}: {' / '.join(complaints.splitlines()[-3:]) or said[:300]}")
        result = json.loads(said) if "--json" in arguments else {}
        cpu = used.ru_utime + used.ru_stime
        return Ran(started, ended, cpu, memory.peak, memory.peak_private, result)
