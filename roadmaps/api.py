"""Read endpoints of roadmaps and the content of their concepts, for the platform's front ends."""

from __future__ import annotations

import json
from typing import Any

import orjson
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import Router

from opsconsole.api.auth import access
from opsconsole.api.endpoints import error, tagged
from opsconsole.stores.store import Store, StoreUnavailable
from roadmaps.content import KEY, PARTS, Roadmap, contents, roadmaps
from roadmaps.models import QuizMetadata, ResourceRecommendationMetadata, TutorialMetadata

router = Router(tags=["roadmaps"], auth=access("roadmaps.view_roadmapmetadata"))

MODELS: dict[str, Any] = {
    "tutorial": TutorialMetadata,
    "resources": ResourceRecommendationMetadata,
    "quiz": QuizMetadata,
}
DOCUMENTS = ("resources", "search_queries_used", "questions")
PLACES = {part.name: place for place, part in enumerate(PARTS)}


@router.get("/roadmaps/{roadmap_id}", summary="A roadmap's framework, with statuses and references")
def framework(request: HttpRequest, roadmap_id: str) -> HttpResponse:
    """Return the document with the exact text that the store holds."""
    try:
        roadmap = _living(roadmap_id)
    except _UNREADABLE as reason:
        return _unavailable(reason)
    if roadmap is None or roadmap.framework is None:
        return _not_found()
    try:
        orjson.loads(roadmap.framework)
    except orjson.JSONDecodeError:
        return error(500, _("The framework of this roadmap cannot be read."))
    return tagged(request, roadmap.framework.encode())


@router.get(
    "/roadmaps/{roadmap_id}/concepts/{concept_id}/tutorials/latest",
    summary="A tutorial's highest completed version",
)
def tutorial(request: HttpRequest, roadmap_id: str, concept_id: str) -> HttpResponse:
    return _part(request, "tutorial", roadmap_id, concept_id)


@router.get("/roadmaps/{roadmap_id}/concepts/{concept_id}/resources", summary="The newest resources of a concept")
def resources(request: HttpRequest, roadmap_id: str, concept_id: str) -> HttpResponse:
    return _part(request, "resources", roadmap_id, concept_id)


@router.get("/roadmaps/{roadmap_id}/concepts/{concept_id}/quiz", summary="The newest quiz of a concept")
def quiz(request: HttpRequest, roadmap_id: str, concept_id: str) -> HttpResponse:
    return _part(request, "quiz", roadmap_id, concept_id)


@router.get("/health", summary="Health of the roadmaps store", auth=access())
def health(request: HttpRequest) -> HttpResponse:
    store = _store()
    try:
        store.require_file()
        with store.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except _UNREADABLE as reason:
        return _unavailable(reason)
    return tagged(request, orjson.dumps({"status": "healthy", "stores": {"roadmaps": "reachable"}}))


# --- shared ------------------------------------------------------------------------------------------------------

_UNREADABLE = (StoreUnavailable, DatabaseError, InterfaceError)


def _store() -> Store:
    return Store("roadmaps", "roadmaps")


def _living(roadmap_id: str) -> Roadmap | None:
    """Return the roadmap, None if it does not exist or was deleted."""
    store = _store()
    if not store.can_store(roadmap_id):
        return None
    found = roadmaps(store, [roadmap_id]).get(roadmap_id)
    return None if found is None or found.deleted else found


def _part(request: HttpRequest, part: str, roadmap_id: str, concept_id: str) -> HttpResponse:
    """Return the row that the framework should refer to."""
    try:
        if _living(roadmap_id) is None:
            return _not_found()
        row = contents(_store(), [roadmap_id])[roadmap_id].rows[PLACES[part]].get(concept_id)
        if row is None:
            return _not_found()
        model = MODELS[part]
        columns = _store().tables[model._meta.db_table]
        known = [field.column for field in model._meta.concrete_fields if field.column in columns]
        found = model.objects.filter(pk=row[KEY]).values(*known).first()
    except _UNREADABLE as reason:
        return _unavailable(reason)
    if found is None:
        return _not_found()
    answer = {name: _document(value) if name in DOCUMENTS else value for name, value in found.items()}
    return tagged(request, json.dumps(answer, ensure_ascii=False, default=str).encode(errors="backslashreplace"))


def _document(text: str | None) -> Any:
    """Return the document of a JSON column, or its text if that is not JSON."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _not_found() -> HttpResponse:
    return error(404, _("This roadmap does not exist, or the concept does not have this content."))


def _unavailable(reason: Exception) -> HttpResponse:
    sentence = reason if isinstance(reason, StoreUnavailable) else _store().unusable(reason)
    return error(503, str(sentence))
