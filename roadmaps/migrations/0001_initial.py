"""Roadmaps: tasks, frameworks and content tables; what people decide is kept in the console's own database."""

from __future__ import annotations

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import opsconsole.stores.models
from opsconsole.stores.ddl import StoreSQL

SQLITE = """
CREATE TABLE roadmap_tasks (
    task_id TEXT PRIMARY KEY,
    user_id TEXT,
    status TEXT NOT NULL,
    current_step TEXT,
    user_request TEXT,
    roadmap_id TEXT,
    task_type TEXT,
    concept_id TEXT,
    content_type TEXT,
    created_at TIMESTAMP,
    updated_at TIMESTAMP,
    completed_at TIMESTAMP,
    error_message TEXT,
    failed_concepts TEXT,
    execution_summary TEXT
);
CREATE INDEX ix_roadmap_tasks_status ON roadmap_tasks (status, updated_at);
CREATE INDEX ix_roadmap_tasks_roadmap_id ON roadmap_tasks (roadmap_id);
CREATE TABLE roadmap_metadata (
    roadmap_id TEXT PRIMARY KEY,
    user_id TEXT,
    title TEXT,
    total_estimated_hours REAL,
    recommended_completion_weeks INTEGER,
    framework_data TEXT,
    created_at TIMESTAMP,
    deleted_at TIMESTAMP,
    deleted_by TEXT
);
CREATE TABLE tutorial_metadata (
    tutorial_id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL REFERENCES roadmap_metadata (roadmap_id),
    title TEXT,
    summary TEXT,
    content_url TEXT,
    content_status TEXT,
    content_version INTEGER,
    is_latest BOOLEAN,
    estimated_completion_time INTEGER,
    generated_at TIMESTAMP
);
CREATE INDEX ix_tutorial_metadata_concept ON tutorial_metadata (roadmap_id, concept_id);
CREATE TABLE resource_recommendation_metadata (
    id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL,
    resources TEXT,
    resources_count INTEGER,
    search_queries_used TEXT,
    generated_at TIMESTAMP
);
CREATE INDEX ix_resource_recommendation_metadata_concept
    ON resource_recommendation_metadata (roadmap_id, concept_id);
CREATE TABLE quiz_metadata (
    quiz_id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL,
    questions TEXT,
    total_questions INTEGER,
    easy_count INTEGER,
    medium_count INTEGER,
    hard_count INTEGER,
    generated_at TIMESTAMP
);
CREATE INDEX ix_quiz_metadata_concept ON quiz_metadata (roadmap_id, concept_id);
"""

POSTGRESQL = """
CREATE TABLE roadmap_tasks (
    task_id TEXT PRIMARY KEY,
    user_id TEXT,
    status TEXT NOT NULL,
    current_step TEXT,
    user_request JSON,
    roadmap_id TEXT,
    task_type TEXT,
    concept_id TEXT,
    content_type TEXT,
    created_at TIMESTAMP,
    updated_at TIMESTAMP,
    completed_at TIMESTAMP,
    error_message TEXT,
    failed_concepts JSON,
    execution_summary JSON
);
CREATE INDEX ix_roadmap_tasks_status ON roadmap_tasks (status, updated_at);
CREATE INDEX ix_roadmap_tasks_roadmap_id ON roadmap_tasks (roadmap_id);
CREATE TABLE roadmap_metadata (
    roadmap_id TEXT PRIMARY KEY,
    user_id TEXT,
    title TEXT,
    total_estimated_hours DOUBLE PRECISION,
    recommended_completion_weeks INTEGER,
    framework_data JSON,
    created_at TIMESTAMP,
    deleted_at TIMESTAMP,
    deleted_by TEXT
);
CREATE TABLE tutorial_metadata (
    tutorial_id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL REFERENCES roadmap_metadata (roadmap_id),
    title TEXT,
    summary TEXT,
    content_url TEXT,
    content_status TEXT,
    content_version INTEGER,
    is_latest BOOLEAN,
    estimated_completion_time INTEGER,
    generated_at TIMESTAMP
);
CREATE INDEX ix_tutorial_metadata_concept ON tutorial_metadata (roadmap_id, concept_id);
CREATE TABLE resource_recommendation_metadata (
    id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL,
    resources JSON,
    resources_count INTEGER,
    search_queries_used JSON,
    generated_at TIMESTAMP
);
CREATE INDEX ix_resource_recommendation_metadata_concept
    ON resource_recommendation_metadata (roadmap_id, concept_id);
CREATE TABLE quiz_metadata (
    quiz_id TEXT PRIMARY KEY,
    concept_id TEXT NOT NULL,
    roadmap_id TEXT NOT NULL,
    questions JSON,
    total_questions INTEGER,
    easy_count INTEGER,
    medium_count INTEGER,
    hard_count INTEGER,
    generated_at TIMESTAMP
);
CREATE INDEX ix_quiz_metadata_concept ON quiz_metadata (roadmap_id, concept_id);
"""

REVERSE = """
DROP TABLE quiz_metadata;
DROP TABLE resource_recommendation_metadata;
DROP TABLE tutorial_metadata;
DROP TABLE roadmap_metadata;
DROP TABLE roadmap_tasks;
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("operations", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="QuizMetadata",
                    fields=[
                        ("quiz_id", models.TextField(primary_key=True, serialize=False, verbose_name="quiz")),
                        ("concept_id", models.TextField(null=True, verbose_name="concept")),
                        ("roadmap_id", models.TextField(null=True, verbose_name="roadmap")),
                        ("questions", opsconsole.stores.models.RawTextField(null=True, verbose_name="questions")),
                        ("total_questions", models.IntegerField(null=True, verbose_name="number of questions")),
                        ("easy_count", models.IntegerField(null=True, verbose_name="easy")),
                        ("medium_count", models.IntegerField(null=True, verbose_name="medium")),
                        ("hard_count", models.IntegerField(null=True, verbose_name="hard")),
                        (
                            "generated_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="generated at"),
                        ),
                    ],
                    options={
                        "verbose_name": "quiz",
                        "verbose_name_plural": "quizzes",
                        "db_table": "quiz_metadata",
                    },
                ),
                migrations.CreateModel(
                    name="ResourceRecommendationMetadata",
                    fields=[
                        ("id", models.TextField(primary_key=True, serialize=False, verbose_name="recommendation")),
                        ("concept_id", models.TextField(null=True, verbose_name="concept")),
                        ("roadmap_id", models.TextField(null=True, verbose_name="roadmap")),
                        ("resources", opsconsole.stores.models.RawTextField(null=True, verbose_name="resources")),
                        ("resources_count", models.IntegerField(null=True, verbose_name="number of resources")),
                        (
                            "search_queries_used",
                            opsconsole.stores.models.RawTextField(null=True, verbose_name="searches"),
                        ),
                        (
                            "generated_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="generated at"),
                        ),
                    ],
                    options={
                        "verbose_name": "resource recommendation",
                        "verbose_name_plural": "resource recommendations",
                        "db_table": "resource_recommendation_metadata",
                    },
                ),
                migrations.CreateModel(
                    name="RoadmapMetadata",
                    fields=[
                        ("roadmap_id", models.TextField(primary_key=True, serialize=False, verbose_name="roadmap")),
                        ("user_id", models.TextField(null=True, verbose_name="user")),
                        ("title", models.TextField(null=True, verbose_name="title")),
                        ("total_estimated_hours", models.FloatField(null=True, verbose_name="estimated hours")),
                        (
                            "recommended_completion_weeks",
                            models.IntegerField(null=True, verbose_name="recommended weeks"),
                        ),
                        ("framework_data", opsconsole.stores.models.RawTextField(null=True, verbose_name="framework")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="created at"),
                        ),
                        (
                            "deleted_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="deleted at"),
                        ),
                        ("deleted_by", models.TextField(null=True, verbose_name="deleted by")),
                    ],
                    options={
                        "verbose_name": "roadmap",
                        "verbose_name_plural": "roadmaps",
                        "db_table": "roadmap_metadata",
                    },
                ),
                migrations.CreateModel(
                    name="RoadmapTask",
                    fields=[
                        ("task_id", models.TextField(primary_key=True, serialize=False, verbose_name="task")),
                        ("user_id", models.TextField(null=True, verbose_name="user")),
                        (
                            "status",
                            models.TextField(
                                choices=[
                                    ("pending", "pending"),
                                    ("processing", "processing"),
                                    ("human_review_pending", "waits for a person"),
                                    ("completed", "completed"),
                                    ("partial_failure", "failed in part"),
                                    ("failed", "failed"),
                                    ("cancelled", "cancelled"),
                                ],
                                verbose_name="status",
                            ),
                        ),
                        ("current_step", models.TextField(null=True, verbose_name="step")),
                        ("user_request", opsconsole.stores.models.RawTextField(null=True, verbose_name="request")),
                        ("roadmap_id", models.TextField(null=True, verbose_name="roadmap")),
                        (
                            "task_type",
                            models.TextField(
                                choices=[
                                    ("creation", "creation"),
                                    ("retry_tutorial", "tutorial again"),
                                    ("retry_resources", "resources again"),
                                    ("retry_quiz", "quiz again"),
                                    ("retry_batch", "several again"),
                                ],
                                null=True,
                                verbose_name="type",
                            ),
                        ),
                        ("concept_id", models.TextField(null=True, verbose_name="concept")),
                        ("content_type", models.TextField(null=True, verbose_name="content")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="created at"),
                        ),
                        (
                            "updated_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="updated at"),
                        ),
                        (
                            "completed_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="completed at"),
                        ),
                        ("error_message", models.TextField(null=True, verbose_name="error")),
                        (
                            "failed_concepts",
                            opsconsole.stores.models.RawTextField(null=True, verbose_name="failed concepts"),
                        ),
                        ("execution_summary", opsconsole.stores.models.RawTextField(null=True, verbose_name="summary")),
                    ],
                    options={
                        "verbose_name": "roadmap task",
                        "verbose_name_plural": "roadmap tasks",
                        "db_table": "roadmap_tasks",
                    },
                ),
                migrations.CreateModel(
                    name="TutorialMetadata",
                    fields=[
                        ("tutorial_id", models.TextField(primary_key=True, serialize=False, verbose_name="tutorial")),
                        ("concept_id", models.TextField(null=True, verbose_name="concept")),
                        ("roadmap_id", models.TextField(null=True, verbose_name="roadmap")),
                        ("title", models.TextField(null=True, verbose_name="title")),
                        ("summary", models.TextField(null=True, verbose_name="summary")),
                        ("content_url", models.TextField(null=True, verbose_name="content")),
                        ("content_status", models.TextField(null=True, verbose_name="status")),
                        ("content_version", models.IntegerField(null=True, verbose_name="version")),
                        ("is_latest", models.BooleanField(null=True, verbose_name="marked latest")),
                        ("estimated_completion_time", models.IntegerField(null=True, verbose_name="minutes")),
                        (
                            "generated_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="generated at"),
                        ),
                    ],
                    options={
                        "verbose_name": "tutorial",
                        "verbose_name_plural": "tutorials",
                        "db_table": "tutorial_metadata",
                    },
                ),
            ],
            database_operations=[
                StoreSQL("roadmaps", sqlite=SQLITE, postgresql=POSTGRESQL, reverse=REVERSE),
            ],
        ),
        migrations.CreateModel(
            name="Checkpoint",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "thread_id",
                        "checkpoint_ns",
                        "checkpoint_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("thread_id", models.TextField(verbose_name="task")),
                ("checkpoint_ns", models.TextField()),
                ("checkpoint_id", models.TextField()),
            ],
            options={
                "verbose_name": "checkpoint",
                "verbose_name_plural": "checkpoints",
                "db_table": "checkpoints",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Recovery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("identity", models.TextField()),
                ("task_id", models.TextField(verbose_name="task")),
                (
                    "outcome",
                    models.CharField(
                        choices=[("running", "running"), ("recovered", "recovered"), ("failed", "failed")],
                        default="running",
                        max_length=20,
                        verbose_name="outcome",
                    ),
                ),
                ("error", models.TextField(blank=True, verbose_name="error")),
                ("started_at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="started at")),
                ("finished_at", models.DateTimeField(null=True, verbose_name="finished at")),
                (
                    "run",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="operations.run"
                    ),
                ),
            ],
            options={
                "verbose_name": "recovery",
                "verbose_name_plural": "recoveries",
                "indexes": [
                    models.Index(fields=["identity", "task_id", "outcome"], name="recovery_task"),
                    models.Index(fields=["outcome", "started_at"], name="recovery_running"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Acceptance",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("identity", models.TextField()),
                ("task_id", models.TextField(verbose_name="task")),
                ("failed_concepts", models.JSONField(default=list, verbose_name="failed concepts")),
                ("reason", models.TextField(verbose_name="reason")),
                ("accepted_at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="accepted at")),
                (
                    "run",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="operations.run"
                    ),
                ),
            ],
            options={
                "verbose_name": "accepted partial result",
                "verbose_name_plural": "accepted partial results",
                "constraints": [models.UniqueConstraint(fields=("identity", "task_id"), name="acceptance_task")],
            },
        ),
    ]
