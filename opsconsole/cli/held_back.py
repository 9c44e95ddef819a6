"""Commands of libraries that this console holds back: they would do without a run what needs one."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError


class HeldBack(BaseCommand):
    """Refuses, whatever its words, in a sentence that says what to do instead."""

    sentence: ClassVar[Any]

    def run_from_argv(self, argv: list[str]) -> None:
        self.stderr.write(str(self.sentence))
        sys.exit(2)

    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError(str(self.sentence), returncode=2)
