"""Copy the readable rows of a damaged SQLite file into a new one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.utils.translation import gettext as _

from opsconsole.backups import files
from opsconsole.stores.catalog import identifier
from opsconsole.stores.sqlite import tolerant_text
from opsconsole.stores.store import StoreUnavailable, require_file

PORTION = 1_000
LAST_ROWID = 1 << 62


@dataclass
class Saved:
    """The result: rows by table, and sentences about what could not be read or created."""

    rows: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def rebuild(damaged: Path, target: Path) -> Saved:
    """Copy table by table around the damage. `target` is renamed when it is complete."""
    require_file(damaged)
    if target.exists():
        raise StoreUnavailable(_("%(path)s already exists. Choose a new file.") % {"path": target})
    if not target.parent.is_dir():
        raise StoreUnavailable(
            _("%(path)s is not a directory. Create it or choose another one.") % {"path": target.parent}
        )
    draft = target.with_name(f"{target.name}.partial")
    if draft.exists():
        raise StoreUnavailable(_("%(path)s already exists. Choose a new file.") % {"path": draft})
    saved = Saved()
    # The file and its log must not change: a normal SQLite connection would recover or checkpoint them.
    address = f"file:{quote(str(damaged.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(draft)) as copy:
            source.text_factory = tolerant_text
            copy.isolation_level = None
            copy.execute("PRAGMA foreign_keys=OFF")
            _save(source, copy, saved)
        files.commit_file(draft, target)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(
            _("%(path)s cannot be written: %(reason)s. Check the disk.") % {"path": target, "reason": error}
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return saved


def _save(source: sqlite3.Connection, copy: sqlite3.Connection, saved: Saved) -> None:
    try:
        master = source.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master").fetchall()
        shadows = {row[1] for row in source.execute("PRAGMA table_list") if row[2] == "shadow"}
    except sqlite3.DatabaseError as error:
        raise StoreUnavailable(
            _("The list of tables cannot be read (%(reason)s). Restore a backup.") % {"reason": error}
        ) from error
    tables = [
        (name, sql)
        for kind, name, _table, root, sql in master
        if kind == "table" and root and sql and not name.startswith("sqlite_") and name not in shadows
    ]
    for name, sql in tables:
        copy.execute(sql)
        copy.execute("BEGIN")
        saved.rows[name] = sum(_insert(copy, name, portion, saved) for portion in _portions(source, name, sql, saved))
        copy.execute("COMMIT")
    later = {"index": 0, "table": 1, "trigger": 2, "view": 3}
    for kind, name, _table, root, sql in sorted(master, key=lambda row: later.get(row[0], 9)):
        if sql and (kind != "table" or not root):
            try:
                copy.execute(sql)
                if kind == "table":
                    made = [(one, text) for _kind, one, _of, _page, text in master if one in shadows]
                    own = [(one, text) for one, text in made if one.startswith(f"{name}_")]
                    _fill_virtual(source, copy, name, sql, own, saved)
            except sqlite3.DatabaseError as error:
                saved.lost.append(
                    _("%(kind)s %(name)s could not be created: %(reason)s")
                    % {"kind": kind, "name": name, "reason": error}
                )
    for text in [row[0] for row in copy.execute("PRAGMA integrity_check(20)")]:
        if text != "ok":
            saved.lost.append(text)
    for table, count in copy.execute('SELECT "table", COUNT(*) FROM pragma_foreign_key_check GROUP BY 1'):
        saved.lost.append(
            _("%(count)d rows of %(table)s refer to rows that do not exist") % {"table": table, "count": count}
        )


def _fill_virtual(
    source: sqlite3.Connection, copy: sqlite3.Connection, name: str, sql: str, shadows: list[Any], saved: Saved
) -> None:
    """Fill a full-text table from its own rows, its shadow tables, or the rows of its content table."""
    if f"{name}_content" in {shadow for shadow, _text in shadows}:
        columns = ["rowid", *_columns(source, name)]
        rows = source.execute(f"SELECT {', '.join(columns)} FROM {identifier(name)}").fetchall()
        saved.rows[name] = _insert(copy, name, (columns, rows), saved)
    elif "content=''" in sql.replace(" ", ""):
        for shadow, text in shadows:
            copy.execute(f"DELETE FROM {identifier(shadow)}")
            for portion in _portions(source, shadow, text, saved):
                _insert(copy, shadow, portion, saved)
    else:
        copy.execute(f"INSERT INTO {identifier(name)}({identifier(name)}) VALUES ('rebuild')")


def _columns(source: sqlite3.Connection, name: str) -> list[str]:
    """Return the stored columns, without generated and hidden ones."""
    rows = source.execute(f"PRAGMA table_xinfo({identifier(name)})").fetchall()
    return [identifier(row[1]) for row in rows if not row[6]]


def _insert(copy: sqlite3.Connection, name: str, portion: tuple[list[str], list[Any]], saved: Saved) -> int:
    columns, rows = portion
    marks = ", ".join("?" * len(columns))
    sql = f"INSERT INTO {identifier(name)} ({', '.join(columns)}) VALUES ({marks})"
    done = 0
    for row in rows:
        try:
            copy.execute(sql, row)
            done += 1
        except sqlite3.DatabaseError as error:
            saved.lost.append(_("%(table)s: a row could not be written: %(reason)s") % {"table": name, "reason": error})
    return done


def _portions(source: sqlite3.Connection, name: str, sql: str, saved: Saved) -> Iterator[tuple[list[str], list[Any]]]:
    columns = _columns(source, name)
    if "WITHOUT ROWID" in sql.upper():
        yield from _without_rowid(source, name, columns, saved)
        return
    columns = ["rowid", *columns]
    select = f"SELECT {', '.join(columns)} FROM {identifier(name)} WHERE rowid > ? ORDER BY rowid"
    last = -LAST_ROWID
    while True:
        rows: list[Any] = []
        try:
            for row in source.execute(select, [last]):
                rows.append(row)
                if len(rows) >= PORTION:
                    break
        except sqlite3.DatabaseError:
            if rows:
                last = rows[-1][0]
                yield columns, rows
            # The driver reads one row ahead: the next one may be readable alone.
            row, skipped = _next_readable(source, f"{select} LIMIT 1", last)
            if skipped:
                since = _("the beginning") if last == -LAST_ROWID else str(last)
                until = _("the end") if row is None else str(row[0])
                values = {"table": name, "since": since, "until": until}
                saved.lost.append(_("%(table)s: rows between %(since)s and %(until)s cannot be read") % values)
            if row is None:
                return
            rows = [row]
        if not rows:
            return
        last = rows[-1][0]
        yield columns, rows


def _next_readable(source: sqlite3.Connection, sql: str, last: int) -> tuple[Any, bool]:
    """Return the next readable row after `last`, None at the end, and whether damage precedes it.

    Steps double until a row is readable, then a binary search finds the first.
    """

    def read(rowid: int) -> Any:
        """Return the row after `rowid`, () at the end, None if it is damaged."""
        try:
            return source.execute(sql, [rowid]).fetchone() or ()
        except sqlite3.DatabaseError:
            return None

    row = read(last)
    if row is not None:
        return row or None, False
    base, step = max(last, 0), 1
    while (row := read(base + step)) is None:
        step *= 2
        if step > LAST_ROWID:
            return None, True
    low, high = base + step // 2, base + step  # damaged … readable
    while high - low > 1:
        middle = (low + high) // 2
        if (there := read(middle)) is None:
            low = middle
        else:
            high, row = middle, there
    return row or None, True


def _without_rowid(
    source: sqlite3.Connection, name: str, columns: list[str], saved: Saved
) -> Iterator[tuple[list[str], list[Any]]]:
    """Read a table from its beginning to the damage, and from its end back to it."""
    seen: set[Any] = set()
    key = [identifier(row[1]) for row in source.execute(f"PRAGMA table_info({identifier(name)})") if row[5]]
    for order in ("ASC", "DESC"):
        rows: list[Any] = []
        by = ", ".join(f"{column} {order}" for column in key)
        try:
            for row in source.execute(f"SELECT {', '.join(columns)} FROM {identifier(name)} ORDER BY {by}"):
                if row in seen:
                    break
                rows.append(row)
        except sqlite3.DatabaseError as error:
            seen.update(rows)
            yield columns, rows
            if order == "ASC":
                saved.lost.append(
                    _("%(table)s: rows in the middle cannot be read: %(reason)s") % {"table": name, "reason": error}
                )
            continue
        yield columns, rows
        return
