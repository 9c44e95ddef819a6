"""What the content tables hold of roadmaps, and what a framework says beside it: one reading, one judgement.

Both sides of everything in this app: the sync writes what `Content.wanted` says, the checks compare with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from django.db import OperationalError
from django.db.models import Model

from opsconsole.stores.store import Store
from opsconsole.timestamps import parse_timestamp
from roadmaps.models import QuizMetadata, ResourceRecommendationMetadata, RoadmapMetadata, TutorialMetadata
from roadmaps.times import moved_at

COMPLETED, FAILED = "completed", "failed"


class Part(NamedTuple):
    """One of the three things that a concept has, by its keys in the framework."""

    name: str
    status: str
    reference: str
    copied: tuple[str, ...]  # keys whose values come from the row, beside the reference
    counted: str  # its key in a task's summary


PARTS = (
    Part("tutorial", "content_status", "tutorial_id", ("content_ref", "content_version"), "tutorial_count"),
    Part("resources", "resources_status", "resources_id", ("resources_count",), "resource_count"),
    Part("quiz", "quiz_status", "quiz_id", ("quiz_questions_count",), "quiz_count"),
)

# Columns that are read, by table.
NEEDS: dict[type[Model], tuple[str, ...]] = {
    RoadmapMetadata: ("roadmap_id", "framework_data"),
    TutorialMetadata: (
        "tutorial_id",
        "concept_id",
        "roadmap_id",
        "content_url",
        "content_status",
        "content_version",
        "generated_at",
    ),
    ResourceRecommendationMetadata: ("id", "concept_id", "roadmap_id", "resources_count", "generated_at"),
    QuizMetadata: ("quiz_id", "concept_id", "roadmap_id", "total_questions", "generated_at"),
}

TABLES: tuple[type[Model], ...] = (TutorialMetadata, ResourceRecommendationMetadata, QuizMetadata)


class Roadmap(NamedTuple):
    """A roadmap's row."""

    roadmap_id: str
    framework: str | None
    deleted: bool
    blob: bool = False  # SQLite: its text is stored as bytes, and stays so


# A content row as its statement gives it: what is read a million times becomes no object of its own. Behind these
# places stand the values of `Part.copied`.
Row = tuple[Any, ...]
ROADMAP, CONCEPT, KEY, GENERATED_AT, VERSION, ROW_STATUS, COPIED = range(7)


class Content:
    """The content rows of one roadmap: for each part, concept → the row to reference; and the keys of all others."""

    __slots__ = ("generated", "others", "rows")

    def __init__(self) -> None:
        self.rows: tuple[dict[str, Row], ...] = tuple({} for _part in PARTS)
        self.others: dict[tuple[str, str], list[str]] = {}  # (part, concept) → keys
        self.generated: list[str | None] = []  # when, as stored

    def moved(self) -> datetime | None:
        """When the newest row was generated: whoever makes content may touch nothing else."""
        return max((at for text in set(self.generated) if (at := moved_at(text))), default=None)

    def wanted(self, concept: str, *, so_far: bool = False) -> dict[str, Any]:
        """What the framework should say of a concept. Without a usable row only that part's status is said.

        `so_far`: such a row may still come, and nothing is said.
        """
        said: dict[str, Any] = {}
        for part, rows in zip(PARTS, self.rows, strict=True):
            row = rows.get(concept)
            if row is None:
                if not so_far:
                    said[part.status] = FAILED
            else:
                said[part.status], said[part.reference] = COMPLETED, row[KEY]
                said.update(zip(part.copied, row[COPIED:], strict=True))
        return said

    def lacks(self, concept: str) -> bool:
        """Whether a part of the concept has no usable row."""
        return any(concept not in rows for rows in self.rows)

    def prefer(self, place: int, row: Row, best: Row) -> None:
        """Of several rows the higher version counts, then the newer one."""
        better, other = (row, best) if _rank(row) > _rank(best) else (best, row)
        self.rows[place][row[CONCEPT]] = better
        self.leave(place, other)

    def leave(self, place: int, row: Row) -> None:
        """A row that is there and not to be referred to."""
        self.others.setdefault((PARTS[place].name, row[CONCEPT]), []).append(row[KEY])


def _rank(row: Row) -> tuple[int, float, str]:
    """By version and `generated_at`, whatever its form; by the key at last, so that the answer is always the same."""
    at = parse_timestamp(str(row[GENERATED_AT])) if row[GENERATED_AT] else None
    return _number(row[VERSION]), (at.timestamp() if at else float("-inf")), str(row[KEY])


def _number(version: Any) -> int:
    """A version as a number: a column without a strict type may hold text, or what is none."""
    try:
        return int(version)
    except (TypeError, ValueError):
        return -1


def roadmaps(store: Store, keys: Iterable[str]) -> dict[str, Roadmap]:
    """The roadmaps' rows: one statement."""
    deleted = '"deleted_at" IS NOT NULL' if "deleted_at" in store.tables["roadmap_metadata"] else "NULL"
    blob = "typeof(\"framework_data\") = 'blob'" if store.vendor == "sqlite" else "NULL"
    sql = f'SELECT "roadmap_id", CAST("framework_data" AS TEXT), {deleted}, {blob} FROM "roadmap_metadata"'  # noqa: S608
    return {row[0]: Roadmap(row[0], row[1], bool(row[2]), bool(row[3])) for row in _rows(store, sql, keys)}


def contents(store: Store, keys: Iterable[str]) -> dict[str, Content]:
    """The content of these roadmaps: one statement per table, however many rows there are."""
    found = {key: Content() for key in keys}
    for place, sql in enumerate(_STATEMENTS):
        for row in _rows(store, sql, found):
            content = found[row[ROADMAP]]
            content.generated.append(row[GENERATED_AT])
            if row[ROW_STATUS] != COMPLETED:
                content.leave(place, row)
                continue
            best = content.rows[place].setdefault(row[CONCEPT], row)
            if best is not row:
                content.prefer(place, row, best)
    return found


_STATEMENTS = (
    """SELECT "roadmap_id", "concept_id", "tutorial_id", CAST("generated_at" AS TEXT), "content_version",
       "content_status", "content_url", 'v' || "content_version" FROM "tutorial_metadata" """,
    """SELECT "roadmap_id", "concept_id", "id", CAST("generated_at" AS TEXT), NULL, 'completed', "resources_count"
       FROM "resource_recommendation_metadata" """,
    """SELECT "roadmap_id", "concept_id", "quiz_id", CAST("generated_at" AS TEXT), NULL, 'completed',
       "total_questions" FROM "quiz_metadata" """,
)


_OF_THESE = {
    "sqlite": ' WHERE "roadmap_id" IN (SELECT value FROM json_each(%s))',
    "postgresql": ' WHERE "roadmap_id" = ANY (%s)',
}


def _rows(store: Store, sql: str, keys: Iterable[str]) -> list[Row]:
    """Rows of these roadmaps: tuples, since there may be many."""

    def read() -> list[Row]:
        with store.connection.cursor() as cursor:
            cursor.execute(sql + _OF_THESE[store.vendor], [json.dumps(wanted) if store.path else wanted])
            return list(cursor.fetchall())

    wanted = list(keys)
    if store.path is not None:
        try:
            with store.fast_text_decoding():
                return read()
        except OperationalError as error:
            if "decode" not in str(error).lower():
                raise
    return read()
