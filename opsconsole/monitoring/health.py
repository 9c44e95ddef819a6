"""Health endpoints.

Reasons and metrics are visible to clients with the token and to accounts that may view runs. Outside production, if no
token is set, they are visible to the local host too. All other clients only see `OK` or `not ready`.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Iterable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable
from health_check.views import HealthCheckView

from opsconsole.engine import queue
from opsconsole.engine.models import Freeze, Run, Status
from opsconsole.engine.operation import LONG_CLUSTER
from opsconsole.monitoring.connectivity import unreachable
from opsconsole.stores.store import Store

QUEUE_WAITS = queue.WORKER_SEEN
LOOPBACK = {"127.0.0.1", "::1"}


def can_see_details(request: HttpRequest) -> bool:
    """Return whether the client may see metrics and reasons."""
    if request.user.has_perm("operations.view_run"):
        return True
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if settings.METRICS_TOKEN:
        return hmac.compare_digest(given.encode(), settings.METRICS_TOKEN.encode())
    local = request.META.get("REMOTE_ADDR") in LOOPBACK and not request.is_forwarded  # type: ignore[attr-defined]
    return local and not settings.PRODUCTION


# --- alive and ready --------------------------------------------------------------------------------------------


@login_not_required
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("OK\n", content_type="text/plain")


@dataclasses.dataclass
class _Check(HealthCheck):
    """A line of `/readyz`. It runs in a separate thread, which closes its database connections."""

    def run(self) -> None:
        try:
            reason = self.error()
        finally:
            connections.close_all()
        if reason:
            raise ServiceUnavailable(reason)

    def error(self) -> str:
        raise NotImplementedError


@dataclasses.dataclass
class ConsoleDatabase(_Check):
    def error(self) -> str:
        Run.objects.exists()
        return ""


@dataclasses.dataclass
class StoreAnswers(_Check):
    alias: str

    def error(self) -> str:
        return unreachable([Store.called(self.alias)]).get(self.alias, "")


@dataclasses.dataclass
class Queue(_Check):
    def error(self) -> str:
        if Freeze.objects.exists():
            return "all runs are frozen"
        late = Run.objects.filter(status=Status.QUEUED, created_at__lt=timezone.now() - QUEUE_WAITS).count()
        return f"{late} runs have been waiting for more than {QUEUE_WAITS}" if late else ""


@dataclasses.dataclass
class Worker(_Check):
    cluster: str = ""

    def error(self) -> str:
        seen = queue.worker_seen(self.cluster)
        if seen is not None and timezone.now() - seen <= queue.WORKER_SEEN:
            return ""
        return "never seen" if seen is None else f"not seen since {seen:%Y-%m-%d %H:%M:%S} UTC"


@dataclasses.dataclass
class Schedules(_Check):
    def error(self) -> str:
        now = timezone.now()
        late = [
            state.operation.name
            for state in queue.schedules()
            if state.switch.on and state.next_run is not None and now - state.next_run > queue.OVERDUE
        ]
        return f"overdue: {', '.join(late)}" if late else ""


@method_decorator(login_not_required, name="dispatch")
class Readiness(HealthCheckView):
    """The readiness of the console, one line for each check.

    The status is 503 if the console itself cannot work. With `?all` it is 503 if any check fails. By default a store
    that is down does not take the console out of service: the console has to show that it is down.
    """

    http_method_names = ("get", "head")
    shows_details = False

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.shows_details = await sync_to_async(_can_see_details_or_false)(request)
        response: HttpResponse = await super().get(request, *args, **kwargs)
        return response

    @property
    def checks(self) -> Iterable[Any]:
        return [
            ConsoleDatabase,
            *((StoreAnswers, {"alias": name}) for name in settings.STORES),
            Queue,
            Worker,
            (Worker, {"cluster": LONG_CLUSTER}),
            Schedules,
        ]

    def _status(self) -> int:
        counted = (r for r in self.results if "all" in self.request.GET or isinstance(r.check, ConsoleDatabase))
        return 503 if any(result.error for result in counted) else 200

    def render_to_response_text(self, status: int) -> HttpResponse:
        status = self._status()
        lines = ["OK\n" if status == 200 else "not ready\n"]
        if self.shows_details:
            lines = [f"{_name(result.check)}: {result.error or 'OK'}\n" for result in self.results]
        return HttpResponse("".join(lines), content_type="text/plain; charset=utf-8", status=status)

    def render_to_response(self, context: Any, **options: Any) -> HttpResponse:
        return self.render_to_response_text(200)

    render_to_response_json = render_to_response_atom = render_to_response_rss = render_to_response_text


def _can_see_details_or_false(request: HttpRequest) -> bool:
    """Return whether the client may see details, False if the console's database is unavailable."""
    try:
        return can_see_details(request)
    except Exception:  # noqa: BLE001  # any error of the session's database
        return False


def _name(check: Any) -> str:
    if isinstance(check, StoreAnswers):
        return f"store {check.alias}"
    if isinstance(check, Worker):
        return f"worker {check.cluster}".strip()
    return {ConsoleDatabase: "console", Queue: "queue", Schedules: "schedules"}[type(check)]
