"""The obstacles of a plan or of a run as pages show them: a sentence, and the button that removes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from django.urls import reverse
from django.utils.translation import gettext as _

from opsconsole.engine import registry
from opsconsole.engine.errors import TargetLocked
from opsconsole.engine.models import Run
from opsconsole.engine.obstacles import Obstacle, Remedy
from opsconsole.stores.platforms import store_title

BACKUP_STORE = "backups.backup_store"


class ShownObstacle(NamedTuple):
    """A sentence, and the link or the button that removes the obstacle if there is one."""

    text: str
    label: str = ""
    url: str = ""
    posted: Mapping[str, str] | None = None  # the values of a form; None for a link


def shown(obstacle: Obstacle, run: Run, *, may_operate: bool, may_plan: bool) -> ShownObstacle:
    """Return an obstacle with what this user may do about it. `may_plan`: the user may replace the plan."""
    text, remedy = str(obstacle.error), obstacle.remedy
    if remedy == Remedy.UNFREEZE:
        return ShownObstacle(text, _("View freeze"), reverse("freeze"))
    if remedy == Remedy.STORE:
        return ShownObstacle(text, _("Check the store"), f"{reverse('stores')}#{run.store}")
    if isinstance(obstacle.error, TargetLocked):
        holder = obstacle.error.holder
        return ShownObstacle(text, _("View run %(run)d") % {"run": holder}, reverse("run", args=[holder]))
    if remedy == Remedy.PLAN_AGAIN and may_plan:
        return ShownObstacle(text, _("Plan again"), reverse("run-replan", args=[run.pk]), {})
    if remedy == Remedy.BACKUP and may_operate and not run.attached_path and BACKUP_STORE in registry.operations():
        label = _("Back up %(store)s…") % {"store": store_title(run.store)}
        return ShownObstacle(text, label, reverse("plan", args=[BACKUP_STORE]), {"asked": "1", "store": run.store})
    return ShownObstacle(text)
