"""Take the figures that the front page shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from opsconsole.console.dashboard import Dashboard
from opsconsole.engine import notifications
from opsconsole.engine.operation import Action, NamedItem, NamedItemsMixin, Risk, Schedule
from opsconsole.engine.outcomes import Outcome, Skip
from opsconsole.monitoring import measurements
from opsconsole.monitoring.models import Measurement
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnavailable


class MeasureStores(NamedItemsMixin, Action):
    title = _("Measure the stores")
    description = _(
        "Takes the figures of the front page: sizes, what the schemas lack, and how many rows wait for each repair. "
        "Reads only; a store that is down keeps its old figures."
    )
    store_alias = DEFAULT
    model = Measurement
    risk = Risk.READ
    writes_store = False
    schedule = Schedule("*/15 * * * *")
    reasons = {"measured": _("measured"), "down": _("could not be asked")}

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        return {}

    def item_names(self) -> list[str]:
        return [DEFAULT, *settings.STORES]

    def process(self, row: NamedItem) -> Outcome:
        return Skip("measured")

    def perform(self, row: NamedItem) -> Outcome:
        try:
            measurements.measure(Store(row.name, row.name))
        except StoreUnavailable:  # its card says so already, and no run can mend it
            return Skip("down")
        return Skip("measured")

    def on_finish(self, run_id: int) -> None:
        """Whoever is on the alert list hears of overdue backups and crowded servers, once a day."""
        for line in Dashboard().alerts_due():
            key = f"{timezone.localdate():%Y-%m-%d} {line.store.alias} {line.code}"
            notifications.create_alert(
                key, f"{line.store.title}: {line.kind}", f"{line.store.location}\n{line.moved}".strip()
            )

    def action_label(self, count: int) -> Any:
        return _("Measure now")
