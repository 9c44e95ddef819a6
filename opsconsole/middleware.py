"""Answers to requests that nobody gets from a page of the console."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.contrib.admin.options import IncorrectLookupParameters
from django.db import DataError
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.utils.translation import gettext as _

logger = logging.getLogger(__name__)

# What a query string can hold and a database can't take.
UNUSABLE = (IncorrectLookupParameters, OverflowError, DataError)


class BadQueryMiddleware:
    """Answers 400 where a list or an export can't use the query string of its address."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, raised: Exception) -> HttpResponse | None:
        if not (request.GET and isinstance(raised, UNUSABLE)):
            return None
        logger.warning("The query string of %s can't be used: %s", request.path, raised)
        return HttpResponseBadRequest(
            _("The query string of this address can't be used. Remove it."), content_type="text/plain; charset=utf-8"
        )
