"""The safeguards of deletes: whole rows as before-images, references, triggers, and the trial restore."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine.errors import RunRefused
from opsconsole.engine.recovery import concerns_rows
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.errors import first_line
from opsconsole.stores.preflight import Target
from opsconsole.stores.rows import RowKey, RowsChanged, Write
from opsconsole.stores.store import Store, text_of


class DeleteRefused(RunRefused):
    """A delete whose rows cannot be restored exactly."""


class _TrialSucceeded(Exception):
    """The signal that rolls a trial back to its savepoint."""


def with_whole_rows(store: Store, write: Write) -> Write:
    """Return a delete with whole rows as before-images. Raises RowsChanged for rows that have changed."""
    stored = store.tables[write.table].stored
    columns = (*stored, *(name for name in write.columns if name not in stored))
    found = stored_rows.read(store, write.table, columns, [row[0] for row in write.rows])
    judged = [columns.index(name) for name in write.columns]
    unmet: dict[RowKey, Exception | None] = {}
    held: dict[RowKey, tuple[object, ...] | None] = {}
    for key, old, _new in write.rows:
        row = found.get(key)
        # Compared as text: SQLite may hold a number where its text was processed.
        if row is None or [text_of(row[place]) for place in judged] != list(map(text_of, old or ())):
            unmet[write.table, key] = stored_rows.WriteIgnored(
                _("A row of %(table)s cannot be read exactly, so an undo could not restore it. It was not changed.")
                % {"table": write.table}
            )
            held[write.table, key] = row
    if unmet:
        raise RowsChanged(unmet, held=held)
    kept = len(stored)
    return Write(write.table, stored, [(row[0], found[row[0]][:kept], None) for row in write.rows])


def require_unreferenced(store: Store, write: Write, deletes: list[Write], written: Collection[str]) -> None:
    """Raise RowsChanged for rows that other rows, outside the before-image, refer to.

    `written` are the tables that the operation may write: their rows are read again. Rows of other tables refuse the
    delete.
    """
    going = {one.table: [row[0] for row in one.rows] for one in deletes}
    unmet: dict[RowKey, Exception | None] = {}
    refused: dict[RowKey, Exception] = {}
    for reference in store.foreign_keys:
        if not store.is_parent(reference, write.table):
            continue
        child = stored_rows.known_table(store, reference)
        referring = stored_rows.references(
            store, reference, write.table, going[write.table], but=going.get(child or "", ())
        )
        for key, found in referring.items():
            reason = stored_rows.StillReferenced(
                ngettext(
                    "%(count)d row of %(child)s refers to it and would be changed with it. It was not changed.",
                    "%(count)d rows of %(child)s refer to it and would be changed with it. It was not changed.",
                    len(found),
                )
                % {"count": len(found), "child": reference.child}
            )
            if child in written:
                unmet[write.table, key] = reason
            else:
                refused[write.table, key] = reason
    if unmet or refused:
        raise RowsChanged(unmet, refused)


@contextmanager
def every_delete_recorded(store: Store, targets: Iterable[Target], deletes: list[Write]) -> Iterator[None]:
    """Fail if a trigger deletes rows of the operation's targets that the before-image does not hold.

    Cascades need no check: a row that others refer to is not deleted without them.
    """
    fired = {one.name: write.table for write in deletes for one in store.triggers(write.table, "DELETE")}
    tables = [target.table for target in targets if target.kind == "delete"] if fired else []
    before = {table: stored_rows.deleted(store, table) for table in tables}
    yield
    for table, count in before.items():
        recorded = sum(len(write.rows) for write in deletes if write.table == table)
        if stored_rows.deleted(store, table) - count > recorded:
            raise stored_rows.UnrecordedDelete(
                _(
                    "Deleting it makes a trigger (%(names)s) delete other rows of %(table)s that have no "
                    "before-image. It was not changed."
                )
                % {"names": ", ".join(sorted(fired)), "table": table}
            )


def try_restore(store: Store, deletes: list[Write], *, first_batch: bool) -> None:
    """Restore deleted rows behind a savepoint, then roll back. Raises DeleteRefused if the first batch fails.

    A later batch continues without the row.
    """
    table = ""
    try:
        with transaction.atomic(using=store.alias):
            restores = [Write(one.table, one.columns, one.reversed().rows[::-1]) for one in reversed(deletes)]
            for write in restores:
                table = write.table
                stored_rows.write(store, write)
            stored_rows.check_deferred(store)
            for write in restores:
                stored_rows.verify(store, write)
            raise _TrialSucceeded
    except _TrialSucceeded:
        return
    except Exception as error:
        if not first_batch or not concerns_rows(error):
            raise
        reasons = [error, *error.refused.values()] if isinstance(error, RowsChanged) else [error]
        raise DeleteRefused(
            _("Deleted rows of %(table)s cannot be restored exactly. Nothing was deleted. Reason: %(reason)s")
            % {
                "table": table,
                "reason": next(
                    (first_line(one) for one in reversed(reasons) if str(one)),
                    _("the rows are missing after the restore."),
                ),
            }
        ) from error
