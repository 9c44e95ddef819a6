from __future__ import annotations

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Alert",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=200, unique=True, verbose_name="key")),
                ("subject", models.CharField(max_length=300, verbose_name="subject")),
                ("text", models.TextField(verbose_name="text")),
                ("to", models.JSONField(default=list, verbose_name="also to")),
                ("at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="at")),
            ],
            options={
                "verbose_name": "alert",
                "verbose_name_plural": "alerts",
            },
        ),
        migrations.CreateModel(
            name="Batch",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField(verbose_name="batch")),
                ("committed", models.BooleanField(default=False)),
                ("cursor", models.JSONField()),
                ("changed", models.PositiveIntegerField(default=0, verbose_name="changed")),
                ("skipped", models.PositiveIntegerField(default=0, verbose_name="skipped")),
                ("invalid", models.PositiveIntegerField(default=0, verbose_name="invalid")),
                ("failed", models.PositiveIntegerField(default=0, verbose_name="failed")),
                ("amount", models.PositiveIntegerField(default=0)),
                ("rows", models.PositiveIntegerField(default=0, verbose_name="rows written")),
                ("seconds", models.FloatField(default=0, verbose_name="seconds")),
                ("prepared_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("before_image", models.BinaryField(null=True)),
            ],
            options={
                "verbose_name": "batch",
                "verbose_name_plural": "batches",
            },
        ),
        migrations.CreateModel(
            name="Freeze",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("who", models.CharField(max_length=150)),
                ("note", models.TextField()),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
        migrations.CreateModel(
            name="GivenRows",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("inserts", models.JSONField(default=list)),
                ("updates", models.JSONField(default=list)),
                ("count", models.PositiveIntegerField(verbose_name="rows")),
                ("content", models.BinaryField()),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
        migrations.CreateModel(
            name="Heartbeat",
            fields=[
                ("host", models.CharField(max_length=150, primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("environment", models.CharField(max_length=20, verbose_name="environment")),
            ],
        ),
        migrations.CreateModel(
            name="Incident",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("store", models.CharField(max_length=50, verbose_name="store")),
                ("identity", models.TextField()),
                ("cause", models.CharField(max_length=100, verbose_name="cause")),
                ("subject", models.TextField(blank=True, verbose_name="subject")),
                ("table", models.TextField(blank=True)),
                ("source", models.CharField(max_length=100)),
                ("is_count", models.BooleanField(default=False)),
                (
                    "priority",
                    models.CharField(
                        choices=[("immediate", "critical"), ("planned", "this week"), ("periodic", "low priority")],
                        max_length=20,
                        verbose_name="priority",
                    ),
                ),
                ("count", models.BigIntegerField(default=0, verbose_name="count")),
                ("previous_count", models.BigIntegerField(null=True)),
                ("data", models.JSONField(default=dict)),
                ("came_back", models.PositiveIntegerField(default=0, verbose_name="came back")),
                ("opened_at", models.DateTimeField(verbose_name="since")),
                ("seen_at", models.DateTimeField(verbose_name="last seen at")),
                ("resolved_at", models.DateTimeField(null=True, verbose_name="resolved at")),
                ("history", models.JSONField(default=list)),
                ("acknowledged_at", models.DateTimeField(null=True, verbose_name="acknowledged at")),
                ("snoozed_until", models.DateTimeField(null=True, verbose_name="snoozed until")),
                ("ignored_above", models.BigIntegerField(null=True)),
                ("link", models.URLField(blank=True, max_length=500, verbose_name="ticket")),
                (
                    "owner",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="incidents",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="owner",
                    ),
                ),
            ],
            options={
                "verbose_name": "incident",
                "verbose_name_plural": "incidents",
                "permissions": (("handle_incident", "Can acknowledge, assign, snooze and resolve incidents"),),
            },
        ),
        migrations.CreateModel(
            name="ReportedProblem",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("about", models.CharField(max_length=20)),
                ("kind", models.CharField(max_length=40)),
                ("key", models.CharField(max_length=150)),
                ("values", models.JSONField()),
                ("page", models.CharField(max_length=300)),
                ("since", models.DateTimeField()),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("kind", "key"), name="reported_problem")],
            },
        ),
        migrations.CreateModel(
            name="Run",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("operation", models.CharField(max_length=100, verbose_name="operation")),
                ("store", models.CharField(max_length=50, verbose_name="store")),
                ("location", models.TextField(verbose_name="location")),
                ("identity", models.TextField()),
                ("attached_path", models.TextField(blank=True)),
                ("params", models.JSONField(default=dict, verbose_name="parameters")),
                ("selection", models.JSONField(default=dict, verbose_name="selection")),
                ("fingerprint", models.CharField(max_length=64)),
                ("writes", models.JSONField(default=dict)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("planned", "planned"),
                            ("awaiting_approval", "awaiting approval"),
                            ("queued", "queued"),
                            ("running", "running"),
                            ("paused", "paused"),
                            ("interrupted", "interrupted"),
                            ("succeeded", "succeeded"),
                            ("needs_attention", "needs attention"),
                            ("failed", "failed"),
                            ("cancelled", "cancelled"),
                            ("rejected", "rejected"),
                        ],
                        default="planned",
                        max_length=20,
                        verbose_name="status",
                    ),
                ),
                (
                    "trigger",
                    models.CharField(
                        choices=[("admin", "console"), ("shell", "shell"), ("schedule", "schedule")],
                        max_length=10,
                        verbose_name="started from",
                    ),
                ),
                ("tick", models.CharField(max_length=150, null=True, unique=True)),
                ("started_by", models.CharField(max_length=150, verbose_name="started by")),
                ("confirmed_at", models.DateTimeField(null=True, verbose_name="confirmed at")),
                ("break_glass", models.BooleanField(default=False, verbose_name="started without approval")),
                ("rejection", models.TextField(blank=True, verbose_name="reason for the rejection")),
                (
                    "rejection_code",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("expired", "expired before it was approved"),
                            ("rows_changed", "the rows changed since they were confirmed"),
                        ],
                        max_length=20,
                    ),
                ),
                ("note", models.TextField(blank=True, verbose_name="note")),
                ("code_version", models.CharField(max_length=50, verbose_name="code version")),
                ("bound", models.JSONField(null=True)),
                ("total", models.BigIntegerField(default=0, verbose_name="in scope")),
                ("digest", models.CharField(blank=True, max_length=64)),
                ("plan", models.JSONField(default=dict)),
                ("batch_size", models.PositiveIntegerField(default=1000, verbose_name="batch size")),
                ("fast", models.BooleanField(default=False, verbose_name="fast")),
                ("cursor", models.JSONField(null=True)),
                ("changed", models.BigIntegerField(default=0, verbose_name="changed")),
                ("skipped", models.BigIntegerField(default=0, verbose_name="skipped")),
                ("invalid", models.BigIntegerField(default=0, verbose_name="invalid")),
                ("failed", models.BigIntegerField(default=0, verbose_name="failed")),
                ("amount", models.BigIntegerField(default=0)),
                ("reasons", models.JSONField(default=dict)),
                ("batches_done", models.PositiveIntegerField(default=0, verbose_name="batches")),
                ("elapsed_seconds", models.FloatField(default=0, verbose_name="elapsed")),
                ("before", models.JSONField(default=dict)),
                ("after", models.JSONField(default=dict)),
                ("waiting", models.TextField(blank=True)),
                ("waiting_code", models.CharField(blank=True, max_length=20)),
                ("waiting_since", models.DateTimeField(null=True)),
                ("waits", models.PositiveSmallIntegerField(default=0)),
                ("error", models.TextField(blank=True, verbose_name="error")),
                ("generation", models.PositiveIntegerField(default=0)),
                ("worker", models.JSONField(default=dict)),
                ("in_background", models.BooleanField(default=False)),
                ("lease_until", models.DateTimeField(null=True)),
                ("attempts", models.PositiveIntegerField(default=0)),
                (
                    "request",
                    models.CharField(
                        blank=True,
                        choices=[("", ""), ("pause", "pause"), ("cancel", "cancel")],
                        default="",
                        max_length=10,
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True, verbose_name="created at")),
                ("started_at", models.DateTimeField(null=True, verbose_name="started at")),
                ("finished_at", models.DateTimeField(null=True, verbose_name="finished at")),
                (
                    "approved_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="approved by",
                    ),
                ),
                (
                    "changed_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="schedule changed by",
                    ),
                ),
                (
                    "confirmed_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="confirmed by",
                    ),
                ),
                (
                    "follows",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="followers",
                        to="operations.run",
                        verbose_name="run it follows",
                    ),
                ),
                (
                    "incident",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="runs",
                        to="operations.incident",
                        verbose_name="incident",
                    ),
                ),
                (
                    "parent",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="children",
                        to="operations.run",
                        verbose_name="related run",
                    ),
                ),
                (
                    "replaces",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="replacements",
                        to="operations.run",
                        verbose_name="run it replaces",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="runs",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="account",
                    ),
                ),
            ],
            options={
                "verbose_name": "run",
                "verbose_name_plural": "runs",
                "permissions": (
                    ("operate_run", "Can plan and run operations"),
                    ("approve_run", "Can approve another person's run"),
                    ("break_glass", "Can start a run without approval in an emergency"),
                    ("change_by_statement", "Can plan and run an SQL statement"),
                ),
            },
        ),
        migrations.CreateModel(
            name="PinnedRows",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField()),
                ("rows", models.BinaryField()),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="pinned", to="operations.run"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Lock",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("identity", models.TextField()),
                ("table", models.TextField()),
                ("key", models.TextField(blank=True)),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="locks", to="operations.run"
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="incident",
            name="resolved_run",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="operations.run",
                verbose_name="resolved by",
            ),
        ),
        migrations.CreateModel(
            name="Finding",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("operation", models.CharField(max_length=100, verbose_name="check")),
                ("store", models.CharField(max_length=50, verbose_name="store")),
                ("identity", models.TextField()),
                ("question", models.CharField(max_length=100)),
                ("code", models.CharField(max_length=100, verbose_name="problem")),
                ("subject", models.TextField(verbose_name="subject")),
                ("table", models.TextField(blank=True, verbose_name="table")),
                ("key", models.TextField(blank=True, verbose_name="key")),
                ("cause", models.CharField(blank=True, max_length=100, verbose_name="cause")),
                ("cause_subject", models.TextField(blank=True)),
                (
                    "priority",
                    models.CharField(
                        choices=[("immediate", "critical"), ("planned", "this week"), ("periodic", "low priority")],
                        max_length=20,
                        verbose_name="priority",
                    ),
                ),
                ("data", models.JSONField(default=dict)),
                ("found_at", models.DateTimeField(verbose_name="found at")),
                ("seen_at", models.DateTimeField(verbose_name="last seen at")),
                ("resolved_at", models.DateTimeField(null=True, verbose_name="resolved at")),
                (
                    "incident",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="findings",
                        to="operations.incident",
                        verbose_name="incident",
                    ),
                ),
                (
                    "first_run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="operations.run"
                    ),
                ),
                (
                    "last_run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="findings", to="operations.run"
                    ),
                ),
                (
                    "resolved_run",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="operations.run"
                    ),
                ),
            ],
            options={
                "verbose_name": "finding",
                "verbose_name_plural": "findings",
            },
        ),
        migrations.CreateModel(
            name="FailedItem",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.JSONField(verbose_name="key")),
                ("label", models.TextField(verbose_name="row")),
                ("reason", models.CharField(max_length=200, verbose_name="reason")),
                ("error", models.TextField(verbose_name="error")),
                ("at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="at")),
                (
                    "batch",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="failed_items", to="operations.batch"
                    ),
                ),
                (
                    "retried_by",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="operations.run"
                    ),
                ),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="failed_items", to="operations.run"
                    ),
                ),
            ],
            options={
                "verbose_name": "failed row",
                "verbose_name_plural": "failed rows",
            },
        ),
        migrations.CreateModel(
            name="Event",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="at")),
                ("verb", models.CharField(max_length=40, verbose_name="verb")),
                ("who", models.CharField(max_length=150, verbose_name="who")),
                ("origin", models.CharField(blank=True, max_length=150, verbose_name="from")),
                ("detail", models.JSONField(default=dict, verbose_name="detail")),
                ("number", models.BigIntegerField(editable=False, null=True, unique=True)),
                ("seal", models.CharField(default="", editable=False, max_length=64)),
                (
                    "incident",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="events",
                        to="operations.incident",
                    ),
                ),
                (
                    "run",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="events",
                        to="operations.run",
                    ),
                ),
            ],
            options={
                "verbose_name": "event",
                "verbose_name_plural": "events",
            },
        ),
        migrations.AddField(
            model_name="batch",
            name="run",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="batches", to="operations.run"
            ),
        ),
        migrations.CreateModel(
            name="ScheduleSetting",
            fields=[
                (
                    "operation",
                    models.CharField(max_length=100, primary_key=True, serialize=False, verbose_name="operation"),
                ),
                ("on", models.BooleanField(default=False, verbose_name="on")),
                ("cron", models.CharField(max_length=100, verbose_name="cron")),
                (
                    "changed_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="changed by",
                    ),
                ),
            ],
            options={
                "verbose_name": "schedule",
                "verbose_name_plural": "schedules",
            },
        ),
        migrations.CreateModel(
            name="SystemUser",
            fields=[
                (
                    "name",
                    models.CharField(max_length=150, primary_key=True, serialize=False, verbose_name="system user"),
                ),
                ("at", models.DateTimeField(default=django.utils.timezone.now, verbose_name="linked at")),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="system_users",
                        to=settings.AUTH_USER_MODEL,
                        verbose_name="account",
                    ),
                ),
            ],
            options={
                "verbose_name": "system user",
                "verbose_name_plural": "system users",
            },
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "channel",
                    models.CharField(
                        choices=[("mail", "mail"), ("webhook", "webhook"), ("chat", "chat")],
                        max_length=10,
                        verbose_name="channel",
                    ),
                ),
                ("target", models.CharField(blank=True, max_length=60, verbose_name="target")),
                ("attempts", models.PositiveIntegerField(default=0, verbose_name="attempts")),
                (
                    "next_try_at",
                    models.DateTimeField(default=django.utils.timezone.now, null=True, verbose_name="next try at"),
                ),
                ("delivered_at", models.DateTimeField(null=True, verbose_name="delivered at")),
                ("last_error", models.TextField(blank=True, verbose_name="error")),
                (
                    "alert",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="deliveries", to="operations.alert"
                    ),
                ),
            ],
            options={
                "verbose_name": "delivery",
                "verbose_name_plural": "deliveries",
                "indexes": [models.Index(fields=["next_try_at"], name="delivery_next_try")],
                "constraints": [
                    models.UniqueConstraint(fields=("alert", "channel", "target"), name="delivery_channel")
                ],
            },
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["status", "-id"], name="run_status"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["operation", "-id"], name="run_operation"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["fingerprint", "status"], name="run_fingerprint"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["operation", "identity", "finished_at"], name="run_scan"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["trigger", "operation", "-id"], name="run_schedule"),
        ),
        migrations.AddIndex(
            model_name="run",
            index=models.Index(fields=["-finished_at"], name="run_finished"),
        ),
        migrations.AddConstraint(
            model_name="pinnedrows",
            constraint=models.UniqueConstraint(fields=("run", "number"), name="pinned_number"),
        ),
        migrations.AddConstraint(
            model_name="lock",
            constraint=models.UniqueConstraint(fields=("identity", "table", "key"), name="lock_target"),
        ),
        migrations.AddIndex(
            model_name="incident",
            index=models.Index(fields=["resolved_at", "priority", "-count"], name="incident_open"),
        ),
        migrations.AddConstraint(
            model_name="incident",
            constraint=models.UniqueConstraint(fields=("identity", "cause", "subject"), name="incident_cause"),
        ),
        migrations.AddIndex(
            model_name="finding",
            index=models.Index(fields=["operation", "code", "resolved_at"], name="finding_open"),
        ),
        migrations.AddIndex(
            model_name="finding",
            index=models.Index(fields=["last_run", "question"], name="finding_run"),
        ),
        migrations.AddIndex(
            model_name="finding",
            index=models.Index(fields=["identity", "table", "key"], name="finding_row"),
        ),
        migrations.AddIndex(
            model_name="finding",
            index=models.Index(fields=["incident", "resolved_at", "operation", "code"], name="finding_incident"),
        ),
        migrations.AddConstraint(
            model_name="finding",
            constraint=models.UniqueConstraint(
                fields=("operation", "identity", "code", "subject"), name="finding_problem"
            ),
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(fields=["-at"], name="event_at"),
        ),
        migrations.AddIndex(
            model_name="event",
            index=models.Index(fields=["verb", "-at"], name="event_verb"),
        ),
        migrations.AddConstraint(
            model_name="batch",
            constraint=models.UniqueConstraint(fields=("run", "number"), name="batch_number"),
        ),
    ]
