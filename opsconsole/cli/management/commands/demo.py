"""The `demo` command: web server and workers in one terminal."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, NamedTuple

from django.conf import settings
from django.core.management.base import CommandError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import EXIT_FAILED, ConsoleCommand, Refused, require_environment, require_setup
from opsconsole.console.accounts import create_superuser
from opsconsole.engine import queue
from opsconsole.engine.operation import LONG_CLUSTER
from opsconsole.env import DEFAULT_URL, Environment, whole_number

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 8000, 100
ACCOUNT = "admin"
POLL_SECONDS = 0.2
STOPPING_SECONDS = 8.0  # a worker may need 20 s for its slice: its run continues after the next start


class Child(NamedTuple):
    """A running part of the demo."""

    name: str
    process: subprocess.Popen[bytes]


class Command(ConsoleCommand):
    help = gettext_noop("Start web server and workers on this machine until Ctrl-C. Not for production.")
    examples = ("demo", "demo  # set PORT=9000 in the environment to use another port")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise Refused(_("The demo does not run in production. See docs/production.md for a server."))
        require_setup()
        require_environment()
        port = _free_port()
        login = _login()
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # a closed terminal stops the demo
        queue.announce_workers("", LONG_CLUSTER)
        if settings.OPSCONSOLE_URL == DEFAULT_URL:
            os.environ["OPSCONSOLE_URL"] = f"http://{HOST}:{port}"  # for the links in messages
        children: list[Child] = []
        try:
            children.append(
                _start(
                    _("web server"),
                    *("-m", "gunicorn", "opsconsole.wsgi", "--bind", f"{HOST}:{port}"),
                    *("--worker-class", "gthread", "--threads", "8", "--no-control-socket"),
                    *("--log-level", "warning", "--graceful-timeout", "3"),
                )
            )
            children.append(_start(_("worker"), "manage.py", "qcluster"))
            children.append(_start(_("worker of long runs"), "manage.py", "qcluster", Q_CLUSTER_NAME=LONG_CLUSTER))
            announced = False
            while True:
                for child in children:
                    _require_alive(child)
                if not announced and _answers(port):
                    announced = True
                    self._announce(port, login)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self.stdout.write("\n" + _("Stopping ..."))
        finally:
            _stop(children)

    def _announce(self, port: int, login: str) -> None:
        lines = (f"OpsConsole  http://{HOST}:{port}/", login, _("Press Ctrl-C to stop."))
        self.stdout.write("\n" + "".join(f"  {line}\n" for line in lines))
        self.stdout.flush()


def _start(name: str, *arguments: str, **variables: str) -> Child:
    """Start a child in a new session, so that Ctrl-C in the terminal does not reach it."""
    return Child(
        name,
        subprocess.Popen(  # noqa: S603  # our own arguments
            [sys.executable, *arguments],
            cwd=settings.BASE_DIR,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ),
    )


def _require_alive(child: Child) -> None:
    """Raise CommandError if the child has ended."""
    code = child.process.poll()
    if code is None:
        return
    reason = signal.Signals(-code).name if code < 0 else _("exit code %(code)d") % {"code": code}
    raise CommandError(
        _("The %(name)s ended (%(reason)s). Its messages are above.") % {"name": child.name, "reason": reason},
        returncode=EXIT_FAILED,
    )


def _stop(children: list[Child]) -> None:
    """End the children in order, and kill what is left of their sessions.

    The first signal goes to the main processes alone: a signal to the whole session would make a cluster hang.
    """
    deadline = time.monotonic() + STOPPING_SECONDS
    for child in children:
        child.process.terminate()
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        for child in children:
            child.process.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()


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
    raise Refused(_("Port %(port)d is in use. Set PORT to another one.") % {"port": ports[0]})


def _login() -> str:
    """Return a sentence with the account, and with its password if it is new."""
    password = create_superuser(ACCOUNT)
    if password is None:
        text = _("Account %(name)s. Run `python manage.py changepassword %(name)s` to set a new password.")
        return text % {"name": ACCOUNT}
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
