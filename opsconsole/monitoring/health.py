"""Health endpoints and metrics for Prometheus.

Reasons and figures are for holders of the token, for accounts that may see runs and, outside production and without a
token, for this very host. Everybody else gets nothing but OK or not ready.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connections
from django.db.models import Count, Max, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable
from health_check.views import HealthCheckView
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from opsconsole.engine import queue
from opsconsole.engine.models import Finding, Freeze, Run, Status
from opsconsole.engine.operation import LONG_CLUSTER
from opsconsole.monitoring.connectivity import identities, unreachable
from opsconsole.monitoring.measurements import PROBLEM, SIZE
from opsconsole.monitoring.models import Measurement
from opsconsole.monitoring.stats import pool
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, all_stores

QUEUE_WAITS = queue.WORKER_SEEN
LOOPBACK = {"127.0.0.1", "::1"}


def can_see_details(request: HttpRequest) -> bool:
    """Return whether the client gets figures and reasons."""
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
    """One line of `/readyz`. A thread of its own asks: what it opened in databases is closed again."""

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
        return unreachable([Store(self.alias, self.alias)]).get(self.alias, "")


@dataclasses.dataclass
class Queue(_Check):
    def error(self) -> str:
        if Freeze.objects.exists():
            return "all runs are frozen"
        late = Run.objects.filter(status=Status.QUEUED, created_at__lt=timezone.now() - QUEUE_WAITS).count()
        return f"{late} runs wait longer than {QUEUE_WAITS}" if late else ""


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
    """A line each. 503 when the console itself can't work; `?all` also when any other line is in trouble: a store that
    is down must not take the console out of service, or nobody could see that it is.
    """

    http_method_names = ("get", "head")
    open_ = False  # whether the client gets reasons

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.open_ = await sync_to_async(_can_see_details_or_false)(request)
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
        if self.open_:
            lines = [f"{_name(result.check)}: {result.error or 'OK'}\n" for result in self.results]
        return HttpResponse("".join(lines), content_type="text/plain; charset=utf-8", status=status)

    def render_to_response(self, context: Any, **options: Any) -> HttpResponse:
        return self.render_to_response_text(200)

    render_to_response_json = render_to_response_atom = render_to_response_rss = render_to_response_text


def _can_see_details_or_false(request: HttpRequest) -> bool:
    """Return False if the console's database is unavailable: no account is signed in then."""
    try:
        return can_see_details(request)
    except Exception:  # noqa: BLE001  # whatever the session's database says
        return False


def _name(check: Any) -> str:
    if isinstance(check, StoreAnswers):
        return f"store {check.alias}"
    if isinstance(check, Worker):
        return f"worker {check.cluster}".strip()
    return {ConsoleDatabase: "console", Queue: "queue", Schedules: "schedules"}[type(check)]


# --- figures -------------------------------------------------------------------------------------------------------


class Figures(Collector):
    """The metrics, from the console's own tables in a constant number of statements."""

    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        yield from self._runs()
        yield from self._findings()
        ages = GaugeMetricFamily("opsconsole_backup_age_seconds", "Age of the newest verified backup", labels=["store"])
        down = unreachable([Store(name, name) for name in settings.STORES])
        names = identities(all_stores())
        newest = Backup.objects.filter(identity__in=names, verified_at__isnull=False).order_by()
        for identity, at in newest.values_list("identity").annotate(newest=Max("at")):
            ages.add_metric([names[identity]], (now - at).total_seconds())
        yield ages
        yield from self._measured()
        up = GaugeMetricFamily("opsconsole_store_up", "Whether the store answers", labels=["store"])
        for name in settings.STORES:
            up.add_metric([name], 0 if name in down else 1)
        yield up
        seen = GaugeMetricFamily(
            "opsconsole_worker_seen_seconds", "Since a worker of the cluster was seen", labels=["cluster"]
        )
        for cluster in ("", LONG_CLUSTER):
            at = queue.worker_seen(cluster)
            if at is not None:
                seen.add_metric([cluster or "default"], (now - at).total_seconds())
        yield seen
        yield from self._pools()

    def _runs(self) -> Iterator[Metric]:
        by_status = GaugeMetricFamily("opsconsole_runs", "Runs", labels=["operation", "status"])
        changed = CounterMetricFamily("opsconsole_rows_changed", "Rows changed by runs", labels=["operation"])
        failed_rows = CounterMetricFamily("opsconsole_failed_rows", "Failed rows of runs", labels=["operation"])
        batches = SummaryMetricFamily("opsconsole_batch_seconds", "Seconds per batch", labels=["operation"])
        totals: dict[str, list[float]] = {}
        rows = Run.objects.exclude(status=Status.PLANNED).order_by().values("operation", "status")
        for row in rows.annotate(
            runs=Count("pk"),
            rows=Sum("changed"),
            failed_rows=Sum("failed"),
            count=Sum("batches_done"),
            seconds=Sum("elapsed_seconds"),
        ):
            by_status.add_metric([row["operation"], row["status"]], row["runs"])
            total = totals.get(row["operation"], [0, 0, 0, 0])
            parts = (row["rows"], row["failed_rows"], row["count"], row["seconds"])
            totals[row["operation"]] = [have + (more or 0) for have, more in zip(total, parts, strict=True)]
        for operation, (rows_changed, failed, count, seconds) in sorted(totals.items()):
            changed.add_metric([operation], rows_changed)
            failed_rows.add_metric([operation], failed)
            batches.add_metric([operation], count_value=int(count), sum_value=seconds)
        queue_length = GaugeMetricFamily("opsconsole_queue_length", "Runs that wait for a worker")
        queue_length.add_metric([], Run.objects.filter(status=Status.QUEUED).count())
        yield from (by_status, changed, failed_rows, batches, queue_length)

    def _findings(self) -> Iterator[Metric]:
        found = GaugeMetricFamily("opsconsole_findings", "Open findings", labels=["check", "store", "kind", "priority"])
        rows = Finding.objects.filter(resolved_at=None).order_by().values("operation", "store", "code", "priority")
        for row in rows.annotate(count=Count("pk")):
            found.add_metric([row["operation"], row["store"], row["code"], row["priority"]], row["count"])
        yield found

    def _measured(self) -> Iterator[Metric]:
        sizes = GaugeMetricFamily("opsconsole_store_size_bytes", "Size of the store", labels=["store"])
        problems = GaugeMetricFamily("opsconsole_problem_units", "Rows to repair", labels=["operation", "store"])
        wanted = Q(name=SIZE) | Q(name__startswith=PROBLEM)
        latest: dict[tuple[str, str], int | None] = {}
        since = timezone.localdate() - timedelta(days=7)
        for row in Measurement.objects.filter(wanted, day__gte=since).order_by("day"):
            latest[row.store, row.name] = row.value
        for (store, name), value in sorted(latest.items()):
            if value is None:
                continue
            if name == SIZE:
                sizes.add_metric([store], value)
            else:
                problems.add_metric([name.removeprefix(PROBLEM), store], value)
        yield from (sizes, problems)

    def _pools(self) -> Iterator[Metric]:
        labels = ["store", "process"]
        families = {
            name: GaugeMetricFamily(
                f"opsconsole_pool_{name}", f"Connection pool of a web process: {name}", labels=labels
            )
            for name in ("size", "max", "in_use", "waiting", "waited_ms", "timed_out")
        }
        for store in all_stores():
            for name, value in (pool(store) or {}).items():
                families[name].add_metric([store.alias, str(os.getpid())], value)
        yield from families.values()


@login_not_required
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    if not can_see_details(request):
        return HttpResponse(
            "This needs a token or an account. See METRICS_TOKEN.\n", content_type="text/plain", status=403
        )
    registry = CollectorRegistry()
    registry.register(Figures())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
