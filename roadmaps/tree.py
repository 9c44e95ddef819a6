"""The framework of a roadmap as a tree, next to the rows of the content tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from opsconsole.formatting import difference, format_number, pretty_json
from opsconsole.stores.store import Store
from roadmaps import framework
from roadmaps.consistency import compare
from roadmaps.content import COMPLETED, COPIED, FAILED, KEY, PARTS, Content, Part, Row, contents
from roadmaps.models import QuizMetadata, ResourceRecommendationMetadata, RoadmapMetadata, TutorialMetadata

LABELS = {"tutorial": gettext_lazy("Tutorial"), "resources": gettext_lazy("Resources"), "quiz": gettext_lazy("Quiz")}


def tree_of(store: Store, roadmap: RoadmapMetadata) -> dict[str, Any] | None:
    """Return the values of the page, None if the framework cannot be read."""
    try:
        document = json.loads(roadmap.framework_data or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    content = contents(store, [roadmap.pk])[roadmap.pk]
    rows = _rows(store, roadmap.pk)
    found = compare(framework.concepts_of(document), content)
    stages: list[dict[str, Any]] = [
        {
            "name": _name(stage, "stage_id"),
            "modules": [
                {
                    "name": _name(module, "module_id"),
                    "concepts": [
                        _concept(concept, content, rows)
                        for concept in framework.objects(module, "concepts")
                        if isinstance(concept.get("concept_id"), str)
                    ],
                }
                for module in framework.objects(stage, "modules")
            ],
        }
        for stage in framework.objects(document, "stages")
    ]
    differences = sum(
        part["differs"]
        for stage in stages
        for module in stage["modules"]
        for concept in module["concepts"]
        for part in concept["parts"]
    )
    return {
        "stages": stages,
        "concepts": format_number(found.concepts),
        "complete": format_number(found.references_complete),
        "expected": format_number(found.references_expected),
        "differences": differences,
    }


def _name(one: dict[str, Any], key: str) -> str:
    """Return the name of a stage, module or concept. Older documents call it `title`."""
    return str(one.get("name") or one.get("title") or one.get(key) or "–")


def _concept(concept: dict[str, Any], content: Content, tables: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    key = concept["concept_id"]
    rows = {table: by_concept.get(key, []) for table, by_concept in tables.items()}
    return {
        "name": _name(concept, "concept_id"),
        "key": key,
        "parts": [_part(concept, part, rows_.get(key)) for part, rows_ in zip(PARTS, content.rows, strict=True)],
        "held": any(rows.values()),
        **rows,
    }


def _part(concept: dict[str, Any], part: Part, row: Row | None) -> dict[str, Any]:
    """Return a part's status in the framework, with the status that a sync would write if that differs."""
    status = str(concept.get(part.status) or "–")
    expected = FAILED if row is None else COMPLETED
    reference = concept.get(part.reference)
    stale = row is not None and (
        reference != row[KEY] or tuple(concept.get(name) for name in part.copied) != row[COPIED:]
    )
    return {
        "label": LABELS[part.name],
        "shown": difference(status, expected) if status != expected else status,
        "differs": status != expected or stale,
        "reference": "" if row is None else f"{row[-1] or ''}",  # the version, or the number of resources or questions
        "stale": stale and status == expected,
    }


def _rows(store: Store, key: str) -> dict[str, dict[str, list[Any]]]:
    """Return table -> concept -> its rows as texts, in one statement per table."""
    tables: dict[str, dict[str, list[Any]]] = {"tutorials": {}, "resources": {}, "quizzes": {}}
    for model, name, shown in (
        (TutorialMetadata, "tutorials", _tutorial),
        (ResourceRecommendationMetadata, "resources", _resources),
        (QuizMetadata, "quizzes", _quiz),
    ):
        fields: Any = model._meta.concrete_fields
        have = [field.name for field in fields if field.column in store.tables[model._meta.db_table]]
        rows = model._default_manager.using(store.alias).filter(roadmap_id=key)
        for row in rows.order_by("generated_at", "pk").values(*have):
            tables[name].setdefault(row["concept_id"], []).append(shown(row))
    return tables


def _tutorial(row: dict[str, Any]) -> dict[str, Any]:
    caption = _("Version %(version)s, %(status)s, generated at %(at)s") % {
        "version": row.get("content_version"),
        "status": row.get("content_status"),
        "at": row.get("generated_at"),
    }
    if row.get("is_latest"):
        caption = f"{caption} · {_('marked latest')}"
    return row | {"caption": caption}


def _resources(row: dict[str, Any]) -> dict[str, Any]:
    count = row.get("resources_count") or 0
    caption = ngettext("%(count)s resource, %(at)s", "%(count)s resources, %(at)s", count) % {
        "count": count,
        "at": row.get("generated_at"),
    }
    return {"caption": caption, "document": pretty_json(row.get("resources"))}


def _quiz(row: dict[str, Any]) -> dict[str, Any]:
    count = row.get("total_questions") or 0
    caption = ngettext("%(count)s question, %(at)s", "%(count)s questions, %(at)s", count) % {
        "count": count,
        "at": row.get("generated_at"),
    }
    return {
        "caption": caption,
        "document": pretty_json(row.get("questions")),
        "questions": list(_questions(row.get("questions"))),
    }


def _questions(text: str | None) -> Iterator[dict[str, Any]]:
    """Yield the questions that have a text."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and isinstance(one.get("question"), str):
            options = one.get("options")
            yield {"text": one["question"], "options": options if isinstance(options, list) else []}
