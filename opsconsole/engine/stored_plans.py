"""Plans stored in runs: saved, found again, and read back as plans and operations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine import registry
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import ENDED, PinnedRows, Run, Status
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import Plan, PlanRefused, operation_on, store_called
from opsconsole.engine.selection import Selection
from opsconsole.stores.router import aliases_of, is_chosen
from opsconsole.stores.store import Store, attach_file

# The fields of a plan that `Run.plan` stores under the same names.
STORED = (
    "counted",
    "reasons",
    "sample",
    "batches",
    "seconds",
    "cursor",
    "rows_digest",
    "rows",
    "amount",
    "notes",
    "restorable",
)


def get_run(number: int) -> Run:
    """Return the run with this number. Raises RunRefused."""
    run = Run.objects.filter(pk=number).first()
    if run is None:
        raise RunRefused(_("Run %(run)d does not exist. List the runs with `runs list`.") % {"run": number})
    return run


def store_for(cls: type[Operation], params: Mapping[str, Any]) -> Store:
    """Return the store that the operation `cls` with these parameters works on."""
    if registry.targets_run(cls):
        return store_of(get_run(params["run"]))
    alias = getattr(cls, "store_alias", None)
    if alias is not None:
        store = Store.current(alias)
        if not is_chosen(alias):
            raise PlanRefused(
                _("%(platform)s has several stores: %(names)s. Choose one of them.")
                % {"platform": alias, "names": ", ".join(aliases_of(alias))}
            )
        return store
    if not params["store"]:
        raise PlanRefused(_("No store is given. Start this operation from a row or from a list of rows."))
    return store_called(params["store"])


def store_of(run: Run, *, ask_server: bool = True) -> Store:
    """Return the store of a run. Raises RunRefused if it is a different database.

    Pages pass `ask_server=False`: they show stored data and do not wait for the server.
    """
    if run.attached_path:
        cls = registry.operations().get(run.operation)
        store = attach_file(
            run.store,
            run.attached_path,
            read_only=cls is not None and (issubclass(cls, Check) or not cls.writes_store),
        )
    else:
        store = Store.called(run.store)
    if (ask_server or store.path is not None) and store.identity() != run.identity:
        raise RunRefused(
            _(
                "%(location)s is not the database of run %(run)d. The file was replaced, or the store points to "
                "another database."
            )
            % {"location": run.location, "run": run.pk}
        )
    return store


def operation_of(run: Run, *, ask_server: bool = True) -> Operation:
    """Return the operation of a run, with its parameters, on its store."""
    cls = registry.operation(run.operation)
    operation = operation_on(cls, store_of(run, ask_server=ask_server), run.params)
    operation.as_of, operation.frozen = datetime.fromisoformat(run.plan["as_of"]), run.plan["frozen"]
    return operation


def fingerprint(operation: Operation, selection: Selection) -> str:
    """Return a digest of operation, database, parameters and selection, which identify a command."""
    parts = [operation.name, operation.store.identity(), operation.params, selection.as_json()]
    return hashlib.sha256(orjson.dumps(parts, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()


def same_command(operation: Operation, selection: Selection) -> Run | None:
    """Return the unfinished run of the same command, or None."""
    unfinished = Run.objects.exclude(status__in=(*ENDED, Status.PLANNED))
    return unfinished.filter(fingerprint=fingerprint(operation, selection)).order_by("-pk").first()


def plan_of(run: Run) -> Plan:
    """Return the stored plan, to count it further or to compare it."""
    stored = {name: run.plan[name] for name in STORED if name in run.plan}
    return Plan(operation_of(run), Selection(**run.selection), run.bound, run.before, **stored)


def store_plan(run: Run, planned: Plan) -> None:
    """Copy the plan into `run` without saving it."""
    run.bound = planned.bound
    run.total = planned.total
    run.before = planned.before
    run.digest = planned.digest()
    run.plan = {
        **{name: getattr(planned, name) for name in STORED},
        "planned_at": timezone.now().isoformat(),
        "as_of": planned.operation.as_of.isoformat(),
        "frozen": planned.operation.frozen,
    }


def keep_pinned(run: Run, planned: Plan) -> None:
    """Save the rows that `planned` has pinned since the last call."""
    PinnedRows.keep(run, planned.pinned)
    planned.pinned.clear()
