"""Measure the stores for the dashboard and for alerts."""

from __future__ import annotations

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from opsconsole.engine import messages
from opsconsole.engine.models import ReportedProblem
from opsconsole.engine.operation import Action, NamedItem, NamedItemsMixin, Risk, Schedule
from opsconsole.engine.outcomes import Outcome, Skip
from opsconsole.monitoring import measurements
from opsconsole.monitoring.models import Measurement
from opsconsole.monitoring.store_problems import StoreStates
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, StoreUnavailable


class MeasureStores(NamedItemsMixin, Action):
    title = _("Measure the stores")
    description = _(
        "Measures the size of each store, its missing tables and columns, and the number of rows that need a repair. "
        "It changes no store. An unreachable store keeps its previous measurements."
    )
    store_alias = DEFAULT
    model = Measurement
    risk = Risk.READ
    action_label = _("Measure now")
    writes_store = False
    schedule = Schedule("*/15 * * * *")
    reasons = {"measured": _("measured"), "down": _("unreachable")}

    def item_names(self) -> list[str]:
        return [DEFAULT, *settings.STORES]

    def process(self, row: NamedItem) -> Outcome:
        return Skip("measured")

    def perform(self, row: NamedItem) -> Outcome:
        try:
            measurements.measure(Store.called(row.name))
        except StoreUnavailable:  # the dashboard reports it, and a run cannot repair it
            return Skip("down")
        return Skip("measured")

    def on_finish(self) -> None:
        """Report the problems of the stores, and those that are over."""
        ReportedProblem.objects.filter(about="stores").exclude(key__in=self.item_names()).delete()
        messages.report("stores", lambda: [problem.message() for problem in StoreStates().problems()])
