"""Rules for every operation, including future ones."""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import models, router

from opsconsole.cli.flags import add_parameter_flags
from opsconsole.engine import registry
from opsconsole.engine.models import ENDED, RESUMABLE, TRANSITIONS, Event, Status
from opsconsole.engine.operation import Operation
from opsconsole.stores.models import StoreModel
from opsconsole.stores.platforms import platform_apps

TESTS = Path(__file__).parent
OPERATIONS = registry.operations()
every_operation = pytest.mark.parametrize("cls", OPERATIONS.values(), ids=OPERATIONS)


def test_operations_are_found() -> None:
    assert {"audits.backfill_decision_fields", "operations.undo_run", "operations.retry_failed_rows"} <= set(OPERATIONS)


@every_operation
def test_module_class_and_name_match(cls: type[Operation]) -> None:
    """The name starts with a verb, and the title is one line of text."""
    module = cls.__module__.rpartition(".")[2]
    assert cls.__name__ == "".join(word.capitalize() for word in module.split("_"))
    assert cls.name.partition(".")[2] == module
    assert apps.get_app_config(cls.name.partition(".")[0])
    assert "\n" not in str(cls.title)
    assert not str(cls.title).endswith(".")
    assert str(cls.description).endswith(".")


@every_operation
def test_each_file_contains_one_operation(cls: type[Operation]) -> None:
    module = inspect.getmodule(cls)
    others = [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Operation) and found.__module__ == cls.__module__
    ]
    assert others == [cls]
    assert inspect.getdoc(module), "the module has no docstring"


@every_operation
def test_each_operation_has_a_test(cls: type[Operation]) -> None:
    """The test file has the name of the operation. Operations that change rows inherit the contract."""
    name = f"test_{cls.__module__.rpartition('.')[2]}.py"
    file = next(TESTS.rglob(name), None)
    assert file is not None, f"{name} is missing"
    if cls.name.partition(".")[0] in {app.label for app in platform_apps()} and cls.writes:
        assert re.search(r"\((Engine)?Contract\)", file.read_text())


@every_operation
def test_its_parameters_explain_themselves(cls: type[Operation]) -> None:
    for name, field in cls.Params.base_fields.items():
        assert field.help_text, f"{name} has no help_text"


@every_operation
def test_flags_match_the_fields_of_the_form(cls: type[Operation]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_parameter_flags(cls, parser)
    fields: dict[str, Any] = cls.Params.base_fields
    actions = {action.dest: action for action in parser._actions}
    assert set(actions) == set(fields)
    for name, action in actions.items():
        assert action.option_strings == [f"--{name.rstrip('_').replace('_', '-')}"]
        assert action.help


@every_operation
def test_each_operation_declares_existing_columns(cls: type[Operation]) -> None:
    """They are columns of models of its store, or those of the run that it undoes or retries."""
    if getattr(cls, "targets_run", False) or not hasattr(cls, "store_alias"):  # or it works on any store
        return
    tables = {model._meta.db_table: model for model in apps.get_models() if _store(model) == cls.store_alias}
    for table, columns in cls.writes.items():
        assert set(columns) <= {field.column for field in tables[table]._meta.concrete_fields}
    assert _store(cls.model) == cls.store_alias


def _store(model: type[models.Model]) -> str:
    return router.db_for_read(model)


def test_no_relation_crosses_stores() -> None:
    for model in apps.get_models():
        if issubclass(model, StoreModel):
            for field in model._meta.concrete_fields:
                if field.related_model:
                    assert _store(field.related_model) == _store(model), field


def test_every_status_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {"succeeded", "needs_attention", "failed", "cancelled", "rejected"} == set(ENDED)
    assert all(Status.RUNNING in TRANSITIONS[status] for status in RESUMABLE)
    reached = {target for targets in TRANSITIONS.values() for target in targets}
    assert reached == set(Status) - {Status.PLANNED}


@pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
def test_migrations_are_complete() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_the_audit_log_is_append_only() -> None:
    event = Event.objects.create(verb="planned", who="alice")
    event.who = "mallory"
    with pytest.raises(TypeError):
        event.save()
    event.refresh_from_db()
    assert event.who == "alice"
    for attempt in (
        lambda: Event.objects.update(who="mallory"),
        lambda: Event.objects.all().delete(),
        event.delete,
    ):
        with pytest.raises(TypeError):
            attempt()
    assert Event.objects.get().who == "alice"


def test_names_of_a_catalogue_are_quoted_in_one_place() -> None:
    """Django's quoting does not double quotes, and leaves names unchanged that look quoted."""
    root = TESTS.parent
    files = [path for app in ("opsconsole", "tasks", "audits", "roadmaps") for path in (root / app).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if "quote_name" in path.read_text()] == []
