"""Pages show labels. Codes are their titles, for those who look for them."""

from __future__ import annotations

import re
from io import StringIO
from typing import cast

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation
from rich.cells import cell_len

from opsconsole.cli.output import Output, PatientConsole
from opsconsole.console.base_admin import permission_label
from opsconsole.console.page_parts import value_changes
from opsconsole.engine import lifecycle, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.labels import DETAIL_LABELS, finding_label
from opsconsole.engine.models import Event, Run
from opsconsole.engine.wording import statistic_label
from opsconsole.formatting import labelled
from tests.support import helix
from tests.support.contract import TESTER, execute_run, operation_called
from tests.support.plain_client import execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture
def bobs(client: Client, bob: User) -> Client:
    client.force_login(bob)
    return client


@pytest.fixture
def runs() -> dict[str, Run]:
    """Return a scan and a delete of dirty jobs."""
    store = operation_called("helix.scan_dirty_data").store
    for sql, values in helix.rows(helix.one_of_each()):
        execute(store, sql, values)
    names = ("helix.scan_dirty_data", "helix.clean_dirty_jobs")
    return {name: execute_run(operation_called(name)) for name in names}


def page_of(client: Client, run: Run, query: str = "") -> str:
    return client.get(reverse("run", args=[run.pk]) + query).content.decode()


def shown(page: str) -> str:
    """Return the text of the page without attributes."""
    main = page[page.index("<main") : page.index("</main>")]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", main))


def test_events_show_labels_and_keep_their_codes_as_titles(bobs: Client, runs: dict[str, Run]) -> None:
    run = runs["helix.clean_dirty_jobs"]
    lifecycle.add_note(run, TESTER, "looks right")
    assert {name for event in Event.objects.all() for name in event.detail} <= DETAIL_LABELS.keys()
    page = page_of(bobs, run, "?tab=events")
    assert 'title="digest"' in page
    assert "in_scope" not in shown(page)
    assert "looks right" in shown(page)


def test_findings_show_titles_and_keep_their_codes_as_titles(bobs: Client, runs: dict[str, Run]) -> None:
    page = page_of(bobs, runs["helix.scan_dirty_data"], "?tab=findings")
    for code, words in registry.operation("helix.scan_dirty_data").reasons.items():
        assert f'<span title="{code}">{str(words)[0].upper()}' in page


def test_every_kind_of_finding_has_a_title() -> None:
    with translation.override("zh-hans"):
        for cls in registry.operations().values():
            if issubclass(cls, Check):
                for code in cls.reasons:
                    assert finding_label(cls, code) != code.replace("_", " "), (cls.name, code)


def test_the_title_of_a_run_names_its_operation(bobs: Client, runs: dict[str, Run]) -> None:
    run = runs["helix.clean_dirty_jobs"]
    title = re.search(r"<title>(.*?)</title>", page_of(bobs, run), re.DOTALL)
    assert title is not None
    assert f"Run {run.pk}: {registry.operation(run.operation).title}" in title[1]


def test_deleted_rows_are_called_deleted(bobs: Client, runs: dict[str, Run]) -> None:
    run = runs["helix.clean_dirty_jobs"]
    assert run.changed
    deleted = 'class="text-outcome-deleted">{}</span>'
    assert deleted.format("Deleted") in page_of(bobs, run)
    assert deleted.format("deleted") in bobs.get(reverse("admin:operations_run_changelist")).content.decode()


@pytest.fixture
def terminal() -> Output:
    """Return an output on a terminal of 60 columns. Its `console.file` is a text."""
    output = Output(as_json=False)
    output.console = PatientConsole(file=StringIO(), force_terminal=True, width=60, soft_wrap=True, highlight=False)
    return output


def printed(output: Output) -> str:
    return cast("StringIO", output.console.file).getvalue()


def test_deleted_rows_are_red_in_the_shell(terminal: Output, runs: dict[str, Run]) -> None:
    terminal.run(runs["helix.clean_dirty_jobs"])
    assert [line for line in printed(terminal).splitlines() if "\x1b[31m" in line and "Deleted" in line]


@pytest.mark.parametrize("title", ["word " * 20, "中文" * 40])
def test_a_long_last_column_ends_at_the_edge_of_the_terminal(terminal: Output, title: str) -> None:
    terminal.table([("1", "open", "short"), ("2", "open", title)], shorten=True)
    lines = printed(terminal).splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert lines[1].endswith("…")
    assert lines[0].endswith("short")


def test_a_delete_is_planned_by_a_red_button(bobs: Client, runs: dict[str, Run]) -> None:
    page = bobs.get(reverse("admin:helix_helixjob_changelist")).content.decode()
    forms = re.findall(r'<form method="post" action="([^"]*/plan/)">(.*?)</form>', page, re.DOTALL)
    red = {action for action, form in forms if "bg-red" in form}
    assert red == {reverse("plan", args=[name]) for name in ("helix.clean_dirty_jobs", "helix.repair_dirty_jobs")}


def test_permissions_are_in_the_readers_language() -> None:
    with translation.override("zh-hans"):
        assert not [label for label in map(permission_label, Permission.objects.all()) if "Can " in label]


def test_a_new_or_deleted_row_has_one_value_in_each_column() -> None:
    assert "<del>&lt;b&gt;</del>" in value_changes({"note": "<b>", "kind": None}, None)
    assert "<ins>&lt;b&gt;</ins>" in value_changes(None, {"note": "<b>", "kind": None})
    for shown in (value_changes({"note": "x"}, None), value_changes(None, {"note": "x"})):
        assert "→" not in shown
        assert "NULL" not in shown
    assert "→" in value_changes({"note": "x"}, {"note": None})


def test_a_label_and_its_value_are_escaped() -> None:
    assert labelled("<i>", "{value}") == "&lt;i&gt;: {value}"


def test_the_figure_of_one_value_is_labelled_by_its_column() -> None:
    clean = registry.operation("agentos.clean_memory_items")
    assert statistic_label(clean, "memory_items") == "memory items"
    assert statistic_label(clean, "retention_type some kind") == "retention type some kind"


@pytest.mark.parametrize(("query", "filtered"), [("", False), ("q=nothing", True)])
def test_an_empty_list_offers_nothing_that_is_not_possible(bobs: Client, query: str, filtered: bool) -> None:
    page = bobs.get(f"{reverse('admin:operations_alert_changelist')}?{query}").content.decode()
    assert ("Nothing matches the filters." in page) == filtered
    assert "Create a new item" not in page


def test_the_dashboard_names_who_asks_for_an_approval(client: Client, alice: User, runs: dict[str, Run]) -> None:
    Run.objects.filter(pk=runs["helix.clean_dirty_jobs"].pk).update(
        status="awaiting_approval", confirmed_at=timezone.now(), note="<b>agents died</b>"
    )
    client.force_login(alice)
    page = client.get(reverse("admin:index")).content.decode()
    assert f"requested by {runs['helix.clean_dirty_jobs'].started_by}" in page
    assert "“&lt;b&gt;agents died" in page
