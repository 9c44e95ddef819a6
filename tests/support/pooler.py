"""A PgBouncer in transaction mode in front of the tests' PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Pooler:
    """A PgBouncer in transaction mode in front of the tests' server."""

    def __init__(self, folder: Path, port: int | str | None, roles: Sequence[str] = ()) -> None:
        home = folder / "pooler"
        home.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (home / "users.txt").write_text("".join(f'"{role}" ""\n' for role in ("postgres", *roles)))
        (home / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {home}/users.txt\n"
            "pool_mode = transaction\ndefault_pool_size = 2\nserver_idle_timeout = 1\nlog_connections = 0\n"
        )
        identity: dict[str, Any] = {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if binary is None:
            raise RuntimeError("PgBouncer is not installed: apt-get install pgbouncer")
        self.process = subprocess.Popen(
            [binary, "-q", home / "pgbouncer.ini"], cwd=home, stdin=subprocess.DEVNULL, **identity
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError("PgBouncer did not start")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
