"""Retention of backups: old ones are deleted, the newest ones are kept."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone

from opsconsole.engine.models import Status
from opsconsole.stores.models import Backup
from tests.support.contract import execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])


def test_old_backups_are_deleted_and_the_newest_are_kept(tmp_path: Path) -> None:
    for identity in ("one", "two"):
        for days in (1, 40, 50, 60):
            path = tmp_path / f"{identity}-{days}"
            path.write_text("x")
            at = timezone.now() - timedelta(days=days)
            Backup.objects.create(store="agentos", identity=identity, path=str(path), size=1, at=at, verified_at=at)
    (tmp_path / "two-60").unlink()
    run = execute_run(operation_called("backups.prune_backups", days="30", newest="2"))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 4)
    left = sorted(Path(path).name for path in Backup.objects.values_list("path", flat=True))
    assert left == sorted(file.name for file in tmp_path.iterdir()) == ["one-1", "one-40", "two-1", "two-40"]
    assert execute_run(operation_called("backups.prune_backups", days="30", newest="2")).total == 0


def test_incomplete_files_are_deleted_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path)
    folder = tmp_path / "backups"
    folder.mkdir()
    for name in ("agentos-1.partial.dump", "x.restoring", "agentos-2.partial.dump", "agentos-1-damaged"):
        (folder / name).write_text("x")
    long_ago = (timezone.now() - timedelta(days=3)).timestamp()
    for name in ("agentos-1.partial.dump", "x.restoring", "agentos-1-damaged"):
        os.utime(folder / name, (long_ago, long_ago))
    execute_run(operation_called("backups.prune_backups"))
    assert {file.name for file in folder.iterdir()} == {"agentos-2.partial.dump", "agentos-1-damaged"}
