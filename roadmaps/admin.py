"""Pages of the roadmaps store: tasks, roadmaps with their frameworks, and content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter

from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import (
    DateRangeFilter,
    ExactTextFilter,
    StoreModelAdmin,
    json_block,
    linked,
    newest_rows,
    table,
)
from opsconsole.formatting import format_time
from opsconsole.stores.store import Store, StoreUnavailable
from roadmaps.consistency import TASK_COLUMNS, task_reports
from roadmaps.content import NEEDS
from roadmaps.models import (
    Acceptance,
    QuizMetadata,
    Recovery,
    ResourceRecommendationMetadata,
    RoadmapMetadata,
    RoadmapTask,
    TutorialMetadata,
)
from roadmaps.tree import tree_of

STATUS_COLORS = {
    "processing": "info",
    "completed": "success",
    "partial_failure": "warning",
    "human_review_pending": "warning",
    "failed": "danger",
}

to_roadmap, to_task = linked("roadmaps.roadmapmetadata"), linked("roadmaps.roadmaptask")


def local_time(text: str | None) -> str:
    """Format a time of the store, which has no zone and is in `ROADMAPS_TIME_ZONE`."""
    return format_time(text, settings.ROADMAPS_TIME_ZONE)


def _require_content(store: Store) -> None:
    store.require({model: tuple(columns) for model, columns in NEEDS.items()})


@admin.register(RoadmapTask)
class RoadmapTaskAdmin(OperationActionsMixin, StoreModelAdmin):
    list_display = ("identifier", "status", "current_step", "task_type", "roadmap_id", "created_at", "updated_at")
    list_filter = (
        ("status", ChoicesRadioFilter),
        ("task_type", ChoicesRadioFilter),
        ("roadmap_id", ExactTextFilter),
        ("updated_at", DateRangeFilter),
    )
    exact_search_fields = ("task_id", "roadmap_id")
    search_help_text = gettext_lazy("Searches a task's or a roadmap's exact identifier.")
    badge_colors = {"status": STATUS_COLORS}
    documents = ("failed_concepts", "execution_summary", "user_request")
    formatters = {
        "roadmap_id": to_roadmap,
        **dict.fromkeys(("created_at", "updated_at", "completed_at"), local_time),
        **dict.fromkeys(documents, json_block),
    }
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "task_id",
                    "status",
                    "current_step",
                    "task_type",
                    "roadmap_id",
                    "user_id",
                    "created_at",
                    "updated_at",
                    "completed_at",
                    "error_message",
                )
            },
        ),
        (gettext_lazy("Documents"), {"fields": documents}),
    )
    related_panels = ((gettext_lazy("Consistency"), {"fields": ("problems", "decisions")}),)
    required_columns = {"identifier": ("task_id",), "problems": TASK_COLUMNS, "decisions": ("task_id",)}

    @admin.display(description=gettext_lazy("task"))
    def identifier(self, task: RoadmapTask) -> str:
        return task.pk

    @admin.display(description=gettext_lazy("problems"))
    def problems(self, task: RoadmapTask, store: Store) -> str:
        try:
            _require_content(store)
            tasks = RoadmapTask.objects.using(store.alias).filter(pk=task.pk)
            reports = list(task_reports(store, timezone.now(), tasks))
        except StoreUnavailable as error:  # the checkpoints may be in another database
            return str(error)
        rows = [[problem.code, problem.detail] for report in reports for problem in report.problems]
        return table([_("Problem"), _("Detail")], rows) if rows else _("none")

    @admin.display(description=gettext_lazy("decisions and recoveries"))
    def decisions(self, task: RoadmapTask, store: Store) -> str:
        records = {"identity": store.identity(), "task_id": task.pk}
        accepted = Acceptance.objects.filter(**records).first()
        lines = [
            (format_time(recovery.started_at), recovery.get_outcome_display(), recovery.error)
            for recovery in Recovery.objects.filter(**records).order_by("-pk")[:10]
        ]
        if accepted is not None:
            lines.insert(0, (format_time(accepted.accepted_at), _("accepted as final"), accepted.reason))
        return format_html_join("", "<p>{} {} {}</p>", lines) or _("none")


@admin.register(RoadmapMetadata)
class RoadmapMetadataAdmin(StoreModelAdmin):
    list_display = ("name", "roadmap_id", "user_id", "created_at", "deleted_at")
    list_filter = (("created_at", DateRangeFilter),)
    exact_search_fields = ("roadmap_id",)
    search_help_text = gettext_lazy("Searches a roadmap's exact identifier.")
    formatters = dict.fromkeys(("created_at", "deleted_at"), local_time)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "roadmap_id",
                    "title",
                    "user_id",
                    "total_estimated_hours",
                    "recommended_completion_weeks",
                    "created_at",
                    "deleted_at",
                    "deleted_by",
                )
            },
        ),
    )
    related_panels = (
        (gettext_lazy("Tasks"), {"fields": ("tasks",)}),
        (gettext_lazy("Framework and content tables"), {"fields": ("tree",), "classes": ("wide-field",)}),
        (gettext_lazy("Documents"), {"fields": ("document",)}),
    )
    required_columns = {
        "name": ("title",),
        "tasks": (),
        "tree": ("framework_data",),
        "document": ("framework_data",),
    }
    required_tables = {"tasks": ("roadmap_tasks",)}

    @admin.display(description=gettext_lazy("title"))
    def name(self, roadmap: RoadmapMetadata) -> str:
        return roadmap.title or roadmap.pk

    @admin.display(description=gettext_lazy("tasks"))
    def tasks(self, roadmap: RoadmapMetadata, store: Store) -> str:
        rows = RoadmapTask.objects.filter(roadmap_id=roadmap.pk).order_by("-created_at", "pk")
        columns: dict[str, Callable[[Any], Any]] = {
            "task_id": to_task,
            "status": str,
            "task_type": _or_dash,
            "current_step": _or_dash,
            "updated_at": local_time,
        }
        return newest_rows(rows, store, columns, all_link=(_("All tasks of this roadmap"), {"roadmap_id": roadmap.pk}))

    @admin.display(description=gettext_lazy("concepts"))
    def tree(self, roadmap: RoadmapMetadata, store: Store) -> str:
        _require_content(store)
        found = tree_of(store, roadmap)
        if found is None:
            return _("The framework cannot be read.")
        return render_to_string("roadmaps/tree.html", {"tree": found})

    @admin.display(description=gettext_lazy("framework"))
    def document(self, roadmap: RoadmapMetadata, store: Store) -> str:
        return json_block(roadmap.framework_data).replace("<details open", "<details", 1)


def _or_dash(value: str | None) -> str:
    return value or "–"


class ContentAdmin(StoreModelAdmin):
    """Rows of a content table."""

    list_filter = (("roadmap_id", ExactTextFilter), ("concept_id", ExactTextFilter))
    exact_search_fields = ("roadmap_id", "concept_id")
    search_help_text = gettext_lazy("Searches a roadmap's or a concept's exact identifier.")
    formatters = {
        "roadmap_id": to_roadmap,
        "generated_at": local_time,
        **dict.fromkeys(("resources", "search_queries_used", "questions"), json_block),
    }


@admin.register(TutorialMetadata)
class TutorialMetadataAdmin(ContentAdmin):
    list_display = ("title", "concept_id", "roadmap_id", "content_version", "content_status", "generated_at")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "tutorial_id",
                    "title",
                    "roadmap_id",
                    "concept_id",
                    "content_version",
                    "is_latest",
                    "content_status",
                    "content_url",
                    "estimated_completion_time",
                    "generated_at",
                    "summary",
                )
            },
        ),
    )


@admin.register(ResourceRecommendationMetadata)
class ResourceRecommendationMetadataAdmin(ContentAdmin):
    list_display = ("id", "concept_id", "roadmap_id", "resources_count", "generated_at")
    fieldsets = (
        (None, {"fields": ("id", "roadmap_id", "concept_id", "resources_count", "generated_at")}),
        (gettext_lazy("Documents"), {"fields": ("resources", "search_queries_used")}),
    )


@admin.register(QuizMetadata)
class QuizMetadataAdmin(ContentAdmin):
    list_display = ("quiz_id", "concept_id", "roadmap_id", "total_questions", "generated_at")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "quiz_id",
                    "roadmap_id",
                    "concept_id",
                    "total_questions",
                    "easy_count",
                    "medium_count",
                    "hard_count",
                    "generated_at",
                )
            },
        ),
        (gettext_lazy("Documents"), {"fields": ("questions",)}),
    )
