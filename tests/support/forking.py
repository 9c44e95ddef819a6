"""A process that imports the modules of a script once and forks for each call, which halves the time of a command.

`run()` uses it. The script runs in a separate process, with its environment and exit code, as in a shell.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120


def run(script: str, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the script with these arguments. The exit code is -SIGALRM after a timeout."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        server = _server(script)
        job = {"words": words, "environment": environment, "files": [os.devnull, out.name, err.name]}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{json.dumps(job)}\n")
        server.stdin.flush()
        return subprocess.CompletedProcess(words, int(server.stdout.readline()), out.read(), err.read())


@functools.cache
def _server(script: str) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forking", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(server.communicate)
    return server


def _next_job() -> dict[str, Any]:
    """Fork for each job, and report its exit code. Return the job in the fork."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            job: dict[str, Any] = json.loads(line)
            return job
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()
    sys.exit()


def _import_for_commands() -> None:
    """Import the modules that most commands need and that need no settings."""
    import croniter  # noqa: F401
    import django.contrib.admin
    import django.contrib.postgres.fields
    import django.core.management
    import django.db.backends.sqlite3.base
    import django.test  # noqa: F401
    import httpx  # noqa: F401
    import import_export.formats.base_formats  # noqa: F401
    import prometheus_client  # noqa: F401
    import pydantic  # noqa: F401
    import structlog  # noqa: F401


def _serve(script: str) -> None:
    if script == "manage.py":
        _import_for_commands()
    else:
        runpy.run_path(script)  # without the name __main__, it only imports
    gc.freeze()
    job = _next_job()
    os.setsid()
    os.environ.clear()
    os.environ.update(job["environment"])
    for number, name in enumerate(job["files"]):
        os.dup2(os.open(name, os.O_RDWR), number)
    signal.alarm(SECONDS)
    sys.argv = [script, *job["words"]]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
