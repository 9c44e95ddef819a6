"""What lists read and send: the beginnings of long texts, on both engines and for every table."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connections, models
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from opsconsole.console.list_columns import LIST_CHARACTERS, is_long
from opsconsole.console.store_admin import StoreModelAdmin
from opsconsole.stores import schema
from opsconsole.stores.fields import RawTimestampField
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store
from tests.audits.test_audits_admin import signed_in
from tests.conftest import attach_url, forget_attached

STORES = ("agentos", "helix", "records", "roadmaps")
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *STORES])

WORDS = random.Random(20)
KILOBYTES = 60


def listed_models(name: str) -> list[Any]:
    registered = admin.site._registry
    return [m for m in apps.get_models() if store_of(m) == name and isinstance(registered.get(m), StoreModelAdmin)]


@pytest.fixture(params=("sqlite", "postgresql"))
def stores(request: pytest.FixtureRequest, tmp_path: Any, django_db_setup: None) -> Iterator[str]:
    """Yield the engine of all stores, which are empty."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    for name in STORES:
        url = f"sqlite:///{tmp_path}/{name}.sqlite3" if server is None else server.create_database(f"lists_{name}")
        schema.make_tables(attach_url(name, url, attached=False))
    yield request.param
    forget_attached()
    if server is not None:
        for name in STORES:
            server.drop_database(f"lists_{name}")


def document() -> str:
    return json.dumps({"text": "".join(WORDS.choices("abcdefghij ", k=2_400))})


def value_of(field: Any, number: int) -> Any:
    """Return a value that fits the type of a column: a key, a known value, or a document longer than a list reads."""
    if field.choices:
        return field.choices[0][0]
    if isinstance(field, RawTimestampField) or field.name.endswith(("_at", "_ts")):
        return "2026-01-20 10:00:00"
    if is_long(field) and not field.name.endswith("_id"):  # an index of PostgreSQL holds no long key
        return b"\0\0\x80?" if isinstance(field, models.BinaryField) else document()
    target = getattr(field, "target_field", field)
    if isinstance(target, models.TextField | models.CharField):
        return f"key {number}"
    return True if isinstance(field, models.BooleanField) else number


def fill(engine: str, name: str, rows: int) -> None:
    with connections[name].cursor() as cursor:
        cursor.execute(
            "SET session_replication_role = replica" if engine == "postgresql" else "PRAGMA foreign_keys=OFF"
        )
        for model in listed_models(name):
            fields = model._meta.concrete_fields
            columns, marks = ", ".join(f'"{field.column}"' for field in fields), ", ".join(["%s"] * len(fields))
            sql = f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ({marks})"
            for number in range(rows):
                cursor.execute(sql, [value_of(field, number + rows * 1000) for field in fields])


def test_lists_read_and_send_little(stores: str, client: Any, alice: Any) -> None:
    client = signed_in(client, alice)
    asked: dict[Any, int] = {}
    for rows in (3, 120):
        for name in STORES:
            fill(stores, name, rows)
            Store(name, name).close()
            for model in listed_models(name):
                address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
                client.get(address)  # queries that a process makes once
                with CaptureQueriesContext(connections[name]) as queries:
                    answer = client.get(address)
                assert answer.status_code == 200
                assert asked.setdefault(model, len(queries)) == len(queries), address
                for row in answer.context["cl"].result_list:
                    long = [
                        value
                        for value in row.__dict__.values()
                        if isinstance(value, str) and len(value) > LIST_CHARACTERS
                    ]
                    assert not long, (model, row.__dict__.keys())
                assert len(gzip.compress(answer.content)) < KILOBYTES * 1000, address


def test_a_long_text_is_shown_as_its_beginning(stores: str, client: Any, alice: Any) -> None:
    client = signed_in(client, alice)
    messages, text = apps.get_model("agentos.WebuiMessage").objects, "begin" + "x" * 2_500 + "end"
    fill(stores, "agentos", 1)
    messages.update(content=text)
    listed = client.get(reverse("admin:agentos_webuimessage_changelist")).content.decode()
    assert re.search("beginx+…", listed)
    assert "xend" not in listed
    page = client.get(reverse("admin:agentos_webuimessage_change", args=["key 1000"])).content.decode()
    assert text in page


def test_a_link_is_never_made_of_a_cut_key(stores: str, client: Any, alice: Any) -> None:
    client = signed_in(client, alice)
    fill(stores, "agentos", 1)
    apps.get_model("agentos.Task").objects.update(session_id="s" * 2_500, title="short")
    listed = client.get(reverse("admin:agentos_task_changelist")).content.decode()
    assert not re.search("webuisession/s+/", listed)
    assert "sss…" in listed
    assert "short" in listed


def test_pages_are_compressed_and_differ_in_length(client: Any, alice: Any) -> None:
    client = signed_in(client, alice)
    answers = [client.get(reverse("admin:index"), headers={"accept-encoding": "gzip"}) for _ in range(8)]
    assert {answer["Content-Encoding"] for answer in answers} == {"gzip"}
    assert len(answers[0].content) < 20_000
    assert len({len(answer.content) for answer in answers}) > 1  # against BREACH
