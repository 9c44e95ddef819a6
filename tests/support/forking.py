"""Processes that import the modules of a script once and fork for each call. A command takes a fifth of the time.

`run()` uses them. The script runs in a separate process, with its environment and exit code, as in a shell.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
# Variables that a fork of a prepared process reads again. Any other one may have changed what was imported.
OWN = re.compile(
    r"(\w+_)?DATABASE_URL|\w+_ATTACHED|OPSCONSOLE_(DATA_DIR|ENVIRONMENT|TOKEN)|(SECRET|AUDIT_LOG)_KEY|PYTEST_CURRENT_TEST"
)
NOT_PREPARED = 199


def _common(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not OWN.fullmatch(name)}


COMMON = _common(os.environ)


def run(script: str, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the script with these arguments. The exit code is -SIGALRM after a timeout."""
    if script == "manage.py" and _common(environment) == COMMON:
        done = _run(_server(script, prepared=True), words, environment)
        if done.returncode != NOT_PREPARED:
            return done
    return _run(_server(script), words, environment)


def _run(
    server: subprocess.Popen[str], words: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        job = {"words": words, "environment": environment, "files": [os.devnull, out.name, err.name]}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{json.dumps(job)}\n")
        server.stdin.flush()
        return subprocess.CompletedProcess(words, int(server.stdout.readline()), out.read(), err.read())


@functools.cache
def _server(script: str, *, prepared: bool = False) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forking", script, *(["prepared"] if prepared else [])],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(server.communicate)
    return server


def _next_job() -> dict[str, Any]:
    """Fork for each job and write its exit code. Return in the fork."""
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


def _set_up() -> None:
    """Set up Django as manage.py does, and import the operations."""
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "opsconsole.settings"
    django.setup()
    import opsconsole.cli.command
    import opsconsole.cli.output  # noqa: F401
    from opsconsole.engine import registry

    registry.operations()


def _read_settings_again() -> None:
    """Replace every setting by the value in the environment of this process."""
    from django.conf import settings
    from django.core.cache import caches
    from django.core.exceptions import ImproperlyConfigured
    from django.db import connections
    from django_q.conf import Conf

    del sys.modules["opsconsole.settings"]
    try:
        module = import_module("opsconsole.settings")
    except ImproperlyConfigured:
        os._exit(NOT_PREPARED)  # the script itself reports it
    for name in filter(str.isupper, dir(module)):
        setattr(settings, name, getattr(module, name))
    for connection in connections.all(initialized_only=True):
        del connections[connection.alias]
    connections.settings = connections.configure_settings(settings.DATABASES)
    caches.settings = caches.configure_settings(settings.CACHES)
    Conf.SECRET_KEY = settings.SECRET_KEY  # django-q2 copies it from the settings


def _serve(script: str, prepared: bool) -> None:
    if script == "manage.py":
        _import_for_commands()
    else:
        runpy.run_path(script)  # without the name __main__, it only imports
    if prepared:
        _set_up()
    gc.freeze()
    job = _next_job()
    os.setsid()
    zone = {name: os.environ[name] for name in ("DJANGO_SETTINGS_MODULE", "TZ") if prepared and name in os.environ}
    os.environ.clear()
    os.environ.update(job["environment"] | zone)
    for number, name in enumerate(job["files"]):
        os.dup2(os.open(name, os.O_RDWR), number)
    signal.alarm(SECONDS)
    sys.argv = [script, *job["words"]]
    if prepared:
        _read_settings_again()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1], prepared="prepared" in sys.argv[2:])
