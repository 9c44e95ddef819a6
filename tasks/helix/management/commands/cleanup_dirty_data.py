from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from opsconsole.cli.command import ConsoleCommand, Refused, add_verb
from opsconsole.cli.flags import (
    add_check_flags,
    add_common_flags,
    add_keys_argument,
    add_parameter_flags,
    chosen_store,
    known_keys,
    parameters_of,
    reading,
)
from opsconsole.cli.output import Output
from opsconsole.cli.running import run_check, run_operation
from opsconsole.engine import lifecycle, planner, registry
from opsconsole.engine.requirements import required_columns
from tasks.helix.dirty_data import JobWithTasks, jobs_with_all
from tasks.helix.operations.clean_dirty_jobs import CleanDirtyJobs
from tasks.helix.operations.scan_dirty_data import ScanDirtyData
from tasks.helix.operations.verify_dirty_cleanup import VerifyDirtyCleanup


class Command(ConsoleCommand):
    help = gettext_noop("Find dirty data in HELIX, clean the jobs that have it, and verify the result.")
    examples = (
        "cleanup_dirty_data scan --exit-code",
        'cleanup_dirty_data cleanup 3 17 --execute --note "incident 4711"',
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
        scan = add_verb(
            verbs,
            "scan",
            help=_("list findings of types A to F"),
            examples=("cleanup_dirty_data scan", "cleanup_dirty_data scan --json --exit-code"),
        )
        add_check_flags(scan)
        cleanup = add_verb(
            verbs,
            "cleanup",
            help=_("delete jobs with their tasks and artifacts; a dry run unless --execute is given"),
            examples=("cleanup_dirty_data cleanup 3", "cleanup_dirty_data cleanup 3 17 --execute"),
        )
        add_keys_argument(cleanup, "JOB_ID", help=_("the number of the job"))
        add_parameter_flags(CleanDirtyJobs, cleanup)
        add_common_flags(cleanup)
        verify = add_verb(
            verbs,
            "verify",
            help=_("list orphaned artifacts, and completed tasks without an artifact"),
            examples=("cleanup_dirty_data verify", "cleanup_dirty_data verify --exit-code"),
        )
        add_check_flags(verify)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "cleanup":
            self._cleanup(options)
            return
        check = ScanDirtyData if options["verb"] == "scan" else VerifyDirtyCleanup
        run_check(check, {}, options, keep=not options["dry_run"])

    def _cleanup(self, options: dict[str, Any]) -> None:
        """Refuse jobs without a finding, ask a terminal for each job, and run the operation."""
        values = parameters_of(CleanDirtyJobs, options)
        params = registry.clean(CleanDirtyJobs, values)
        if params["force"] and not options["note"].strip():
            raise Refused(_("--force needs a reason. Give --note TEXT."))
        store = chosen_store(CleanDirtyJobs, params, options, read_only=not options["execute"])
        with reading(store):
            operation = planner.operation_on(CleanDirtyJobs, store, params)
            store.require(required_columns(operation))
            jobs = jobs_with_all(store, [int(key) for key in known_keys(operation, options["keys"])])
        healthy = [str(job.pk) for job in jobs if not job.problems()]
        if healthy and not params["force"]:
            raise Refused(
                _("Job %(jobs)s has no finding. To delete it anyway, give --force and --note TEXT.")
                % {"jobs": ", ".join(healthy)}
            )
        if options["execute"] and not options["yes"] and sys.stdin.isatty():
            options["keys"] = [job.pk for job in jobs if _confirms(job, options)]
            if not options["keys"]:
                raise Refused(_("No job was confirmed. Nothing was written."))
            options["yes"] = not lifecycle.needs_typing(operation)
        run_operation(CleanDirtyJobs, values, options, execute=options["execute"])


def _confirms(job: JobWithTasks, options: dict[str, Any]) -> bool:
    """Ask whether to delete one job."""
    output = Output.of(options)
    question = _("Delete job %(job)s (%(problems)s) with %(tasks)d tasks and %(artifacts)d artifacts? [y/N] ") % {
        "job": job.pk,
        "problems": ", ".join(job.problems()) or _("no finding"),
        "tasks": len(job.tasks),
        "artifacts": sum(len(task.artifacts) for task in job.tasks),
    }
    output.console.print(question, markup=False, end="")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
