"""Fixtures of all tests: environment, PostgreSQL, Chromium, accounts, and the rule for skipped tests in CI."""

from __future__ import annotations

import atexit
import fcntl
import gc
import hashlib
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from tests.support import agentos, helix, roadmaps
from tests.support.postgres import NoServer, hold, quick_folder, release, remove_abandoned, shared_server, start_server

pytest_plugins = ("tests.support.records",)

ROOT = Path(__file__).resolve().parent.parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
IN_CI = os.environ.get("CI") == "true"


def _session() -> Path:
    """Return the directory of this test session. The process that creates it removes it at its end."""
    if WORKER:
        return Path(os.environ["OPSCONSOLE_TEST_SESSION"])
    remove_abandoned("opsconsole-tests-")
    folder = Path(tempfile.mkdtemp(prefix="opsconsole-tests-", dir=quick_folder()))
    folder.chmod(0o711)  # PostgreSQL runs as another user when the tests run as root
    os.environ["OPSCONSOLE_TEST_SESSION"] = str(folder)
    held = hold(folder / "alive")
    # These run in reverse order.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(release, held)
    return folder


def _environment() -> None:
    """Keep the variables of the caller and `.env` from the tests, because they may name real databases."""
    for name in list(os.environ):
        if name.endswith(("DATABASE_URL", "DATABASE_PASSWORD", "_ATTACHED", "CACHE_URL", "_TOKEN")) or name.startswith(
            ("OPSCONSOLE_WORKERS", "HELIX_", "ROADMAPS_", "RUN_", "BACKUP_", "TASK_RECOVERY_", "ALERT_")
        ):
            del os.environ[name]
    data = SESSION / (WORKER or "main")
    os.environ.update(
        {
            "OPSCONSOLE_ENV_FILE": os.devnull,
            "OPSCONSOLE_ENVIRONMENT": "development",
            "OPSCONSOLE_DATA_DIR": str(data),
            "DATABASE_URL": f"sqlite:///{data}/default.sqlite3",
            **{
                f"{store.upper()}_DATABASE_URL": f"sqlite:///{data}/{store}.sqlite3"
                for store in ("agentos", "helix", "records", "roadmaps")
            },
        }
    )


if "DJANGO_SETTINGS_MODULE" in os.environ:
    pytest.exit("DJANGO_SETTINGS_MODULE is set: the tests choose their own settings, unset it", returncode=4)
SESSION = _session()
_environment()

import django  # noqa: E402 - its settings are read from the environment that was just made

os.environ["DJANGO_SETTINGS_MODULE"] = "opsconsole.settings"
django.setup()
del os.environ["DJANGO_SETTINGS_MODULE"]  # otherwise the workers of xdist would read the settings first

from django.conf import settings  # noqa: E402
from django.contrib import admin  # noqa: E402
from django.contrib.staticfiles import handlers  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.management.commands.flush import Command as Flush  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import SimpleTestCase  # noqa: E402
from django.utils import translation  # noqa: E402

from opsconsole.console.middleware import StaticFilesMiddleware  # noqa: E402

admin.autodiscover()  # like a web process that loads its URLs

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from opsconsole.stores.store import Store
    from tests.support.payloads import PayloadType

# The middleware serves static files, as in production, instead of the live server of pytest-django.
handlers.StaticFilesHandler = lambda application: application  # type: ignore[assignment,misc,return-value]

# One round instead of a million: most tests create accounts.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher", *settings.PASSWORD_HASHERS]

# --- Django's databases: files of this worker -------------------------------------------------------
#
# A test names the databases that it uses:
#     pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
# `transaction=True` is required, because the executor's durable commits and BEGIN IMMEDIATE fail inside another
# transaction. After each test the databases are reset to the state of `setup`: groups, permissions, schedules, no rows.


@pytest.fixture(scope="session")
def django_db_setup(request: pytest.FixtureRequest, django_db_blocker: Any) -> None:
    """Create the databases of the settings as `setup` does, once for all workers, in the directory of the session."""
    assert request.config.cache is not None
    made = request.config.cache.mkdir("databases")
    with (made / "code").open("a+") as code:
        fcntl.flock(code, fcntl.LOCK_EX)
        code.seek(0)
        if code.read() != (now := _code()):
            code.truncate(0)  # until all of them exist
            with django_db_blocker.unblock(), Path(os.devnull).open("w") as nowhere:
                call_command("setup", stdout=nowhere)
                connections.close_all()
            for name, config in OWN.items():
                shutil.copyfile(config["NAME"], made / name)
            code.write(now)
            code.flush()
        for name, config in OWN.items():
            shutil.copyfile(made / name, EMPTY[name])
            shutil.copyfile(made / name, config["NAME"])
    from opsconsole.console.static_files import publish  # its storage needs the settings

    publish()


def _code() -> str:
    """Return a digest of the inputs of `setup`. It changes each hour, because the databases contain times."""
    packages = ("opsconsole", "audits", "tasks", "roadmaps")
    files = [path for package in packages for kind in ("py", "sql") for path in (ROOT / package).rglob(f"*.{kind}")]
    digest = hashlib.sha256(f"{sys.version} {django.__version__} {time.time() // 3600}".encode())
    for path in (ROOT / "requirements.txt", *sorted(files)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def empty_console(django_db_setup: None) -> Path:
    """Return a file with an empty console database, to be copied."""
    return EMPTY["default"]


OWN = dict(connections.settings)
STORES = settings.STORES
EMPTY = {name: Path(f"{config['NAME']}.empty") for name, config in OWN.items()}


def _restore(self: Flush, *, database: str, **options: Any) -> None:
    """Give a database the content that `setup` made, by one copy instead of a DELETE for each table."""
    connections[database].close()
    with (
        closing(sqlite3.connect(f"file:{EMPTY[database]}?immutable=1", uri=True)) as empty,
        closing(sqlite3.connect(OWN[database]["NAME"], timeout=5, isolation_level=None)) as used,
    ):
        used.execute("BEGIN IMMEDIATE")  # fails after 5 s; backup() would wait forever
        used.execute("ROLLBACK")
        empty.backup(used)


# Django empties the databases of a test with the command `flush`.
Flush.handle = _restore  # type: ignore[method-assign, assignment]


# Each test client has its own middleware, which would examine all static files again.
EXAMINED: dict[tuple[Any, ...], Any] = {}
_examine = StaticFilesMiddleware.get_static_file


def _examine_once(self: StaticFilesMiddleware, path: str, url: str, **options: Any) -> Any:
    key = path, url, self.max_age
    if key not in EXAMINED:
        EXAMINED[key] = _examine(self, path, url, **options)
    return EXAMINED[key]


StaticFilesMiddleware.get_static_file = _examine_once


class _AndAttached(frozenset[str]):
    """The databases that a test names, and the files that it attaches."""

    def __contains__(self, alias: object) -> bool:
        return super().__contains__(alias) or alias not in OWN


_validate = SimpleTestCase._validate_databases.__func__  # type: ignore[attr-defined]
SimpleTestCase._validate_databases = classmethod(lambda cls: _AndAttached(_validate(cls)))  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _reset_stores(_django_db_marker: None) -> Iterator[None]:
    """Detach the stores of a test and remove its backups at its end, before its databases are emptied."""
    yield
    forget_attached()
    # The notes beside a backup contain the length of this test's audit log.
    shutil.rmtree(Path(os.environ["OPSCONSOLE_DATA_DIR"]) / "backups", ignore_errors=True)


@pytest.fixture(autouse=True)
def _reset_language() -> Iterator[None]:
    """Return to the language of the settings. A request of the test client leaves its language active."""
    yield
    translation.deactivate()


def forget_attached() -> None:
    """Reset every store to the settings, so that attached files and databases can be deleted."""
    for alias, config in list(connections.settings.items()):
        if OWN.get(alias) is not config:
            connections[alias].close()
            del connections[alias]
            if alias in OWN:
                connections.settings[alias] = OWN[alias]
            else:
                del connections.settings[alias]
    settings.ATTACHED_STORES = frozenset()
    settings.STORES = STORES


# --- stores and accounts --------------------------------------------------------------------------------

ENGINES = ("sqlite", "postgresql-text", "postgresql-json", "postgresql-jsonb")


def attach_url(name: str, url: str, *, attached: bool = True, platform: str | None = None) -> Store:
    """Configure a store like `…_DATABASE_URL` and `…_ATTACHED`, until the test ends, or a further store."""
    from opsconsole.env import Variable, database_url
    from opsconsole.stores.config import database
    from opsconsole.stores.store import Store

    if platform is not None:
        settings.STORES = {**settings.STORES, name: platform}
    config = Variable(f"{name.upper()}_DATABASE_URL", database_url, secret=True).read(url)
    connections.settings[name] = database(config, password="", attached=attached, pool=False)
    connections.configure_settings(connections.settings)
    # A browser runs an event loop in this thread, for which Django keeps connections of its own.
    connections[name].close()
    del connections[name]
    if attached:
        settings.ATTACHED_STORES |= {name}
    return Store.called(name)


@dataclass
class Attached:
    """An attached AgentOS store, filled by `tests.support.agentos`. On SQLite, `url` is the path of the file."""

    store: Store
    engine: str
    url: str
    made: agentos.Made

    @property
    def vendor(self) -> Any:
        return self.engine.partition("-")[0]


@pytest.fixture
def make_attached(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a function that creates `Attached` stores: `make_attached("sqlite", 3000, seed=2)`."""
    from opsconsole.stores.store import attach_file

    dropped: list[str] = []

    def make(engine: str, rows: int, **options: Any) -> Attached:
        vendor, _, type_ = engine.partition("-")
        if vendor == "sqlite":
            path = tmp_path / f"store-{len(dropped)}.db"
            dropped.append("")
            made = agentos.create_sqlite(path, rows, **options)
            return Attached(attach_file("agentos", path), engine, str(path), made)
        server = request.getfixturevalue("postgres")
        name = f"store_{len(dropped)}"
        url = server.create_database(name)
        dropped.append(name)
        made = agentos.create_postgres(url, rows, payload_type=cast("PayloadType", type_), **options)
        return Attached(attach_url("agentos", url), engine, url, made)

    yield make
    forget_attached()
    for name in filter(None, dropped):
        request.getfixturevalue("postgres").drop_database(name)


HELIX_ENGINES = ("sqlite", "postgresql-enum", "postgresql-text")


@pytest.fixture
def make_helix(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a function that attaches HELIX stores: `make_helix("postgresql-enum", jobs, orphans=[…])`."""
    from opsconsole.stores.store import attach_file

    made: list[str] = []

    def make(
        engine: str, jobs: list[helix.Job], *, orphans: Sequence[tuple[int, int]] = (), triggers: bool = True
    ) -> Store:
        vendor, _, kind = engine.partition("-")
        inserts = [*helix.rows(jobs), *(helix.orphan(*one) for one in orphans)]
        statements = helix.ddl(vendor, enums=kind == "enum", keys=not orphans, triggers=triggers)
        made.append(vendor)
        if vendor == "sqlite":
            path = tmp_path / f"helix-{len(made)}.db"
            helix.create(vendor, str(path), statements, inserts)
            return attach_file("helix", path)
        url = request.getfixturevalue("postgres").create_database(f"helix_{len(made)}")
        helix.create(vendor, url, statements, inserts)
        return attach_url("helix", url)

    yield make
    forget_attached()
    for number, vendor in enumerate(made, 1):
        if vendor != "sqlite":
            request.getfixturevalue("postgres").drop_database(f"helix_{number}")


@pytest.fixture(params=ENGINES)
def attached(request: pytest.FixtureRequest, make_attached: Any) -> Attached:
    """Return a store of 300 audits on each engine. `parametrize("attached", …, indirect=True)` selects engines."""
    attached: Attached = make_attached(request.param, 300)
    return attached


@pytest.fixture
def make_roadmaps(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a function that attaches roadmaps stores: `make_roadmaps("postgresql-jsonb", rows)`."""
    from opsconsole.stores.store import attach_file

    dropped: list[str] = []

    def make(engine: str, rows: Any, *, alias: str = "", **options: Any) -> Store:
        name = f"roadmaps_{len(dropped)}"
        if engine == "sqlite":
            dropped.append("")
            path = tmp_path / f"{name}.db"
            roadmaps.create(engine, path, rows, **options)
            if alias:
                return attach_url(alias, f"sqlite:///{path}", platform="roadmaps")
            return attach_file("roadmaps", path)
        url = request.getfixturevalue("postgres").create_database(name)
        dropped.append(name)
        roadmaps.create(engine, url, rows, **options)
        return attach_url(alias or "roadmaps", url, platform="roadmaps")

    yield make
    forget_attached()
    for name in filter(None, dropped):
        request.getfixturevalue("postgres").drop_database(name)


@dataclass
class Managed:
    """A managed AgentOS store as `setup` creates it, with a connection of a plain client."""

    store: Store
    engine: str
    url: str
    client: Any

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement with `?` for values and return its rows."""
        if self.engine == "postgresql":
            sql = sql.replace("%", "%%").replace("?", "%s")
        cursor = self.client.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def agentos_template(postgres: Any, django_db_setup: None, django_db_blocker: Any) -> str:
    """Return the name of a PostgreSQL database with the tables of a managed AgentOS store, to be copied."""
    from opsconsole.stores import schema

    name = "agentos_template"
    with django_db_blocker.unblock():
        schema.make_tables(attach_url("agentos", postgres.create_database(name), attached=False))
        forget_attached()
    return name


@pytest.fixture(params=("sqlite", "postgresql"))
def managed(request: pytest.FixtureRequest, tmp_path: Path, django_db_setup: None) -> Iterator[Managed]:
    """Yield an empty managed AgentOS store on each engine. The plain client commits each statement."""
    if request.param == "sqlite":
        path = tmp_path / "agentos.sqlite3"
        shutil.copyfile(EMPTY["agentos"], path)
        store = attach_url("agentos", f"sqlite:///{path}", attached=False)
        with closing(sqlite3.connect(path, isolation_level=None)) as client:
            client.execute("PRAGMA foreign_keys=ON")
            yield Managed(store, "sqlite", str(path), client)
        forget_attached()
        return
    server = request.getfixturevalue("postgres")
    url = server.create_database("agentos_managed", like=request.getfixturevalue("agentos_template"))
    store = attach_url("agentos", url, attached=False)
    with psycopg.connect(url, autocommit=True) as pg_client:
        yield Managed(store, "postgresql", url, pg_client)
    forget_attached()
    server.drop_database("agentos_managed")


def _person(name: str, *groups: str, **rights: Any) -> User:
    from django.contrib.auth.models import Group, User

    person = User.objects.create_user(name, password="correct horse", **rights)
    person.groups.set(Group.objects.filter(name__in=groups))
    return person


@pytest.fixture
def alice() -> User:
    """Return a superuser."""
    return _person("alice", is_staff=True, is_superuser=True)


@pytest.fixture
def bob() -> User:
    """Return an operator, who can plan and run."""
    return _person("bob", "Operators", is_staff=True)


@pytest.fixture
def viewer() -> User:
    """Return an account that can only read."""
    return _person("vera", "Viewers", is_staff=True)


@pytest.fixture
def charlie() -> User:
    """Return a staff account without permissions: every page returns 403."""
    return _person("charlie", is_staff=True)


# --- servers and browsers -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres():
    """Return the PostgreSQL server of the session. Each worker has its own databases, and no test stops the server."""
    try:
        return shared_server(SESSION)
    except NoServer as error:
        pytest.skip(f"PostgreSQL: {error.reason}")


@pytest.fixture
def own_postgres(tmp_path):
    """Yield a PostgreSQL server for one test, which can stop and start it."""
    try:
        server = start_server(tmp_path, alive=SESSION / "alive")
    except NoServer as error:
        pytest.skip(f"PostgreSQL: {error.reason}")
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium():
    """Return the path of an installed Chromium, for Playwright's `executable_path`."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium: not installed (apt-get install chromium)")


def pytest_configure(config: pytest.Config) -> None:
    """Put the directories of tests into that of the session. `--basetemp` keeps them elsewhere."""
    if not WORKER and config.option.basetemp is None:
        config.option.basetemp = SESSION / "tmp"


def pytest_collection_finish() -> None:
    """Exclude all imported objects from garbage collection, which saves a sixth of the time of the tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # with the default of 700, a twelfth of the rest


# --- CI: a skipped test is a failed test ------------------------------------------------------


def _skipped(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get("skipped", []) if IN_CI and not WORKER and reporter else []


def pytest_sessionfinish(session, exitstatus):
    if _skipped(session.config) and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if skipped := _skipped(config):
        terminalreporter.section("skipped, which fails under CI=true", red=True)
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}")
