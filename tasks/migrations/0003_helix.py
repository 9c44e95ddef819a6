"""HELIX: the tables of document 003, with its enum types, cascades, triggers and the view of pending tasks."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models

import opsconsole.stores.models
import tasks.models.helix
from opsconsole.stores.ddl import StoreSQL

SQLITE = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    status TEXT NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CANCELLED')),
    initial_request TEXT NOT NULL,
    session_id TEXT,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    completed_at TIMESTAMP,
    error_message TEXT
);
CREATE INDEX idx_jobs_status ON jobs (status);
CREATE INDEX idx_jobs_session_id ON jobs (session_id);
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    agent_id TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'ASSIGNED', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'RETRYING')),
    input_data TEXT NOT NULL,
    output_data TEXT,
    error_log TEXT,
    retry_count INTEGER NOT NULL DEFAULT 0,
    assigned_at TIMESTAMP,
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_tasks_job_id ON tasks (job_id);
CREATE INDEX idx_tasks_status ON tasks (status);
CREATE INDEX idx_tasks_agent_status ON tasks (agent_id, status);
CREATE TABLE artifacts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    schema_id TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT artifacts_task_id_name_key UNIQUE (task_id, name)
);
CREATE TABLE agent_prompts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id TEXT NOT NULL,
    version TEXT NOT NULL,
    prompt_text TEXT NOT NULL,
    is_active BOOLEAN DEFAULT 1,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_by TEXT,
    CONSTRAINT agent_prompts_agent_id_version_key UNIQUE (agent_id, version)
);
CREATE TABLE system_logs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    level TEXT NOT NULL,
    component TEXT,
    message TEXT NOT NULL,
    metadata TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_system_logs_created_at ON system_logs (created_at DESC);
CREATE INDEX idx_system_logs_level ON system_logs (level);
CREATE TRIGGER update_jobs_updated_at AFTER UPDATE ON jobs WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE jobs SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = NEW.id;
END;
CREATE TRIGGER update_tasks_updated_at AFTER UPDATE ON tasks WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE tasks SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = NEW.id;
END;
CREATE VIEW pending_tasks AS
SELECT t.id, t.job_id, t.agent_id, t.input_data, t.retry_count, t.created_at, j.session_id
FROM tasks t JOIN jobs j ON j.id = t.job_id
WHERE t.status = 'PENDING';
"""

POSTGRESQL = """
CREATE TYPE job_status AS ENUM ('PENDING', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'CANCELLED');
CREATE TYPE task_status AS ENUM ('PENDING', 'ASSIGNED', 'IN_PROGRESS', 'COMPLETED', 'FAILED', 'RETRYING');
CREATE TABLE jobs (
    id SERIAL PRIMARY KEY,
    status job_status NOT NULL DEFAULT 'PENDING',
    initial_request JSONB NOT NULL,
    session_id VARCHAR(255),
    created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    completed_at TIMESTAMPTZ,
    error_message TEXT
);
CREATE INDEX idx_jobs_status ON jobs (status);
CREATE INDEX idx_jobs_session_id ON jobs (session_id);
CREATE TABLE tasks (
    id SERIAL PRIMARY KEY,
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    agent_id VARCHAR(50) NOT NULL,
    status task_status NOT NULL DEFAULT 'PENDING',
    input_data JSONB NOT NULL,
    output_data JSONB,
    error_log TEXT,
    retry_count INTEGER NOT NULL DEFAULT 0,
    assigned_at TIMESTAMPTZ,
    started_at TIMESTAMPTZ,
    completed_at TIMESTAMPTZ,
    created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_tasks_job_id ON tasks (job_id);
CREATE INDEX idx_tasks_status ON tasks (status);
CREATE INDEX idx_tasks_agent_status ON tasks (agent_id, status);
CREATE TABLE artifacts (
    id SERIAL PRIMARY KEY,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    name VARCHAR(100) NOT NULL,
    schema_id VARCHAR(100) NOT NULL,
    payload JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT artifacts_task_id_name_key UNIQUE (task_id, name)
);
CREATE TABLE agent_prompts (
    id SERIAL PRIMARY KEY,
    agent_id VARCHAR(50) NOT NULL,
    version VARCHAR(20) NOT NULL,
    prompt_text TEXT NOT NULL,
    is_active BOOLEAN DEFAULT true,
    created_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    created_by VARCHAR(100),
    CONSTRAINT agent_prompts_agent_id_version_key UNIQUE (agent_id, version)
);
CREATE TABLE system_logs (
    id SERIAL PRIMARY KEY,
    level VARCHAR(20) NOT NULL,
    component VARCHAR(100),
    message TEXT NOT NULL,
    metadata JSONB,
    created_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_system_logs_created_at ON system_logs (created_at DESC);
CREATE INDEX idx_system_logs_level ON system_logs (level);
CREATE FUNCTION update_updated_at_column() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END $$;
CREATE TRIGGER update_jobs_updated_at BEFORE UPDATE ON jobs
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE TRIGGER update_tasks_updated_at BEFORE UPDATE ON tasks
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
CREATE VIEW pending_tasks AS
SELECT t.id, t.job_id, t.agent_id, t.input_data, t.retry_count, t.created_at, j.session_id
FROM tasks t JOIN jobs j ON j.id = t.job_id
WHERE t.status = 'PENDING';
"""

REVERSE = """
DROP VIEW pending_tasks;
DROP TABLE system_logs;
DROP TABLE agent_prompts;
DROP TABLE artifacts;
DROP TABLE tasks;
DROP TABLE jobs;
"""


class Migration(migrations.Migration):
    dependencies = [("tasks", "0002_agentos")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="HelixJob",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="job")),
                        (
                            "status",
                            opsconsole.stores.models.RawTextField(
                                choices=[
                                    ("PENDING", "pending"),
                                    ("IN_PROGRESS", "in progress"),
                                    ("COMPLETED", "completed"),
                                    ("FAILED", "failed"),
                                    ("CANCELLED", "cancelled"),
                                ],
                                default="PENDING",
                                verbose_name="status",
                            ),
                        ),
                        ("initial_request", opsconsole.stores.models.RawTextField(verbose_name="initial request")),
                        ("session_id", models.CharField(blank=True, max_length=255, null=True, verbose_name="session")),
                        (
                            "created_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="created at"),
                        ),
                        (
                            "updated_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="updated at"),
                        ),
                        (
                            "completed_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="completed at"),
                        ),
                        ("error_message", models.TextField(blank=True, null=True, verbose_name="error message")),
                    ],
                    options={
                        "verbose_name": "job",
                        "verbose_name_plural": "jobs",
                        "db_table": "jobs",
                    },
                ),
                migrations.CreateModel(
                    name="SystemLog",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="entry")),
                        ("level", models.CharField(max_length=20, verbose_name="level")),
                        (
                            "component",
                            models.CharField(blank=True, max_length=100, null=True, verbose_name="component"),
                        ),
                        ("message", models.TextField(verbose_name="message")),
                        (
                            "metadata",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="metadata"),
                        ),
                        (
                            "created_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="created at"),
                        ),
                    ],
                    options={
                        "verbose_name": "log entry",
                        "verbose_name_plural": "system log",
                        "db_table": "system_logs",
                    },
                ),
                migrations.CreateModel(
                    name="AgentPrompt",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="prompt")),
                        ("agent_id", models.CharField(max_length=50, verbose_name="agent")),
                        ("version", models.CharField(max_length=20, verbose_name="version")),
                        ("prompt_text", models.TextField(verbose_name="prompt text")),
                        ("is_active", models.BooleanField(null=True, verbose_name="active")),
                        (
                            "created_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="created at"),
                        ),
                        (
                            "created_by",
                            models.CharField(blank=True, max_length=100, null=True, verbose_name="created by"),
                        ),
                    ],
                    options={
                        "verbose_name": "agent prompt",
                        "verbose_name_plural": "agent prompts",
                        "db_table": "agent_prompts",
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("agent_id", "version"), name="agent_prompts_agent_id_version_key"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="HelixTask",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="task")),
                        ("agent_id", models.CharField(max_length=50, verbose_name="agent")),
                        (
                            "status",
                            opsconsole.stores.models.RawTextField(
                                choices=[
                                    ("PENDING", "pending"),
                                    ("ASSIGNED", "assigned"),
                                    ("IN_PROGRESS", "in progress"),
                                    ("COMPLETED", "completed"),
                                    ("FAILED", "failed"),
                                    ("RETRYING", "retrying"),
                                ],
                                default="PENDING",
                                verbose_name="status",
                            ),
                        ),
                        ("input_data", opsconsole.stores.models.RawTextField(verbose_name="input")),
                        (
                            "output_data",
                            opsconsole.stores.models.RawTextField(blank=True, null=True, verbose_name="output"),
                        ),
                        ("error_log", models.TextField(blank=True, null=True, verbose_name="error log")),
                        ("retry_count", models.IntegerField(default=0, verbose_name="retries")),
                        (
                            "assigned_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="assigned at"),
                        ),
                        (
                            "started_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="started at"),
                        ),
                        (
                            "completed_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="completed at"),
                        ),
                        (
                            "created_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="created at"),
                        ),
                        (
                            "updated_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="updated at"),
                        ),
                        (
                            "job",
                            models.ForeignKey(
                                db_constraint=False,
                                null=True,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="tasks",
                                to="tasks.helixjob",
                                verbose_name="job",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "agent task",
                        "verbose_name_plural": "agent tasks",
                        "db_table": "tasks",
                    },
                ),
                migrations.CreateModel(
                    name="HelixArtifact",
                    fields=[
                        ("id", models.BigAutoField(primary_key=True, serialize=False, verbose_name="artifact")),
                        ("name", models.CharField(max_length=100, verbose_name="name")),
                        ("schema_id", models.CharField(max_length=100, verbose_name="schema")),
                        ("payload", opsconsole.stores.models.RawTextField(verbose_name="payload")),
                        (
                            "created_at",
                            tasks.models.helix.ZonedTimestampField(blank=True, null=True, verbose_name="created at"),
                        ),
                        (
                            "task",
                            models.ForeignKey(
                                db_constraint=False,
                                null=True,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                related_name="artifacts",
                                to="tasks.helixtask",
                                verbose_name="task",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "artifact",
                        "verbose_name_plural": "artifacts",
                        "db_table": "artifacts",
                        "constraints": [
                            models.UniqueConstraint(fields=("task", "name"), name="artifacts_task_id_name_key")
                        ],
                    },
                ),
            ],
            database_operations=[
                StoreSQL(
                    "helix",
                    sqlite=SQLITE,
                    postgresql=POSTGRESQL,
                    reverse_sqlite=REVERSE,
                    reverse_postgresql=REVERSE
                    + "DROP FUNCTION update_updated_at_column(); DROP TYPE task_status; DROP TYPE job_status;",
                ),
            ],
        ),
    ]
