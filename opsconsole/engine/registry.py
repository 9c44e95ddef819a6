"""The operations by name, and their parameters as form fields and command-line flags."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

from django import forms
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _

from opsconsole.engine.causes import Cause
from opsconsole.engine.operation import Operation
from opsconsole.engine.requirements import required_columns
from opsconsole.stores.router import aliases_of
from opsconsole.stores.store import Store


class UnknownOperation(Exception):
    """No operation has this name. The message lists those that exist."""


class InvalidParameters(Exception):
    """The parameters are invalid. The message names each of them and its error."""


@cache
def operations() -> dict[str, type[Operation]]:
    """Return name → class, from `<app>/operations/<verb_object>.py` of every installed app."""
    found: dict[str, type[Operation]] = {}
    for app in apps.get_app_configs():
        try:
            package = importlib.import_module(f"{app.name}.operations")
        except ModuleNotFoundError as error:
            if error.name != f"{app.name}.operations":
                raise
            continue
        for module_info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            cls = declared_in(module)
            if cls.name in found:
                raise ImproperlyConfigured(f"Two operations are called {cls.name}. Rename one of them.")
            found[cls.name] = cls
    for cls in found.values():
        _check_causes(cls, found)
    return dict(sorted(found.items()))


def problem_operations() -> dict[str, type[Operation]]:
    """Return the operations whose rows in scope are an incident."""
    return {name: cls for name, cls in operations().items() if cls.problem is not None}


def declared_in(module: ModuleType) -> type[Operation]:
    """Return the operation of a module, whose class has the same name in CapWords."""
    name = "".join(word.capitalize() for word in module.__name__.rpartition(".")[2].split("_"))
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Operation)):
        raise ImproperlyConfigured(
            f"{module.__name__} declares no operation called {name}. Rename the class or the module."
        )
    missing = [one for one in ("title", "description", "risk") if not hasattr(cls, one)]
    if missing:
        raise ImproperlyConfigured(f"{name} does not declare {', '.join(missing)}. Add it.")
    return cls


def _check_causes(cls: type[Operation], known: Mapping[str, Any]) -> None:
    """Refuse a cause of an unknown code and a repair that does not exist."""
    causes: Mapping[str, Cause] = getattr(cls, "causes", {})
    for code in causes:
        if code not in cls.reasons:
            raise ImproperlyConfigured(f"{cls.name} has a cause for {code}, which is not in `reasons`. Add it.")
    for cause in (*causes.values(), *([cls.problem] if cls.problem is not None else [])):
        for name in cause.repairs:
            if name not in known:
                raise ImproperlyConfigured(
                    f"The cause {cause.code} of {cls.name} names the repair {name}. No operation has this name. "
                    "Correct it."
                )


def operation(name: str) -> type[Operation]:
    """Return the operation called `name`. Raises UnknownOperation."""
    try:
        return operations()[name]
    except KeyError:
        raise UnknownOperation(
            _("No operation is called %(name)s. The operations are: %(names)s.")
            % {"name": name, "names": ", ".join(operations())}
        ) from None


def targets_run(cls: type[Operation]) -> bool:
    """Return whether the operation works on the rows of another run, which its parameter `run` names."""
    return "run" in cls.Params.base_fields


def scheduled_params(cls: type[Operation]) -> Iterable[Mapping[str, Any]]:
    """Return the parameters of each run that the schedule of the operation starts."""
    return cls.schedule.params() if cls.schedule is not None else [{}]


def scheduled_runs(cls: type[Operation]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return the store and the parameters of each run of a schedule: one for each store of the platform."""
    runs = product(aliases_of(getattr(cls, "store_alias", "")), scheduled_params(cls))
    return [(str(values.get("store", alias)), values) for alias, values in runs]


def needed_columns(store: Store, name: str = "") -> dict[str, set[str]]:
    """Return table → columns that the operation called `name` needs, or all operations of the store."""
    found: dict[str, set[str]] = {}
    for other, cls in operations().items():
        if getattr(cls, "store_alias", None) == store.platform and name in {"", other}:
            for model, columns in required_columns(cls(store)).items():
                found.setdefault(model._meta.db_table, set()).update(columns)
    return found


_NUMBER = re.compile(r"-?[0-9]{1,18}")


def clean(cls: type[Operation], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cleaned parameters of an operation. Raises InvalidParameters with a sentence per field."""
    form = cls.Params(data=dict(values))
    for name, field in form.fields.items():
        # Django accepts digits of every script and drops a trailing ".0".
        if name in form.errors or not isinstance(field, forms.IntegerField):
            continue
        if not _NUMBER.fullmatch(str(values.get(name) or 0)):
            form.add_error(name, field.error_messages["invalid"])
    if not form.is_valid():
        sentences = [
            f"{'' if field == '__all__' else f'{field}: '}{error}"
            for field, errors in form.errors.items()
            for error in errors
        ]
        raise InvalidParameters(" ".join(sentences))
    return dict(form.cleaned_data)
