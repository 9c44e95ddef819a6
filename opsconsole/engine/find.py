"""Search by identifier: rows, runs and incidents, by indexed columns, in every store that the account may see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, InterfaceError, models
from django.utils.translation import gettext as _

from opsconsole.engine import find_tables, incidents, repairs, written_rows
from opsconsole.engine.find_tables import MAX_COUNT
from opsconsole.engine.models import Incident, Run
from opsconsole.engine.written_rows import WrittenRow
from opsconsole.formatting import format_number
from opsconsole.stores.errors import first_line
from opsconsole.stores.indexes import indexes
from opsconsole.stores.platforms import StoreAppConfig, platform_apps
from opsconsole.stores.rows import Key, plain_key
from opsconsole.stores.store import Store, StoreUnavailable

MAX_LENGTH = 300  # characters of an identifier
SHOWN_ROWS = 20  # of one column
_QUOTES = {'""', "''", "``", "“”", "‘’", "«»", "「」"}


class Hit(NamedTuple):
    """A row with the identifier, or the rows of a table that refer to it."""

    model: type[models.Model]
    store: str
    key: Any  # None: `rows` rows whose `column` holds the identifier
    column: str
    rows: int
    incident: Incident | None = None

    @property
    def table(self) -> str:
        return str(self.model._meta.db_table)


class TableHit(NamedTuple):
    """Rows of a store without a platform whose `column` holds the identifier."""

    store: str
    table: str
    column: str
    field: str  # of the model of the table
    rows: int
    key: Key | None  # if the column is the key of the table
    incident: Incident | None = None


class Found(NamedTuple):
    """The answer to one search."""

    text: str
    hits: list[Hit]
    table_hits: list[TableHit]
    runs: list[Run]
    incidents: list[Incident]
    deletions: list[WrittenRow]  # of rows with this key, if none exists
    searched: list[str]  # what was searched: table and column
    unsearched: dict[str, str]  # store or column → the reason

    @property
    def all_hits(self) -> list[Hit | TableHit]:
        return [*self.hits, *self.table_hits]

    @property
    def is_empty(self) -> bool:
        return not (self.hits or self.table_hits or self.runs or self.incidents or self.deletions)

    @property
    def not_asked(self) -> list[str]:
        """Return the stores that did not answer."""
        return [alias for alias in settings.STORES if alias in self.unsearched]

    @property
    def incidents_of_rows(self) -> list[Incident]:
        """Return the open incidents about the rows that were found."""
        found = {hit.incident.pk for hit in self.hits if hit.incident is not None}
        return list(Incident.objects.filter(pk__in=found).worst_first()) if found else []

    @property
    def single_incident(self) -> Incident | None:
        """Return the only open incident about what was found."""
        about = self.incidents_of_rows
        return (
            about[0]
            if len(about) == 1 and not (self.table_hits or self.runs or self.incidents or self.deletions)
            else None
        )


def count_text(rows: int) -> str:
    """Return a number of rows as text, with a plus sign if there may be more."""
    return f"{format_number(rows)}+" if rows >= MAX_COUNT else format_number(rows)


def find(text: str, user: Any) -> Found:
    """Search for an identifier. `user` is an account; None, as in the shell, may see everything."""
    text = identifier(text)
    found = Found(text, [], [], [], [], [], [], {})
    if not text or re.search("[\x00\ud800-\udfff]", text):  # no store holds it
        return found
    number = text.removeprefix("#")
    if number.isascii() and number.isdecimal() and len(number) < 19 and _may(user, "operations.view_run"):
        found.runs.extend(Run.objects.filter(pk=int(number)).without_documents())
        found.incidents.extend(Incident.objects.filter(pk=int(number)))
        found.searched.extend(["operations.run", "operations.incident"])
    missing: list[tuple[str, str, Key]] = []
    for store in map(Store.called, settings.STORES):
        try:
            store.require_file()
            if not store.platform and _may(user, "stores.browse_store"):
                found.table_hits.extend(_table_hits(store, text, found, missing))
            for app in platform_apps(store.platform):
                found.hits.extend(_hits(app, store, text, user, found, missing))
        except (StoreUnavailable, DatabaseError, InterfaceError) as error:
            found.unsearched[store.alias] = first_line(error)
    if _may(user, "operations.view_run") and all(hit.key is None for hit in found.all_hits):
        found.deletions.extend(written_rows.deletions(missing))
    return found


def identifier(text: str) -> str:
    """Return a pasted identifier without the spaces, quotes and commas around it."""
    text = text.strip().rstrip(",;").strip()
    while len(text) > 1 and f"{text[0]}{text[-1]}" in _QUOTES:
        text = text[1:-1].strip()
    return text[:MAX_LENGTH]


def _hits(
    app: StoreAppConfig, store: Store, text: str, user: Any, found: Found, missing: list[tuple[str, str, Key]]
) -> Iterator[Hit]:
    identity, known = store.identity(), indexes(store).values()
    sees_incidents = _may(user, "operations.view_run")
    for model in app.get_models():
        table, key = model._meta.db_table, model._meta.pk
        if getattr(model, "store", None) != store.platform or not _may(
            user, f"{app.label}.view_{model._meta.model_name}"
        ):
            continue
        columns = store.tables.get(table)
        if columns is None:
            continue
        for name in [key.name, *app.identifiers.get(str(model._meta.model_name), ())]:
            field: Any = model._meta.get_field(name)
            column, value = field.column, _value(field, text)
            if value is None or column not in columns:
                continue
            by_key = columns.key[:1] == (column,)
            if not by_key and not any(index.table == table and index.finds(column) for index in known):
                found.unsearched[f"{store.name}: {table}.{column}"] = _("The column has no index.")
                continue
            found.searched.append(f"{store.name}: {table}.{column}")
            rows = model._default_manager.using(store.alias).filter(**{name: value}).order_by()
            if name == key.name:
                keys = list(rows.values_list("pk", flat=True)[:SHOWN_ROWS])
                if not keys:
                    missing.append((identity, table, plain_key(value)))
                for pk in keys:
                    incident = _open_incident(identity, table, pk) if sees_incidents else None
                    yield Hit(model, store.name, pk, name, 1, incident)
            elif count := rows[:MAX_COUNT].count():
                yield Hit(model, store.name, None, name, count)


def _table_hits(store: Store, text: str, found: Found, missing: list[tuple[str, str, Key]]) -> Iterator[TableHit]:
    identity = store.identity()
    places = find_tables.places(store, text)
    found.unsearched.update((f"{store.name}: {table}", reason) for table, reason in places.unsearched.items())
    for place, rows in find_tables.count(store, places.searched):
        found.searched.append(f"{store.name}: {place.table}.{place.column}")
        if rows:
            key = place.value if place.is_key else None
            yield TableHit(store.name, place.table, place.column, place.field, rows, key)
        elif place.is_key:
            missing.append((identity, place.table, place.value))


def _open_incident(identity: str, table: str, key: Any) -> Incident | None:
    found = incidents.incidents_of_row(identity, table, key).active().worst_first().first()
    return found or repairs.incident_of_waiting_row(identity, table, key)


def _value(field: Any, text: str) -> Any:
    """Return the identifier as the column's type, or None if it cannot be one."""
    try:
        value = field.to_python(text)
    except (ValidationError, ValueError, TypeError, OverflowError):
        return None
    if isinstance(value, int) and (str(value) != text or not -(2**63) <= value < 2**63):
        return None
    return value


def _may(user: Any, permission: str) -> bool:
    return user is None or bool(user.has_perm(permission))
