"""`manage.py` in a separate process, with a separate console."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import forking

TOKEN = """
from django.contrib.auth.models import User
from opsconsole.accounts.models import Token
print(Token.issue(User.objects.get(username="{name}"), "tests"))
"""
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Shell:
    """A console in `folder` and its commands. `console` is a database to copy."""

    folder: Path
    console: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.console is not None:
            shutil.copyfile(self.console, self.folder / "default.sqlite3")

    @property
    def environment(self) -> dict[str, str]:
        unset = ("DATABASE_URL", "_ATTACHED")
        inherited = {name: value for name, value in os.environ.items() if not name.endswith(unset)}
        return {**inherited, "OPSCONSOLE_DATA_DIR": str(self.folder), **self.variables}

    def as_account(self, name: str) -> Shell:
        """Return the same console with an API token of this account."""
        made = self.run("shell", "-v", "0", "-c", TOKEN.format(name=name))
        assert made.returncode == 0, made.stderr
        return Shell(self.folder, variables={**self.variables, "OPSCONSOLE_TOKEN": made.stdout.strip()})

    def start(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *map(str, words)],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return forking.run("manage.py", [*map(str, words)], self.environment)

    def json(self, *words: object, code: int = 0) -> Any:
        """Run a command with --json and return its JSON object."""
        done = self.run(*words, "--json")
        assert done.returncode == code, done.stderr
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def refused(self, *words: object) -> str:
        """Run a command that must be refused, and return its sentence."""
        done = self.run(*words)
        assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr.strip()


@contextmanager
def nothing_appears(*folders: Path) -> Iterator[None]:
    """Fail if a file in these directories is created, deleted or changed."""
    before = {folder: _files(folder) for folder in folders}
    yield
    for folder in folders:
        assert _files(folder) == before[folder]


def _files(folder: Path) -> dict[str, bytes | int]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.lstat().st_mode
        for path in sorted(folder.rglob("*"))
    }
