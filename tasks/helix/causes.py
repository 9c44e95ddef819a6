"""The causes of HELIX incidents: the types of dirty data that one decision repairs."""

from __future__ import annotations

from django.utils.translation import ngettext_lazy

from opsconsole.engine.causes import Cause

REPAIR, RETRY, FAIL, CLEAN = (
    "helix.repair_dirty_jobs",
    "helix.retry_failed_tasks",
    "helix.fail_jobs",
    "helix.clean_dirty_jobs",
)
WITHOUT_ARTIFACT = Cause(
    "completed_without_artifact",
    ngettext_lazy(
        "%(count)s HELIX job has a completed task without an artifact",
        "%(count)s HELIX jobs have completed tasks without an artifact",
        "number",
    ),
    (REPAIR, CLEAN),
)
LEFT_ARTIFACTS = Cause(
    "left_artifacts",
    ngettext_lazy(
        "%(count)s HELIX job has artifacts of a failed task",
        "%(count)s HELIX jobs have artifacts of failed tasks",
        "number",
    ),
    (REPAIR, CLEAN),
)
ORPHANED_ARTIFACTS = Cause(
    "orphaned_artifacts",
    ngettext_lazy(
        "%(count)s deleted HELIX task still has artifacts",
        "%(count)s deleted HELIX tasks still have artifacts",
        "number",
    ),
    (REPAIR,),
)
ALL_FAILED = Cause(
    "all_tasks_failed",
    ngettext_lazy(
        "%(count)s HELIX job is in progress although all its tasks have failed",
        "%(count)s HELIX jobs are in progress although all their tasks have failed",
        "number",
    ),
    (REPAIR, RETRY, CLEAN),
)
FAILED_TASKS = Cause(
    "failed_tasks",
    ngettext_lazy(
        "%(count)s HELIX job in progress has failed tasks",
        "%(count)s HELIX jobs in progress have failed tasks",
        "number",
    ),
    (RETRY, FAIL, CLEAN),
)
COLLIDING = Cause(
    "colliding_artifacts",
    ngettext_lazy(
        "%(count)s HELIX job has artifacts with which the next attempt of a task will collide",
        "%(count)s HELIX jobs have artifacts with which the next attempts of tasks will collide",
        "number",
    ),
    (REPAIR, CLEAN),
)
CAUSES = {
    "A": WITHOUT_ARTIFACT,
    "B": LEFT_ARTIFACTS,
    "C": ALL_FAILED,
    "D": FAILED_TASKS,
    "E": FAILED_TASKS,
    "F": COLLIDING,
}
