"""Health, readiness and metrics, and their visibility."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from opsconsole.engine import queue
from opsconsole.engine.models import Heartbeat
from opsconsole.stores.store import Store
from tests.backups.test_backup_store import back_up
from tests.conftest import attach_url
from tests.support.contract import execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
OUTSIDE: dict[str, Any] = {"REMOTE_ADDR": "203.0.113.9"}
PROXIED: dict[str, Any] = {"HTTP_X_FORWARDED_FOR": "203.0.113.9"}


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")


def lines(client: Client, **headers: Any) -> dict[str, str]:
    text = client.get("/readyz", **headers).content.decode()
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_alive_and_ready(client: Client, tmp_path: Path) -> None:
    assert client.get("/healthz", **OUTSIDE).content == b"OK\n"
    said = lines(client)
    assert list(said) == [
        "console", *(f"store {name}" for name in settings.STORES), "queue", "worker", "worker long", "schedules"
    ]  # fmt: skip
    assert said["worker"].endswith("never seen")
    for cluster in ("", "long"):
        Heartbeat.objects.create(host=queue.heartbeat_name("here", cluster), at=timezone.now())
    assert set(lines(client).values()) == {"OK"}
    assert client.get("/readyz?all").status_code == 200
    attach_url("helix", "postgresql://nobody:hunter2@127.0.0.1:1/gone")
    said = lines(client)
    assert said.pop("store helix") != "OK"
    assert set(said.values()) == {"OK"}
    assert client.get("/readyz").status_code == 200, "one store's trouble does not take the console out of service"
    assert client.get("/readyz?all").status_code == 503
    Heartbeat.objects.update(at=timezone.now() - timedelta(minutes=5))
    assert "not seen since" in lines(client)["worker"]


def test_reasons_are_shown_to_permitted_accounts_only(
    client: Client, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for headers in (OUTSIDE, PROXIED):
        assert client.get("/readyz", **headers).content == b"OK\n"
        assert client.get("/readyz?all", **headers).content == b"not ready\n"
        assert client.get("/metrics", **headers).status_code == 403
    assert client.get("/metrics").status_code == 200
    monkeypatch.setattr(settings, "METRICS_TOKEN", "a secret")
    assert client.get("/metrics").status_code == 403
    assert client.get("/metrics", HTTP_AUTHORIZATION="Bearer another").status_code == 403
    assert client.get("/metrics", HTTP_AUTHORIZATION="Bearer a secret", **OUTSIDE).status_code == 200
    client.force_login(bob)
    assert client.get("/metrics", **OUTSIDE).status_code == 200
    assert "never seen" in lines(client, **OUTSIDE)["worker"]
    client.logout()
    monkeypatch.setattr(settings, "METRICS_TOKEN", "")
    monkeypatch.setattr(settings, "PRODUCTION", True)
    assert client.get("/metrics").status_code == 403, "in production this host needs the token, too"
    assert client.get("/readyz").content == b"OK\n"


def test_metrics_parse_and_hold_the_figures(client: Client, django_assert_max_num_queries: Any) -> None:
    back_up(Store("agentos", "agentos"))
    execute_run(operation_called("audits.check_references"))
    execute_run(operation_called("monitoring.measure_stores"))
    with django_assert_max_num_queries(15):
        text = client.get("/metrics").content.decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["opsconsole_runs", ("agentos", "backups.backup_store", "succeeded")] == 1
    assert 0 <= samples["opsconsole_backup_age_seconds", ("agentos",)] < 60
    assert samples["opsconsole_store_up", ("helix",)] == 1
    assert samples["opsconsole_store_size_bytes", ("agentos",)] > 0
    assert samples["opsconsole_queue_length", ()] == 0
    assert samples["opsconsole_batch_seconds_count", ("agentos", "backups.backup_store")] == 1


def test_the_grafana_dashboard_uses_existing_metrics(client: Client) -> None:
    back_up(Store("agentos", "agentos"))
    execute_run(operation_called("monitoring.measure_stores"))
    Heartbeat.objects.create(host=queue.heartbeat_name("here"), at=timezone.now())
    there = set(re.findall(r"# TYPE (\w+)", client.get("/metrics").content.decode()))
    board = json.loads((Path(__file__).resolve().parents[2] / "docs" / "grafana-dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"opsconsole_\w+", target["expr"]):
                assert name in there or re.sub(r"_(sum|count)$", "", name) in there, name


def test_store_stats(managed: Any, client: Client, bob: Any) -> None:
    from opsconsole.monitoring.stats import stats

    managed.execute("INSERT INTO tasks (task_id, title) VALUES ('t', 'one')")
    if managed.engine == "postgresql":
        managed.execute("ANALYZE")
        managed.execute("BEGIN")
    found = stats(Store("agentos", "agentos"))
    rows = {table["table"]: table["rows"] for table in found["tables"]}
    assert rows["tasks"] == 1
    assert found["size_bytes"] > 0
    if managed.engine == "postgresql":
        assert found["connections"]["used"] >= 1
        assert "idle in transaction" in {row["state"] for row in found["connections"]["by"]}
        assert {"index", "bytes", "table"} == set(found["unused_indexes"][0])
        managed.execute("ROLLBACK")
    attach_url("helix", "postgresql://nobody:hunter2@127.0.0.1:1/gone")
    client.force_login(bob)
    page = client.get("/admin/stores/").content.decode()
    assert page.count("note-danger") >= 1
    assert "hunter2" not in page
    assert "task_audits" in page


def test_a_server_with_many_connections_raises_an_alert(
    postgres: Any, client: Client, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opsconsole.engine.models import Alert

    attach_url("records", postgres.create_database("crowded"))
    monkeypatch.setattr(settings, "CONNECTIONS_ALERT_PERCENT", 0)
    execute_run(operation_called("monitoring.measure_stores"))
    client.force_login(bob)
    assert "connections are in use" in client.get("/admin/").content.decode()
    assert Alert.objects.filter(subject__contains="connections").count() == 1
    execute_run(operation_called("monitoring.measure_stores"))
    assert Alert.objects.filter(subject__contains="connections").count() == 1


def test_an_overdue_backup_is_reported_once_and_so_is_the_next_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    from opsconsole.engine.models import Alert
    from opsconsole.stores.models import Backup

    execute_run(operation_called("monitoring.measure_stores"))
    assert not Alert.objects.exists(), "who never made a backup has read so on the dashboard"
    back_up(Store("agentos", "agentos"))
    Backup.objects.update(at=timezone.now() - timedelta(days=3))
    for _times in range(2):
        execute_run(operation_called("monitoring.measure_stores"))
    assert "no verified backup for 72 h" in Alert.objects.get().subject
    Backup.objects.all().delete()
    execute_run(operation_called("monitoring.measure_stores"))
    assert Alert.objects.count() == 1, "without any backup, the problem is not over"
    back_up(Store("agentos", "agentos"))
    execute_run(operation_called("monitoring.measure_stores"))
    assert [one.key.partition("/")[0] for one in Alert.objects.order_by("pk")] == ["backup_missing", "backup_recent"]
