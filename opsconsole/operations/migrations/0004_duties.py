"""Who confirmed, changed and approved a run; which account a system user is; what an approved run may touch."""

from __future__ import annotations

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


def name_who_changed_schedules(apps, schema_editor):
    """The account that changed each schedule last, from the audit log."""
    event, user = apps.get_model("operations", "Event"), apps.get_model("auth", "User")
    for switch in apps.get_model("operations", "Switch").objects.all():
        last = event.objects.filter(verb="schedule", detail__operation=switch.operation).order_by("-pk").first()
        switch.changed_by = user.objects.filter(username=last.who).first() if last is not None else None
        switch.save(update_fields=("changed_by",))


class Migration(migrations.Migration):
    dependencies = [
        ("operations", "0003_alerts"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("environment", models.CharField(max_length=20, verbose_name="environment")),
            ],
        ),
        migrations.AddField(
            model_name="alert",
            name="to",
            field=models.JSONField(default=list, verbose_name="also to"),
        ),
        migrations.AddField(
            model_name="run",
            name="approved_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="approved by",
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="changed_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="schedule changed by",
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="confirmed_at",
            field=models.DateTimeField(null=True, verbose_name="confirmed at"),
        ),
        migrations.AddField(
            model_name="run",
            name="confirmed_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="confirmed by",
            ),
        ),
        migrations.AddField(
            model_name="run",
            name="rejection",
            field=models.TextField(blank=True, verbose_name="reason of the rejection"),
        ),
        migrations.AddField(
            model_name="run",
            name="replaces",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="replacements",
                to="operations.run",
                verbose_name="run it replaces",
            ),
        ),
        migrations.AddField(
            model_name="switch",
            name="changed_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="changed by",
            ),
        ),
        migrations.AlterField(
            model_name="run",
            name="status",
            field=models.CharField(
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
            name="PinnedRows",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.PositiveIntegerField()),
                ("units", models.BinaryField()),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="pinned", to="operations.run"
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("run", "number"), name="pinned_number")],
            },
        ),
        migrations.RunPython(name_who_changed_schedules, migrations.RunPython.noop),
    ]
