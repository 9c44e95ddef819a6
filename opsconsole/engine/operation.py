"""The declaration of operations: `Operation`, `Action` and `NamedItemsMixin`.

`Declaration` is what an author writes. docs/writing-operations.md explains it with complete examples.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from django import forms
from django.apps import apps
from django.core.exceptions import EmptyResultSet
from django.db import models
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, ngettext_lazy

from opsconsole.engine import keyset
from opsconsole.engine.causes import Cause
from opsconsole.engine.outcomes import Done, Outcome
from opsconsole.engine.selection import Selection
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key
from opsconsole.stores.store import Store

DEFAULT_BATCH_SIZE = 1_000
FAST_BATCH_SIZE = 4_000  # of a run that no other client waits for
LONG_CLUSTER = "long"


class Risk(models.TextChoices):
    """The damage that an operation can do, least first. It determines the confirmation that a run needs."""

    READ = "read", _("read-only")
    REPRODUCE = "reproduce", _("reproducible")
    FILL = "fill", _("fills empty columns")
    CHANGE = "change", _("changes values")
    DELETE = "delete", _("deletes rows")
    EXTERNAL = "external", _("external side effects")


class Priority(models.TextChoices):
    """The urgency of a problem, most urgent first."""

    IMMEDIATE = "immediate", _("critical")
    PLANNED = "planned", _("this week")
    PERIODIC = "periodic", _("low priority")


def _without_params() -> Iterable[Mapping[str, Any]]:
    return [{}]


class Schedule(NamedTuple):
    """A cron rule, off until a user turns it on. `params` returns the parameters of each run that it starts."""

    cron: str
    params: Callable[[], Iterable[Mapping[str, Any]]] = _without_params


class Declaration:
    """The part of an operation that its author writes. Only the first six attributes and `process` have no default."""

    # --- required -----------------------------------------------------------------------------------------

    # An imperative verb and its object, in one line.
    title: ClassVar[Any]
    # The effect of the operation, and what it leaves unchanged.
    description: ClassVar[Any]
    # The platform whose stores it works on. Without it, the parameter `store` names the store.
    store_alias: ClassVar[str]
    # The table whose rows the operation works on. For an aggregate, the table of its root.
    model: ClassVar[type[models.Model]]
    # Table → columns that may change. Nothing else is written. No columns with Risk.DELETE: whole rows.
    writes: Mapping[str, tuple[str, ...]] = {}
    risk: ClassVar[Risk]

    def process(self, row: Any) -> Outcome:
        """Return the outcome of a row. A pure function; if it raises, the row has failed."""
        raise NotImplementedError

    # --- rows and figures -----------------------------------------------------------------------------------

    # Columns that `process` needs in addition to the key and `writes`. If it needs other tables: model → columns.
    reads: tuple[str, ...] | Mapping[type[models.Model], tuple[str, ...]] = ()
    # Code → label, of reasons of outcomes and codes of findings.
    reasons: ClassVar[Mapping[str, Any]] = {}
    # Code → label, of the figures in `statistics`.
    statistic_labels: ClassVar[Mapping[str, Any]] = {"in_scope": _("in scope")}

    def population(self) -> QuerySet[Any]:
        """Return the rows that the figures describe."""
        return self.model._default_manager.using(self.store.alias)

    def queryset(self) -> QuerySet[Any]:
        """Return the rows of the population that need work: the scope."""
        return self.population()

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Return the next `limit` rows behind the key `after`, in a constant number of statements.

        An aggregate overrides it and reads all its parts.
        """
        with self.store.keyset_planner_hints():
            return keyset.load(keyset.between(rows, after, bound)[:limit], row_columns(self))

    def label(self, row: Any) -> str:
        """Return the name of a row in lists."""
        return str(row.pk)

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        """Return the figures before and after a run. `in_scope` counts the rows that still need work.

        `restrict` limits a queryset to the selected rows of the plan. A whole number is compared with the plan; a
        text or a fraction, such as a time, is only displayed.
        """
        return {"in_scope": restrict(self.queryset()).count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """Return what is wrong after the last batch, in sentences. `left` counts the rows that are explained."""
        remaining = after["in_scope"] - left
        if remaining <= 0:
            return []
        return [
            ngettext(
                "%(count)d row is still in scope. Run the operation again.",
                "%(count)d rows are still in scope. Run the operation again.",
                remaining,
            )
            % {"count": remaining}
        ]

    # --- behaviour ------------------------------------------------------------------------------------------

    # A Django form. Each field is a field of the plan page and a flag of the command.
    Params: type[forms.Form] = forms.Form
    schedule: ClassVar[Schedule | None] = None
    # If set, the rows in scope form an incident with this cause.
    problem: ClassVar[Cause | None] = None
    # The text of the button that starts the run. Placeholders: `count`, `store`; `number` chooses the plural form.
    action_label: Any = ngettext_lazy("Change %(count)s row", "Change %(count)s rows", "number")
    # The result of a run, with the same placeholders: "12 audits filled".
    done_label: Any = None
    # If False, a run keeps no before-images, and the operation must be idempotent.
    undoable: bool = True
    # If set, the fixed batch size. `--batch-size` is refused.
    batch_size: int | None = None
    # If True, users can select rows that are not in scope. The plan shows the outcome of each.
    allow_out_of_scope: ClassVar[bool] = False
    # Names that a run locks in addition to the tables of `writes`.
    locks: ClassVar[tuple[str, ...]] = ()
    # If True, a run of selected rows locks only these rows instead of the tables.
    locks_rows: ClassVar[bool] = False
    # If False, the operation writes elsewhere, and the store may be read-only.
    writes_store: ClassVar[bool] = True
    # A permission that planning and confirming require, in addition to `operate_run`.
    permission: str = ""
    # If True, a run in production needs a second approver at any risk.
    always_approved: bool = False
    # If True, the operation makes a backup itself, and no other backup is required.
    creates_backup: bool = False
    # LONG_CLUSTER if one row can take longer than a few minutes.
    cluster: ClassVar[str] = ""

    @property
    def requires_note(self) -> bool:
        """Return whether a user must give a reason before the run is confirmed."""
        return False

    @property
    def requires_typing(self) -> bool:
        """Return whether the confirmation must be typed although the run can be undone."""
        return False

    def check_prerequisites(self) -> None:
        """Raise PlanRefused if the operation cannot work on this store. The planner calls it before it counts rows."""

    def freeze(self) -> None:
        """Save the rows that `frozen` refers to. The engine calls it when a plan becomes a run."""

    def plan_notes(self, total: int) -> list[str]:
        """Return sentences for the plan of `total` rows."""
        return []

    def checklist_facts(self, rows: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        """Return item of the checklist → facts about `rows`, in sentences."""
        return {}

    def on_finish(self) -> None:
        """Do what remains after the last batch of a run."""

    @classmethod
    def result_details(cls, run_id: int) -> dict[str, Any]:
        """Return what a run produced in addition to changed rows, such as a file."""
        return {}

    @classmethod
    def result_notes(cls, figures: Mapping[str, int]) -> list[str]:
        """Return closing sentences about the figures of a run."""
        return []

    # --- what the methods can use ---------------------------------------------------------------------------

    store: Store
    params: dict[str, Any]
    selection: Selection
    # The time of the plan. A run that resumes later sees the same "now".
    as_of: datetime
    # What `check_prerequisites` has read once and the run uses again, as JSON. It is a part of the plan.
    frozen: dict[str, Any]
    # The run that executes the operation; None in a plan.
    run_id: int | None = None


class Operation(Declaration):
    """An operation on a store, as the engine uses it. Authors do not need the members of this class."""

    # <app>.<verb_object>, after the module of the class.
    name: ClassVar[str]
    # The rows are rows of `model`, and users can select among them.
    selectable: ClassVar[bool] = True
    # The step of an `Action`.
    perform: Callable[[Any], Outcome] | None = None

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            package, _dot, module = cls.__module__.rpartition(".operations.")
            app = apps.get_containing_app_config(package) if apps.apps_ready else None
            cls.name = f"{app.label if app else package.rpartition('.')[2]}.{module}"
        if ".operations." in cls.__module__:
            _refuse_unknown_names(cls)

    @classmethod
    def cause_called(cls, code: str) -> Cause | None:
        """Return the declared cause with this code."""
        return cls.problem

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        self.store = store
        self.params = dict(params or {})
        self.selection = Selection()
        self.as_of = timezone.now()
        self.frozen = {}

    @classmethod
    def required_permissions(cls) -> list[str]:
        """Return the permissions that planning and confirming require."""
        return ["operations.operate_run", *([cls.permission] if cls.permission else [])]

    def bound(self) -> Key | None:
        """Return the last key that the plan covers, or None. Later rows are not touched."""
        return keyset.last_key(self.population())

    @classmethod
    def key_of_finding(cls, table: str, key: str, data: Mapping[str, Any]) -> str | None:
        """Return the key of the row that a repair of a finding works on; None if it does not repair the finding."""
        return key if table == cls.model._meta.db_table else None

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        """Return the rows with one of `keys`."""
        return keyset.with_keys(self.population() if self.allow_out_of_scope else rows, keys)

    def targets(self) -> list[Target]:
        """Return the kind of change that a run makes to each table. An action makes none itself."""
        if self.perform is not None:
            return []
        found = []
        for table, columns in self.writes.items():
            if inserts(self.store, table, columns):
                found.append(Target("insert", table, columns))
            elif columns:
                found.append(Target("update", table, columns))
            elif self.risk == Risk.DELETE:
                found.append(Target("delete", table))
        return found

    def effective_risk(self) -> Risk:
        """Return the risk of this plan. An undo or a retry may delete rows although its class does not."""
        return self.risk

    @property
    def superusers_only(self) -> bool:
        """Return whether only a superuser may confirm this plan."""
        return False


def row_columns(operation: Declaration) -> tuple[str, ...]:
    """Return the columns of `model` that a row carries in addition to its key."""
    reads, table = operation.reads, operation.model._meta.db_table
    own = reads.get(operation.model, ()) if isinstance(reads, Mapping) else reads
    return tuple(dict.fromkeys((*own, *operation.writes.get(table, ()))))


def depends_on_row_alone(operation: Operation, rows: QuerySet[Any]) -> bool:
    """Return whether the outcome of a row, and whether `rows` contains it, depend on no other row."""
    if type(operation).fetch is not Operation.fetch or isinstance(operation.reads, Mapping):
        return False
    try:
        sql = rows.query.get_compiler(rows.db).as_sql()[0].upper()
    except EmptyResultSet:  # no row is selected
        return False
    return sql.count("SELECT ") == 1 and " JOIN " not in sql


def inserts(store: Store, table: str, columns: tuple[str, ...]) -> bool:
    """Return whether a run that writes `columns` of `table` inserts rows: only an insert writes a key."""
    return table in store.tables and not set(columns).isdisjoint(store.key_columns(table))


def _refuse_unknown_names(cls: type[Operation]) -> None:
    """Raise TypeError for a public name that no base class has: a misspelt hook would never be called."""
    known = {name for base in cls.__mro__[1:] for name in (*vars(base), *inspect.get_annotations(base))}
    for name in (*vars(cls), *inspect.get_annotations(cls)):
        if not name.startswith("_") and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise TypeError(
                f"{cls.__name__} declares `{name}`, which no operation has.{hint} "
                "Start the names of your own methods and attributes with an underscore."
            )


class NamedItem(NamedTuple):
    """An item of a list that an operation works on instead of rows: its place, from 1, and its name."""

    pk: int
    name: str


class NamedItemsMixin(Operation):
    """An operation on a short list of names instead of rows."""

    selectable = False
    batch_size: int | None = 1

    def item_names(self) -> Sequence[str]:
        """Return the names, in order. The same parameters give the same names."""
        raise NotImplementedError

    def population(self) -> QuerySet[Any]:
        return self.model._default_manager.using(self.store.alias).none()

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        return rows  # `_items` selects

    def _items(self) -> list[NamedItem]:
        keys = self.selection.keys
        items = [NamedItem(place, name) for place, name in enumerate(self.item_names(), 1)]
        return [item for item in items if keys is None or item.pk in keys]

    def bound(self) -> Key | None:
        return len(self.item_names()) or None

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        return [item for item in self._items() if item.pk > int(after or 0)][:limit]

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        return {"in_scope": len(self._items())}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return []

    def label(self, row: Any) -> str:
        return str(row.name)


class Action(Operation):
    """An operation that performs a step per row instead of row changes: set-based SQL, a file, an external call.

    If a worker dies, another one repeats the step, so `perform` must be idempotent.
    """

    undoable = False
    batch_size: int | None = 1

    def process(self, row: Any) -> Outcome:
        """Return what `perform` would do: Done, Skip or Invalid. It only reads."""
        return Done()

    def perform(self, row: Any) -> Outcome:
        """Perform the step and return its outcome. If it raises, the row has failed."""
        raise NotImplementedError
