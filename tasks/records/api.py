"""The endpoints of the status of executions (see docs/api.md)."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import Path, Query, Router, Schema
from pydantic import ConfigDict, Field

from opsconsole.api.auth import access
from opsconsole.api.endpoints import Error, StoreName, error, stores_to_ask, tagged
from opsconsole.jsontext import encode
from tasks.records import status as executions
from tasks.records.models import ExecutionStatus, Stage

router = Router(tags=["executions"], auth=access("records.view_taskstatus"))

MOST_AT_ONCE = 100
POLL_AGAIN_SECONDS = 2
TRY_AGAIN_SECONDS = 5

ExecutionId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Link(Schema):
    """The address of results that are longer than 1 MB."""

    url: str


class Status(Schema):
    """The status of an execution."""

    task_id: str
    progress: int
    stage: str
    status: str
    is_completed: bool
    created_at: str | None
    results: Link | Any
    detailed_results: Link | Any
    source: str
    store: str | None = Field(None, description="The store that knows it, if the platform has several.")


class Statuses(Schema):
    """Known executions, and the ids that have no answer."""

    executions: list[Status]
    unknown: list[str]
    ambiguous: dict[str, list[str]] = Field(description="Ids that several stores know, with these stores.")
    unavailable: list[str] = Field(description="Ids that a data source in not_asked may know.")
    not_asked: list[str] = Field(description="Data sources that did not answer: live, or a store.")


class Report(Schema):
    """The status of an execution, reported by its platform."""

    model_config = ConfigDict(use_enum_values=True)

    task_id: str | None = None
    progress: Annotated[int, Field(ge=0, le=100)] = 0
    stage: Stage
    status: ExecutionStatus | None = None
    is_completed: bool = False
    created_at: str | None = None
    results: Any = None
    detailed_results: Any = None


class Wanted(Schema):
    ids: Annotated[list[ExecutionId], Field(min_length=1, max_length=MOST_AT_ONCE)]


ERRORS = {404: Error, 409: Error, 503: Error}


@router.get(
    "/executions/status",
    response=Statuses,
    url_name="statuses",
    summary="The status of up to 100 executions",
)
def statuses(request: HttpRequest, wanted: Query[Wanted], store: StoreName = "") -> HttpResponse:
    """Return the status of up to 100 executions: `?ids=…&ids=…`."""
    return _statuses(request, wanted.ids, store)


@router.post(
    "/executions/status",
    response=Statuses,
    url_name="statuses",
    summary="The status of up to 100 executions, for long ids",
)
def statuses_of(request: HttpRequest, wanted: Wanted, store: StoreName = "") -> HttpResponse:
    """Return the same for more ids than fit into a URL."""
    return _statuses(request, wanted.ids, store)


def _statuses(request: HttpRequest, ids: list[str], store: str) -> HttpResponse:
    ids = list(dict.fromkeys(ids))
    asked = executions.get_statuses(ids, stores_to_ask(executions.PLATFORM, store))
    missing = [one for one in ids if one not in asked.answers and one not in asked.ambiguous]
    answer = {
        "executions": list(asked.answers.values()),
        "unknown": [one for one in missing if one not in asked.unavailable],
        "ambiguous": asked.ambiguous,
        "unavailable": [one for one in missing if one in asked.unavailable],
        "not_asked": asked.not_asked,
    }
    return _answer(request, answer, running=not all(map(_ended, asked.answers.values())))


@router.get(
    "/executions/{execution_id}/status",
    response={200: Status, **ERRORS},
    url_name="status",
    summary="The status of an execution",
)
def status(request: HttpRequest, execution_id: Path[ExecutionId], store: StoreName = "") -> HttpResponse:
    """Return the status from the live layer, else from the platform's tables.

    The answer is 404 only if every data source was available, and 409 if several stores know the id.
    """
    asked = executions.get_statuses([execution_id], stores_to_ask(executions.PLATFORM, store))
    answer = asked.answers.get(execution_id)
    if answer is None:
        return _unknown(execution_id, asked.ambiguous.get(execution_id, []), asked.not_asked)
    return _answer(request, answer, running=not _ended(answer))


@router.put(
    "/executions/{execution_id}/status",
    response={200: Status, **ERRORS},
    url_name="status",
    summary="Report the status of an execution",
    auth=access("records.report_taskstatus"),
)
def report(request: HttpRequest, execution_id: Path[ExecutionId], reported: Report) -> HttpResponse:
    """Write the live layer, for platforms without a separate Redis."""
    if reported.task_id not in (None, execution_id):
        values = {"task_id": reported.task_id, "id": execution_id}
        return error(422, _("task_id is %(task_id)s, but the URL contains %(id)s. Send the same id in both.") % values)
    try:
        executions.report(execution_id, {**reported.model_dump(exclude_none=True), "task_id": execution_id})
    except Exception as raised:  # noqa: BLE001  # a cache raises the errors of its client library
        executions.logger.warning("Writing the live layer failed: %s", raised)
        return _later(error(503, _("The live layer is unavailable. Send the report again later.")))
    return status(request, execution_id)


@router.get(
    "/executions/{execution_id}/results",
    response={200: Any, **ERRORS},
    url_name="results",
    summary="The results of an execution",
)
def results(request: HttpRequest, execution_id: Path[ExecutionId], store: StoreName = "") -> HttpResponse:
    """Return the document that `results` of the status links to."""
    return _long(execution_id, "results", store)


@router.get(
    "/executions/{execution_id}/detailed_results",
    response={200: Any, **ERRORS},
    url_name="detailed_results",
    summary="The detailed results of an execution",
)
def detailed_results(request: HttpRequest, execution_id: Path[ExecutionId], store: StoreName = "") -> HttpResponse:
    """Return the document that `detailed_results` of the status links to."""
    return _long(execution_id, "detailed_results", store)


def _long(execution_id: str, part: str, store: str) -> HttpResponse:
    found = executions.long_document(execution_id, part, stores_to_ask(executions.PLATFORM, store))
    if found.value is None:
        return _unknown(execution_id, found.ambiguous, found.not_asked)
    return HttpResponse(encode(found.value), content_type="application/json")


# --- answers ----------------------------------------------------------------------------------------------


def _ended(answer: dict[str, Any]) -> bool:
    return bool(answer["is_completed"] or answer["status"] == ExecutionStatus.FAILED)


def _answer(request: HttpRequest, answer: Any, *, running: bool) -> HttpResponse:
    """Return the answer. While an execution runs, add when to ask again."""
    response = tagged(request, encode(answer))
    if running:
        response["Retry-After"] = str(POLL_AGAIN_SECONDS)
    return response


def _unknown(execution_id: str, ambiguous: list[str], not_asked: list[str]) -> HttpResponse:
    sentence = executions.why_unknown(execution_id, ambiguous, not_asked)
    if ambiguous:
        return error(409, sentence, stores=ambiguous)
    return _later(error(503, sentence, not_asked=not_asked)) if not_asked else error(404, sentence)


def _later(response: HttpResponse) -> HttpResponse:
    response["Retry-After"] = str(TRY_AGAIN_SECONDS)
    return response
