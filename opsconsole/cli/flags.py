"""The flags of operations and checks, and the store and rows that they select."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _

from opsconsole.cli.command import Refused
from opsconsole.engine import checklist
from opsconsole.engine.keyset import with_keys
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import store_called
from opsconsole.engine.registry import targets_run
from opsconsole.engine.shards import MAX_SHARDS
from opsconsole.engine.stored_plans import store_for
from opsconsole.stores.router import aliases_of
from opsconsole.stores.rows import Key, is_bigint, is_numbered, plain_key
from opsconsole.stores.store import Store, attach_file

MAX_BATCH_SIZE = 100_000


def batch_size(text: str) -> int:
    """Parse --batch-size."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_BATCH_SIZE):
        raise argparse.ArgumentTypeError(_("must be a whole number from 1 to 100000, not %s") % repr(text))
    return int(text)


def shard_count(text: str) -> int:
    """Parse --shards."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_SHARDS):
        values = {"most": MAX_SHARDS, "given": repr(text)}
        raise argparse.ArgumentTypeError(_("must be a whole number from 1 to %(most)d, not %(given)s") % values)
    return int(text)


def free_text(text: str) -> str:
    """Read a text for argparse. Bytes that are not UTF-8 cannot be saved and become replacement characters."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def flag_of(parameter: str) -> str:
    """Return the flag of a parameter."""
    return "--" + parameter.rstrip("_").replace("_", "-")


def add_user_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--user",
        metavar="NAME",
        help=_("Act as this console account, authenticated by OPSCONSOLE_TOKEN or its password."),
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=_("Print one JSON object on standard output."))


def add_exit_code_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exit-code", action="store_true", help=_("Exit with 3 if there are findings."))


def add_store_flags(parser: argparse.ArgumentParser) -> Any:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--database", metavar="ALIAS", help=_("Work on this store."))
    where.add_argument("--db-path", metavar="FILE", help=_("Attach this SQLite file for this call."))
    return where


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--background", action="store_true", help=_("Queue the run, print its id and return."))
    parser.add_argument("--note", type=free_text, metavar="TEXT", default="", help=_("The reason, saved with the run."))
    add_user_flag(parser)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that the command of every changing operation has."""
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help=_("Plan only. Nothing is written."))
    mode.add_argument("--execute", action="store_true", help=_("Execute, for commands whose default is a dry run."))
    add_store_flags(parser).add_argument(
        "--all-stores",
        action="store_true",
        help=_("Work on each store of the platform, one after another, until one does not succeed."),
    )
    parser.add_argument("--batch-size", type=batch_size, metavar="N", help=_("Rows per batch, 1 to 100000."))
    parser.add_argument(
        "--fast",
        action="store_true",
        help=_("Write 4,000 rows per batch, without a pause between them. For stores without other users."),
    )
    parser.add_argument(
        "--shards",
        type=shard_count,
        metavar="N",
        help=_("Divide the run among N workers, 1 to %(most)d. PostgreSQL only.") % {"most": MAX_SHARDS},
    )
    _add_run_flags(parser)
    parser.add_argument(
        "--yes", action="store_true", help=_("Skip the question. Checks, approvals and the checklist still apply.")
    )
    parser.add_argument(
        "--confirm",
        nargs="+",
        default=[],
        metavar="NAME",
        help=_("Confirm the operation by its name, or items of the checklist: %(items)s.")
        % {"items": ", ".join(checklist.ITEMS)},
    )
    add_json_flag(parser)


def add_check_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that the command of every check has."""
    parser.add_argument("--dry-run", action="store_true", help=_("Do not keep the findings."))
    add_store_flags(parser)
    _add_run_flags(parser)
    add_exit_code_flag(parser)
    add_json_flag(parser)


def add_keys_argument(parser: argparse.ArgumentParser, name: str, *, help: str, required: bool = True) -> None:
    """Add positional arguments for the keys of the selected rows."""
    parser.add_argument("keys", nargs="+" if required else "*", metavar=name, help=help)


def chosen_store(cls: type[Operation], params: dict[str, Any], options: dict[str, Any], *, read_only: bool) -> Store:
    """Return the store of --db-path or --database, else the operation's own store."""
    if platform := getattr(cls, "store_alias", ""):
        return _store_of_platform(platform, options, read_only=read_only)
    own = store_for(cls, params)
    if options["db_path"] is not None:
        if own.alias != own.platform:  # a file takes the place of a platform's store
            raise Refused(
                _("This command works on %(own)s, but --db-path names another database. Omit --db-path.")
                % {"own": own.alias}
            )
        store = attach_file(own.platform, options["db_path"], read_only=read_only)
    elif options["database"] is not None:
        store = store_called(options["database"])
        if "store" in params and store.alias != own.alias:
            raise Refused(
                _("This command works on %(own)s, but --database names %(other)s. Omit --database.")
                % {"own": own.alias, "other": store.alias}
            )
    else:
        store = own
    store.require_file()
    if targets_run(cls) and store.identity() != own.identity():
        raise Refused(
            _("The run changed %(location)s, not %(other)s. Omit --database and --db-path.")
            % {"location": own.location, "other": store.location}
        )
    return store


def store_to_read(platform: str, options: Mapping[str, Any]) -> Store:
    """Return the store of --db-path or --database, else the only store of a platform. Refuse another platform's."""
    store = _store_of_platform(platform, options, read_only=True)
    if store.platform != platform:
        raise Refused(
            _("%(store)s is not a store of %(platform)s. Choose from: %(names)s.")
            % {"store": store.alias, "platform": platform, "names": ", ".join(aliases_of(platform))}
        )
    return store


def _store_of_platform(platform: str, options: Mapping[str, Any], *, read_only: bool) -> Store:
    if options["db_path"] is not None:
        return attach_file(platform, options["db_path"], read_only=read_only)
    aliases = aliases_of(platform)
    if options["database"] is None and len(aliases) > 1:
        raise Refused(
            _("%(platform)s has several stores: %(names)s. Choose one with --database.")
            % {"platform": platform, "names": ", ".join(aliases)}
        )
    store = Store.called(aliases[0]) if options["database"] is None else store_called(options["database"])
    store.require_file()
    return store


def known_keys(operation: Operation, keys: Sequence[str]) -> list[Key]:
    """Return `keys` as values of the table's key. Refuse a key that no row has."""
    field = operation.model._meta.pk
    numbered = is_numbered(operation.store, operation.model._meta.db_table)
    cleaned: list[Key] = []
    for key in dict.fromkeys(keys):
        try:
            value: Key = field.to_python(key) if numbered else key
            if not operation.store.can_store(str(key)) or (isinstance(value, int) and not is_bigint(value)):
                raise ValidationError(key)
            cleaned.append(value)
        except ValidationError:
            raise Refused(
                _("%(key)s is not a key of %(table)s.") % {"key": repr(key), "table": operation.model._meta.db_table}
            ) from None
    rows = operation.model._default_manager.using(operation.store.alias)
    known = {plain_key(key) for key in with_keys(rows, cleaned).values_list("pk", flat=True)}
    unknown = [str(key) for key in cleaned if key not in known]
    if unknown:
        raise Refused(
            _("%(table)s of %(location)s has no row with the key %(keys)s.")
            % {
                "table": operation.model._meta.db_table,
                "location": operation.store.location,
                "keys": ", ".join(unknown),
            }
        )
    return cleaned


@contextmanager
def reading(store: Store) -> Iterator[None]:
    """Turn an error of the driver into a refusal that names the store."""
    try:
        yield
    except (DatabaseError, InterfaceError) as error:
        raise store.unusable(error) from error


def add_parameter_flags(
    cls: type[Operation],
    parser: argparse.ArgumentParser,
    *,
    positional: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> None:
    """Add a flag for each form field, and a positional argument for each field in `positional`."""
    for name, field in cls.Params.base_fields.items():
        options: dict[str, Any] = {"help": str(field.help_text or field.label or name)}
        if isinstance(field, forms.BooleanField):
            parser.add_argument(_flag(name), action="store_true", dest=name, **options)
            continue
        if isinstance(field, forms.MultipleChoiceField | forms.TypedMultipleChoiceField):
            options["nargs"] = "+"
        if name in positional:
            if not field.required or name in optional:
                options["nargs"] = "?"
            parser.add_argument(name, metavar=name.upper(), **options)
        else:
            parser.add_argument(_flag(name), dest=name, required=field.required, default=field.initial, **options)


def parameters_of(cls: type[Operation], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an operation from parsed command-line `options`."""
    return {name: options[name] for name in cls.Params.base_fields if options.get(name) is not None}


def _flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")  # `as_` is a field whose name is a Python keyword
