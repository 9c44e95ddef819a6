"""Take the figures that the front page shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from opsconsole.care import measuring
from opsconsole.care.models import Measurement
from opsconsole.operations.base import Act, Item, Listed, Outcome, Risk, Schedule, Skip
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnusable


class MeasureStores(Listed, Act):
    title = _("Measure the stores")
    description = _(
        "Takes the figures of the front page: sizes, what the schemas lack, and how many rows wait for each repair. "
        "Reads only; a store that is down keeps its old figures."
    )
    store = DEFAULT
    model = Measurement
    risk = Risk.READ
    touches_store = False
    schedule = Schedule("*/15 * * * *")
    reasons = {"measured": _("measured"), "down": _("could not be asked")}

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {}

    def items(self) -> list[str]:
        return [DEFAULT, *settings.STORES]

    def change(self, unit: Item) -> Outcome:
        return Skip("measured")

    def act(self, unit: Item) -> Outcome:
        try:
            measuring.measure(Store(unit.name, unit.name))
        except StoreUnusable:  # its card says so already, and no run can mend it
            return Skip("down")
        return Skip("measured")

    def action_label(self, count: int) -> Any:
        return _("Measure now")
