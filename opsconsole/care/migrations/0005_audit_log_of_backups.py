"""How long the audit log was, and its newest seal, when a backup was made."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("care", "0004_what_stays_behind")]

    operations = [
        migrations.AddField("backup", "audit_entries", models.BigIntegerField(null=True)),
        migrations.AddField("backup", "audit_head", models.CharField(blank=True, max_length=64)),
    ]
