"""The causes of roadmap incidents. Each incident is about one task."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _

from opsconsole.engine.causes import Cause

SYNC, RECOVER, GIVE_UP = "roadmaps.sync_results", "roadmaps.recover_tasks", "roadmaps.fail_unrecoverable"
REGENERATE, ACCEPT = "roadmaps.retry_failed_concepts", "roadmaps.accept_partial"

STUCK = Cause(
    "stuck_roadmap",
    _("Roadmap “%(name)s” is stuck at %(done)s of %(total)s concepts"),
    (SYNC, RECOVER, GIVE_UP),
    per_row=True,
)
DIFFERS = Cause(
    "framework_differs",
    _("The framework of roadmap “%(name)s” differs from its content"),
    (SYNC,),
    per_row=True,
)
MISSING = Cause(
    "roadmap_missing",
    _("The roadmap of task %(subject)s is missing or unreadable"),
    (RECOVER, GIVE_UP),
    per_row=True,
    advice=_("If the task has ended, restore the roadmap from a backup, or delete the task."),
)
PARTIAL_RESULT = Cause(
    "partial_result",
    _("Roadmap “%(name)s” has content for %(done)s of %(total)s concepts"),
    (REGENERATE, ACCEPT),
    per_row=True,
)
CAUSES = {
    "roadmap_missing": MISSING,
    "partial_failure": PARTIAL_RESULT,
    **dict.fromkeys(("stuck", "no_checkpoint", "checkpoint_unreadable", "waits_for_a_person"), STUCK),
    **dict.fromkeys(
        (
            "framework_behind_content",
            "framework_ahead_of_content",
            "reference_missing",
            "reference_dangling",
            "status_mismatch",
        ),
        DIFFERS,
    ),
}
