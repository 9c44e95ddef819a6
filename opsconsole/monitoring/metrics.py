"""Metrics for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db.models import Count, Max, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from opsconsole.engine import queue
from opsconsole.engine.models import Finding, Run, Status
from opsconsole.engine.operation import LONG_CLUSTER
from opsconsole.monitoring.connectivity import identities, unreachable
from opsconsole.monitoring.health import can_see_details
from opsconsole.monitoring.measurements import PROBLEM, SIZE
from opsconsole.monitoring.models import Measurement
from opsconsole.monitoring.stats import pool
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store, all_stores


class ConsoleCollector(Collector):
    """A collector that reads the console's own tables in a constant number of statements."""

    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        yield from self._runs()
        yield from self._findings()
        ages = GaugeMetricFamily("opsconsole_backup_age_seconds", "Age of the newest verified backup", labels=["store"])
        down = unreachable(list(map(Store.called, settings.STORES)))
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
        labels = ["operation", "store"]
        by_status = GaugeMetricFamily("opsconsole_runs", "Runs", labels=["operation", "store", "status"])
        changed = CounterMetricFamily("opsconsole_rows_changed", "Rows changed by runs", labels=labels)
        failed_rows = CounterMetricFamily("opsconsole_failed_rows", "Failed rows of runs", labels=labels)
        batches = SummaryMetricFamily("opsconsole_batch_seconds", "Seconds per batch", labels=labels)
        totals: dict[tuple[str, str], list[float]] = {}
        rows = Run.objects.exclude(status=Status.PLANNED).order_by().values("operation", "store", "status")
        for row in rows.annotate(
            runs=Count("pk"),
            rows=Sum("changed"),
            failed_rows=Sum("failed"),
            count=Sum("batches_done"),
            seconds=Sum("elapsed_seconds"),
        ):
            by_status.add_metric([row["operation"], row["store"], row["status"]], row["runs"])
            key = row["operation"], row["store"]
            total = totals.get(key, [0, 0, 0, 0])
            parts = (row["rows"], row["failed_rows"], row["count"], row["seconds"])
            totals[key] = [have + (more or 0) for have, more in zip(total, parts, strict=True)]
        for key, (rows_changed, failed, count, seconds) in sorted(totals.items()):
            changed.add_metric(key, rows_changed)
            failed_rows.add_metric(key, failed)
            batches.add_metric(key, count_value=int(count), sum_value=seconds)
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
        problems = GaugeMetricFamily("opsconsole_problem_rows", "Rows to repair", labels=["operation", "store"])
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
    registry.register(ConsoleCollector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
