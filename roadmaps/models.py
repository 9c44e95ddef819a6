"""Tables of the roadmaps store, and the console's own records of decisions and recoveries.

Times of the store have no zone and are in `ROADMAPS_TIME_ZONE`. JSON columns are read as their text.
"""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from opsconsole.engine.models import Run
from opsconsole.stores.fields import RawTextField, RawTimestampField
from opsconsole.stores.models import StoreModel


class RoadmapTask(StoreModel):
    """A task of the platform, which creates a roadmap or generates some of its content again."""

    store = "roadmaps"
    added_by = {
        **dict.fromkeys(("failed_concepts", "execution_summary"), "add_task_execution_fields"),
        **dict.fromkeys(("task_type", "concept_id", "content_type"), "refactor_task_arch"),
    }

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        PROCESSING = "processing", _("processing")
        HUMAN_REVIEW_PENDING = "human_review_pending", _("waits for a person")
        COMPLETED = "completed", _("completed")
        PARTIAL_FAILURE = "partial_failure", _("partially failed")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    class Type(models.TextChoices):
        CREATION = "creation", _("creation")
        RETRY_TUTORIAL = "retry_tutorial", _("retry tutorial")
        RETRY_RESOURCES = "retry_resources", _("retry resources")
        RETRY_QUIZ = "retry_quiz", _("retry quiz")
        RETRY_BATCH = "retry_batch", _("retry several")

    task_id = models.TextField(_("task"), primary_key=True)
    user_id = models.TextField(_("user"), null=True)
    status = models.TextField(_("status"), choices=Status)
    current_step = models.TextField(_("step"), null=True)
    user_request = RawTextField(_("request"), null=True)
    roadmap_id = models.TextField(_("roadmap"), null=True)
    task_type = models.TextField(_("type"), null=True, choices=Type)
    concept_id = models.TextField(_("concept"), null=True)
    content_type = models.TextField(_("content"), null=True)
    created_at = RawTimestampField(_("created at"), null=True)
    updated_at = RawTimestampField(_("updated at"), null=True)
    completed_at = RawTimestampField(_("completed at"), null=True)
    error_message = models.TextField(_("error"), null=True)
    failed_concepts = RawTextField(_("failed concepts"), null=True)
    execution_summary = RawTextField(_("summary"), null=True)

    class Meta:
        managed = False
        db_table = "roadmap_tasks"
        verbose_name = _("roadmap task")
        verbose_name_plural = _("roadmap tasks")

    def __str__(self) -> str:
        return self.task_id


class RoadmapMetadata(StoreModel):
    """A roadmap. `framework_data` contains its stages, modules and concepts, with three statuses per concept."""

    store = "roadmaps"
    added_by = dict.fromkeys(("deleted_at", "deleted_by"), "46b11db29fd5")

    roadmap_id = models.TextField(_("roadmap"), primary_key=True)
    user_id = models.TextField(_("user"), null=True)
    title = models.TextField(_("title"), null=True)
    total_estimated_hours = models.FloatField(_("estimated hours"), null=True)
    recommended_completion_weeks = models.IntegerField(_("recommended weeks"), null=True)
    framework_data = RawTextField(_("framework"), null=True)
    created_at = RawTimestampField(_("created at"), null=True)
    deleted_at = RawTimestampField(_("deleted at"), null=True)
    deleted_by = models.TextField(_("deleted by"), null=True)

    class Meta:
        managed = False
        db_table = "roadmap_metadata"
        verbose_name = _("roadmap")
        verbose_name_plural = _("roadmaps")

    def __str__(self) -> str:
        return self.title or self.roadmap_id


class TutorialMetadata(StoreModel):
    """A version of a concept's tutorial."""

    store = "roadmaps"
    added_by = dict.fromkeys(("content_version", "is_latest"), "add_tutorial_version")

    tutorial_id = models.TextField(_("tutorial"), primary_key=True)
    concept_id = models.TextField(_("concept"), null=True)
    roadmap_id = models.TextField(_("roadmap"), null=True)
    title = models.TextField(_("title"), null=True)
    summary = models.TextField(_("summary"), null=True)
    content_url = models.TextField(_("content"), null=True)
    content_status = models.TextField(_("status"), null=True)
    content_version = models.IntegerField(_("version"), null=True)
    is_latest = models.BooleanField(_("marked latest"), null=True)
    estimated_completion_time = models.IntegerField(_("minutes"), null=True)
    generated_at = RawTimestampField(_("generated at"), null=True)

    class Meta:
        managed = False
        db_table = "tutorial_metadata"
        verbose_name = _("tutorial")
        verbose_name_plural = _("tutorials")

    def __str__(self) -> str:
        return self.title or self.tutorial_id


class ResourceRecommendationMetadata(StoreModel):
    """Recommended resources of a concept."""

    store = "roadmaps"

    id = models.TextField(_("recommendation"), primary_key=True)
    concept_id = models.TextField(_("concept"), null=True)
    roadmap_id = models.TextField(_("roadmap"), null=True)
    resources = RawTextField(_("resources"), null=True)
    resources_count = models.IntegerField(_("number of resources"), null=True)
    search_queries_used = RawTextField(_("searches"), null=True)
    generated_at = RawTimestampField(_("generated at"), null=True)

    class Meta:
        managed = False
        db_table = "resource_recommendation_metadata"
        verbose_name = _("resource recommendation")
        verbose_name_plural = _("resource recommendations")

    def __str__(self) -> str:
        return self.id


class QuizMetadata(StoreModel):
    """A quiz of a concept."""

    store = "roadmaps"

    quiz_id = models.TextField(_("quiz"), primary_key=True)
    concept_id = models.TextField(_("concept"), null=True)
    roadmap_id = models.TextField(_("roadmap"), null=True)
    questions = RawTextField(_("questions"), null=True)
    total_questions = models.IntegerField(_("number of questions"), null=True)
    easy_count = models.IntegerField(_("easy"), null=True)
    medium_count = models.IntegerField(_("medium"), null=True)
    hard_count = models.IntegerField(_("hard"), null=True)
    generated_at = RawTimestampField(_("generated at"), null=True)

    class Meta:
        managed = False
        db_table = "quiz_metadata"
        verbose_name = _("quiz")
        verbose_name_plural = _("quizzes")

    def __str__(self) -> str:
        return self.quiz_id


# --- records in the console's own database ---------------------------------------------------------------------


class Acceptance(models.Model):
    """A decision that the partial result of a task is final. It covers the concepts that had failed at that time."""

    identity = models.TextField()  # of the store
    task_id = models.TextField(_("task"))
    failed_concepts = models.JSONField(_("failed concepts"), default=list)
    reason = models.TextField(_("reason"))
    accepted_at = models.DateTimeField(_("accepted at"), default=timezone.now)
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="+")

    class Meta:
        verbose_name = _("accepted partial result")
        verbose_name_plural = _("accepted partial results")
        constraints = (models.UniqueConstraint(fields=("identity", "task_id"), name="acceptance_task"),)

    def __str__(self) -> str:
        return self.task_id


class Recovery(models.Model):
    """An attempt to resume an interrupted task from its checkpoint."""

    class Outcome(models.TextChoices):
        RUNNING = "running", _("running")
        RECOVERED = "recovered", _("recovered")
        FAILED = "failed", _("failed")

    identity = models.TextField()  # of the store
    task_id = models.TextField(_("task"))
    outcome = models.CharField(_("outcome"), max_length=20, choices=Outcome, default=Outcome.RUNNING)
    error = models.TextField(_("error"), blank=True)
    run = models.ForeignKey(Run, models.SET_NULL, null=True, related_name="+")
    started_at = models.DateTimeField(_("started at"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished at"), null=True)

    class Meta:
        verbose_name = _("recovery")
        verbose_name_plural = _("recoveries")
        indexes = (
            models.Index(fields=("identity", "task_id", "outcome"), name="recovery_task"),
            models.Index(fields=("outcome", "started_at"), name="recovery_running"),
        )

    def __str__(self) -> str:
        return f"{self.task_id} {self.outcome}"
