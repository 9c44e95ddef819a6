"""Disabled commands of libraries: they would change or export rows without a run."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError


class HeldBack(BaseCommand):
    """A command that refuses with a sentence about the alternative."""

    sentence: ClassVar[Any]

    def run_from_argv(self, argv: list[str]) -> None:
        self.stderr.write(str(self.sentence))
        sys.exit(2)

    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError(str(self.sentence), returncode=2)
