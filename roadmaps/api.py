"""Read endpoints of roadmaps and the content of their concepts, for the platform's front ends."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import orjson
from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import Router

from opsconsole.api.auth import access
from opsconsole.api.endpoints import Error, StoreName, error, stores_to_ask, tagged
from opsconsole.stores.store import Store, StoreUnavailable
from roadmaps.content import KEY, PARTS, contents, roadmaps
from roadmaps.models import QuizMetadata, ResourceRecommendationMetadata, TutorialMetadata

router = Router(tags=["roadmaps"], auth=access("roadmaps.view_roadmapmetadata"))

PLATFORM = "roadmaps"
MODELS: dict[str, Any] = {
    "tutorial": TutorialMetadata,
    "resources": ResourceRecommendationMetadata,
    "quiz": QuizMetadata,
}
DOCUMENTS = ("resources", "search_queries_used", "questions")
PLACES = {part.name: place for place, part in enumerate(PARTS)}


ERRORS = {404: Error, 409: Error, 503: Error}
ANSWER = {200: Any, **ERRORS}


@router.get("/roadmaps/{roadmap_id}", response=ANSWER, summary="A roadmap's framework, with statuses and references")
def framework(request: HttpRequest, roadmap_id: str, store: StoreName = "") -> HttpResponse:
    """Return the document with the exact text that the store holds."""
    try:
        found = _living(roadmap_id, store)
    except NoRoadmap as reason:
        return reason.response
    if found.framework is None:
        return _not_found()
    try:
        orjson.loads(found.framework)
    except orjson.JSONDecodeError:
        return error(500, _("The framework of this roadmap cannot be read."))
    return tagged(request, found.framework.encode())


@router.get(
    "/roadmaps/{roadmap_id}/concepts/{concept_id}/tutorials/latest",
    response=ANSWER,
    summary="A tutorial's highest completed version",
)
def tutorial(request: HttpRequest, roadmap_id: str, concept_id: str, store: StoreName = "") -> HttpResponse:
    return _part(request, "tutorial", roadmap_id, concept_id, store)


@router.get(
    "/roadmaps/{roadmap_id}/concepts/{concept_id}/resources",
    response=ANSWER,
    summary="The newest resources of a concept",
)
def resources(request: HttpRequest, roadmap_id: str, concept_id: str, store: StoreName = "") -> HttpResponse:
    return _part(request, "resources", roadmap_id, concept_id, store)


@router.get(
    "/roadmaps/{roadmap_id}/concepts/{concept_id}/quiz", response=ANSWER, summary="The newest quiz of a concept"
)
def quiz(request: HttpRequest, roadmap_id: str, concept_id: str, store: StoreName = "") -> HttpResponse:
    return _part(request, "quiz", roadmap_id, concept_id, store)


@router.get("/health", response={200: Any, 503: Error}, summary="Health of the roadmaps stores", auth=access())
def health(request: HttpRequest, store: StoreName = "") -> HttpResponse:
    states: dict[str, str] = {}
    reasons = []
    for one in stores_to_ask(PLATFORM, store):
        try:
            one.require_file()
            one.query("SELECT 1")
            states[one.alias] = "reachable"
        except _UNREADABLE as reason:
            states[one.alias] = "unreachable"
            reasons.append(_sentence(one, reason))
    if reasons:
        return error(503, " ".join(reasons), stores=states)
    return tagged(request, orjson.dumps({"status": "healthy", "stores": states}))


# --- shared ------------------------------------------------------------------------------------------------------

_UNREADABLE = (StoreUnavailable, DatabaseError, InterfaceError)


class Found(NamedTuple):
    """A roadmap that was not deleted, and its store."""

    store: Store
    framework: str | None


class NoRoadmap(Exception):
    """The roadmap has no answer: no store or several stores have it, or a store did not answer."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__()
        self.response = response


def _living(roadmap_id: str, alias: str) -> Found:
    """Return the roadmap from the only store that has it. Raise NoRoadmap."""
    found: list[Found] = []
    reasons: dict[str, str] = {}
    for store in stores_to_ask(PLATFORM, alias):
        try:
            roadmap = roadmaps(store, [roadmap_id]).get(roadmap_id) if store.can_store(roadmap_id) else None
        except _UNREADABLE as reason:
            reasons[store.alias] = _sentence(store, reason)
            continue
        if roadmap is not None and not roadmap.deleted:
            found.append(Found(store, roadmap.framework))
    if len(found) == 1:
        return found[0]
    if found:
        names = [one.store.alias for one in found]
        text = _("Several stores have this roadmap: %(stores)s. Choose one of them with ?store=.")
        raise NoRoadmap(error(409, text % {"stores": ", ".join(names)}, stores=names))
    if reasons:
        raise NoRoadmap(error(503, " ".join(reasons.values()), not_asked=list(reasons)))
    raise NoRoadmap(_not_found())


def _part(request: HttpRequest, part: str, roadmap_id: str, concept_id: str, alias: str) -> HttpResponse:
    """Return the row that the framework should refer to."""
    try:
        store = _living(roadmap_id, alias).store
    except NoRoadmap as reason:
        return reason.response
    try:
        row = contents(store, [roadmap_id])[roadmap_id].rows[PLACES[part]].get(concept_id)
        if row is None:
            return _not_found()
        model = MODELS[part]
        columns = store.tables[model._meta.db_table]
        known = [field.column for field in model._meta.concrete_fields if field.column in columns]
        found = model.objects.using(store.alias).filter(pk=row[KEY]).values(*known).first()
    except _UNREADABLE as reason:
        return error(503, _sentence(store, reason), not_asked=[store.alias])
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


def _sentence(store: Store, reason: Exception) -> str:
    return str(reason if isinstance(reason, StoreUnavailable) else store.unusable(reason))
