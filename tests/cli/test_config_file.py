"""`opsconsole.toml`: an error is one sentence with the file, the line and the key, and without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from opsconsole.config_file import ConfigFile
from opsconsole.env import Environment, number
from tests.support.subprocess_cli import Shell

PLATFORMS = ("shop", "bank")
SECRET = "hunter2"
URL = f"postgresql://u:{SECRET}@db.example.org/eu"


def _config(tmp_path: Path, text: str) -> ConfigFile:
    path = tmp_path / "opsconsole.toml"
    path.write_text(text)
    return ConfigFile(path)


def _stores(tmp_path: Path, text: str, **variables: str) -> Any:
    config = _config(tmp_path, text)
    found = config.stores(PLATFORMS, Environment(variables))
    config.refuse_unknown()
    return found


def _read_all(tmp_path: Path, text: str) -> None:
    config = _config(tmp_path, text)
    config.policy("SESSION_HOURS", number(0, 9), 1.0)
    config.stores(PLATFORMS, Environment({}))
    config.refuse_unknown()


def test_stores_of_the_file(tmp_path: Path) -> None:
    found = _stores(
        tmp_path,
        f'''[stores.other]
url = "sqlite:////srv/other.db"  # a store without a platform
[stores.shop_eu]
platform = "shop"
title = "Shop Europe"
url = "{URL}"
attached = false
[stores.shop_cn]
platform = "shop"
url_env = "CN_URL"
[stores.bank]
title = "The bank"
''',
        CN_URL="postgresql://u@cn/cn",
    )
    assert list(found) == ["shop_eu", "shop_cn", "bank", "other"]  # stores of one platform are neighbours
    eu, cn = found["shop_eu"], found["shop_cn"]
    assert (eu.platform, eu.title, eu.attached, eu.database["PASSWORD"]) == ("shop", "Shop Europe", False, SECRET)
    assert (cn.platform, cn.attached, cn.database["HOST"]) == ("shop", True, "cn")
    assert (found["bank"].title, found["bank"].attached, found["bank"].database) == ("The bank", False, None)
    assert (found["other"].platform, found["other"].attached) == ("", True)


def test_a_declared_store_replaces_the_embedded_store_of_its_platform(tmp_path: Path) -> None:
    eu = '[stores.shop_eu]\nplatform = "shop"\nurl = "sqlite:////eu.db"\n'
    assert list(_stores(tmp_path, eu)) == ["shop_eu", "bank"]
    assert list(_stores(tmp_path, eu + '[stores.shop]\ntitle = "embedded"\n')) == ["shop", "shop_eu", "bank"]
    for name, value in (("DATABASE_URL", "sqlite:////a.db"), ("ATTACHED", "true")):
        assert list(_stores(tmp_path, eu, **{f"SHOP_{name}": value})) == ["shop", "shop_eu", "bank"]
    other = '[stores.other]\nurl = "sqlite:////other.db"\n'
    assert list(_stores(tmp_path, other)) == ["shop", "bank", "other"]


def test_variables_take_precedence(tmp_path: Path) -> None:
    text = '[stores.shop_eu]\nplatform = "shop"\nurl = "sqlite:////a.db"\n'
    variables = {
        "SHOP_EU_DATABASE_URL": "sqlite:////b.db",
        "SHOP_EU_ATTACHED": "false",
        "SHOP_EU_DATABASE_PASSWORD": "x",
    }
    eu = _stores(tmp_path, text, **variables)["shop_eu"]
    assert (eu.database["NAME"], eu.attached, eu.password) == ("/b.db", False, "x")
    config = _config(tmp_path, "[policies]\nsession_hours = 2.5\n")
    assert config.policy("SESSION_HOURS", number(0, 9), 1.0) == 2.5
    config.refuse_unknown()


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("[stores.shop]\nurl = 1 2\n", 2, "", "valid TOML"),
        ("[stores.shop]\n[stores.shop]\n", 2, "", "valid TOML"),
        ("a = 1\n", 1, "a", "unknown"),
        ("\n[polices]\nx = 1\n", 2, "polices", "Known here: policies, stores"),
        ("[policies]\n# x\nsession_minutes = 1\n", 3, "policies.session_minutes", "session_hours"),
        ("[policies]\nsession_hours = -1\n", 2, "policies.session_hours", "a number from 0 to 9"),
        ("[policies]\nsession_hours = [1]\n", 2, "policies.session_hours", "not a single value"),
        ("[policies]\nsession_hours = 2020-01-01\n", 2, "policies.session_hours", "not a single value"),
        ("stores = 1\n", 1, "stores", "not a table"),
        ("[stores]\nshop = 1\n", 2, "stores.shop", "not a table"),
        (f'[stores.shop]\n\nurl = "mysql://u:{SECRET}@h/x"\n', 3, "stores.shop.url", "sqlite:////"),
        (f'stores.shop.url = "{SECRET}"\n', 1, "stores.shop.url", "sqlite:////"),
        (f'[stores]\nshop = {{title = "x", url = "{SECRET}"}}\n', 2, "stores.shop.url", "sqlite:////"),
        (f'[stores.shop]\nurl = "{URL}"\nurl_env = "X"\n', 3, "stores.shop.url_env", "Remove one"),
        ('[stores.shop]\nurl_env = "X"\n', 2, "stores.shop.url_env", "not set"),
        ('[stores.shop]\nurl_env = "X Y"\n', 2, "stores.shop.url_env", "name of an environment variable"),
        (f'[stores.shop]\nurl_env = "{URL}"\n', 2, "stores.shop.url_env", "name of an environment variable"),
        (f'[stores.shop]\nplatform = "{URL}"\n', 2, "stores.shop.platform", "Set it to shop"),
        (f'[stores."{URL}"]\n', 1, "stores.'…'", "not the name"),
        ('[stores.eu]\nplatform = "shp"\n', 2, "stores.eu.platform", "shop or bank"),
        ('[stores.shop]\nplatform = "bank"\n', 2, "stores.shop.platform", "Set it to shop"),
        ('[stores.eu]\nplatform = "shop"\n', 1, "stores.eu", "EU_DATABASE_URL"),
        ('[stores.eu]\nurl = "sqlite:////a"\nattached = false\n', 1, "stores.eu", "no platform"),
        ('[stores.eu]\nurl = "sqlite:////a"\nattached = "maybe"\n', 3, "stores.eu.attached", "true or false"),
        (f'[stores.eu]\nurl = "sqlite:////a"\nsecret = "{SECRET}"\n', 3, "stores.eu.secret", "unknown"),
        ('[stores.default]\nurl = "sqlite:////a"\n', 1, "stores.default", "not the name"),
        ('[stores."shop-eu"]\nurl = "sqlite:////a"\n', 1, "stores.shop-eu", "not the name"),
        ('[stores."a b/../c"]\nurl = "sqlite:////a"\n', 1, "stores.'a b/../c'", "not the name"),
        ('[stores.eu]\nurl = "sqlite:////a"\n[stores.eu.x]\ny = 1\n', 3, "stores.eu.x", "unknown"),
        ("x = " + "[" * 30000, 1, "", "valid TOML"),
        ("x = 1" + "0" * 5000, 1, "", "valid TOML"),
        ("#" * 70000, 0, "", "Shorten it"),
    ],
)
def test_an_error_names_file_line_and_key(tmp_path: Path, text: str, line: int, key: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        _read_all(tmp_path, text)
    sentence = str(refused.value)
    assert words in sentence
    assert f"'{tmp_path / 'opsconsole.toml'}'" in sentence
    assert f"{'in line' if key else 'Line'} {line} of" in sentence or not line
    assert sentence.startswith(f"{key} in line") or not key
    assert SECRET not in sentence
    assert sentence.isprintable()


def test_every_command_stops_with_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    shell = Shell(tmp_path / "console", variables={"OPSCONSOLE_CONFIG": str(path)})
    assert "does not exist" in shell.refused("stores")
    path.write_bytes(b"\xff")
    assert "UTF-8" in shell.refused("help")
    path.write_text(f'[stores.agentos_eu]\nplatform = "agentos"\nurl = "nonsense://{SECRET}"\n')
    assert f"stores.agentos_eu.url in line 3 of '{path}'" in shell.refused("setup")


def test_the_file_in_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "opsconsole.toml").write_text(
        f'[stores.agentos_eu]\nplatform = "agentos"\nurl = "sqlite:///{tmp_path}/eu.db"\nattached = false\n'
        f'[stores.shop]\nurl = "postgresql://u:{SECRET}@127.0.0.1:1/shop"\n'
        "[policies]\ntoken_days = 7\n"
    )
    shell = Shell(tmp_path)
    assert shell.run("setup").returncode == 0
    done = shell.run("stores", "--json")
    assert SECRET not in done.stdout + done.stderr
    found = {one["alias"]: one for one in json.loads(done.stdout)["stores"]}
    assert list(found) == ["default", "agentos_eu", "helix", "records", "roadmaps", "shop"]
    assert found["agentos_eu"]["managed"]
    assert found["agentos_eu"]["missing"] == []
    assert not found["shop"]["reachable"]
    printed = shell.run("shell", "-v", "0", "-c", "from django.conf import settings; print(settings.TOKEN_DAYS)")
    assert printed.stdout.strip() == "7"
