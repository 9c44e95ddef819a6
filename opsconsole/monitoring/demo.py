"""Sample data of the dashboard: every check runs once, and every store is measured and backed up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from django.utils.translation import gettext as _

from opsconsole.engine import lifecycle, planner, registry, stored_plans
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.checks import Check
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Trigger
from opsconsole.engine.operation import Operation
from opsconsole.engine.registry import InvalidParameters
from opsconsole.monitoring import measurements
from opsconsole.monitoring.models import Measurement
from opsconsole.stores.router import use
from opsconsole.stores.store import StoreUnavailable, all_stores


def load() -> Iterator[str]:
    if Measurement.objects.exists():
        return
    scans = sum(run(cls) for cls in registry.operations().values() if issubclass(cls, Check))
    for store in all_stores():
        with suppress(StoreUnavailable):
            measurements.measure(store)
    backups = run(registry.operations()["backups.backup_store"])
    yield _("Console: %(scans)d checks were run, and %(backups)d stores were measured and backed up.") % {
        "scans": scans,
        "backups": backups,
    }


def run(cls: type[Operation]) -> int:
    """Run an operation for each of its scheduled parameters. Return the number of runs."""
    made = 0
    actor = Actor("demo", socket.gethostname(), Trigger.SHELL)
    for alias, values in registry.scheduled_runs(cls):
        with suppress(StoreUnavailable, InvalidParameters), use(alias):
            params = registry.clean(cls, values)
            planned = planner.plan(planner.operation_on(cls, stored_plans.store_for(cls, params), params))
            Executor(lifecycle.confirm(lifecycle.create_run(planned, actor), actor, background=False)).work()
            made += 1
    return made
