"""The command `check` refuses a queue that would deliver a job twice. Production passes `check --deploy`."""

from __future__ import annotations

import pytest

from opsconsole.engine.queue_checks import check_queue
from tests.support.subprocess_cli import Shell


def test_the_settings_pass():
    assert check_queue() == []


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ({"workers": 0}, "E001"),
        ({"queue_limit": 50}, "E002"),
        ({"timeout": 50}, "E003"),
        ({"timeout": None}, "E003"),
        ({"retry": 360}, "E004"),
        ({"retry": None}, "E004"),
        ({"bulk": 10}, "E005"),
        ({"ack_failures": False}, "E006"),
        ({"max_attempts": 0}, "E007"),
        ({"catch_up": True}, "E008"),
        ({"save_limit": 250}, "E009"),
    ],
)
def test_a_queue_that_would_double_jobs_is_refused(settings, setting, code):
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, **setting}
    assert f"opsconsole.{code}" in [problem.id for problem in check_queue()]


@pytest.mark.parametrize("name", ["bulk", "ack_failures", "max_attempts", "catch_up", "save_limit"])
def test_the_defaults_of_the_queue_are_refused(settings, name):
    settings.Q_CLUSTER = {key: value for key, value in settings.Q_CLUSTER.items() if key != name}
    assert len(check_queue()) == 1


def test_production_passes_the_check_for_deployment(tmp_path):
    production = {
        "OPSCONSOLE_ENVIRONMENT": "production",
        "SECRET_KEY": "0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "ALLOWED_HOSTS": "ops.example.com",
    }
    done = Shell(tmp_path, variables=production).run("check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
