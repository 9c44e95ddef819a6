"""The process of `make demo`: it serves pages, ends when one of its processes ends, and leaves no process."""

from __future__ import annotations

import re
import signal
import socket
import time
import urllib.error
import urllib.request
from importlib import import_module

import psutil
import pytest

from opsconsole.stores import schema
from opsconsole.stores.platforms import platform_apps
from roadmaps.models import RoadmapMetadata
from tasks.helix.models import HelixJob
from tests.conftest import attach_url, forget_attached
from tests.support.subprocess_cli import Shell


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def answers(url, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return get(url)
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture
def demo(tmp_path, empty_console):
    """Start a demo. Yield the shell, the process, its address and the file with its output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shell = Shell(tmp_path / "console", empty_console, {"PORT": str(port)})
    printed = tmp_path / "printed"
    with printed.open("w") as out:
        process = shell.start("demo", stdout=out, stderr=out)
        everything = [psutil.Process(process.pid)]
        try:
            url = f"http://127.0.0.1:{port}"
            answers(f"{url}/admin/login/")
            everything += everything[0].children(recursive=True)
            yield shell, process, url, printed
        finally:
            for one in everything:
                if one.is_running():
                    one.kill()
            process.wait()


def wait_for_output(printed, text):
    deadline = time.monotonic() + 30
    while text not in printed.read_text():
        assert time.monotonic() < deadline, printed.read_text()
        time.sleep(0.1)
    return printed.read_text()


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped_and_leaves_no_process(demo, number):
    shell, process, url, printed = demo
    page = get(f"{url}/admin/login/")
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert any(link.endswith(".css") for link in links)
    for link in links:
        assert get(url + link)
    assert url in wait_for_output(printed, "password")
    assert {"gunicorn", "qcluster"} <= {word for child in children(process) for word in child.cmdline()}

    left = children(process)
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - started < 15
    _, alive = psutil.wait_procs(left, timeout=3)
    assert alive == []
    assert "password" in printed.read_text()
    assert "admin" in shell.run("shell", "-c", USERS).stdout


USERS = "from django.contrib.auth.models import User; print(*User.objects.values_list('username', flat=True))"


@pytest.mark.parametrize(("word", "name"), [("gunicorn", "web server"), ("qcluster", "worker")])
def test_a_part_that_dies_ends_the_demo_with_its_reason(demo, word, name):
    _shell, process, _url, printed = demo
    wait_for_output(printed, "Ctrl-C")
    left = children(process)
    next(c for c in psutil.Process(process.pid).children() if word in c.cmdline()).kill()
    assert process.wait(timeout=20) == 1
    assert f"The {name} ended (SIGKILL)." in printed.read_text()
    _, alive = psutil.wait_procs(left, timeout=3)
    assert alive == []


def test_a_taken_port_is_refused(tmp_path, empty_console):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        shell = Shell(tmp_path / "console", empty_console, {"PORT": str(taken.getsockname()[1])})
        assert "is in use" in shell.refused("demo")


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_wrong_port_is_refused(tmp_path, empty_console, port):
    assert "PORT is " in Shell(tmp_path / "console", empty_console, {"PORT": port}).refused("demo")


def test_it_is_refused_in_production(tmp_path, empty_console):
    production = {"OPSCONSOLE_ENVIRONMENT": "production", "SECRET_KEY": "x" * 50}
    assert "does not run in production" in Shell(tmp_path / "console", empty_console, production).refused("demo")


@pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
def test_the_sample_data_fits_into_postgresql(postgres):
    """Enum, `json` and `jsonb` columns accept the values of the models, also many rows at once."""
    names = ("agentos", "helix", "records", "roadmaps")
    for name in names:
        schema.make_tables(attach_url(name, postgres.create_database(f"demo_{name}"), attached=False))
    lines = [line for app in platform_apps() for line in import_module(f"{app.name}.demo").load()]
    assert len(lines) == 5, lines
    assert RoadmapMetadata.objects.count() == 12
    assert HelixJob.objects.filter(status="IN_PROGRESS").exists()
    forget_attached()
    for name in names:
        postgres.drop_database(f"demo_{name}")
