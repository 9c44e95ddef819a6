"""What a run waits for, for programs, and how many workers it has let go."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("operations", "0005_audit_log"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="waiting_code",
            field=models.CharField(blank=True, max_length=20),
        ),
        migrations.AddField(
            model_name="run",
            name="waits",
            field=models.PositiveSmallIntegerField(default=0),
        ),
    ]
