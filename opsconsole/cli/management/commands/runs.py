"""The `runs` command: the verbs of the run page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Count
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand, Refused, add_verb, require_setup, shell_actor
from opsconsole.cli.flags import add_common_flags, add_json_flag, add_user_flag, free_text
from opsconsole.cli.output import Output, line_of, result_of, status_label
from opsconsole.cli.running import run_operation
from opsconsole.cli.times import format_local, positive
from opsconsole.engine import lifecycle, queue, registry, wording
from opsconsole.engine.labels import reason_label, verb_label
from opsconsole.engine.models import Run, Status
from opsconsole.engine.stored_plans import get_run, operation_of
from opsconsole.escaping import for_terminal
from opsconsole.formatting import format_number
from opsconsole.stores.store import StoreUnavailable

SHOWN_RUNS = 50
SHOWN_EVENTS = 20
FORMATS = ("csv", "xlsx", "json")


class Command(ConsoleCommand):
    help = gettext_noop("List, show, control, undo and export runs.")
    examples = ("runs list --limit 10", "runs undo 7 --execute")

    def add_arguments(self, parser: CommandParser) -> None:
        self.verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        listing = self._verb("list", _("List runs, newest first."), "runs list", "runs list --json --limit 100")
        listing.add_argument(
            "--limit", type=positive, metavar="N", help=_("Number of runs. Default: 50, with --json all.")
        )
        listing.add_argument(
            "--awaiting-me",
            action="store_true",
            help=_("Only runs that this account may approve now."),
        )
        add_user_flag(listing)
        add_json_flag(listing)
        add_json_flag(self._verb_of_run("show", _("Show the current state of a run.")))
        for name, text in (
            ("pause", _("Pause a run after its current batch.")),
            ("resume", _("Queue a paused or interrupted run for a worker.")),
            ("cancel", _("Cancel a run after its current batch. Its changes remain and can be undone.")),
            ("approve", _("Approve a run as its second approver.")),
        ):
            verb = self._verb_of_run(name, text)
            add_user_flag(verb)
            add_json_flag(verb)
        rejecting = self._verb(
            "reject",
            _("Reject a run that waits for approval."),
            'runs reject 7 --reason "the rows are still needed"',
            'runs reject 7 --reason "the rows are still needed" --json',
        )
        rejecting.add_argument("run", type=positive, metavar="ID", help=_("The id of the run."))
        rejecting.add_argument(
            "--reason",
            required=True,
            type=free_text,
            metavar="TEXT",
            help=_("The reason. The account that planned the run is notified."),
        )
        add_user_flag(rejecting)
        add_json_flag(rejecting)
        emergency = self._verb(
            "break-glass",
            _("Start a run without approval, in an emergency. All alert recipients are notified."),
            'runs break-glass 7 --reason "platform down, no approver answers"',
            'runs break-glass 7 --reason "platform down, no approver answers" --json',
        )
        emergency.add_argument("run", type=positive, metavar="ID", help=_("The id of the run."))
        emergency.add_argument(
            "--reason", required=True, type=free_text, metavar="TEXT", help=_("The reason, of at least 20 characters.")
        )
        add_user_flag(emergency)
        add_json_flag(emergency)
        noting = self._verb_of_run(
            "note", _("Add a note to a run: the difficulties, and how they were solved."), "--user mira"
        )
        noting.add_argument("text", type=free_text, metavar="TEXT", help=_("The text of the note."))
        add_user_flag(noting)
        add_common_flags(self._verb_of_run("retry", _("Retry the failed rows of a run.")))
        add_common_flags(
            self._verb_of_run("undo", _("Plan the undo of a run. Execute it with --execute."), "--execute")
        )
        export = self._verb("export", _("Export all runs as a table."), "runs export", "runs export --to runs.xlsx")
        export.add_argument("--format", choices=FORMATS, help=_("Default: the suffix of the file, else csv."))
        export.add_argument("--to", type=Path, metavar="FILE", help=_("A new file. Default: standard output."))
        freezing = self._verb(
            "freeze",
            _("Stop every run at its next batch, and start no run."),
            'runs freeze --note "incident 4711"',
            'runs freeze --note "failover" --user mira',
            aliases=("hold-all",),
        )
        freezing.add_argument(
            "--note", required=True, type=free_text, metavar="TEXT", help=_("The reason, saved in the audit log.")
        )
        add_user_flag(freezing)
        unfreezing = self._verb(
            "unfreeze",
            _("Resume all runs."),
            "runs unfreeze",
            "runs unfreeze --user mira",
            aliases=("release-all",),
        )
        add_user_flag(unfreezing)

    def _verb(self, name: str, text: str, *examples: str, aliases: tuple[str, ...] = ()) -> argparse.ArgumentParser:
        parser = add_verb(self.verbs, name, help=text, examples=examples, aliases=aliases)
        parser.set_defaults(run_verb=getattr(self, f"_{name.replace('-', '_')}"))
        return parser

    def _verb_of_run(self, name: str, text: str, flag: str = "--json") -> argparse.ArgumentParser:
        parser = self._verb(name, text, f"runs {name} 7", f"runs {name} 7 {flag}")
        parser.add_argument("run", type=positive, metavar="ID", help=_("The id of the run."))
        return parser

    def handle(self, *args: Any, **options: Any) -> None:
        require_setup()
        options["run_verb"](options)

    # --- reading ----------------------------------------------------------------------------------------

    def _list(self, options: dict[str, Any]) -> None:
        output = Output.of(options)
        limit = options["limit"] or (None if options["json"] else SHOWN_RUNS)
        listed: Any = _awaiting(options["user"]) if options["awaiting_me"] else Run.objects.order_by("-pk")
        found = list(listed[:limit])
        if options["json"]:
            output.json({"runs": [line_of(run) for run in found]})
            return
        rows = [
            (
                str(run.pk),
                run.operation,
                run.store,
                status_label(run.status) + (f" ({_('started without approval')})" if run.break_glass else ""),
                format_number(run.total),
                format_number(run.changed),
                format_number(run.failed),
                run.started_by,
                format_local(run.created_at),
            )
            for run in found
        ]
        heading = (
            _("run"),
            _("operation"),
            _("store"),
            _("status"),
            _("in scope"),
            _("changed"),
            _("failed"),
            _("started by"),
            _("created at"),
        )
        output.table([heading, *rows], right=(0, 4, 5, 6), heading=True)
        more = (len(listed) if options["awaiting_me"] else listed.count()) - len(found)
        if more > 0:
            output.line(_("… and %(count)s more. Use --limit N to show them.") % {"count": format_number(more)})

    def _show(self, options: dict[str, Any]) -> None:
        run, output = get_run(options["run"]), Output.of(options)
        aside = list(run.failed_items.filter(retried_by=None).values("reason").annotate(rows=Count("pk")))
        if options["json"]:
            output.json(
                result_of(run)
                | {
                    "params": run.params,
                    "note": run.note,
                    "user": run.user.get_username() if run.user else None,
                    "parent": run.parent_id,
                    "failed_items": {entry["reason"]: entry["rows"] for entry in aside},
                    "undoable": run.undoable,
                    "events": [
                        {"at": e.at, "verb": e.verb, "who": e.who, "from": e.origin, "detail": e.detail}
                        for e in run.events.order_by("pk")
                    ],
                }
            )
            return
        cls = registry.operations().get(run.operation)
        output.line(str(cls.title) if cls else run.operation, style="bold")
        facts = [
            (_("Operation:"), run.operation),
            (_("Database:"), run.location),
            (_("Parameters:"), ", ".join(f"{name}={value}" for name, value in run.params.items())),
            (_("Started by:"), f"{run.started_by} ({run.get_trigger_display()}), {format_local(run.created_at)}"),
            (_("Note:"), run.note),
            (_("Approval:"), _("started without approval") if run.break_glass else ""),
            (_("Rejected:"), run.rejection_words),
            (_("Undone:"), _("by run %(run)d") % {"run": run.undone_by} if run.undone_by else ""),
        ]
        output.table([fact for fact in facts if fact[1]])
        for message in wording.status_messages(run):
            since = _(" (since %(time)s)") % {"time": format_local(message.since)} if message.since else ""
            output.line(message.text + since)
        output.line()
        if run.status == Status.AWAITING_APPROVAL:
            _print_plan(run, output)
        output.run(run)
        if run.error:
            output.line(run.error)
        if aside:
            output.line()
            rows = [(reason_label(cls, entry["reason"]), format_number(entry["rows"])) for entry in aside]
            output.table([(_("failed rows"), ""), *rows], right=(1,), heading=True)
        output.line()
        events = list(run.events.order_by("-pk")[:SHOWN_EVENTS])
        output.table([(format_local(e.at), verb_label(e.verb), e.who) for e in reversed(events)])

    def _export(self, options: dict[str, Any]) -> None:
        from opsconsole.console import file_formats
        from opsconsole.console.run_admin import RunResource

        target: Path | None = options["to"]
        name = options["format"] or (target.suffix.lstrip(".").lower() if target else "") or FORMATS[0]
        if name not in FORMATS:
            raise Refused(
                _("The format of %(path)s is unknown. Pass --format with one of: %(names)s.")
                % {"path": target, "names": ", ".join(FORMATS)}
            )
        if target is None and name == "xlsx" and sys.stdout.isatty():
            raise Refused(_("A workbook cannot be printed on a terminal. Pass --to FILE."))
        dataset = RunResource().export(Run.objects.order_by("pk"))
        try:
            data = getattr(file_formats, name.upper())().export_data(dataset)
        except ValueError as error:
            raise Refused(error) from None
        if target is None and sys.stdout.isatty():
            sys.stdout.write(for_terminal(data.decode()))
            return
        if target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        try:
            with target.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise Refused(
                _("%(path)s cannot be written: %(reason)s. Name a new file.")
                % {"path": target, "reason": error.strerror}
            ) from None
        count = format_number(len(dataset))
        sys.stderr.write(_("%(count)s runs written to %(path)s.") % {"count": count, "path": target} + "\n")

    # --- controlling -----------------------------------------------------------------------------------------

    def _pause(self, options: dict[str, Any]) -> None:
        _steer(options, lifecycle.pause)

    def _resume(self, options: dict[str, Any]) -> None:
        _steer(options, queue.resume)

    def _cancel(self, options: dict[str, Any]) -> None:
        _steer(options, queue.cancel)

    def _approve(self, options: dict[str, Any]) -> None:
        _steer(options, queue.approve, permission="operations.approve_run")

    def _reject(self, options: dict[str, Any]) -> None:
        _steer(options, partial(lifecycle.reject, reason=options["reason"]), permission="operations.approve_run")

    def _break_glass(self, options: dict[str, Any]) -> None:
        _steer(options, partial(queue.break_glass, reason=options["reason"]), permission="operations.break_glass")

    def _note(self, options: dict[str, Any]) -> None:
        run = get_run(options["run"])
        lifecycle.add_note(run, shell_actor(options["user"]), options["text"])
        Output.of(options).line(_("The note was added to run %(run)d.") % {"run": run.pk})

    def _freeze(self, options: dict[str, Any]) -> None:
        lifecycle.freeze(shell_actor(options["user"]), options["note"])
        Output.of(options).line(_("All runs are frozen. Run `runs unfreeze` to resume them."))

    def _unfreeze(self, options: dict[str, Any]) -> None:
        lifecycle.unfreeze(shell_actor(options["user"]))
        Output.of(options).line(_("Runs are no longer frozen."))

    def _undo(self, options: dict[str, Any]) -> None:
        _about(options, "operations.undo_run", execute=options["execute"])

    def _retry(self, options: dict[str, Any]) -> None:
        _about(options, "operations.retry_failed_rows", execute=not options["dry_run"], asks=False)


def _awaiting(name: str | None) -> list[Run]:
    actor = shell_actor(name, "operations.approve_run")
    if actor.user is None:
        raise Refused(
            _(
                "Approvals require an account. Set OPSCONSOLE_TOKEN, pass --user on a terminal, "
                "or ask a superuser to link your system user with `accounts link`."
            )
        )
    return lifecycle.awaiting(actor)


def _steer(options: dict[str, Any], verb: Callable[..., Any], permission: str = "operations.operate_run") -> None:
    run = get_run(options["run"])
    verb(run, shell_actor(options["user"], permission))
    run.refresh_from_db()
    output = Output.of(options)
    if output.as_json:
        output.run(run)
    elif run.request:
        text = _("Run %(run)d was asked to %(request)s. It stops after its current batch.")
        output.line(text % {"run": run.pk, "request": run.get_request_display()})
    else:
        output.line(_("Run %(run)d: %(status)s") % {"run": run.pk, "status": run.get_status_display()})


def _about(options: dict[str, Any], operation: str, *, execute: bool, asks: bool = True) -> None:
    """Plan or run an operation on the run's own store: undo or retry."""
    values = {"run": get_run(options["run"]).pk}
    run_operation(registry.operation(operation), values, options, execute=execute, asks=asks)


def _print_plan(run: Run, output: Output) -> None:
    """Print what an approver decides about: the sentence of the plan and its sampled rows."""
    try:
        operation = operation_of(run)
    except (registry.UnknownOperation, registry.InvalidParameters, StoreUnavailable) as error:
        output.error(str(error))
        return
    output.sample(operation, run.plan["sample"], run.total)
    output.line(wording.PlanWording.of_run(run, operation).sentence())
    output.line()
