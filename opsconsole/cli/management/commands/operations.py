from __future__ import annotations

from typing import Any

from django import forms
from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand
from opsconsole.cli.flags import add_json_flag, flag_of
from opsconsole.cli.output import Output
from opsconsole.engine import registry
from opsconsole.engine.operation import Operation


class Command(ConsoleCommand):
    help = gettext_noop("List all operations with their parameters, risk and schedule.")
    examples = ("operations", "operations --json")

    def add_arguments(self, parser: CommandParser) -> None:
        add_json_flag(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        output = Output.of(options)
        if options["json"]:
            output.json({"operations": [_described(cls) for cls in registry.operations().values()]})
            return
        rows = [(_("operation"), _("store"), _("risk"), _("schedule"), _("parameters"))]
        for cls in registry.operations().values():
            store = getattr(cls, "store_alias", None) or _("store of the run")
            schedule = cls.schedule.cron if cls.schedule else ""
            rows.append((cls.name, store, str(cls.risk.label), schedule, _flags(cls)))
        output.table(rows, heading=True)


def _fields(cls: type[Operation]) -> dict[str, forms.Field]:
    fields: dict[str, forms.Field] = cls.Params.base_fields
    return fields


def _flags(cls: type[Operation]) -> str:
    return " ".join(flag_of(name) if field.required else f"[{flag_of(name)}]" for name, field in _fields(cls).items())


def _described(cls: type[Operation]) -> dict[str, Any]:
    return {
        "operation": cls.name,
        "title": str(cls.title),
        "description": str(cls.description),
        "store": getattr(cls, "store_alias", None),
        "risk": cls.risk.value,
        "undoable": cls.undoable,
        "batch_size": cls.batch_size,
        "schedule": cls.schedule.cron if cls.schedule else None,
        "parameters": [
            {
                "name": name,
                "required": field.required,
                "default": field.initial,
                "help": str(field.help_text or field.label or ""),
            }
            for name, field in _fields(cls).items()
        ],
    }
