"""What all tests share: an environment of their own, PostgreSQL, Chromium, and the rule of CI."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.postgres import NoServer, hold, release, shared_server, start_server

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
IN_CI = os.environ.get("CI") == "true"


def _session() -> Path:
    """The folder of this test session; the process that makes it removes it when it ends."""
    if WORKER:
        return Path(os.environ["OPSCONSOLE_TEST_SESSION"])
    folder = Path(tempfile.mkdtemp(prefix="opsconsole-tests-"))
    folder.chmod(0o711)  # PostgreSQL runs as another user when the tests run as root
    os.environ["OPSCONSOLE_TEST_SESSION"] = str(folder)
    held = hold(folder / "alive")
    # Called in the reverse order.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(release, held)
    return folder


def _environment() -> None:
    """Neither the caller's variables nor a `.env` file reach the tests: they may name real databases."""
    for name in list(os.environ):
        if name.endswith(("DATABASE_URL", "DATABASE_PASSWORD", "_ATTACHED")) or name.startswith(
            ("OPSCONSOLE_WORKERS", "HELIX_", "ROADMAPS_", "RUN_HOLD_", "BACKUP_", "TASK_RECOVERY_", "ALERT_")
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
del os.environ["DJANGO_SETTINGS_MODULE"]  # else xdist's workers read the settings before they get here


@pytest.fixture(scope="session")
def postgres():
    """The session's PostgreSQL: every worker makes its own databases in it, and nobody stops it."""
    try:
        return shared_server(SESSION)
    except NoServer as error:
        pytest.skip(f"PostgreSQL: {error.reason}")


@pytest.fixture
def own_postgres(tmp_path):
    """A PostgreSQL of this test's own, to be stopped and started."""
    try:
        server = start_server(tmp_path, alive=SESSION / "alive")
    except NoServer as error:
        pytest.skip(f"PostgreSQL: {error.reason}")
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium():
    """The path of an installed Chromium, for Playwright's `executable_path`."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium: not installed (apt-get install chromium)")


# --- CI: a test that did not run did not pass ------------------------------------------------------


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
