"""An operation, declared: which rows, what becomes of each, what may be written, how one sees that it worked.

It knows no run, no request and no queue. `docs/writing-operations.md` shows a whole one.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from django import forms
from django.apps import apps
from django.db import models
from django.db.models import QuerySet
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy

from opsconsole.engine.outcomes import Change, Changes, Delete, Done, Outcome, RowChange
from opsconsole.formatting import format_number
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import Key, plain_key
from opsconsole.stores.sqlite import RAW_KEY
from opsconsole.stores.store import Store

DEFAULT_BATCH_SIZE = 1_000
LONG_CLUSTER = "long"


class Risk(models.TextChoices):
    """What can go wrong, worst last. It decides what the console asks before execution."""

    READ = "read", _("reads only")
    MAKE = "make", _("makes what can be made again")
    FILL = "fill", _("fills empty columns")
    CHANGE = "change", _("changes values")
    DELETE = "delete", _("deletes rows")
    OUTSIDE = "outside", _("reaches outside; can't be undone")


class Priority(models.TextChoices):
    """How soon a finding should be seen to, most urgent first."""

    IMMEDIATE = "immediate", _("immediate")
    PLANNED = "planned", pgettext_lazy("priority", "planned")
    PERIODIC = "periodic", _("periodic")


class Problem(NamedTuple):
    """What rows in scope mean where they should not be there: what they are called, and how soon to see to them."""

    kind: Any
    priority: str = Priority.PLANNED.value


class Schedule(NamedTuple):
    """When the operation runs by itself, once somebody has switched it on."""

    cron: str


class Operation:
    """The declaration. The module's name is the operation's, and the class's is the same in capitals."""

    title: ClassVar[Any]  # one line: an imperative verb and its object
    description: ClassVar[Any]
    store_alias: ClassVar[str]
    model: ClassVar[type[models.Model]]  # the table whose rows are the rows, or their roots
    reads: ClassVar[tuple[str, ...]] = ()  # columns that `change` sees, beside key and `writes`
    writes: Mapping[str, tuple[str, ...]] = {}  # table → columns that may change
    risk: ClassVar[Risk]  # of its kind; what is asked before execution follows `effective_risk`
    undoable: bool = True
    batch_size: int | None = None  # set: fixed, and --batch-size is refused
    locks: ClassVar[tuple[str, ...]] = ()  # what a run holds beside the tables of `writes`
    locks_rows: ClassVar[bool] = False  # a run of chosen keys locks only these, not the whole table
    writes_store: ClassVar[bool] = True  # False: it only reads the store, which may be read-only, and writes elsewhere
    creates_backup: bool = False  # it makes a backup itself before it writes
    selectable: ClassVar[bool] = True  # its rows are rows of `model`, and people may choose among them
    allow_out_of_scope: ClassVar[bool] = False  # chosen rows need not be in scope: what becomes of each is said of each
    pin_rows: ClassVar[bool] = False  # a row that is no longer as the plan showed it is skipped: for few, dear rows
    cluster: ClassVar[str] = ""  # LONG_CLUSTER where one row may take more than minutes
    rejudges: ClassVar[bool] = True  # what is still in scope after a run is judged once more, to explain it
    targets_run: ClassVar[bool] = False  # its rows come from another run: parameter `run`
    schedule: ClassVar[Schedule | None] = None
    problem: ClassVar[Problem | None] = None  # set: rows in scope stand on the front page
    reasons: ClassVar[Mapping[str, Any]] = {}  # code → words, of skips, invalid rows and kinds of change
    statistic_labels: ClassVar[Mapping[str, Any]] = {"in_scope": _("in scope")}  # figure → words
    volatile_statistics: frozenset[str] = frozenset()  # figures that move by themselves, such as times: never compared
    Params: type[forms.Form] = forms.Form
    perform: Callable[[Any], Outcome] | None = None  # does a row itself, instead of row changes: see `Act`
    run_id: int | None = None  # the run that works on it; none while it is planned
    selected = False  # whether somebody chose among its rows
    _chosen: Collection[Key] | None = None  # the keys, where somebody named them

    name: ClassVar[str]  # <app>.<verb_object>, from where the class stands

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            package, _dot, module = cls.__module__.rpartition(".operations.")
            app = apps.get_containing_app_config(package) if apps.apps_ready else None
            cls.name = f"{app.label if app else package.rpartition('.')[2]}.{module}"
        if ".operations." in cls.__module__:
            _refuse_unknown_names(cls)

    def __init__(self, store: Store, params: Mapping[str, Any] | None = None) -> None:
        self.store = store
        self.params = dict(params or {})
        self.as_of = timezone.now()  # when it was planned: a run that goes on later sees the same "now"

    # --- what an operation says ---------------------------------------------------------------------

    def population(self) -> QuerySet[Any]:
        """The rows that the figures are about. Default: every row of `model`."""
        return self.model._default_manager.using(self.store.alias)

    def queryset(self) -> QuerySet[Any]:
        """The rows of the domain with which there is something to do."""
        return self.population()

    def process(self, row: Any) -> Outcome:
        """Return what happens to `row`. A pure function; if it raises an error, the row has failed."""
        raise NotImplementedError

    def outcome(self, row: Any) -> Outcome:
        """Return what `process` decides, with the table of `model` where a change names none."""
        found = self.process(row)
        if isinstance(found, Change | Delete):
            table = self.model._meta.db_table
            return Changes([RowChange(table, *one[1:]) for one in found.rows], found.reason)
        return found

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, Any]:
        """Figures shown before and after; `in_scope` is what is still to do. Numbers, or words where none say it.

        `restrict` keeps a queryset to what was selected and planned.
        """
        return {"in_scope": restrict(self.queryset()).count()}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        """What is wrong after the last batch, in sentences. `left`: rows of which the store says why they stayed."""
        remaining = after["in_scope"] - left
        if remaining <= 0:
            return []
        return [
            ngettext(
                "%(count)d row in scope still waits: run the operation again.",
                "%(count)d rows in scope still wait: run the operation again.",
                remaining,
            )
            % {"count": remaining}
        ]

    def effective_risk(self) -> Risk:
        """Return what can go wrong with this very plan: an undo or a retry may delete where its class says less."""
        return self.risk

    @property
    def superusers_only(self) -> bool:
        """Return whether only a superuser may confirm this plan."""
        return False

    @property
    def pins_rows(self) -> bool:
        """Whether the plan keeps what it showed of each row, and a run touches exactly these as they were."""
        return self.pin_rows or self.effective_risk() in {Risk.DELETE, Risk.OUTSIDE}

    @property
    def requires_note(self) -> bool:
        """Whether nobody may confirm it without saying why."""
        return False

    def checklist_facts(self, rows: QuerySet[Any]) -> Mapping[str, Sequence[str]]:
        """Item of the checklist (see `checklist.py`) → what the operation can say about it, of `rows`."""
        return {}

    def on_finish(self, run_id: int) -> None:
        """Called after the last batch of a run, before it ends."""

    @classmethod
    def result_details(cls, run_id: int) -> dict[str, Any]:
        """What a run left beside changed rows, such as a file: shown at its end."""
        return {}

    @classmethod
    def schedule_params(cls) -> Iterable[Mapping[str, Any]]:
        """The parameters of what its schedule starts: a run each."""
        return [{}]

    def action_label(self, count: int) -> str:
        """What the button says: a verb and the figure."""
        return ngettext("Change %(count)s row", "Change %(count)s rows", count) % {"count": format_number(count)}

    @classmethod
    def result_notes(cls, figures: Mapping[str, int]) -> list[str]:
        """Closing sentences about the figures, such as a share."""
        return []

    def plan_notes(self, total: int) -> list[str]:
        """Sentences for the plan, about this store and this many rows."""
        return []

    # --- what the engine asks; an operation whose rows are no rows overrides it ---------------------------

    def bound(self) -> Key | None:
        """The last row that the plan covers: rows made later are not touched."""
        # Not MAX(), which PostgreSQL before 18 has not for UUIDs.
        last = self.population().order_by("-pk").values_list("pk", flat=True).first()
        return None if last is None else plain_key(last)

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        """Those that have one of `keys`: of `rows`, or of all with `takes_chosen`."""
        self._chosen = keys
        return (self.population() if self.allow_out_of_scope else rows).filter(pk__in=list(map(as_stored, keys)))

    def up_to(self, rows: QuerySet[Any], bound: Key) -> QuerySet[Any]:
        return rows.filter(pk__lte=as_stored(bound))

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """The next `limit` rows behind `after`, in the order of their `pk`: a constant number of statements."""
        with self.store.keyset_planner_hints():
            return self.named(self.behind(rows, after=after, bound=bound)[:limit])

    def behind(self, rows: QuerySet[Any], *, after: Key | None, bound: Key) -> QuerySet[Any]:
        """The rows behind `after`, up to `bound`, in the order of their keys."""
        covered = self.up_to(rows, bound).order_by("pk")
        return covered if after is None else covered.filter(pk__gt=as_stored(after))

    def named(self, rows: QuerySet[Any]) -> list[Any]:
        """Read `rows` as rows: the key, plain, and `columns`."""
        found = list(rows.values_list("pk", *self.columns, named=True))
        if found and not isinstance(found[0].pk, int | str):
            return [row._replace(pk=plain_key(row.pk)) for row in found]
        return found

    def next_key(self, rows: QuerySet[Any], *, after: Key | None, bound: Key) -> Key | None:
        """The key of the next row behind `after`, whatever else it holds."""
        key = self.behind(rows, after=after, bound=bound).values_list("pk", flat=True).first()
        return None if key is None else plain_key(key)

    def label(self, row: Any) -> str:
        """How people call the row."""
        return str(row.pk)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `model` that a row carries."""
        written = self.writes.get(self.model._meta.db_table, ())
        return tuple(dict.fromkeys((*self.reads, *written)))

    def needs(self) -> dict[type[models.Model], Iterable[str]]:
        """Model → columns that the store must have."""
        return {self.model: (str(self.model._meta.pk.column), *self.columns)}

    def targets(self) -> list[Target]:
        """What a run does to which table, beside reading. Empty for what writes no rows by itself."""
        if self.perform is not None:
            return []
        found = []
        for table, columns in self.writes.items():
            if self.inserts(table):
                found.append(Target("insert", table, tuple(columns)))
            elif columns:
                found.append(Target("update", table, tuple(columns)))
            elif self.risk == Risk.DELETE:
                found.append(Target("delete", table))
        return found

    def read_columns(self) -> list[tuple[str, str]]:
        """Table and column of what the store must let us read."""
        return [(model._meta.db_table, column) for model, columns in self.needs().items() for column in columns]

    def inserts(self, table: str) -> bool:
        """Whether it makes rows of `table`: nothing else writes a key."""
        return table in self.store.tables and self.store.key_column(table) in self.writes[table]

    @classmethod
    def resolve_store(cls, params: Mapping[str, Any]) -> Store:
        """The store that is worked on, unless the caller names one."""
        return Store(cls.store_alias, cls.store_alias)

    @property
    def key_name(self) -> str:
        """The name of the row's key."""
        return str(self.model._meta.pk.column)


def _refuse_unknown_names(cls: type[Operation]) -> None:
    """Raise an error for a public name that no base class declares: a misspelt hook would never be called."""
    known = {name for base in cls.__mro__[1:] for name in (*vars(base), *inspect.get_annotations(base))}
    for name in (*vars(cls), *inspect.get_annotations(cls)):
        if not name.startswith("_") and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise TypeError(
                f"{cls.__name__} declares `{name}`, which no operation has.{hint} "
                "Start the names of its own methods and attributes with an underscore."
            )


def as_stored(key: Key) -> Any:
    """A key for a filter: a text goes to the database as it is, though the model may expect a number."""
    if isinstance(key, str) and key.startswith(RAW_KEY):  # a text of SQLite that is not UTF-8
        raw = bytes.fromhex(key.removeprefix(RAW_KEY))
        return Cast(models.Value(raw, models.BinaryField()), models.TextField())
    return models.Value(key) if isinstance(key, str) else key


class NamedItem(NamedTuple):
    """A row that is no row: its place in the operation's own list, from 1, and its name there."""

    pk: int
    name: str


class NamedItemsMixin(Operation):
    """An operation whose rows are a short list of its own instead of rows."""

    selectable = False
    batch_size: int | None = 1

    def item_names(self) -> Sequence[str]:
        """Their names, in order; the same for the same parameters."""
        raise NotImplementedError

    def population(self) -> QuerySet[Any]:
        return self.model._default_manager.using(self.store.alias).none()

    _only: frozenset[Key] | None = None

    def select(self, rows: QuerySet[Any], keys: Sequence[Key]) -> QuerySet[Any]:
        self._only = frozenset(keys)
        return rows

    def _listed_items(self) -> list[NamedItem]:
        listed = [NamedItem(place, name) for place, name in enumerate(self.item_names(), 1)]
        return [row for row in listed if self._only is None or row.pk in self._only]

    def bound(self) -> Key | None:
        return len(self.item_names()) or None

    def fetch(self, rows: QuerySet[Any], *, after: Key | None, bound: Key, limit: int) -> list[Any]:
        return [row for row in self._listed_items() if row.pk > int(after or 0)][:limit]

    def statistics(self, restrict: Callable[[QuerySet[Any]], QuerySet[Any]]) -> dict[str, int]:
        return {"in_scope": len(self._listed_items())}

    def verify(self, after: Mapping[str, int], left: int) -> list[str]:
        return []

    def label(self, row: Any) -> str:
        return str(row.name)


class Action(Operation):
    """Does its rows itself, without row changes and before-images: set-based SQL, a file, a reach outside.

    A row whose worker died is done again: `act` must be idempotent.
    """

    undoable = False
    batch_size: int | None = 1

    def process(self, row: Any) -> Outcome:
        """Return what would happen: Done, Skip or Invalid. Read only."""
        return Done()

    def perform(self, row: Any) -> Outcome:
        """Do it, and say what became of it. What it raises sets the row aside."""
        raise NotImplementedError
