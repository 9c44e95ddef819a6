"""Access to every URL by role and method. A URL without a line in the table fails the test."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import UUIDField
from django.test import Client
from django.urls import URLResolver, get_resolver

from opsconsole.console.accounts import PLATFORMS
from opsconsole.console.editing import EditableStoreAdmin
from opsconsole.engine import incidents, lifecycle, planner, registry, stored_plans
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.models import Finding, Incident, Run, Status, Trigger

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
BACKFILL = "audits.backfill_decision_fields"
ROLES = ("stranger", "no rights", "platform", "viewer", "operator", "superuser")


class Address(NamedTuple):
    """A URL: its name and route, and for admin pages the admin class and the kind of page."""

    name: str
    route: str
    model_admin: Any = None
    kind: str = ""


def addresses() -> Iterator[Address]:
    tables = {}
    for model, model_admin in admin.site._registry.items():
        for pattern in model_admin.get_urls():
            prefix = f"{model._meta.app_label}_{model._meta.model_name}_"
            kind = (pattern.name or "old").removeprefix(prefix)
            tables[f"admin/{model._meta.app_label}/{model._meta.model_name}/{pattern.pattern}"] = model_admin, kind
    for name, route in _walk(get_resolver()):
        yield Address(name, route, *tables.get(route, ()))


def _walk(resolver: URLResolver, names: str = "", route: str = "") -> Iterator[tuple[str, str]]:
    for pattern in resolver.url_patterns:
        full = route + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern, names + (f"{pattern.namespace}:" if pattern.namespace else ""), full)
        else:
            yield names + (pattern.name or full), full


ADDRESSES = list(addresses())

# For each role in the order of ROLES: Y allowed, L redirect to login, - 403, N 404, M 405.
ALL, STAFF, RUNS, OPERATE, NOBODY, NOT_SO = "YYYYYY", "LYYYYY", "L--YYY", "L---YY", "L-----", "LMMMMM"
SUPER, STATUS = "L----Y", "L-YYYY"
PAGES: dict[str, dict[str, str]] = {
    "": {"GET": STAFF, "POST": STAFF},
    "admin:index": {"GET": STAFF, "POST": STAFF},
    "admin:login": {"GET": ALL, "POST": ALL},
    "admin:logout": {"GET": NOT_SO, "POST": STAFF},
    "admin:password_change": {"GET": STAFF, "POST": STAFF},
    "admin:password_change_done": {"GET": STAFF, "POST": NOT_SO},
    "admin:jsi18n": {"GET": STAFF, "POST": NOT_SO},
    "admin:autocomplete": {"GET": NOBODY, "POST": NOT_SO},  # 403 without a field
    "admin:search": {"GET": RUNS, "POST": RUNS},  # of the theme; replaced
    "admin:view_on_site": {"GET": "LNNNNN", "POST": "LNNNNN"},
    "admin:app_list": {"GET": "LNNNNN", "POST": "LNNNNN"},
    "admin:admin/(?P<url>.*)$": {"GET": "LNNNNN", "POST": "LNNNNN"},
    "set_language": {"GET": STAFF, "POST": STAFF},
    "operations": {"GET": RUNS, "POST": NOT_SO},
    "backup-restore": {"GET": "L---NN", "POST": NOT_SO},
    "alert-test": {"GET": NOT_SO, "POST": OPERATE},
    "approvals": {"GET": RUNS, "POST": NOT_SO},
    "freeze": {"GET": RUNS, "POST": OPERATE},
    "plan": {"GET": NOT_SO, "POST": OPERATE},
    "statement": {"GET": SUPER, "POST": NOT_SO},  # by its permission
    "plan-all": {"GET": NOT_SO, "POST": OPERATE},
    "run-series": {"GET": RUNS, "POST": NOT_SO},
    "run-series-confirm": {"GET": NOT_SO, "POST": OPERATE},
    # 404 for a store that does not exist, see test_browse.py
    **{name: {"GET": "LNNNNN", "POST": NOT_SO} for name in ("browse", "browse-rows", "browse-row")},
    "schedule": {"GET": NOT_SO, "POST": OPERATE},
    "run": {"GET": RUNS, "POST": NOT_SO},
    "run-live": {"GET": RUNS, "POST": NOT_SO},
    **{f"run-{verb}": {"GET": NOT_SO, "POST": OPERATE} for verb in ("confirm", "replan", "note", "act")},
    "run-space": {"GET": RUNS, "POST": NOT_SO},
    "run-undo-row": {"GET": NOT_SO, "POST": "L---NN"},  # 404 for a row that the run did not write
    "incident": {"GET": RUNS, "POST": NOT_SO},
    "incident-act": {"GET": NOT_SO, "POST": OPERATE},
    "incident-repair": {"GET": NOT_SO, "POST": OPERATE},
    "find": {"GET": STAFF, "POST": NOT_SO},
    "view-save": {"GET": NOT_SO, "POST": "LNNNNN"},  # 404 without a list
    "view-delete": {"GET": NOT_SO, "POST": "LNNNNN"},  # 404 for another account's view
    "sessions": {"GET": STAFF, "POST": STAFF},  # own sessions only: see test_sessions.py
    "search": {"GET": RUNS, "POST": RUNS},
    "healthz": {"GET": ALL, "POST": "MMMMMM"},
    "readyz": {"GET": ALL, "POST": "MMMMMM"},
    "metrics": {"GET": "---YYY", "POST": "MMMMMM"},
    "dashboard-live": {"GET": RUNS, "POST": NOT_SO},
    "check-stores": {"GET": NOT_SO, "POST": OPERATE},
    "trends": {"GET": RUNS, "POST": NOT_SO},
    "api-document": {"GET": RUNS, "POST": NOT_SO},
    "stores": {"GET": RUNS, "POST": NOT_SO},
    "api/": {"GET": "NNNNNN", "POST": "NNNNNN"},
    "api:api-root": {"GET": "NNNNNN", "POST": "NNNNNN"},
    "api:openapi": {"GET": STAFF, "POST": "MMMMMM"},
    "api:health": {"GET": STAFF, "POST": "MMMMMM"},
    "api:statuses": {"GET": STATUS, "POST": STATUS},
    "api:status": {"GET": "L-NNNN", "POST": "MMMMMM", "PUT": "L-Y--Y"},
    "api:results": {"GET": "L-NNNN", "POST": "MMMMMM"},
    "api:detailed_results": {"GET": "L-NNNN", "POST": "MMMMMM"},
    **{f"api:{name}": {"GET": "L--NNN", "POST": "MMMMMM"} for name in ("framework", "tutorial", "resources", "quiz")},
}
# The permission that each page of a table requires.
KINDS = {
    "changelist": {"GET": "view", "POST": "view"},
    "history": {"GET": "view", "POST": "view"},
    "export": {"GET": "view", "POST": "view"},
    "coverage": {"GET": "view", "POST": "view"},
    "change": {"GET": "view", "POST": "change"},
    "add": {"GET": "add", "POST": "add"},
    "edit": {"GET": "add", "POST": "add"},
    "import": {"GET": "add", "POST": "add"},
    "delete": {"GET": "nobody", "POST": "nobody"},  # of Django
    "password_change": {"GET": "add", "POST": "add"},
    "secret": {"GET": "no token", "POST": "not so"},
    "old": {"GET": "staff", "POST": "staff"},  # redirects to "change"
}
QUEUE_TABLES = {"django_q.schedule", "django_q.ormq", "django_q.success", "django_q.failure"}
SUPERUSERS_TABLES = {"auth.user", "auth.group", "accounts.token"}


def expected(address: Address, method: str) -> str:
    if address.model_admin is None:
        return PAGES[address.name][method]
    label = address.model_admin.model._meta.label_lower
    if label in {"operations.run", "operations.incident"} and (address.kind, method) == ("change", "POST"):
        return NOT_SO  # the console's page comes before the theme's
    view, edit = RUNS, OPERATE if isinstance(address.model_admin, EditableStoreAdmin) else NOBODY
    if label in QUEUE_TABLES:
        view, edit = SUPER, NOBODY
    if label in SUPERUSERS_TABLES:
        view, edit = SUPER, SUPER
    if label == "records.taskstatus":
        view = STATUS
    change = NOBODY if label == "accounts.token" else edit
    rights = {"view": view, "add": edit, "change": change, "nobody": NOBODY, "staff": STAFF}
    rights |= {"no token": "L----N", "not so": NOT_SO}  # 404 for a token that does not exist
    return rights[KINDS[address.kind][method]]


def test_every_url_has_a_line() -> None:
    pages = {address.name for address in ADDRESSES if address.model_admin is None}
    assert pages == set(PAGES)
    assert {address.kind for address in ADDRESSES if address.model_admin is not None} == set(KINDS)


def path_of(address: Address, run: Run) -> str:
    """Return a path for an address, with an existing run and operation."""
    verbs = {"run-note": "note", "incident-act": "acknowledge"}
    key = Incident.objects.get().pk if "incident" in address.route else run.pk
    values = {"name": BACKFILL, "verb": verbs.get(address.name, "pause"), "pk": str(key)}
    path = re.sub(r"\(\?P<(\w+)>(?:[^()]|\([^)]*\))*\)", r"<\1>", address.route)  # groups of regular expressions
    path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: values.get(found[1], "1"), path)
    return "/" + path.replace("^", "").replace("$", "")


@pytest.fixture
def run(alice: User) -> Run:
    cls = registry.operation(BACKFILL)
    planned = planner.count_outcomes(planner.plan(planner.operation_on(cls, stored_plans.store_for(cls, {}), {})))
    found = lifecycle.create_run(planned, Actor("alice", "here", Trigger.ADMIN, alice))
    incidents.save_count(found.store, found.identity, cls, 1)
    return found


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Create the requested row in each table, so that only permissions decide."""

    def get_object(self: Any, request: Any, object_id: str, from_field: Any = None) -> Any:
        key = self.model._meta.pk
        one = self.model(pk=key.to_python(str(uuid.UUID(int=1)) if isinstance(key, UUIDField) else "1"))
        if isinstance(one, Finding):
            one.last_run_id = 1
        return one

    monkeypatch.setattr(admin.ModelAdmin, "get_object", get_object)


def client_of(role: str, people: dict[str, User], **options: Any) -> Client:
    client = Client(raise_request_exception=False, **options)
    if role in people:
        client.force_login(people[role], "django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def people(alice: User, bob: User, viewer: User, charlie: User) -> dict[str, User]:
    platform = User.objects.create_user("platform", is_staff=True)
    platform.groups.set(Group.objects.filter(name=PLATFORMS))
    return dict(zip(ROLES[1:], (charlie, platform, viewer, bob, alice), strict=True))


def letter(answer: Any) -> str:
    status = answer.status_code
    if status == 401 or (status == 302 and answer["Location"].startswith("/admin/login/")):
        return "L"
    assert status < 500, answer.content[:2000]
    return {403: "-", 404: "N", 405: "M"}.get(status, "Y")


def sent(client: Client, method: str, address: Address, run: Run) -> Any:
    path = path_of(address, run)
    Run.objects.filter(pk=run.pk).update(status=Status.PLANNED)  # reset any earlier state
    if address.name.startswith("api:"):
        return client.generic(method, path, b"{}", "application/json")
    return getattr(client, method.lower())(path)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("role", ROLES)
def test_roles(role: str, method: str, people: dict[str, User], run: Run, there: None, settings: Any) -> None:
    settings.PRODUCTION = True  # require an account for the metrics
    column, wrong = ROLES.index(role), []
    client = client_of(role, people)
    for address in ADDRESSES:
        found = letter(sent(client, method, address, run))
        if address.name == "admin:logout" and method == "POST":
            client = client_of(role, people)
        if found != expected(address, method)[column]:
            wrong.append((path_of(address, run), found, expected(address, method)[column]))
    assert wrong == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("role", ROLES)
def test_other_methods_are_refused(
    role: str, method: str, people: dict[str, User], run: Run, there: None, settings: Any
) -> None:
    settings.PRODUCTION = True
    column, client = ROLES.index(role), client_of(role, people)
    for address in ADDRESSES:
        if address.model_admin is not None and address.model_admin.model not in {User, Run}:
            continue  # all tables use the same views
        found = letter(sent(client, method, address, run))
        if method in PAGES.get(address.name, {}):
            assert found == expected(address, method)[column], address
        elif "Y" not in expected(address, "GET")[column] + expected(address, "POST")[column]:
            assert found != "Y", address


def test_every_post_requires_a_csrf_token(people: dict[str, User], run: Run, there: None) -> None:
    """Test that every POST requires a CSRF token."""
    client = client_of("superuser", people, enforce_csrf_checks=True)
    for address in ADDRESSES:
        if expected(address, "POST")[-1] == "Y":
            assert letter(sent(client, "POST", address, run)) == "-", address
    assert not Run.objects.exclude(pk=run.pk).exists()
