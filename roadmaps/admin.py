"""Roadmaps: a framework beside its content tables, and tasks with what can be done about them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import ChoicesRadioFilter
from unfold.decorators import display

from opsconsole.console.run_admin import OperationActionsMixin
from opsconsole.console.store_admin import DateRangeFilter, ExactTextFilter, StoreModelAdmin, json_block, table
from opsconsole.formatting import copy_button, format_time
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

STATUS_VARIANTS = {
    "processing": "info",
    "completed": "success",
    "partial_failure": "warning",
    "human_review_pending": "warning",
    "failed": "danger",
}


def at(text: str | None) -> str:
    """A time of the store, which is naive and in its own zone."""
    return format_time(text, settings.ROADMAPS_TIME_ZONE)


def link(model: str, key: str | None, words: str = "") -> str:
    if not key:
        return "–"
    url = reverse(f"admin:roadmaps_{model}_change", args=[admin.utils.quote(key)])
    return format_html('<a class="text-link" href="{}">{}</a>', url, words or key)


class RoadmapFilter(ExactTextFilter):
    title = gettext_lazy("roadmap, exactly")
    parameter_name = "roadmap_id"


class ConceptFilter(ExactTextFilter):
    title = gettext_lazy("concept, exactly")
    parameter_name = "concept_id"


@admin.register(RoadmapTask)
class RoadmapTaskAdmin(OperationActionsMixin, StoreModelAdmin):
    list_display = ("identifier", "state", "current_step", "task_type", "of_roadmap", "created", "updated")
    list_filter = (
        ("status", ChoicesRadioFilter),
        ("task_type", ChoicesRadioFilter),
        RoadmapFilter,
        ("updated_at", DateRangeFilter),
    )
    exact_search_fields = ("task_id", "roadmap_id")
    search_help_text = gettext_lazy("Searches a task's or a roadmap's exact identifier.")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "copy_identifier",
                    "status",
                    "current_step",
                    "task_type",
                    "of_roadmap",
                    "user_id",
                    "created",
                    "updated",
                    "completed",
                    "error_message",
                )
            },
        ),
        (gettext_lazy("Consistency"), {"fields": ("problems", "decisions")}),
        (gettext_lazy("Documents"), {"fields": ("failed", "summary", "asked")}),
    )
    required_columns = {
        "identifier": ("task_id",),
        "copy_identifier": ("task_id",),
        "state": ("status",),
        "of_roadmap": ("roadmap_id",),
        "created": ("created_at",),
        "updated": ("updated_at",),
        "completed": ("completed_at",),
        "failed": ("failed_concepts",),
        "summary": ("execution_summary",),
        "asked": ("user_request",),
        "problems": TASK_COLUMNS,
        "decisions": ("task_id",),
        RoadmapFilter: ("roadmap_id",),
    }

    @admin.display(description=gettext_lazy("task"), ordering="pk")
    def identifier(self, task: RoadmapTask) -> str:
        return task.pk

    @admin.display(description=gettext_lazy("task"))
    def copy_identifier(self, task: RoadmapTask) -> str:
        return copy_button(task.pk)

    @display(description=gettext_lazy("status"), label=STATUS_VARIANTS)
    def state(self, task: RoadmapTask) -> tuple[str, str]:
        return task.status, task.get_status_display()

    @admin.display(description=gettext_lazy("roadmap"))
    def of_roadmap(self, task: RoadmapTask) -> str:
        return link("roadmapmetadata", task.roadmap_id)

    @admin.display(description=gettext_lazy("created at"))
    def created(self, task: RoadmapTask) -> str:
        return at(task.created_at)

    @admin.display(description=gettext_lazy("updated at"))
    def updated(self, task: RoadmapTask) -> str:
        return at(task.updated_at)

    @admin.display(description=gettext_lazy("completed at"))
    def completed(self, task: RoadmapTask) -> str:
        return at(task.completed_at)

    @admin.display(description=gettext_lazy("failed concepts"))
    def failed(self, task: RoadmapTask) -> str:
        return json_block(task.failed_concepts)

    @admin.display(description=gettext_lazy("summary"))
    def summary(self, task: RoadmapTask) -> str:
        return json_block(task.execution_summary)

    @admin.display(description=gettext_lazy("request"))
    def asked(self, task: RoadmapTask) -> str:
        return json_block(task.user_request)

    @admin.display(description=gettext_lazy("problems"))
    def problems(self, task: RoadmapTask) -> str:
        store = Store("roadmaps", "roadmaps")
        store.require({model: tuple(columns) for model, columns in NEEDS.items()})
        try:
            found = next(iter(task_reports(store, timezone.now(), RoadmapTask.objects.filter(pk=task.pk))), None)
        except StoreUnavailable as error:  # where the checkpoints are is another database
            return str(error)
        if found is None or not found.problems:
            return _("none")
        rows = [[problem.code, problem.detail] for problem in found.problems]
        return table([_("Problem"), _("Detail")], rows)

    @admin.display(description=gettext_lazy("decisions and recoveries"))
    def decisions(self, task: RoadmapTask) -> str:
        """What the console keeps of this task."""
        identity = Store("roadmaps", "roadmaps").identity()
        accepted = Acceptance.objects.filter(identity=identity, task_id=task.pk).first()
        lines = [
            (format_time(one.started_at), one.get_outcome_display(), one.error)
            for one in Recovery.objects.filter(identity=identity, task_id=task.pk).order_by("-pk")[:10]
        ]
        if accepted is not None:
            lines.insert(0, (format_time(accepted.accepted_at), _("accepted as final"), accepted.reason))
        return format_html_join("", "<p>{} {} {}</p>", lines) or _("none")


@admin.register(RoadmapMetadata)
class RoadmapMetadataAdmin(StoreModelAdmin):
    list_display = ("name", "identifier", "user_id", "created", "deleted")
    list_filter = (("created_at", DateRangeFilter),)
    exact_search_fields = ("roadmap_id",)
    search_help_text = gettext_lazy("Searches a roadmap's exact identifier.")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "identifier",
                    "title",
                    "user_id",
                    "total_estimated_hours",
                    "recommended_completion_weeks",
                    "created",
                    "deleted",
                    "deleted_by",
                )
            },
        ),
        (gettext_lazy("Tasks"), {"fields": ("tasks",)}),
        (gettext_lazy("Framework and content tables"), {"fields": ("tree",), "classes": ("wide-field",)}),
        (gettext_lazy("Documents"), {"fields": ("document",)}),
    )
    required_columns = {
        "name": ("title",),
        "identifier": ("roadmap_id",),
        "created": ("created_at",),
        "deleted": ("deleted_at",),
        "tasks": ("roadmap_id",),
        "tree": ("framework_data",),
        "document": ("framework_data",),
    }

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("framework_data")  # lists don't show it, and it is large

    @admin.display(description=gettext_lazy("title"))
    def name(self, roadmap: RoadmapMetadata) -> str:
        return roadmap.title or roadmap.pk

    @admin.display(description=gettext_lazy("roadmap"), ordering="pk")
    def identifier(self, roadmap: RoadmapMetadata) -> str:
        return copy_button(roadmap.pk)

    @admin.display(description=gettext_lazy("created at"))
    def created(self, roadmap: RoadmapMetadata) -> str:
        return at(roadmap.created_at)

    @admin.display(description=gettext_lazy("deleted at"))
    def deleted(self, roadmap: RoadmapMetadata) -> str:
        return at(roadmap.deleted_at)

    @admin.display(description=gettext_lazy("tasks"))
    def tasks(self, roadmap: RoadmapMetadata) -> str:
        """The newest; their pages have the operations."""
        found = RoadmapTask.objects.filter(roadmap_id=roadmap.pk).order_by("-created_at", "pk")
        rows = [
            [link("roadmaptask", key), status, kind or "–", step or "–", at(text)]
            for key, status, kind, step, text in found.values_list(
                "pk", "status", "task_type", "current_step", "updated_at"
            )[:10]
        ]
        if not rows:
            return _("none")
        everything = format_html(
            '<p class="mt-4"><a class="text-link" href="{}?{}">{}</a></p>',
            reverse("admin:roadmaps_roadmaptask_changelist"),
            urlencode({"roadmap_id": roadmap.pk}),
            _("All tasks of this roadmap"),
        )
        return table([_("Task"), _("Status"), _("Type"), _("Step"), _("Updated at")], rows) + everything

    @admin.display(description=gettext_lazy("concepts"))
    def tree(self, roadmap: RoadmapMetadata) -> str:
        store = Store("roadmaps", "roadmaps")
        store.require({model: tuple(columns) for model, columns in NEEDS.items()})
        found = tree_of(store, roadmap)
        return (
            _("The framework can't be read.")
            if found is None
            else render_to_string("roadmaps/tree.html", {"tree": found})
        )

    @admin.display(description=gettext_lazy("framework"))
    def document(self, roadmap: RoadmapMetadata) -> str:
        return json_block(roadmap.framework_data).replace("<details open", "<details", 1)


class ContentAdmin(StoreModelAdmin):
    """Rows of a content table."""

    list_filter = (RoadmapFilter, ConceptFilter)
    exact_search_fields = ("roadmap_id", "concept_id")
    search_help_text = gettext_lazy("Searches a roadmap's or a concept's exact identifier.")
    required_columns = {
        "of_roadmap": ("roadmap_id",),
        "generated": ("generated_at",),
        RoadmapFilter: ("roadmap_id",),
        ConceptFilter: ("concept_id",),
        "resources_json": ("resources",),
        "searches": ("search_queries_used",),
        "questions_json": ("questions",),
    }

    @admin.display(description=gettext_lazy("roadmap"))
    def of_roadmap(self, row: Any) -> str:
        return link("roadmapmetadata", row.roadmap_id)

    @admin.display(description=gettext_lazy("generated at"))
    def generated(self, row: Any) -> str:
        return at(row.generated_at)


@admin.register(TutorialMetadata)
class TutorialMetadataAdmin(ContentAdmin):
    list_display = ("title", "concept_id", "of_roadmap", "content_version", "content_status", "generated")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "tutorial_id",
                    "title",
                    "of_roadmap",
                    "concept_id",
                    "content_version",
                    "is_latest",
                    "content_status",
                    "content_url",
                    "estimated_completion_time",
                    "generated",
                    "summary",
                )
            },
        ),
    )


@admin.register(ResourceRecommendationMetadata)
class ResourceRecommendationMetadataAdmin(ContentAdmin):
    list_display = ("id", "concept_id", "of_roadmap", "resources_count", "generated")
    fieldsets = (
        (None, {"fields": ("id", "of_roadmap", "concept_id", "resources_count", "generated")}),
        (gettext_lazy("Documents"), {"fields": ("resources_json", "searches")}),
    )

    @admin.display(description=gettext_lazy("resources"))
    def resources_json(self, row: ResourceRecommendationMetadata) -> str:
        return json_block(row.resources)

    @admin.display(description=gettext_lazy("searches"))
    def searches(self, row: ResourceRecommendationMetadata) -> str:
        return json_block(row.search_queries_used)


@admin.register(QuizMetadata)
class QuizMetadataAdmin(ContentAdmin):
    list_display = ("quiz_id", "concept_id", "of_roadmap", "total_questions", "generated")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "quiz_id",
                    "of_roadmap",
                    "concept_id",
                    "total_questions",
                    "easy_count",
                    "medium_count",
                    "hard_count",
                    "generated",
                )
            },
        ),
        (gettext_lazy("Documents"), {"fields": ("questions_json",)}),
    )

    @admin.display(description=gettext_lazy("questions"))
    def questions_json(self, row: QuizMetadata) -> str:
        return json_block(row.questions)
