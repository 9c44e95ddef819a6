"""AgentOS: the table `tasks` (document 001)."""

from __future__ import annotations

from django.db import migrations, models

import opsconsole.stores.models
from opsconsole.stores.ddl import StoreSQL

SQLITE = """
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    status TEXT DEFAULT 'created',
    session_id TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT,
    metadata TEXT,
    route_plan_json TEXT,
    requirements_json TEXT,
    selected_instance_id TEXT,
    router_version TEXT
);
CREATE INDEX idx_tasks_status ON tasks (status);
CREATE INDEX idx_tasks_session ON tasks (session_id);
CREATE INDEX idx_tasks_created ON tasks (created_at DESC);
"""

POSTGRESQL = """
CREATE TABLE tasks (
    task_id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    status TEXT DEFAULT 'created',
    session_id TEXT,
    created_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    updated_at TIMESTAMP DEFAULT (CURRENT_TIMESTAMP AT TIME ZONE 'UTC'),
    created_by TEXT,
    metadata TEXT,
    route_plan_json TEXT,
    requirements_json TEXT,
    selected_instance_id TEXT,
    router_version TEXT
);
CREATE INDEX idx_tasks_status ON tasks (status);
CREATE INDEX idx_tasks_session ON tasks (session_id);
CREATE INDEX idx_tasks_created ON tasks (created_at DESC);
"""

REVERSE = """
DROP TABLE tasks;
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="Task",
                    fields=[
                        ("task_id", models.TextField(primary_key=True, serialize=False, verbose_name="task")),
                        ("title", models.TextField(verbose_name="title")),
                        ("status", models.TextField(default="created", null=True, verbose_name="status")),
                        ("session_id", models.TextField(null=True, verbose_name="session")),
                        (
                            "created_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="created at"),
                        ),
                        (
                            "updated_at",
                            opsconsole.stores.models.RawTimestampField(null=True, verbose_name="updated at"),
                        ),
                        ("created_by", models.TextField(null=True, verbose_name="created by")),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(null=True, verbose_name="metadata"),
                        ),
                        (
                            "route_plan_json",
                            opsconsole.stores.models.RawTextField(null=True, verbose_name="route plan"),
                        ),
                        (
                            "requirements_json",
                            opsconsole.stores.models.RawTextField(null=True, verbose_name="requirements"),
                        ),
                        (
                            "selected_instance_id",
                            models.TextField(null=True, verbose_name="selected instance"),
                        ),
                        ("router_version", models.TextField(null=True, verbose_name="router version")),
                    ],
                    options={
                        "verbose_name": "task",
                        "verbose_name_plural": "tasks",
                        "db_table": "tasks",
                    },
                ),
            ],
            database_operations=[
                StoreSQL("agentos", sqlite=SQLITE, postgresql=POSTGRESQL, reverse=REVERSE),
            ],
        ),
    ]
