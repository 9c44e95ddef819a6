"""Backups are written to configured directories only, and their files are not published."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles.finders import get_finder
from django.test import Client
from django.urls import reverse

from opsconsole.backups import folders
from opsconsole.console.middleware import StaticFilesMiddleware
from opsconsole.console.static_files import PUBLISHED, manifest, publish, storage
from opsconsole.engine.models import Run, Status
from opsconsole.stores.models import Backup
from opsconsole.stores.store import StoreUnavailable
from tests.support.contract import execute_run, operation_called, plan_whole
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture
def roots(tmp_path: Path, settings: Any) -> tuple[Path, Path, Path]:
    """Create two configured directories and one outside, with links between them."""
    one, two, outside = (tmp_path / name for name in ("one", "two", "outside"))
    for folder in (one / "sub", two, outside):
        folder.mkdir(parents=True)
        (folder / "file.gz").write_bytes(b"x")
    (one / "to_two").symlink_to(two)
    (one / "away").symlink_to(outside)
    (one / "away.gz").symlink_to(outside / "file.gz")
    settings.BACKUP_FOLDERS = [one, two]
    settings.DATA_DIR = tmp_path / "data"
    return one, two, outside


OUTSIDE = ["..", "../outside", "sub/../../outside", "away", "away.gz", "away/file.gz", "../one/../outside", "a\0b"]


@pytest.mark.parametrize("text", OUTSIDE)
def test_paths_outside_the_folders_are_refused(roots: Any, text: str) -> None:
    for form in (text, f"{roots[0]}/{text}"):
        with pytest.raises(
            StoreUnavailable, match=r"is not in .*\. Choose a path there, or add its directory to BACKUP_FOLDERS\.$"
        ):
            folders.below(form)


def test_a_path_of_the_system_is_refused(roots: Any) -> None:
    for text in ("/etc", "/", "/etc/passwd"):
        with pytest.raises(StoreUnavailable, match="is not in"):
            folders.below(text)


def test_paths_inside_the_folders_are_accepted(roots: Any) -> None:
    one, two, _outside = roots
    assert folders.below("sub") == one / "sub"
    assert folders.below("sub/file.gz") == one / "sub" / "file.gz"
    assert folders.below("file.gz") == two / "file.gz", "the folder in which it exists"
    assert folders.below(str(two / "file.gz")) == two / "file.gz"
    assert folders.below("to_two/file.gz") == two / "file.gz"
    assert folders.folder_of("") == one
    assert set(folders.listed_files()) == {"sub/file.gz", "file.gz"}
    assert folders.listed_folders()[:2] == [str(one), str(one / "sub")]


def test_backup_files_are_readable_by_the_console_only(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path / "data"
    before = os.umask(0)
    try:
        run = execute_run(operation_called("backups.backup_store", store="default"))
    finally:
        os.umask(before)
    path = Path(Backup.objects.get(run=run).path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent == tmp_path / "data" / "backups"
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("folder", ["static", "/etc", "../outside"])
def test_the_console_is_not_backed_up_into_another_folder(roots: Any, settings: Any, bob: Any, folder: str) -> None:
    target = settings.STATIC_ROOT if folder == "static" else folder
    Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)
    with pytest.raises(StoreUnavailable, match="is not in"):
        plan_whole(operation_called("backups.backup_store", store="default", to=str(target)))
    client = Client()
    client.force_login(bob, "django.contrib.auth.backends.ModelBackend")
    client.post(reverse("plan", args=["backups.backup_store"]), {"asked": "1", "store": "default", "to": str(target)})
    assert not Run.objects.exclude(status=Status.PLANNED).exists()


def test_the_browser_picks_from_a_list(roots: Any, alice: Any) -> None:
    client = Client()
    client.force_login(alice, "django.contrib.auth.backends.ModelBackend")
    page = client.post(reverse("plan", args=["backups.restore_store"])).content.decode()
    assert '<option value="sub/file.gz">' in page
    assert '<input type="text" name="file"' not in page
    page = client.post(
        reverse("plan", args=["backups.restore_store"]), {"asked": "1", "store": "agentos", "file": "/etc/passwd"}
    ).content.decode()
    assert "is not in" in page


def test_exactly_the_files_of_the_manifest_are_served(settings: Any) -> None:
    root = Path(settings.STATIC_ROOT)
    (root / "stolen.sqlite3").write_bytes(b"x")
    (root / "opsconsole" / "stolen.css").write_bytes(b"x")
    try:
        served = StaticFilesMiddleware(lambda _: None)
        named = json.loads((root / "staticfiles.json").read_text())["paths"]
        assert set(served.files) == {f"/static/{name}" for names in named.items() for name in names}
        for name in (
            "stolen.sqlite3",
            "opsconsole/stolen.css",
            "staticfiles.json",
            PUBLISHED,
            "",
            "../default.sqlite3",
        ):
            assert Client().get(f"/static/{name}").status_code == 404, name
        settings.DEBUG = True  # from the installed packages
        served = StaticFilesMiddleware(lambda _: None)
        assert list(served.candidate_paths_for_url("/static/stolen.sqlite3")) == []
        assert list(served.candidate_paths_for_url("/static/opsconsole/console.css"))
    finally:
        (root / "stolen.sqlite3").unlink()
        (root / "opsconsole" / "stolen.css").unlink()


def test_hashed_static_files_are_cached_forever(client: Any) -> None:
    page = client.get(reverse("admin:login")).content.decode()
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert links
    for link in links:
        assert re.search(r"\.[0-9a-f]{12}\.\w+$", link), link
        answer = client.get(link)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
    plain = client.get("/static/opsconsole/console.css")
    assert "max-age=60" in plain.headers["Cache-Control"]


def test_static_files_of_an_upgrade_are_published_at_the_next_start(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    finders = settings.STATICFILES_FINDERS
    settings.STATICFILES_FINDERS = [*finders, "django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATICFILES_DIRS = [package]
    get_finder.cache_clear()  # type: ignore[attr-defined]
    try:
        for content in ("a{}", "b{c:d}"):
            (package / "upgraded.css").write_text(content)
            publish()
            assert manifest()[storage.hashed_files["upgraded.css"]].read_text() == content
    finally:
        settings.STATICFILES_DIRS, settings.STATICFILES_FINDERS = [], finders
        get_finder.cache_clear()  # type: ignore[attr-defined]
        publish()


@pytest.mark.parametrize("folder", ["data", "data/static", "data/static/x"])
def test_backups_do_not_share_the_static_folder(tmp_path: Path, folder: str) -> None:
    shell = Shell(tmp_path / "data", variables={"BACKUP_FOLDERS": str(tmp_path / folder)})
    sentence = shell.refused("stores")
    assert sentence.startswith("BACKUP_FOLDERS contains ")
    assert "\n" not in sentence
