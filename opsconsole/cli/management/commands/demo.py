"""What `make demo` runs after `setup --demo`: the web server and the worker, kept alive until Ctrl-C."""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand, Refused, require_environment, require_setup
from opsconsole.console.accounts import make_superuser
from opsconsole.engine.models import Heartbeat
from opsconsole.engine.operation import LONG_CLUSTER
from opsconsole.engine.queue import heartbeat_name
from opsconsole.env import Environment, whole_number

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 8000, 100
ACCOUNT = "admin"
STARTING_SECONDS = 60.0
STOPPING_SECONDS = 8.0  # a worker in its slice may need 20: its run goes on with the next start
LOOK_EVERY_SECONDS = 0.5
HEARTBEAT_LIMIT = timedelta(minutes=3)
HEARTBEAT_EVERY_SECONDS = 15.0
SHORT_LIFE_SECONDS, SHORT_LIVES = 10.0, 5


class Command(ConsoleCommand):
    help = gettext_noop("Serve the console and its worker on this machine until Ctrl-C; not for production.")
    examples = ("demo", "demo  # PORT=9000 in the environment names another port")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise Refused(_("The demo is not for production: see the documentation for a server."))
        require_setup()
        require_environment()
        port = _free_port()
        login = _login()
        stop = _StopSignals()
        web = Child(
            _("web server"),
            [
                *("-m", "gunicorn", "opsconsole.wsgi", "--bind", f"{HOST}:{port}"),
                *("--worker-class", "gthread", "--threads", "8", "--no-control-socket"),
                *("--log-level", "warning", "--graceful-timeout", "3"),
            ],
            OPSCONSOLE_POOL="true",
        )
        workers = (
            Child(_("worker"), ["manage.py", "qcluster"]),
            Child(_("worker of long runs"), ["manage.py", "qcluster"], Q_CLUSTER_NAME=LONG_CLUSTER),
        )
        try:
            for child in (web, *workers):
                child.start()
            self._announce(port, login, web, stop)
            self._keep_alive(web, workers, stop)
        finally:
            self.stdout.write("\n" + _("Stopping ..."))
            _stop_all((web, *workers), stop)

    def _announce(self, port: int, login: str, web: Child, stop: _StopSignals) -> None:
        """Print the address once it answers."""
        deadline = time.monotonic() + STARTING_SECONDS
        while not _answers(port):
            if stop.asked or not web.alive or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        else:
            self.stdout.write("")
            self.stdout.write(f"  OpsConsole  http://{HOST}:{port}/")
            self.stdout.write(f"  {login}")
            self.stdout.write("  " + _("Ctrl-C stops it."))
            self.stdout.write("")
            self.stdout.flush()

    def _keep_alive(self, web: Child, workers: tuple[Child, ...], stop: _StopSignals) -> None:
        looked = time.monotonic()
        while not stop.asked:
            for child in (web, *workers):
                if not child.alive:
                    self.stderr.write(_("The %(name)s ended: starting it again.") % {"name": child.name})
                    child.start()
            if time.monotonic() - looked > HEARTBEAT_EVERY_SECONDS:
                looked = time.monotonic()
                for worker in filter(_silent, workers):
                    # A cluster whose idle workers were killed hangs for ever, and ignores signals.
                    self.stderr.write(
                        _("The %(name)s has been silent for 3 minutes: starting it again.") % {"name": worker.name}
                    )
                    _stop_all((worker,), stop)
                    worker.start()
            time.sleep(LOOK_EVERY_SECONDS)


class _StopSignals:
    """Counts Ctrl-C, SIGTERM and the terminal's end; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._count)

    def _count(self, number: int, frame: Any) -> None:
        self.asked += 1


class Child:
    """A process in a session of its own: the terminal's Ctrl-C does not reach it, we stop it in order."""

    def __init__(self, name: str, arguments: list[str], **variables: str) -> None:
        self.name = name
        self.cluster = variables.get("Q_CLUSTER_NAME", "")
        self._arguments, self._variables = arguments, variables
        self._process: subprocess.Popen[bytes] | None = None
        self._short_lives = 0
        self.started_at = timezone.now()

    def start(self) -> None:
        lived = timezone.now() - self.started_at
        short = self._process is not None and lived.total_seconds() < SHORT_LIFE_SECONDS
        self._short_lives = self._short_lives + 1 if short else 0
        if self._short_lives >= SHORT_LIVES:
            raise Refused(_("The %(name)s ends as soon as it is started.") % {"name": self.name})
        self.kill()  # what a main process that died has left behind
        self.started_at = timezone.now()
        self._process = subprocess.Popen(  # noqa: S603  # our own arguments
            [sys.executable, *self._arguments],
            cwd=settings.BASE_DIR,
            env=os.environ | self._variables,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        """To the main process alone: a signal to its whole group would make the cluster hang."""
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End whatever is left of its group."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _end_with_parent() -> None:
    """In the child: should the demo be killed, the kernel (Linux) ends the child as Ctrl-C would have."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop_all(children: tuple[Child, ...], stop: _StopSignals) -> None:
    deadline = time.monotonic() + STOPPING_SECONDS
    for child in children:
        child.ask_to_stop()
    while any(child.alive for child in children) and time.monotonic() < deadline and stop.asked < 2:
        time.sleep(0.05)
    for child in children:
        child.kill()


def _free_port() -> int:
    wanted = Environment()("PORT", whole_number(1, 65535), None)
    ports = [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + PORTS)
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise Refused(_("Port %(port)d is taken: name another with PORT=…") % {"port": ports[0]})


def _login() -> str:
    password = make_superuser(ACCOUNT)
    if password is None:
        return _("Account %(name)s; a new password: python manage.py changepassword %(name)s") % {"name": ACCOUNT}
    return _("Account %(name)s, password %(password)s") % {"name": ACCOUNT, "password": password}


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/admin/login/")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _silent(worker: Child) -> bool:
    """Whether the worker's heartbeat is older than it may be."""
    try:
        name = heartbeat_name(socket.gethostname(), worker.cluster)
        seen = Heartbeat.objects.filter(host=name).values_list("at", flat=True).first()
    except DatabaseError:  # busy or gone for a moment
        return False
    finally:
        connections.close_all()
    return timezone.now() - max(seen or worker.started_at, worker.started_at) > HEARTBEAT_LIMIT
