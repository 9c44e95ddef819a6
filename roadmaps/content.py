"""What the content tables hold of roadmaps, and what a framework says beside it: one reading, one judgement.

Both sides of everything in this app: the sync writes what `Content.wanted` says, the checks compare with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.db.models import Model

from opsconsole.stores.moments import read_moment
from opsconsole.stores.store import Store
from roadmaps.models import QuizMetadata, ResourceRecommendationMetadata, RoadmapMetadata, TutorialMetadata

PORTION = 2_000
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


class Roadmap(NamedTuple):
    """A roadmap's row."""

    roadmap_id: str
    framework: str | None
    deleted: bool


class Row(NamedTuple):
    """A usable row of a content table; `copied` as the part has it."""

    key: str
    generated_at: str | None
    version: int | None
    copied: tuple[Any, ...]


class Content:
    """The content rows of one roadmap: for each part, concept → the row to reference; and the keys of all others."""

    __slots__ = ("others", "rows")

    def __init__(self) -> None:
        self.rows: tuple[dict[str, Row], ...] = tuple({} for _part in PARTS)
        self.others: dict[tuple[str, str], list[str]] = {}  # (part, concept) → keys

    def wanted(self, concept: str) -> dict[str, Any]:
        """What the framework should say of a concept. Without a usable row only that part's status is said."""
        said: dict[str, Any] = {}
        for part, rows in zip(PARTS, self.rows, strict=True):
            row = rows.get(concept)
            if row is None:
                said[part.status] = FAILED
            else:
                said[part.status], said[part.reference] = COMPLETED, row.key
                said.update(zip(part.copied, row.copied, strict=True))
        return said

    def lacks(self, concept: str) -> bool:
        """Whether a part of the concept has no usable row."""
        return any(concept not in rows for rows in self.rows)

    def add(self, place: int, concept: str, row: Row) -> None:
        """Of several rows the higher version counts, then the newer one."""
        best = self.rows[place].setdefault(concept, row)
        if best is not row:
            better, other = (row, best) if _rank(row) > _rank(best) else (best, row)
            self.rows[place][concept] = better
            self.others.setdefault((PARTS[place].name, concept), []).append(other.key)


def _rank(row: Row) -> tuple[int, float, str]:
    """By version and `generated_at`, whatever its form; by the key at last, so that the answer is always the same."""
    at = read_moment(str(row.generated_at)) if row.generated_at else None
    version = -1 if row.version is None else row.version
    return version, (at.timestamp() if at else float("-inf")), str(row.key)


def roadmaps(store: Store, keys: Iterable[str]) -> dict[str, Roadmap]:
    """The roadmaps' rows: one statement."""
    deleted = '"deleted_at" IS NOT NULL' if "deleted_at" in store.tables["roadmap_metadata"] else "NULL"
    sql = f'SELECT "roadmap_id", CAST("framework_data" AS TEXT), {deleted} FROM "roadmap_metadata"'  # noqa: S608
    return {row[0]: Roadmap(row[0], row[1], bool(row[2])) for row in _rows(store, sql, keys)}


def contents(store: Store, keys: Iterable[str]) -> dict[str, Content]:
    """The content of these roadmaps: one statement per table, however many rows there are."""
    found = {key: Content() for key in keys}
    for roadmap, concept, key, at, status, url, version in _rows(store, _TUTORIALS, found):
        if status == COMPLETED:
            numbered = None if version is None else f"v{version}"
            found[roadmap].add(0, concept, Row(key, at, version, (url, numbered)))
        else:
            found[roadmap].others.setdefault(("tutorial", concept), []).append(key)
    for place, sql in ((1, _RESOURCES), (2, _QUIZZES)):
        for roadmap, concept, key, at, count in _rows(store, sql, found):
            found[roadmap].add(place, concept, Row(key, at, None, (count,)))
    return found


_TUTORIALS = (
    'SELECT "roadmap_id", "concept_id", "tutorial_id", CAST("generated_at" AS TEXT), "content_status", "content_url",'
    ' "content_version" FROM "tutorial_metadata"'
)
_RESOURCES = (
    'SELECT "roadmap_id", "concept_id", "id", CAST("generated_at" AS TEXT), "resources_count"'
    ' FROM "resource_recommendation_metadata"'
)
_QUIZZES = (
    'SELECT "roadmap_id", "concept_id", "quiz_id", CAST("generated_at" AS TEXT), "total_questions" FROM "quiz_metadata"'
)


def _rows(store: Store, sql: str, keys: Iterable[str]) -> Iterator[Sequence[Any]]:
    """Rows of these roadmaps as they come: tuples, since there may be many."""
    wanted: Any = list(keys)
    chosen = "= ANY (%s)"
    if store.vendor == "sqlite":
        wanted, chosen = json.dumps(wanted), "IN (SELECT value FROM json_each(%s))"
    with store.connection.cursor() as cursor:
        cursor.execute(f'{sql} WHERE "roadmap_id" {chosen}', [wanted])
        while portion := cursor.fetchmany(PORTION):
            yield from portion
