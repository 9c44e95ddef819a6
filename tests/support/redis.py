"""A Redis server for one test, which can stop and start it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


class NoRedis(Exception):
    """The program redis-server is not installed."""


class RedisServer:
    """A Redis server. A restart keeps `url` and `socket_url`, and loses the data."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise NoRedis("redis-server is not installed (apt-get install redis-server)")
        self._command, self._folder = found, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._socket = folder / "redis.sock"
        self.socket_url = f"redis://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def client(self) -> redis.Redis:
        """Return a client of the platform."""
        return redis.Redis(port=self.port)

    def start(self) -> None:
        options = (
            *("--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self._socket)),
            *("--save", "", "--appendonly", "no"),
        )
        self._process = subprocess.Popen(
            [self._command, *options], cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise NoRedis("redis-server does not answer") from None
                time.sleep(0.02)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Suspend the server: it accepts connections and does not respond."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
