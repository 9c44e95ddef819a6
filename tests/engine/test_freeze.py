"""The page and the banner of a freeze, and the notes of a run."""

from __future__ import annotations

import csv
import io

import pytest
from django.test import Client

from opsconsole.engine import lifecycle
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Alert, Event, Finding, Freeze, Run, Status
from tests.support import helix
from tests.support.contract import TESTER, execute_run, operation_called, start
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
PAGE = "/admin/operations/freeze/"


def test_freezing_and_unfreezing(client, bob, viewer):
    client.force_login(bob)
    page = client.get(PAGE).content.decode()
    assert "Freeze all runs" in page
    assert 'name="store" value="helix"' in page, "a backup is offered"
    assert client.post(PAGE, {"note": " "}).status_code == 400
    assert not Freeze.objects.exists()
    client.post(PAGE, {"note": "duplicate keys in HELIX"})
    assert Freeze.objects.get().who == "bob"
    assert "bob" in Alert.objects.get().subject

    other = Client()
    other.force_login(viewer)
    for address in ("/admin/", "/admin/operations/run/", PAGE):
        page = other.get(address).content.decode()
        assert "All runs are frozen by bob: duplicate keys in HELIX" in page
    assert 'name="unfreeze"' not in page
    assert other.post(PAGE, {"unfreeze": "1"}).status_code == 403
    client.post(PAGE, {"unfreeze": "1"})
    assert not Freeze.objects.exists()
    assert "All runs are frozen" not in other.get("/admin/").content.decode()
    assert list(Event.objects.order_by("pk").values_list("verb", flat=True)) == ["freeze", "unfreeze"]


def test_a_backup_runs_during_a_freeze(make_helix, tmp_path, settings):
    make_helix("sqlite", helix.one_of_each())
    lifecycle.freeze(TESTER, "a fire")
    with pytest.raises(RunRefused, match="runs unfreeze"):
        start(operation_called("operations.prune_runs"))
    settings.BACKUP_FOLDERS = [tmp_path]
    run = execute_run(operation_called("backups.backup_store", store="default", to=str(tmp_path)))
    assert run.status == Status.SUCCEEDED, run.error


# --- the record -----------------------------------------------------------------------------------------------


def cleaned(make_helix) -> Run:
    store = make_helix("postgresql-enum", helix.one_of_each())
    return execute_run(operation_called("helix.clean_dirty_jobs", store), note="duplicate keys since noon")


def test_a_note_is_added_after_the_end(make_helix, client, bob, viewer):
    run = cleaned(make_helix)
    client.force_login(bob)
    address = f"/admin/operations/run/{run.pk}"
    client.post(f"{address}/note/", {"text": "an agent had to be restarted"})
    client.post(f"{address}/note/", {"text": "  "})
    assert [event.detail["text"] for event in run.events.filter(verb="note")] == ["an agent had to be restarted"]
    report = client.get(f"{address}/change/?tab=report").content.decode()
    for told in ("duplicate keys since noon", "an agent had to be restarted", "jobs to delete", "jobs 6", "tester"):
        assert told in report
    client.force_login(viewer)
    assert client.post(f"{address}/note/", {"text": "me too"}).status_code == 403


def test_notes_are_exported(make_helix, tmp_path, empty_console, client, alice):
    run = cleaned(make_helix)
    lifecycle.add_note(run, TESTER, "an agent had to be restarted")
    client.force_login(alice)
    fields = dict.fromkeys(("runresource_id", "runresource_note", "runresource_notes", "runresource_before"), "on")
    answer = client.post("/admin/operations/run/export/", {"format": "0", "resource": "0", **fields})
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert (rows[0]["note"], rows[0]["notes"]) == ("duplicate keys since noon", "tester: an agent had to be restarted")
    shell = Shell(tmp_path / "console", empty_console)
    assert "Run 7 does not exist" in shell.refused("runs", "note", "7", "too late")


def test_selected_findings_are_planned_alone(make_helix, client, bob):
    make_helix("postgresql-enum", helix.one_of_each())
    scan = execute_run(operation_called("helix.scan_dirty_data"))
    chosen = list(Finding.objects.filter(code__in="CD").values_list("pk", flat=True))
    client.force_login(bob)
    action = {"action": "helix.clean_dirty_jobs", "_selected_action": chosen}
    response = client.post("/admin/operations/finding/", action, follow=True)
    assert "Delete 2 jobs" in response.content.decode()
    assert Run.objects.latest("pk").selection == {"keys": [3, 4]}
    Finding.objects.update(resolved_at=scan.created_at)
    refused = client.post("/admin/operations/finding/", action, follow=True).content.decode()
    assert "The selected findings are resolved" in refused
