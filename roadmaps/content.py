"""The content tables, and the values that a framework should have for their rows.

The sync writes the values of `Content.values_for`, and the checks compare with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from django.db import OperationalError
from django.db.models import Model

from opsconsole.stores.errors import is_undecodable
from opsconsole.stores.store import Store
from opsconsole.timestamps import parse_timestamp
from roadmaps.models import QuizMetadata, ResourceRecommendationMetadata, RoadmapMetadata, TutorialMetadata
from roadmaps.times import stored_time

COMPLETED, FAILED = "completed", "failed"


class Part(NamedTuple):
    """A part of a concept, by its keys in the framework."""

    name: str
    status: str
    reference: str
    copied: tuple[str, ...]  # more keys whose values come from the row
    summary_key: str  # in a task's `execution_summary`


PARTS = (
    Part("tutorial", "content_status", "tutorial_id", ("content_ref", "content_version"), "tutorial_count"),
    Part("resources", "resources_status", "resources_id", ("resources_count",), "resource_count"),
    Part("quiz", "quiz_status", "quiz_id", ("quiz_questions_count",), "quiz_count"),
)

# Model -> columns that are read.
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
    """The row of a roadmap."""

    roadmap_id: str
    framework: str | None
    deleted: bool
    blob: bool = False  # SQLite stores the text as bytes, and a sync keeps that
    title: str | None = None


# A content row is a plain tuple, because a check may read millions. The values of `Part.copied` follow these places.
Row = tuple[Any, ...]
ROADMAP, CONCEPT, KEY, GENERATED_AT, VERSION, ROW_STATUS, COPIED = range(7)


class Content:
    """The content rows of one roadmap."""

    __slots__ = ("generated", "other_keys", "rows")

    def __init__(self) -> None:
        self.rows: tuple[dict[str, Row], ...] = tuple({} for _part in PARTS)  # per part: concept -> row to refer to
        self.other_keys: dict[tuple[str, str], list[str]] = {}  # (part, concept) -> keys of all other rows
        self.generated: list[str | None] = []  # times, as stored

    def last_generated(self) -> datetime | None:
        """Return when the newest row was generated. A worker that generates content may change nothing else."""
        return max((at for text in set(self.generated) if (at := stored_time(text))), default=None)

    def values_for(self, concept: str, *, existing_only: bool = False) -> dict[str, Any]:
        """Return the values that the framework should have for a concept.

        A part without a usable row is failed, and its other values stay. With `existing_only` it is left out,
        because its row may still be generated.
        """
        values: dict[str, Any] = {}
        for part, rows in zip(PARTS, self.rows, strict=True):
            row = rows.get(concept)
            if row is not None:
                values[part.status], values[part.reference] = COMPLETED, row[KEY]
                values.update(zip(part.copied, row[COPIED:], strict=True))
            elif not existing_only:
                values[part.status] = FAILED
        return values

    def is_incomplete(self, concept: str) -> bool:
        """Return whether a part of the concept has no usable row."""
        return any(concept not in rows for rows in self.rows)

    def add(self, place: int, row: Row) -> None:
        """Add a row of a part. Of several completed rows the highest version counts, then the newest row."""
        self.generated.append(row[GENERATED_AT])
        other: Row | None = row
        if row[ROW_STATUS] == COMPLETED:
            best = self.rows[place].get(row[CONCEPT])
            if best is None or _rank(row) > _rank(best):
                self.rows[place][row[CONCEPT]], other = row, best
        if other is not None:
            self.other_keys.setdefault((PARTS[place].name, other[CONCEPT]), []).append(other[KEY])


def _rank(row: Row) -> tuple[int, float, str]:
    """Return what to sort rows by: version, time, and the key, so that the result is always the same."""
    at = parse_timestamp(str(row[GENERATED_AT])) if row[GENERATED_AT] else None
    return _number(row[VERSION]), (at.timestamp() if at else float("-inf")), str(row[KEY])


def _number(version: Any) -> int:
    """Return a version as a number. SQLite may store text, or nothing, in that column."""
    try:
        return int(version)
    except (TypeError, ValueError):
        return -1


def roadmaps(store: Store, keys: Iterable[str]) -> dict[str, Roadmap]:
    """Read the rows of these roadmaps, in one statement."""
    deleted = '"deleted_at" IS NOT NULL' if "deleted_at" in store.tables["roadmap_metadata"] else "NULL"
    blob = "typeof(\"framework_data\") = 'blob'" if store.vendor == "sqlite" else "NULL"
    title = 'CAST("title" AS TEXT)' if "title" in store.tables["roadmap_metadata"] else "NULL"
    sql = f'SELECT "roadmap_id", CAST("framework_data" AS TEXT), {deleted}, {blob}, {title} FROM "roadmap_metadata"'  # noqa: S608
    return {row[0]: Roadmap(row[0], row[1], bool(row[2]), bool(row[3]), row[4]) for row in _rows(store, sql, keys)}


def contents(store: Store, keys: Iterable[str]) -> dict[str, Content]:
    """Read the content of these roadmaps, in one statement per table."""
    found = {key: Content() for key in keys}
    for place, sql in enumerate(_STATEMENTS):
        for row in _rows(store, sql, found):
            found[row[ROADMAP]].add(place, row)
    return found


_STATEMENTS = (
    """SELECT "roadmap_id", "concept_id", "tutorial_id", CAST("generated_at" AS TEXT), "content_version",
       "content_status", "content_url", 'v' || "content_version" FROM "tutorial_metadata" """,
    """SELECT "roadmap_id", "concept_id", "id", CAST("generated_at" AS TEXT), NULL, 'completed', "resources_count"
       FROM "resource_recommendation_metadata" """,
    """SELECT "roadmap_id", "concept_id", "quiz_id", CAST("generated_at" AS TEXT), NULL, 'completed',
       "total_questions" FROM "quiz_metadata" """,
)


_OF_ROADMAPS = {
    "sqlite": ' WHERE "roadmap_id" IN (SELECT value FROM json_each(%s))',
    "postgresql": ' WHERE "roadmap_id" = ANY (%s)',
}


def _rows(store: Store, sql: str, keys: Iterable[str]) -> list[Row]:
    """Read the rows of these roadmaps."""

    def read() -> list[Row]:
        with store.connection.cursor() as cursor:
            cursor.execute(sql + _OF_ROADMAPS[store.vendor], [json.dumps(wanted) if store.path else wanted])
            return list(cursor.fetchall())

    wanted = list(keys)
    if store.path is not None:
        try:
            with store.text_factory(str):
                return read()
        except OperationalError as error:
            if not is_undecodable(error):
                raise
    return read()
