"""LangGraph's own table needs no model: `checkpoint_tables` reads what its savers made. No table is dropped."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("roadmaps", "0001_initial")]

    operations = [migrations.DeleteModel(name="Checkpoint")]
