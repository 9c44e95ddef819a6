"""The errors of the engine that concern a run."""

from __future__ import annotations


class RunRefused(Exception):
    """A run that cannot be started or changed as requested."""


class PlanDrifted(RunRefused):
    """A store whose rows differ from the confirmed plan."""


class TargetLocked(RunRefused):
    """A target that the run `holder` has locked."""

    def __init__(self, text: str, holder: int) -> None:
        super().__init__(text)
        self.holder = holder
