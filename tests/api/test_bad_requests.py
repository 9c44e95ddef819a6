"""Malformed requests are answered with a redirect or 400, never 500."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import NoReverseMatch, reverse

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])

QUERIES = [
    "pk__regex=(",
    "pk__iregex=[",
    "pk__in=,",
    "pk__in=99999999999999999999999",
    "pk=99999999999999999999999",
    "pk=%00",
    "pk__gt=x",
    "pk__isnull=maybe",
    "pk__range=1",
    "pk__nonsense=1",
    "x__y=z",
    "x=",
    "__=1",
    "pk__",
    "q=%00",
    "q=%ff",
    "q=" + "x" * 3000,
    "o=9.x.-",
    "p=x",
    "p=-5",
    "p=99999999999999999999999",
    "all=",
    "_popup=1&_to_field=password",
    "_facets=",
    "day__gte=x",
    "id__exact__exact=1",
]
# All queries on a few models of each kind; queries that reach the database on every model.
SOME = {"auth.user", "operations.run", "agentos.task", "records.testrecord"}
EVERYWHERE = ["pk__regex=(", "pk__in=99999999999999999999999", "x__y=z"]


@pytest.fixture
def signed_in(alice: Any) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(alice, "django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize("view", ["changelist", "export"])
def test_bad_queries(signed_in: Client, view: str) -> None:
    wrong = []
    for model in admin.site._registry:
        try:
            url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{view}")
        except NoReverseMatch:
            continue
        for query in QUERIES if model._meta.label_lower in SOME else EVERYWHERE:
            status = signed_in.get(f"{url}?{query}").status_code
            if status not in {200, 302, 400, 403, 404}:
                wrong.append((url, query, status))
    assert wrong == []


BODIES = {
    "multipart/form-data; boundary=x": b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--\r\n",
    "multipart/form-data": b"no boundary",
    "multipart/form-data; boundary=y": b"\xff",
    "application/x-www-form-urlencoded": b"a=%ff&" * 2000,
    "application/json": b"{",
    "text/plain; charset=nonsense": b"x",
    "": b"",
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(("method", "path"), [("POST", "status"), ("PUT", "e1/status")])
def test_bad_bodies(alice: Any, method: str, path: str, kind: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice, "django.contrib.auth.backends.ModelBackend")
    token = "x" * 32
    client.cookies["csrftoken"] = token
    headers = {"X-CSRFToken": token}
    answer = client.generic(method, f"/api/v1/executions/{path}", BODIES[kind], kind, headers=headers)
    assert 400 <= answer.status_code < 500, answer.content
    assert set(answer.json()) == {"error"}
