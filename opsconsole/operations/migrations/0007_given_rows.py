"""Rows as people gave them, in a form or a file, until a run has written them."""

from __future__ import annotations

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("operations", "0006_waiting"),
    ]

    operations = [
        migrations.CreateModel(
            name="GivenRows",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("inserts", models.JSONField(default=list)),
                ("updates", models.JSONField(default=list)),
                ("count", models.PositiveIntegerField(verbose_name="rows")),
                ("image", models.BinaryField()),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
        ),
    ]
