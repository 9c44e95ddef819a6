"""Strict reading of the settings' variables: a bad value is one sentence that names the variable and no secret."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from opsconsole import env
from opsconsole.settings import env as environment
from tests.support.subprocess_cli import ROOT, Shell

# A text may contain all visible characters.
INVISIBLE = ["\x1b]0;x\x07", " x", "x ", "\n", "x" * 5000, "\u202ex", "\x7f", "\udcff", "a\u2028b", "\t"]
SECRET = "hunter2"  # part of every bad URL and every bad secret
BAD: dict[str, list[str]] = {
    "text": INVISIBLE,
    "choice": ["prod", "Production", "0", "-1", "true", "nan", "development,", "dévelopment", "en-xx", "中文"],
    "boolean": ["treu", "2", "-1", "yess", "null", "1.0", "tru", "none", "true,false", "１"],
    "whole": ["1e1", "-1", "2.0", "2 0", "nan", "inf", "two", "1_0", "9" * 13, "٣"],
    "number": ["1e3", "-1", "2 h 30", "nan", "infinity", "1,5", ".5", "5.", "9" * 12, "٣"],
    "zone": [
        "Mars/Base",
        "../etc/passwd",
        "UTC+8",
        "utc/",
        "8",
        "Asia",
        "Asia/Shanghai/x",
        "/etc/localtime",
        "-",
        "北京",
    ],
    "language": ["xx", "EN", "en_US", "zh", "zh_Hans", "en,zh-hans", "1", "true", "english", "中文"],
    "hosts": ["a b", "http://a", "a:80", "a/b", "a,,b", "a,", "-a", "a..b", "[::1", "*.a"],
    "origins": [
        "a",
        "a.example.org",
        "ftp://a",
        "https://",
        "https://a/b",
        "https://a:x",
        "https://a,",
        "//a",
        "*",
        "https://a b",
    ],
    "networks": [
        "a",
        "*",
        "10.0.0",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.1,",
        "::1::",
        "010.0.0.1",
        "all",
        "300.0.0.1",
    ],
    "emails": [
        "a",
        "@b.example",
        "a@",
        "a@b",
        "a b@c.example",
        "a@c.example,",
        "a@c.example;b@c.example",
        "mailto:a@c.example",
        "a@c.example,b",
        "<>",
    ],
    "sender": [
        "a",
        "@b.example",
        "a@",
        "a@b",
        "a b@c.example",
        "a@c.example, b@c.example",
        "x <a>",
        "<>",
        "a@c.example b",
        "1",
    ],
    "chat": [
        f"json://h/{SECRET}",
        f"https://h/{SECRET}",
        f"slack:{SECRET}",
        f"slack//{SECRET}",
        "slack://",
        "slack:///",
        f"file:///{SECRET}",
        f"mailto://u:{SECRET}@h",
        f"slack://{SECRET} nonsense",
        f"SLACK://{SECRET}",
    ],
    "http": [
        f"{SECRET}",
        f"ftp://u:{SECRET}@h/",
        f"http://u:{SECRET}@/",
        f"https://h:port/{SECRET}",
        f"https://h:99999/{SECRET}",
        f"https://h:0/{SECRET}",
        f"https://h/a b{SECRET}",
        f"https://u:{SECRET}@[::1/",
        f"//h/{SECRET}",
        f"https://h/#{SECRET}",
    ],
    "address": [
        "console.example.org",
        "//console.example.org",
        "ftp://console.example.org",
        "https://",
        "https://me@console.example.org",
        "https://console.example.org?a=b",
        "https://console.example.org/?",
        "https://console.example.org/#top",
        "https://console.example.org:port",
        "https://console.example.org:0",
        "https://a b.example.org",
    ],
    "database": [
        f"mysql://u:{SECRET}@h/n",
        f"postgresql://u:{SECRET}@h:port/n",
        f"postgresql://u:{SECRET}@h:99999/n",
        f"postgresql://u:{SECRET}@h",
        f"postgresql://u:{SECRET}/x@h/n",
        f"postgresql://u:{SECRET}@x@h/n",
        f"postgresql://u:{SECRET}@h/n?nonsense=1",
        f"postgresql://u:{SECRET}%@h/n",
        f"postgresql://u:{SECRET}@h/n?sslmode=maybe",
        f"sqlite:///relative/{SECRET}.db",
        f"sqlite://{SECRET}/a.db",
        "sqlite://:memory:",
        f"postgresql://u:{SECRET}@h/n?pool_max=many",
        f"postgresql://u:{SECRET}@h/n?pool_min=9&pool_max=3",
        f"postgresql://u:{SECRET}@h/n?pool_timeout=nan",
        f"postgresql://u:{SECRET}@h/n?connect_timeout=1e3",
        f"postgresql://u:{SECRET}@h/n?pooler=session",
        "sqlite:////folder/",
    ],
    "cache": [
        f"memcached://u:{SECRET}@h",
        f"redis://:{SECRET}@h:port/0",
        f"redis://:{SECRET}@h/name",
        f"redis://:{SECRET}@/0",
        f"redis://:{SECRET}@h:70000/0",
        f"redis://:{SECRET}@x@h/0",
        f"rediss://:{SECRET}@h/0?nonsense=1",
        f"filecache:///tmp/{SECRET}",
        f"locmemcache://{SECRET}",
        SECRET,
    ],
    "mail": [
        f"imap://u:{SECRET}@h",
        f"smtp://u:{SECRET}@h:port",
        f"smtp://u:{SECRET}@",
        f"smtp://u:{SECRET}@h:70000",
        f"smtp://u:{SECRET}/x@h",
        f"smtp://u:{SECRET}@h/path",
        f"smtp://u:{SECRET}@h?x=1",
        f"smtp://u:{SECRET}@x@h",
        f"filemail:///tmp/{SECRET}",
        SECRET,
    ],
    "path": ["a", "./a", "../a", "~/a", "a/b", "C:\\a", "file:///a", ".", "..", "$HOME/a"],
    "packages": ["a.", ".a", "a..b", "a-b", "a()", "a:b", "a/b", "1a", "ä", "a,b-c"],
    "dotted": ["a", "a.", ".a", "a..b", "a-b.c", "a.b()", "a:b", "a/b.c", "a.1", "ä.b"],
    "age": [
        SECRET,
        f"AGE-SECRET-KEY-1{SECRET}",
        f"age1{SECRET}",
        f"AGE-SECRET-KEY-1{'Q' * 58}{SECRET}",
        "AGE",
        "1",
        "-",
        "ssh-rsa AAAA",
        "key",
        "AGE-SECRET-KEY-1",
    ],
    "bearer": [
        f"{SECRET} x",
        f"ü{SECRET}",
        f"a b{SECRET}",
        f"{SECRET}é",
        "中文",
        "a\u00a0b",
        "a “b”",
        "Bearer x",
        "тест",
        "a b",
    ],
}
BAD["key"] = [*BAD["bearer"], SECRET, "x" * 31, "a," + "x" * 32, f"{SECRET} " + "x" * 32, "密" * 40]
KINDS = {
    "AUDIT_LOG_KEY": "key",
    "AUDIT_LOG_KEY_FALLBACKS": "bearer",
    "OPSCONSOLE_ENV_FILE": "path",
    "OPSCONSOLE_ENVIRONMENT": "choice",
    "OPSCONSOLE_DATA_DIR": "path",
    "OPSCONSOLE_WORKERS": "whole",
    "DEBUG": "boolean",
    "SECRET_KEY": "text",
    "ALLOWED_HOSTS": "hosts",
    "CSRF_TRUSTED_ORIGINS": "origins",
    "OPSCONSOLE_POOL": "boolean",
    "OPSCONSOLE_URL": "address",
    "DATABASE_URL": "database",
    "DATABASE_PASSWORD": "text",
    "CACHE_URL": "cache",
    "OPSCONSOLE_LANGUAGE": "language",
    "OPSCONSOLE_TIME_ZONE": "zone",
    "Q_CLUSTER_NAME": "choice",
    "RUN_HOLD_FILE": "path",
    "RUN_HOLD_MAX_REPLICA_LAG_SECONDS": "number",
    "RUN_HOLD_MAX_ACTIVE_CONNECTIONS": "whole",
    "ALERT_EMAILS": "emails",
    "ALERT_CHANNELS": "chat",
    "ALERT_PRIVATE_ADDRESSES": "boolean",
    "ALERT_WEBHOOK_URL": "http",
    "ALERT_WEBHOOK_SECRET": "text",
    "EMAIL_URL": "mail",
    "ALERT_FROM": "sender",
    "HELIX_MAX_RETRY_COUNT": "whole",
    "HELIX_HEALTH_URL": "http",
    "ROADMAPS_TIME_ZONE": "zone",
    "ROADMAPS_STUCK_AFTER_MINUTES": "number",
    "ENABLE_TASK_RECOVERY": "boolean",
    "TASK_RECOVERY_MAX_AGE_HOURS": "number",
    "TASK_RECOVERY_MAX_CONCURRENT": "whole",
    "TASK_RECOVERY_DELAY_SECONDS": "number",
    "OPSCONSOLE_APPS": "packages",
    "ROADMAPS_WORKFLOW_GRAPH": "dotted",
    "ROADMAPS_CHECKPOINT_URL": "database",
    "ROADMAPS_RESUME_URL": "http",
    "ROADMAPS_RETRY_URL": "http",
    "ROADMAPS_RESUME_SECRET": "text",
    "RUN_APPROVAL_HOURS": "number",
    "BACKUP_MAX_AGE_HOURS": "number",
    "BACKUP_ENCRYPTION_KEY": "age",
    "METRICS_TOKEN": "bearer",
    "CONNECTIONS_ALERT_PERCENT": "whole",
    "OPSCONSOLE_TOKEN": "bearer",
    "OPSCONSOLE_CONFIG": "path",
    "UNDO_MIN_DAYS": "whole",
    "BACKUP_FOLDERS": "path",
    "SESSION_HOURS": "number",
    "SESSION_IDLE_HOURS": "number",
    "TOKEN_DAYS": "whole",
    "TRUSTED_PROXIES": "networks",
    **{f"{store}_DATABASE_URL": "database" for store in ("AGENTOS", "HELIX", "RECORDS", "ROADMAPS")},
    **{f"{store}_DATABASE_PASSWORD": "text" for store in ("AGENTOS", "HELIX", "RECORDS", "ROADMAPS")},
    **{f"{store}_ATTACHED": "boolean" for store in ("AGENTOS", "HELIX", "RECORDS", "ROADMAPS")},
}
PRODUCTION_ONLY = {"SECURE_SSL_REDIRECT": "boolean", "SECURE_HSTS_SECONDS": "whole"}


@pytest.mark.parametrize("name", sorted(environment.variables))
def test_ten_bad_values_of_every_variable(name: str) -> None:
    variable = environment.variables[name]
    bad = [*INVISIBLE, *BAD[{**KINDS, **PRODUCTION_ONLY}[name]]]
    assert len(set(bad)) >= 10
    for value in bad:
        with pytest.raises(ImproperlyConfigured) as refused:
            variable.read(value)
        sentence = str(refused.value)
        assert sentence.startswith(f"{name} "), sentence
        assert sentence.isprintable()
        assert len(sentence) < 500
        assert SECRET not in sentence
        assert re.search(r"\. Set it to .+\.$", sentence)


def test_every_variable_is_in_the_documentation() -> None:
    names = {*environment.variables, *PRODUCTION_ONLY} - {"OPSCONSOLE_POOL"}  # set by wsgi.py
    example = (ROOT / ".env.example").read_text()
    assert names - {"OPSCONSOLE_ENV_FILE"} == set(re.findall(r"^#?([A-Z][A-Z_]+)=", example, re.M))
    readme = (ROOT / "README.md").read_text()
    stores = ("AGENTOS_", "HELIX_", "RECORDS_", "ROADMAPS_")
    missing = [
        name for name in names if f"`{name}`" not in readme and not (name.startswith(stores) and "DATABASE" in name)
    ]
    assert {name for name in missing if not name.endswith("_ATTACHED")} == set()


def test_the_example_holds_values_that_can_be_read() -> None:
    example = (ROOT / ".env.example").read_text()
    for name, value in re.findall(r"^#([A-Z][A-Z_]+)=(.+)$", example, re.M):
        if name not in PRODUCTION_ONLY:
            environment.variables[name].read(value)


GOOD: list[tuple[env.Parser[Any], str, Any]] = [
    (env.boolean, "TRUE", True),
    (env.boolean, "off", False),
    (env.whole_number(1, 64), "007", 7),
    (env.number(0, 100), "2.5", 2.5),
    (env.listed(env.allowed_host), "a.example.org, .b.org,*,[::1]", ["a.example.org", ".b.org", "*", "[::1]"]),
    (
        env.listed(env.origin),
        "https://a.example.org:8443,https://*.b.org",
        ["https://a.example.org:8443", "https://*.b.org"],
    ),
    (env.sender, "Ops Console <ops@example.org>", "Ops Console <ops@example.org>"),
    (env.http_url, "http://user:pass@[::1]:80/x?y=z", "http://user:pass@[::1]:80/x?y=z"),
    (env.database_url, "sqlite:////data/a+b%20c.db", {"ENGINE": env.SQLITE, "NAME": "/data/a+b c.db"}),
    (
        env.database_url,
        "postgresql://u:a+b%40c@h1:1,h2:2/n?sslmode=require&pool_max=5&options=-c%20search_path%3Dapp",
        {
            "ENGINE": env.POSTGRESQL,
            "NAME": "n",
            "USER": "u",
            "PASSWORD": "a+b@c",
            "HOST": "h1,h2",
            "PORT": "1,2",
            "OPTIONS": {"sslmode": "require", "pool_max": 5, "options": "-c search_path=app"},
        },
    ),
    (
        env.database_url,
        "postgres:///n?host=/run/postgresql",
        {"ENGINE": env.POSTGRESQL, "NAME": "n", "USER": "", "PASSWORD": "", "HOST": "/run/postgresql", "PORT": ""},
    ),
]


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_good_values(parse: env.Parser[Any], text: str, value: Any) -> None:
    assert env.Variable("NAME", parse, secret=False).read(text) == value


def test_an_empty_variable_is_not_set() -> None:
    assert env.Environment({"N": ""})("N", env.whole_number(1, 2), 2) == 2


def test_mail_and_cache_urls() -> None:
    mail = env.email_url("smtp+tls://ops%40example.org:p%2Fw@mail.example.org")
    assert mail["EMAIL_HOST_USER"] == "ops@example.org"
    assert (mail["EMAIL_HOST_PASSWORD"], mail["EMAIL_PORT"], mail["EMAIL_USE_TLS"]) == ("p/w", 587, True)
    assert env.cache_url("redis:///run/redis.sock")["LOCATION"] == "unix:///run/redis.sock"
    assert env.cache_url("rediss://:x@h:6380/1?ssl_ca_certs=/ca.pem")["LOCATION"].startswith("rediss://:x@h:6380/1")


def test_the_env_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text('# comment\n\nexport A=1\nB=\'two words\'\nC="a\\"b"\nD=p#a$ss\nE=\nF=from file\n')
    values = {"F": "from the process"}
    env.read_file(file, values, required=True)
    assert values == {"A": "1", "B": "two words", "C": 'a"b', "D": "p#a$ss", "E": "", "F": "from the process"}
    for text in ("A=1\nhunter2\n", "A = 1\n", "=1\n", "1A=2\n"):
        file.write_text(text)
        with pytest.raises(
            ImproperlyConfigured, match=r"^Line \d of '.*' cannot be read\. Write it as NAME=value\.$"
        ) as bad:
            env.read_file(file, {}, required=True)
        assert "hunter2" not in str(bad.value)
    file.write_bytes(b"A=\xff")
    with pytest.raises(ImproperlyConfigured, match="UTF-8"):
        env.read_file(file, {}, required=True)
    env.read_file(tmp_path / "missing", {}, required=False)
    with pytest.raises(ImproperlyConfigured, match="does not exist"):
        env.read_file(tmp_path / "missing", {}, required=True)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OPSCONSOLE_WORKERS", "0", ["runs", "list"]),
        ("OPSCONSOLE_TIME_ZONE", "Mars/Base", ["help"]),
        ("EMAIL_URL", "smtp://u:hunter2@h:port", []),
        ("OPSCONSOLE_DATA_DIR", "/dev/null/data", ["stores"]),
        ("OPSCONSOLE_DATA_DIR", "/proc/x", ["setup"]),
        ("OPSCONSOLE_APPS", "nosuch", ["stores"]),
        ("OPSCONSOLE_APPS", "json", ["stores"]),
        ("OPSCONSOLE_APPS", "tasks.agentos", ["help"]),
        ("ROADMAPS_STUCK_AFTER_MINUTES", "2 h 30", ["stores", "--json"]),
    ],
)
def test_commands_exit_with_2(tmp_path: Path, name: str, value: str, words: list[str]) -> None:
    sentence = Shell(tmp_path, variables={name: value, "SECRET_KEY": ""}).refused(*words)
    assert "\n" not in sentence
    assert SECRET not in sentence
    assert name in sentence


@pytest.mark.parametrize(
    ("parse", "url"),
    [
        (env.database_url, "postgresql://u:hunter2@h:port/n"),
        (env.database_url, "postgresql://u:hunter2@h1:1,h2:0/n"),
        (env.http_url, "https://u:hunter2@h:99999/x"),
        (env.cache_url, "redis://:hunter2@h:0/0"),
        (env.email_url, "smtp://u:hunter2@h:port"),
    ],
)
def test_a_bad_port_is_named(parse: env.Parser[Any], url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        env.Variable("NAME", parse, secret=True).read(url)
    sentence = "NAME cannot be read. Set it to a URL whose port is a whole number from 1 to 65535."
    assert str(refused.value) == sentence


def test_a_data_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    for key in ("", "x" * 50):
        shell = Shell(tmp_path, variables={"OPSCONSOLE_DATA_DIR": "/proc/x", "SECRET_KEY": key})
        assert "OPSCONSOLE_DATA_DIR is '/proc/x'. This directory cannot be created" in shell.refused("setup")


def test_the_web_server_stops_with_the_message(tmp_path: Path) -> None:
    shell = Shell(tmp_path, variables={"HELIX_MAX_RETRY_COUNT": "-1"})
    command = [sys.executable, "-m", "gunicorn", "opsconsole.wsgi", "--bind", "127.0.0.1:0", "--no-control-socket"]
    done = subprocess.run(command, cwd=ROOT, env=shell.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "HELIX_MAX_RETRY_COUNT is '-1'. Set it to a whole number from 0 to 1000.\n" in done.stderr
    assert "Traceback" not in done.stderr
