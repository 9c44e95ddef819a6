"""Models of tables that no app declares, made from the catalog of the store.

A model belongs to no app, and no registry of Django knows it. Its fields are called `c0`, `c1` … in the order of the
columns, because a column may have any name. Names are quoted here: Django would not double a quote inside them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from django.apps.registry import Apps
from django.db import models
from django.utils.translation import gettext as _

from opsconsole.stores.catalog import Column, Table, quote
from opsconsole.stores.fields import RawTextField
from opsconsole.stores.models import StoreModel
from opsconsole.stores.rows import Key, composite_key, key_parts, plain_key
from opsconsole.stores.store import Store, StoreUnavailable

ADDRESS = "address"  # the field of a row's address, in a table without a key


class TableModel(StoreModel):
    """A table of a store. Values are whole numbers and texts: every other type is read as text."""

    table: ClassVar[Table]
    columns: ClassVar[dict[str, str]]  # column → field
    has_key: ClassVar[bool]  # False: the address of a row is its key, which changes when the row is written

    class Meta:
        abstract = True


def table_model(store: Store, name: str) -> type[TableModel]:
    """Return the model of a table. The same declaration has the same model.

    Raise StoreUnavailable for an unknown table, and for one whose rows have neither a key nor an address.
    """
    if name not in store.tables:
        raise StoreUnavailable(_("%(location)s has no table %(table)s.") % {"location": store.location, "table": name})
    table = store.tables[name]
    address = "" if table.identity else _address(store, table)
    if not table.identity and not address:
        raise StoreUnavailable(
            _("%(table)s of %(location)s has no key that identifies its rows. Add a primary key or a unique index.")
            % {"table": name, "location": store.location}
        )
    return _model(store.name, store.vendor, table.sql, table.identity, address, tuple(table.items()))


def key_of(row: TableModel) -> Key:
    """Return the key of a row: one value, or for several columns a JSON array as text."""
    return composite_key(row.pk) if isinstance(row.pk, tuple) else plain_key(row.pk)


def pk_of(model: type[TableModel], key: Key) -> Any:
    """Return a key as the value of `pk` in a filter."""
    if not isinstance(model._meta.pk, models.CompositePrimaryKey):
        return models.Value(key) if isinstance(key, str) else key
    return tuple(models.Value(part) if isinstance(part, str) else part for part in key_parts(key))


def _address(store: Store, table: Table) -> str:
    """Return the column that addresses the rows of a table without a key; empty if there is none."""
    if store.vendor == "sqlite":
        return table.rowid
    return "ctid" if table.kind == "table" and not table.children else ""


@lru_cache(maxsize=1_000)
def _model(
    store: str, vendor: str, sql: str, identity: tuple[str, ...], address: str, columns: tuple[tuple[str, Column], ...]
) -> type[TableModel]:
    names = {column: f"c{place}" for place, (column, _declared) in enumerate(columns)}
    key = identity[0] if len(identity) == 1 else ""
    attributes: dict[str, Any] = {
        names[column]: _field(vendor, declared)(
            verbose_name=column,
            db_column=quote(column),
            primary_key=column == key,
            null=declared.nullable and column != key,
        )
        for column, declared in columns
    }
    if len(identity) > 1:
        attributes["pk"] = models.CompositePrimaryKey(*(names[column] for column in identity))
    if address:
        field = models.BigIntegerField if vendor == "sqlite" else RawTextField
        attributes[ADDRESS] = field(verbose_name=address, db_column=quote(address), primary_key=True)
    meta = {"app_label": "table_models", "apps": Apps(), "db_table": sql, "managed": False}
    return type(
        "StoreTable",
        (TableModel,),
        {
            "__module__": __name__,
            "Meta": type("Meta", (), meta),
            "store": store,
            "columns": names,
            "has_key": not address,
            **attributes,
        },
    )


def _field(vendor: str, column: Column) -> type[models.Field[Any, Any]]:
    if vendor == "sqlite":
        # The driver converts a type by its first word, such as `timestamp`.
        return models.BigIntegerField if "INT" in column.type.upper().partition(" ")[0] else RawTextField
    return models.BigIntegerField if column.is_whole_number else RawTextField
