"""The API at `/api/v1/`. Each app adds the endpoints of the `router` in its `api.py`.

    router = Router(tags=["executions"], auth=access("records.view_taskstatus"))

All responses are JSON. An error is `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from django.apps import apps
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified, RawPostDataException
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, re_path
from django.utils.http import parse_etags
from django.utils.module_loading import module_has_submodule
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI, Query, Router, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError
from ninja.renderers import BaseRenderer

from opsconsole.api.auth import InvalidToken, access
from opsconsole.console.store_errors import explain, failing_store
from opsconsole.formatting import truncate
from opsconsole.jsontext import encode
from opsconsole.stores.router import aliases_of
from opsconsole.stores.store import Store, StoreUnavailable

logger = logging.getLogger("opsconsole.api")

CODES = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.UNAUTHORIZED: "not_authenticated",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.CONFLICT: "conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "invalid",
    HTTPStatus.TOO_MANY_REQUESTS: "too_many_requests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "failed",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}


StoreName = Annotated[str, Query(description="Only this store of the platform. By default all stores are asked.")]


def stores_to_ask(platform: str, alias: str) -> list[Store]:
    """Return the store that a request names, or all stores of the platform. Raise HttpError."""
    aliases = aliases_of(platform)
    if alias and alias not in aliases:
        text = _("store: %(name)s is not a store of %(platform)s. Choose from: %(names)s.")
        values = {"name": truncate(alias, 80), "platform": platform, "names": ", ".join(aliases)}
        raise HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, text % values)
    return [Store(one, platform) for one in ([alias] if alias else aliases)]


def tagged(request: HttpRequest, content: bytes) -> HttpResponse:
    """Return a JSON response with an ETag, which keeps polling without changes short."""
    tag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    known = request.META.get("HTTP_IF_NONE_MATCH", "")
    response: HttpResponse
    if known and (known.strip() == "*" or tag in [one.removeprefix("W/") for one in parse_etags(known)]):
        response = HttpResponseNotModified()
    else:
        response = HttpResponse(content, content_type="application/json")
    response["ETag"] = tag
    response["Cache-Control"] = "private, no-cache"
    return response


class JSON(BaseRenderer):
    media_type = "application/json"

    def render(self, request: HttpRequest, data: Any, *, response_status: int) -> bytes:
        return encode(data)


api = NinjaAPI(
    title="OpsConsole",
    version="1",
    urls_namespace="api",
    renderer=JSON(),
    openapi_url="",  # the endpoint below requires a login
    docs_url="",
    auth=access(),
)


@api.get("/openapi.json", tags=["console"], summary="The OpenAPI document")
def openapi(request: HttpRequest) -> Any:
    return api.get_openapi_schema()


# --- errors ---------------------------------------------------------------------------------------------


class Problem(Schema):
    code: str
    message: str


class Error(Schema):
    """The body of an error response."""

    error: Problem


def error(status: int, message: str, **more: Any) -> HttpResponse:
    """Return an error response with a code for programs and a message for people."""
    code = CODES.get(HTTPStatus(status), "error")
    content = orjson.dumps({"error": {"code": code, "message": message, **more}}, default=str)
    response = HttpResponse(content, status=status, content_type="application/json")
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = 'Bearer realm="OpsConsole"'
    return response


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, raised: Any) -> HttpResponse:
    message = str(raised)
    if isinstance(raised, AuthenticationError) and not isinstance(raised, InvalidToken):
        message = _("Send a token (Authorization: Bearer …), or sign in to the console.")
    return error(raised.status_code, message)


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, raised: Any) -> HttpResponse:
    fields = [{"field": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in raised.errors]
    return error(422, "; ".join(f"{one['field']}: {one['message']}" for one in fields), fields=fields)


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, raised: Any = None) -> HttpResponse:
    return error(404, _("There is nothing at %(path)s.") % {"path": request.path})


@api.exception_handler(RequestDataTooBig)
def _too_large(request: HttpRequest, raised: Any) -> HttpResponse:
    return error(413, _("The request is too large. Send less data."))


@api.exception_handler(RawPostDataException)
@api.exception_handler(MultiPartParserError)
@api.exception_handler(SuspiciousOperation)
def _unreadable(request: HttpRequest, raised: Any) -> HttpResponse:
    return error(400, _("The body is not valid. Send it as application/json."))


@api.exception_handler(DatabaseError)
@api.exception_handler(InterfaceError)
@api.exception_handler(StoreUnavailable)
def _unavailable(request: HttpRequest, raised: Any) -> HttpResponse:
    """Return the error of a store with its blocking transactions. The log has the errors of the console's database."""
    logger.error("Database error: %s %s", request.method, request.path, exc_info=raised)
    store = failing_store(request, raised)
    if store is None and not isinstance(raised, StoreUnavailable):
        return error(503, _("A database is unavailable. See the log of the console."))
    sentence, found = explain(raised, store)
    return error(503, " ".join([sentence, *(one.words for one in found)]))


@api.exception_handler(Exception)
def _failed(request: HttpRequest, raised: Any) -> HttpResponse:
    logger.error("Request failed: %s %s", request.method, request.path, exc_info=raised)
    return error(500, _("The request failed. See the log of the console."))


# --- URLs --------------------------------------------------------------------------------------------


def urls() -> list[URLPattern]:
    """Return the URLs below `/api/`. They never redirect to the login page."""
    for router in _routers():
        api.add_router("", router)
    patterns, _app, _namespace = api.urls
    for pattern in patterns:
        pattern.callback = _json_only(pattern.callback)  # type: ignore[arg-type]
    return [
        path("v1/", (patterns, "api", "api")),  # type: ignore[list-item]
        re_path("", login_not_required(csrf_exempt(_not_found))),
    ]


def _routers() -> Iterator[Router]:
    for app in apps.get_app_configs():
        if app.module is not None and module_has_submodule(app.module, "api"):
            router = getattr(importlib.import_module(f"{app.name}.api"), "router", None)
            if isinstance(router, Router):
                yield router


def _json_only(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Convert the responses that Ninja creates without an exception handler."""

    @functools.wraps(view, assigned=())
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            response = view(request, *args, **kwargs)
        except Http404:
            return _not_found(request)
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            text = _("%(method)s is not allowed here. See the Allow header.")
            refused = error(405, text % {"method": request.method})
            refused["Allow"] = response["Allow"]
            return refused
        return response

    return login_not_required(csrf_exempt(answer))
